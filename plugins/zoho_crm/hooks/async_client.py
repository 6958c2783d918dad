"""Send many requests at once: one session, one access token, the same request guard as the hook."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from zoho_crm.errors import ZohoError, ZohoNotSentError
from zoho_crm.hooks.access_token import TOKEN_RENEWALS
from zoho_crm.hooks.http_transport import HttpTransport
from zoho_crm.hooks.send_right import FixedRight, RightExpiredError, Turns, steady_seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from zoho_crm.core.request import ZohoRequest
    from zoho_crm.hooks.access_token import TokenSource
    from zoho_crm.hooks.connection import ZohoConnection
    from zoho_crm.hooks.http_transport import Meter
    from zoho_crm.hooks.network import Network
    from zoho_crm.hooks.oauth import Token
    from zoho_crm.hooks.send_right import SendRight
    from zoho_crm.hooks.zoho_response import ZohoResponse

_LATE_CONNECTIONS = 3
"""How often the right to send may expire while a request waits for its connection."""


class AsyncZohoClient:
    """
    Sends many requests at once; ``async with hook.async_client() as client``.

    It makes no call to Airflow's SDK on the thread of the event loop: a token is renewed in another thread.

    :param token: the first token, resolved before the loop runs
    :param meter: measures every request
    :param max_connections: maximum requests in flight; further ones wait without a time limit
    :param connect_timeout_s: seconds for name resolution and connecting
    :param read_timeout_s: seconds without a byte; a whole response may take twice as long
    :param clock: see :func:`zoho_crm.hooks.send_right.steady_seconds`
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
        clock: Callable[[], float] = steady_seconds,
    ) -> None:
        self.connection = connection
        self.max_connections = max_connections
        self._token_source = token_source
        self._token = token
        self._clock = clock
        self._turns = Turns(FixedRight(max_connections), max_connections)
        self._transport = HttpTransport(
            connection,
            network,
            meter,
            max_connections=max_connections,
            connect_timeout_s=connect_timeout_s,
            read_timeout_s=read_timeout_s,
            repeats_reads=True,
            check_right=self._turns.check,
        )
        self._renewing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        await self._transport.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

    def require(self, right: SendRight) -> None:
        """Send every further request only while a right to send allows it, and renew the right when it expires."""
        self._turns.right = right

    async def send(self, request: ZohoRequest) -> ZohoResponse:
        """
        Send one request, and return the response, whatever it is.

        Where Zoho rejects the access token, which applies nothing, the token is renewed and the request is sent
        again, :data:`TOKEN_RENEWALS` times at most: a response that rejects the token is the last of them.

        :raises UnsafeRequestError: the prepared request would be another one; nothing was sent
        :raises ZohoNotSentError: there was no connection
        :raises ZohoUnansweredError: sent, but there is no readable response
        :raises ClaimLostError: the right to send has passed to a newer try; nothing was sent
        :raises ZohoError: there is no access token, see :func:`zoho_crm.hooks.oauth.fetch_token`, or no right to send;
            nothing was applied

        Each error says how many requests were sent before it, with tokens that Zoho rejected.
        """
        rejected = 0
        try:
            while True:
                response = await self._send_under_right(request)
                if rejected == TOKEN_RENEWALS or not response.token_rejected:
                    return replace(response, sends=rejected + 1) if rejected else response
                rejected += 1
                await self._replace_token(response.token_used)
        except ZohoError as error:
            # Always, as several requests may get the same error.
            error.sends = rejected
            raise

    async def _send_under_right(self, request: ZohoRequest) -> ZohoResponse:
        for _ in range(_LATE_CONNECTIONS):
            if self._clock() >= self._token.use_until:
                await self._renew()
            async with self._turns.turn():
                with suppress(RightExpiredError):
                    return await self._transport.exchange(request, self._token)
        raise ZohoNotSentError(
            f"{request.method} to {self.connection.base_url}: the lease on the right to send ended "
            f"{_LATE_CONNECTIONS} times before the request had a connection; nothing was sent",
            path=request.path,
        )

    async def _replace_token(self, rejected: str) -> None:
        """
        Replace the token that Zoho rejects, once for all coroutines that it was rejected for.

        :raises ZohoError: there is no other
        """
        async with self._renewing:
            if self._token.access_token == rejected:
                self._token = await asyncio.to_thread(self._token_source.replace, rejected)

    async def _renew(self) -> None:
        async with self._renewing:
            if self._clock() >= self._token.use_until:
                self._token = await asyncio.to_thread(self._token_source.get)
