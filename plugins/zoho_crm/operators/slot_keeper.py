"""The org's slots for requests in flight, and the lock for token refreshes: leases that all workers share."""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from zoho_crm import telemetry

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from zoho_crm.ledger.ledger import Ledger

log = logging.getLogger(__name__)

T = TypeVar("T")

LEASE_S = 90.0
"""Seconds after which a lease that is not renewed is free again: its worker has died."""

_LOCK_POLL_S = 0.25


class Slots(Protocol):
    """How many requests this try may have in flight. The methods block and are called in a thread."""

    @property
    def renew_every_s(self) -> float:
        """Seconds between two renewals."""

    def hold(self) -> int:
        """Renew the leases held and lease further free slots; return how many are held."""

    def release(self) -> None:
        """Release all leases."""


@dataclass(frozen=True, slots=True)
class FixedSlots:
    """A fixed number, for a task without a ledger: only its own concurrency limits it."""

    slots: int
    renew_every_s: float = 3600.0

    def hold(self) -> int:
        """Return the fixed number."""
        return self.slots

    def release(self) -> None:
        """Do nothing: no slot is leased."""


@dataclass
class LeasedSlots:
    """
    Slots of the org, leased in the ledger database, so that all tasks of a connection together stay in its limit.

    :param connection: ID of the Zoho connection the slots belong to
    :param holder: identifies one try of one task
    :param wanted: slots this try can use
    :param limit: slots the org has
    """

    ledger: Ledger
    connection: str
    holder: str
    wanted: int
    limit: int
    renew_every_s: float = LEASE_S / 6

    def hold(self) -> int:
        """Renew the leases held and lease further free slots; return how many are held."""
        held = self.ledger.slots.lease(
            self.connection, self.holder, wanted=self.wanted, limit=self.limit, lease_s=LEASE_S
        )
        self._measure()
        return len(held)

    def release(self) -> None:
        """Release all leases."""
        self.ledger.slots.release(self.connection, self.holder)
        self._measure()

    def _measure(self) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        with suppress(SQLAlchemyError):  # a failed count does not end the leases
            telemetry.set_slots_leased(self.connection, self.ledger.slots.count(self.connection), self.limit)


class SlotKeeper:
    """
    Acquires and renews the slots of a try on the event loop.

    :param slots: where they are leased
    :param is_stopped: looks whether the run is stopped, also by another task
    """

    def __init__(self, slots: Slots, is_stopped: Callable[[], Awaitable[bool]]) -> None:
        self._slots = slots
        self._is_stopped = is_stopped
        self.held = 0

    async def acquire(self) -> None:
        """Wait until at least one slot of the org is held, or the run is stopped."""
        waited = False
        while not await self._is_stopped():
            self.held = await self._hold()
            if self.held:
                return
            if not waited:
                log.info("Waiting for a free slot: other tasks use all requests the org allows in flight")
                waited = True
            await asyncio.sleep(1.0)

    async def renew(self, changed: Callable[[], Awaitable[None]]) -> None:
        """
        Renew the leases until cancelled.

        :param changed: called after each renewal
        """
        while True:
            await asyncio.sleep(self._slots.renew_every_s)
            try:
                await self._is_stopped()
                self.held = await self._hold()
            except Exception:
                # Nothing may be sent without a lease; the next renewal tries again.
                log.exception("Slots of the org not renewed; nothing is sent until the next renewal")
                self.held = 0
            await changed()

    def release(self) -> None:
        """Release all leases. It blocks."""
        self._slots.release()

    async def _hold(self) -> int:
        return await wait_uncancelled(asyncio.ensure_future(asyncio.to_thread(self._slots.hold)))


async def wait_uncancelled(call: asyncio.Future[T]) -> T:
    """Wait for a call in a thread to its end, also when cancelled: what follows must not run beside it."""
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise


@contextmanager
def one_slot(
    ledger: Ledger, connection: str, limit: int, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[None]:
    """
    Hold one slot of the org for requests that are sent one after the other; wait until one is free.

    :param connection: ID of the Zoho connection
    :param limit: slots the org has
    :param sleep: for tests
    """
    slots = LeasedSlots(ledger, connection, uuid.uuid4().hex, wanted=1, limit=limit)
    try:
        while not slots.hold():
            sleep(1.0)
        yield
    finally:
        slots.release()


@contextmanager
def refresh_lock(
    ledger: Ledger, zoho_conn_id: str, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[None]:
    """
    Hold the lock for token refreshes that all workers with the same audit database share.

    Zoho grants ten access tokens in ten minutes: of fifty workers that meet an expired token, one refreshes it and the
    others use the result. If the database is unreachable the refresh goes ahead without the lock.

    :param sleep: for tests
    """
    from sqlalchemy.exc import SQLAlchemyError

    name, holder = f"{zoho_conn_id}: access token", uuid.uuid4().hex
    try:
        deadline = time.monotonic() + LEASE_S
        while not ledger.slots.lease(name, holder, wanted=1, limit=1, lease_s=LEASE_S):
            if time.monotonic() > deadline:
                log.warning("Refreshing the access token without the lock: held_by_others_s=%g", LEASE_S)
                break
            sleep(_LOCK_POLL_S)
    except SQLAlchemyError as error:
        log.warning("Refreshing the access token without the lock: error=%s", type(error).__name__)
    try:
        yield
    finally:
        with suppress(SQLAlchemyError):
            ledger.slots.release(name, holder)
