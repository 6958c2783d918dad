"""The right to send: how many requests may be in flight now, checked right before each one leaves."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp import ClientRequest, ClientResponse
    from aiohttp.connector import Connection

_STEADY_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)

_POLL_S = 0.25


class SendRight(Protocol):
    """The right of one try to send requests; it expires by itself."""

    @property
    def held(self) -> int:
        """Requests that may be in flight now; 0 once the right has expired."""

    async def renew(self) -> None:
        """
        Return once the right is held again.

        :raises ClaimLostError: a newer try works on the chunk
        :raises ZohoError: the right could not be renewed in time; nothing was sent
        """


@dataclass(frozen=True, slots=True)
class FixedRight:
    """The right of a client that shares no limit with others: it does not expire."""

    held: int

    async def renew(self) -> None:
        """Do nothing: it has not expired."""


class RightExpiredError(Exception):
    """The right to send expired while the request waited for its connection: nothing was sent."""


class Turns:
    """
    The requests of one client that are in flight: never more than its right allows.

    :param limit: maximum requests in flight, whatever the right allows
    """

    def __init__(self, right: SendRight, limit: int) -> None:
        self.right = right
        self._limit = limit
        self._in_flight = 0
        self._freed = asyncio.Event()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """
        Hold one of the requests in flight; wait for it, and renew an expired right.

        :raises ZohoError: see :meth:`SendRight.renew`
        """
        while True:
            held = self.right.held
            if self._in_flight < min(self._limit, held):
                break
            if held:
                await self._wait()
            else:
                await self.right.renew()
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            self._freed.set()

    def check(self) -> None:
        """
        Check that what is in flight, this request included, may be in flight at this moment.

        :raises RightExpiredError: it may not
        """
        if self._in_flight > self.right.held:
            raise RightExpiredError

    async def _wait(self) -> None:
        """Wait for the end of a request, or for a renewal that brings more slots."""
        self._freed.clear()
        try:
            async with asyncio.timeout(_POLL_S):
                await self._freed.wait()
        except TimeoutError:
            pass


def checked_request(check: Callable[[], None], base: type[ClientRequest]) -> type[ClientRequest]:
    """Return a class of requests that call ``check`` once they have a connection, right before they are written."""

    class CheckedRequest(base):  # type: ignore[misc, valid-type]
        async def send(self, conn: Connection) -> ClientResponse:
            check()
            response: ClientResponse = await super().send(conn)
            return response

    return CheckedRequest


def steady_seconds() -> float:
    """
    Return the seconds of a clock that is never set, and that runs on while the process or the machine is stopped.

    Only differences within one process have a meaning. Where the system has no such clock, it is the monotonic one,
    which stands still while the machine sleeps.
    """
    return time.clock_gettime(_STEADY_CLOCK)
