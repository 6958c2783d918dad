"""Send many requests at once: one aiohttp session, one access token, the same request guard as the hook."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Self

import aiohttp
from aiohttp import BytesPayload, ClientHandlerType, ClientRequest, ClientResponse
from yarl import URL

from zoho_crm.core.request_guard import check_prepared_request
from zoho_crm.errors import UnsafeRequestError, ZohoError, ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.access_token import TOKEN_RENEWALS
from zoho_crm.hooks.network import USER_AGENT, Network
from zoho_crm.hooks.zoho_response import MAX_BODY_BYTES, ZohoResponse

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from aiohttp import Payload

    from zoho_crm.core.request import ZohoRequest
    from zoho_crm.hooks.access_token import TokenSource
    from zoho_crm.hooks.connection import ZohoConnection
    from zoho_crm.hooks.meter import Meter
    from zoho_crm.hooks.oauth import Token

_NEVER_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
)


class AsyncZohoClient:
    """
    Sends many requests at once; ``async with hook.async_client() as client``.

    It makes no call to Airflow's SDK on the thread of the event loop: a token is renewed in another thread.

    :param token: the first token, resolved before the loop runs
    :param meter: measures every request
    :param max_connections: maximum requests in flight; further ones wait without a time limit
    :param connect_timeout_s: seconds for name resolution and connecting
    :param read_timeout_s: seconds without a byte; a whole response may take twice as long
    :param clock: seconds since the epoch
    """

    def __init__(
        self,
        connection: ZohoConnection,
        network: Network,
        token_source: TokenSource,
        token: Token,
        meter: Meter,
        *,
        max_connections: int,
        connect_timeout_s: float = 10.0,
        read_timeout_s: float = 60.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.connection = connection
        self.max_connections = max_connections
        self._network = network
        self._token_source = token_source
        self._base_url = connection.base_url
        self._meter = meter
        self._clock = clock
        self._timeout = aiohttp.ClientTimeout(
            total=connect_timeout_s + 2 * read_timeout_s, connect=connect_timeout_s, sock_read=read_timeout_s
        )
        self._turns = asyncio.Semaphore(max_connections)
        self._renewing = asyncio.Lock()
        self._session: aiohttp.ClientSession | None = None
        self._take(token)

    async def __aenter__(self) -> Self:
        tls = self._network.tls_context() if self._base_url.startswith("https:") else True
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self.max_connections, ssl=tls),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT},
            proxy=self._network.proxy,
            trust_env=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def send(self, request: ZohoRequest) -> ZohoResponse:
        """
        Send one request, and return the response, whatever it is.

        Where Zoho rejects the access token, which applies nothing, the token is renewed and the request is sent
        again, :data:`TOKEN_RENEWALS` times at most: a response that rejects the token is the last of them.

        :raises UnsafeRequestError: the prepared request would be another one; nothing was sent
        :raises ZohoNotSentError: there was no connection
        :raises ZohoUnansweredError: sent, but there is no readable response
        :raises ZohoError: there is no access token, see :func:`zoho_crm.hooks.oauth.fetch_token`; nothing was applied
        """
        sends = 1
        while True:
            if self._clock() >= self._use_until:
                await self._renew()
            async with self._turns:
                response = await self._exchange(request)
            if sends > TOKEN_RENEWALS or not response.token_rejected:
                return response if sends == 1 else replace(response, sends=sends)
            await self._replace_token(response.token_used)
            sends += 1

    async def _replace_token(self, rejected: str) -> None:
        """
        Replace the token that Zoho rejects, once for all coroutines that it was rejected for.

        :raises ZohoError: there is no other
        """
        async with self._renewing:
            if self._token.access_token == rejected:
                self._take(await asyncio.to_thread(self._token_source.replace, rejected))

    async def _renew(self) -> None:
        async with self._renewing:
            if self._clock() >= self._use_until:
                self._take(await asyncio.to_thread(self._token_source.get))

    def _take(self, token: Token) -> None:
        if token.api_domain != self._base_url:
            raise UnsafeRequestError("The access token is for another address. Nothing was sent.")
        self._token = token
        self._authorization = f"Zoho-oauthtoken {token.access_token}"
        self._use_until = token.use_until

    async def _exchange(self, request: ZohoRequest) -> ZohoResponse:
        if self._session is None:
            raise RuntimeError(
                "Use the client as a context manager: async with hook.async_client() as client"
            )
        token_used = self._token.access_token
        headers = {"Authorization": self._authorization, **request.headers}
        started = time.perf_counter()
        failure: ZohoError
        try:
            async with self._session.request(
                request.method,
                URL(self._base_url + request.target, encoded=True),
                headers=headers,
                data=request.body,
                allow_redirects=False,
                middlewares=(_Guard(request, self._base_url),),
            ) as response:
                body = await _bounded_body(response)
                if body is not None:
                    result = ZohoResponse(
                        response.status, response.headers, body, time.perf_counter() - started, token_used
                    )
                    self._meter.answered(request.method, result)
                    return result
                failure = ZohoUnansweredError(
                    f"{request.method} to {self._base_url}: the response is longer than {MAX_BODY_BYTES} bytes",
                    http_status=response.status,
                    path=request.path,
                )
        except ZohoUnansweredError as error:
            failure = error
        except (aiohttp.ClientError, OSError, TimeoutError, UnicodeError) as exc:
            failure = _failure_of(exc, request, self._base_url)
        self._meter.failed(request.method, failure, time.perf_counter() - started)
        raise failure


class _Guard:
    """
    Compares one request with the one that was built, after aiohttp has prepared it, and lets it pass once.

    It runs as aiohttp's innermost step before connecting and writing: address, method, headers and body of the
    prepared request are what :meth:`aiohttp.ClientRequest.send` puts on the wire.

    aiohttp repeats an idempotent request, such as a DELETE or PUT, when a kept connection turns out to be closed. The
    first request may have been applied, so the second one is stopped here, and the link is verified instead.
    """

    __slots__ = ("_base_url", "_passed", "_request")

    def __init__(self, request: ZohoRequest, base_url: str) -> None:
        self._request = request
        self._base_url = base_url
        self._passed = False

    async def __call__(self, prepared: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        if self._passed and self._request.method != "GET":
            raise ZohoUnansweredError(
                f"{self._request.method} to {self._base_url}: sent, but without a response (connection lost)",
                path=self._request.path,
            )
        url = prepared.url
        host = prepared.headers["Host"]
        if host != url.host_port_subcomponent:
            raise UnsafeRequestError("The prepared request names another host. Nothing was sent.")
        check_prepared_request(
            self._request,
            self._base_url,
            method=prepared.method,
            url=f"{url.scheme}://{host}{url.raw_path_qs}",
            headers=prepared.headers,
            body=_bytes_of(prepared.body),
        )
        self._passed = True
        return await handler(prepared)


def _bytes_of(body: Payload | bytes) -> object:
    """Return a prepared body as bytes; any other body is returned as it is, and so differs from every request's."""
    return body._value if isinstance(body, BytesPayload) else body


async def _bounded_body(response: ClientResponse) -> bytes | None:
    """Return the whole body, None if it is longer than the bound."""
    content = response.content
    body = await content.readany()
    while not content.at_eof():
        body += await content.readany()
        if len(body) > MAX_BODY_BYTES:
            response.close()
            return None
    return body if len(body) <= MAX_BODY_BYTES else None


def _failure_of(exc: Exception, request: ZohoRequest, base_url: str) -> ZohoError:
    """Return the error for a request that aiohttp could not finish; in doubt it counts as sent."""
    what, kind = f"{request.method} to {base_url}", type(exc).__name__
    if isinstance(exc, _NEVER_CONNECTED):
        return ZohoNotSentError(f"{what}: no connection ({kind}); nothing was sent", path=request.path)
    if isinstance(exc, aiohttp.InvalidURL | UnicodeError):
        return UnsafeRequestError(
            f"{what}: aiohttp refuses to send it ({kind}); nothing was sent", path=request.path
        )
    return ZohoUnansweredError(f"{what}: sent, but without a complete response ({kind})", path=request.path)
