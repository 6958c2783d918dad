"""
Send single requests to Zoho: prepare, compare, send once, read a bounded response within a time limit.

Every request to Zoho CRM goes through here, those of the hook and those of its async client.
"""

from __future__ import annotations

import select
import time
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

import aiohttp
from aiohttp import BytesPayload, ClientHandlerType, ClientRequest, ClientResponse
from yarl import URL

from zoho_crm import telemetry
from zoho_crm.core.request_guard import check_prepared_request
from zoho_crm.core.response import ResponseKind
from zoho_crm.errors import UnsafeRequestError, ZohoError, ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.network import bounded_body, not_answered
from zoho_crm.hooks.send_right import checked_request
from zoho_crm.hooks.zoho_response import MAX_BODY_BYTES, ZohoResponse

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from aiohttp import Payload
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection

    from zoho_crm.core.request import ZohoRequest
    from zoho_crm.hooks.connection import ZohoConnection
    from zoho_crm.hooks.network import Network
    from zoho_crm.hooks.oauth import Token

_CREDITS_EVERY_S = 1.0
_CREDITS_PER_CALL = 1
"""For every call of this package; Zoho charges more for others, such as bulk reads."""


class HttpTransport:
    """
    Sends requests over one aiohttp session; an async context manager.

    :param meter: measures every request
    :param max_connections: connections at most
    :param connect_timeout_s: seconds for name resolution and connecting
    :param read_timeout_s: seconds without a byte; a whole response may take twice as long
    :param check_right: called right before a request is written to its connection; raises if it may not be
    :param repeats_reads: whether a GET is sent a second time when its connection is lost
    """

    def __init__(
        self,
        connection: ZohoConnection,
        network: Network,
        meter: Meter,
        *,
        max_connections: int,
        connect_timeout_s: float,
        read_timeout_s: float,
        repeats_reads: bool,
        check_right: Callable[[], None] = lambda: None,
    ) -> None:
        self._base_url = connection.base_url
        self._network = network
        self._meter = meter
        self._max_connections = max_connections
        self._repeats_reads = repeats_reads
        self._check_right = check_right
        self._timeout = aiohttp.ClientTimeout(
            total=connect_timeout_s + 2 * read_timeout_s, connect=connect_timeout_s, sock_read=read_timeout_s
        )
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        """Open the session, on the loop that sends."""
        self._session = self._network.client_session(
            self._base_url,
            timeout=self._timeout,
            max_connections=self._max_connections,
            request_class=checked_request(self._check_right, _Request),
        )

    async def close(self) -> None:
        """Close the session and its connections."""
        if self._session is not None:
            await self._session.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def exchange(
        self, request: ZohoRequest, token: Token, *, max_body_bytes: int = MAX_BODY_BYTES
    ) -> ZohoResponse:
        """
        Send a request once, and return the response, whatever it is.

        :param token: the access token, for the address of the connection
        :param max_body_bytes: a longer response counts as unreadable
        :raises UnsafeRequestError: the prepared request would be another one; nothing was sent
        :raises ZohoNotSentError: there was no connection
        :raises ZohoUnansweredError: sent, but there is no readable response
        """
        if self._session is None:
            raise RuntimeError("Open the client first: async with hook.async_client() as client")
        if token.api_domain != self._base_url:
            raise UnsafeRequestError("The access token is for another address. Nothing was sent.")
        what = f"{request.method} to {self._base_url}"
        may_repeat = self._repeats_reads and request.method == "GET"
        guard = _Guard(request, self._base_url, self._max_connections, may_repeat=may_repeat)
        started = time.perf_counter()
        failure: ZohoError
        try:
            async with self._session.request(
                request.method,
                URL(self._base_url + request.target, encoded=True),
                headers={"Authorization": f"Zoho-oauthtoken {token.access_token}", **request.headers},
                data=request.body,
                allow_redirects=False,
                middlewares=(guard,),
            ) as response:
                body = await bounded_body(response, max_body_bytes)
                if response.status < 200:
                    # What follows on this connection is not the response to another request.
                    response.close()
                if body is not None:
                    duration_s = time.perf_counter() - started
                    result = ZohoResponse(
                        response.status, response.headers, body, duration_s, token.access_token
                    )
                    self._meter.answered(request.method, result)
                    return result
                failure = ZohoUnansweredError(
                    f"{what}: the response is longer than {max_body_bytes} bytes",
                    http_status=response.status,
                    path=request.path,
                )
        except (ZohoNotSentError, ZohoUnansweredError) as error:
            failure = error
        except (aiohttp.ClientError, OSError, TimeoutError, UnicodeError) as exc:
            failure = not_answered(
                exc, self._timeout, what=what, path=request.path, may_be_sent=guard.has_passed
            )
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

    __slots__ = ("_base_url", "_connections", "_may_repeat", "_request", "has_passed")

    def __init__(self, request: ZohoRequest, base_url: str, connections: int, *, may_repeat: bool) -> None:
        self._request = request
        self._base_url = base_url
        self._connections = connections
        self._may_repeat = may_repeat
        self.has_passed = False

    async def __call__(self, prepared: ClientRequest, handler: ClientHandlerType) -> ClientResponse:
        what = f"{self._request.method} to {self._base_url}"
        if self.has_passed and not self._may_repeat:
            raise ZohoUnansweredError(
                f"{what}: sent, but without a response (connection lost)", path=self._request.path
            )
        self._compare(prepared)
        self.has_passed = True
        # Every kept connection may have unread data, a new one has none.
        for _ in range(self._connections + 1):
            try:
                return await handler(prepared)
            except _UnreadDataError:
                continue
        raise ZohoNotSentError(
            f"{what}: no connection without data that was not requested; nothing was sent",
            path=self._request.path,
        )

    def _compare(self, prepared: ClientRequest) -> None:
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


class _UnreadDataError(aiohttp.ClientError):
    """A connection has data before anything was sent; it was closed, and nothing was sent."""


class _Request(ClientRequest):
    """
    A request that leaves only over a connection without unread data.

    aiohttp takes such data, e.g. a second response to the request before, for the response to the next one.
    """

    async def send(self, conn: Connection) -> ClientResponse:
        if _has_unread_data(conn):
            raise _UnreadDataError
        return await super().send(conn)


_used: WeakSet[ResponseHandler] = WeakSet()
"""Connections that a request was sent over."""


def _has_unread_data(conn: Connection) -> bool:
    protocol, transport = conn.protocol, conn.transport
    if protocol is None or transport is None:
        return False
    if protocol.should_close:
        return True
    if protocol not in _used:
        # On a new connection, TLS may still have something to say.
        _used.add(protocol)
        return False
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), select.POLLIN)
    return bool(poll.poll(0))


def _bytes_of(body: Payload | bytes) -> object:
    """Return a prepared body as bytes; any other body is returned as it is, and so differs from every request's."""
    return body._value if isinstance(body, BytesPayload) else body


class Meter:
    """
    Times every request, counts throttled ones and credits, and reports the credits left, at most once a second.

    :param connection: id of the Airflow connection
    :param clock: seconds, monotonic
    """

    credits_used = 0
    """API credits that the requests have cost, counted here; a request without a response counts."""

    def __init__(self, connection: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._clock = clock
        self._credits_at = float("-inf")

    def answered(self, method: str, response: ZohoResponse) -> None:
        """Measure a response, whatever it says."""
        telemetry.time_request(self._connection, method, response.status, response.duration_s)
        classified = response.classified
        if classified.is_throttled:
            used_up = classified.kind is ResponseKind.OUT_OF_CREDITS
            telemetry.count_throttled(self._connection, credits_used_up=used_up)
        if classified.costs_credits:
            self.credits_used += _CREDITS_PER_CALL
        left = classified.credits_left
        if left is not None and (now := self._clock()) - self._credits_at >= _CREDITS_EVERY_S:
            self._credits_at = now
            telemetry.set_credits_remaining(self._connection, left)

    def failed(self, method: str, error: ZohoError, duration_s: float) -> None:
        """Measure a request without a response; one that the request guard stopped is not measured."""
        if isinstance(error, ZohoUnansweredError):
            self.credits_used += _CREDITS_PER_CALL
            telemetry.time_request(self._connection, method, telemetry.NO_RESPONSE, duration_s)
        elif isinstance(error, ZohoNotSentError):
            telemetry.time_request(self._connection, method, telemetry.NOT_SENT, duration_s)
