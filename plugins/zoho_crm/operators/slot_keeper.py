"""The org's slots for requests in flight, and the lock for token refreshes: leases that all workers share."""

from __future__ import annotations

import asyncio
import logging
import math
import socket
import time
import uuid
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeVar

from zoho_crm import telemetry
from zoho_crm.errors import ClaimLostError, ZohoError, ZohoNotSentError
from zoho_crm.hooks.send_right import steady_seconds

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from zoho_crm.ledger.claims import Claim
    from zoho_crm.ledger.ledger import Ledger


log = logging.getLogger(__name__)

T = TypeVar("T")

SEND_LEASE_S = 45.0
"""Seconds after which the right of a try to send ends, unless it is renewed: its worker is dead, or was stopped."""

UNRENEWED_LEASE_S = 90.0
"""Seconds of a lease that is held for a few calls and not renewed."""

ONE_REQUEST_LEASE_S = 120.0
"""Seconds of a lease that is renewed before each request, and lasts until it has ended."""

LEASE_MARGIN = 0.1
"""Share of a lease that is not used: the database's clock and this process's may run at different speeds."""

ONE_SLOT_WAIT_S = 900.0
"""Seconds that requests which are sent one after the other wait for a slot."""

RENEWAL_PATIENCE_S = 120.0
"""Seconds that a request waits for an expired right to send."""

_LOCK_POLL_S = 0.25
_RETRY_S = 1.0


class Slots(Protocol):
    """How many requests this try may have in flight. The methods block and are called in a thread."""

    @property
    def lease_s(self) -> float:
        """Seconds for which :meth:`hold` holds the slots."""

    @property
    def renew_every_s(self) -> float:
        """Seconds between two renewals."""

    @property
    def waits_for(self) -> str:
        """Who or what keeps :meth:`hold` from holding any slot."""

    def hold(self) -> int:
        """
        Renew the leases held and lease further free slots; return how many are held.

        :raises ClaimLostError: a newer try works on the chunk
        """

    def release(self) -> None:
        """Release all leases."""


@dataclass(frozen=True, slots=True)
class FixedSlots:
    """A fixed number, for a task without a ledger: only its own concurrency limits it."""

    slots: int
    renew_every_s: float = 3600.0
    lease_s: float = math.inf
    waits_for: str = ""

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
    :param claim: the claim under which the try sends; its lease is renewed with the slots
    """

    ledger: Ledger
    connection: str
    holder: str
    wanted: int
    limit: int
    claim: Claim | None = None
    renew_every_s: float = SEND_LEASE_S / 7
    lease_s: float = SEND_LEASE_S
    waits_for: str = field(default="", init=False)

    def hold(self) -> int:
        """
        Renew the leases held and lease further free slots; return how many are held.

        No slot is held while an earlier try of the chunk may still send.

        :raises ClaimLostError: a newer try works on the chunk
        """
        if self.claim is not None and (former := self.ledger.claims.lease(self.claim, self.lease_s)):
            self.waits_for = str(former)
            return 0
        held = self.ledger.slots.lease(
            self.connection, self.holder, wanted=self.wanted, limit=self.limit, lease_s=self.lease_s
        )
        self.waits_for = "a free slot: other tasks use all requests the org allows in flight"
        self._measure()
        return len(held)

    def release(self) -> None:
        """Release all leases."""
        self.ledger.slots.release(self.connection, self.holder)
        if self.claim is not None:
            self.ledger.claims.release(self.claim)
        self._measure()

    def _measure(self) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        with suppress(SQLAlchemyError):  # a failed count does not end the leases
            telemetry.set_slots_leased(self.connection, self.ledger.slots.count(self.connection), self.limit)


class SlotKeeper:
    """
    The right of a try to send: acquires and renews its slots on the event loop, and knows until when they are held.

    The end of a lease is judged by this process's own clock from the moment before the lease was requested: a process
    that was stopped for a while knows, without the database, that its right has expired.

    :param slots: where they are leased
    :param is_stopped: looks whether the run is stopped, also by another task
    :param clock: see :func:`zoho_crm.hooks.send_right.steady_seconds`
    """

    def __init__(
        self,
        slots: Slots,
        is_stopped: Callable[[], Awaitable[bool]],
        *,
        clock: Callable[[], float] = steady_seconds,
    ) -> None:
        self._slots = slots
        self._is_stopped = is_stopped
        self._clock = clock
        self._leased = 0
        self._deadline = -math.inf
        self._renewing = asyncio.Lock()
        self._lost: ClaimLostError | None = None
        self._waits_for = "the audit database"

    @property
    def held(self) -> int:
        """Requests that may be in flight now; 0 once the leases have expired."""
        return self._leased if self._clock() < self._deadline else 0

    @property
    def waits_for(self) -> str:
        """Who or what keeps the try from holding any slot: the audit database, while it does not respond."""
        return self._waits_for

    def raise_if_lost(self) -> None:
        """
        Do nothing while the try may continue.

        :raises ClaimLostError: a renewal has found that a newer try works on the chunk
        """
        if self._lost is not None:
            raise self._lost

    async def acquire(self) -> None:
        """
        Wait until at least one slot of the org is held, or the run is stopped.

        :raises ClaimLostError: a newer try works on the chunk
        """
        waits_for = ""
        while not await self._is_stopped():
            await self._hold()
            if self.held:
                return
            if waits_for != self._waits_for:
                waits_for = self._waits_for
                log.info("Waiting for %s", waits_for)
            await asyncio.sleep(min(_RETRY_S, self._slots.renew_every_s))

    async def keep_renewed(self, changed: Callable[[], Awaitable[None]]) -> None:
        """
        Renew the leases until cancelled, or until the claim is lost.

        :param changed: called after each renewal
        """
        while self._lost is None:
            await asyncio.sleep(self._slots.renew_every_s)
            try:
                await self._is_stopped()
                await self._hold()
            except Exception as error:
                # The leases hold until their end; the next renewal tries again.
                self._note_failure(error)
                log.warning("Slots of the org not renewed: held=%d", self.held, exc_info=error)
            await changed()

    async def renew(self) -> None:
        """
        Return once the right to send is held again.

        :raises ClaimLostError: a newer try works on the chunk
        :raises ZohoError: no slot is free for long, the database is away, or the run is stopped
        """
        give_up_at = self._clock() + RENEWAL_PATIENCE_S
        while not self.held:
            self.raise_if_lost()
            why = await self._try_to_renew()
            if self.held:
                return
            if why is None:
                raise ZohoError("not sent: the run stopped while the lease on the right to send was renewed")
            if self._clock() >= give_up_at:
                raise ZohoError(f"not sent: waited {RENEWAL_PATIENCE_S:.0f} s for {why}")
            await asyncio.sleep(min(_RETRY_S, self._slots.renew_every_s))

    async def _try_to_renew(self) -> str | None:
        """Renew expired leases once; return what that waits for, None if the run is stopped."""
        try:
            if await self._is_stopped():
                return None
            await self._hold(expired_only=True)
        except ClaimLostError:
            raise
        except Exception as error:
            self._note_failure(error)
            log.warning("Slots of the org not renewed: nothing is sent", exc_info=error)
        return self._waits_for

    def _note_failure(self, error: Exception) -> None:
        self._waits_for = f"the audit database ({type(error).__name__})"

    def release(self) -> None:
        """Release all leases. It blocks."""
        self._deadline = -math.inf
        self._slots.release()

    async def _hold(self, *, expired_only: bool = False) -> None:
        """Renew the leases; of several coroutines that meet expired ones, the first renews them."""
        async with self._renewing:
            if expired_only and self.held:
                return
            asked_at = self._clock()
            try:
                self._leased = await wait_uncancelled(
                    asyncio.ensure_future(asyncio.to_thread(self._slots.hold))
                )
            except ClaimLostError as error:
                self._lost, self._deadline = error, -math.inf
                raise
            self._deadline = asked_at + self._slots.lease_s * (1 - LEASE_MARGIN)
            self._waits_for = self._slots.waits_for


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
) -> Iterator[Callable[[], None]]:
    """
    Hold one slot of the org for requests that are sent one after the other; wait until one is free.

    :param connection: ID of the Zoho connection
    :param limit: slots the org has
    :param sleep: for tests
    :return: renews the lease, which lasts for one request: call it before each one. It waits as at the start
    :raises ZohoNotSentError: none was free for :data:`ONE_SLOT_WAIT_S`
    """
    slots = LeasedSlots(
        ledger, connection, uuid.uuid4().hex, wanted=1, limit=limit, lease_s=ONE_REQUEST_LEASE_S
    )

    def renew() -> None:
        ends_at = time.monotonic() + ONE_SLOT_WAIT_S
        while not slots.hold():
            if time.monotonic() > ends_at:
                raise ZohoNotSentError(
                    f"Connection {connection!r}: waited {ONE_SLOT_WAIT_S:g} s for {slots.waits_for} ({limit}); "
                    "nothing was sent"
                )
            sleep(1.0)

    try:
        renew()
        yield renew
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
        started = time.monotonic()
        waited_s = 0.0
        while not ledger.slots.lease(name, holder, wanted=1, limit=1, lease_s=UNRENEWED_LEASE_S):
            if waited_s > UNRENEWED_LEASE_S:
                log.warning(
                    "Refreshing the access token without the lock: held_by_others_s=%g", UNRENEWED_LEASE_S
                )
                break
            sleep(_LOCK_POLL_S)
            waited_s = time.monotonic() - started
        else:
            if waited_s:
                log.info("Waited for another worker to refresh the access token: waited_s=%.1f", waited_s)
    except SQLAlchemyError as error:
        log.warning("Refreshing the access token without the lock: error=%s", type(error).__name__)
    try:
        yield
    finally:
        with suppress(SQLAlchemyError):
            ledger.slots.release(name, holder)


log = logging.getLogger(__name__)

MAX_SKEW_S = 60.0
"""Seconds by which the clock of a worker may differ from the database's without a warning."""


def shared_clock(ledger: Ledger) -> Callable[[], float]:
    """
    Return a clock of seconds since 1970 that goes with the database's, not with this worker's.

    A worker whose own clock differs by more than :data:`MAX_SKEW_S` is named in a warning.
    """
    before = time.time()
    database_s = ledger.runs.now().timestamp()
    # The call may take long: the database was asked at some moment within it.
    skew_s = min((before - database_s, time.time() - database_s), key=abs)
    if abs(skew_s) > MAX_SKEW_S:
        log.warning(
            "The clock of this worker is %s: host=%s seconds=%.0f; set it, e.g. with NTP",
            "fast" if skew_s > 0 else "slow",
            socket.gethostname(),
            abs(skew_s),
        )
    offset_s = database_s - steady_seconds()
    return lambda: offset_s + steady_seconds()
