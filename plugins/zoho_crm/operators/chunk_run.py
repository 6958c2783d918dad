"""
Work one chunk off: some links in flight at any time, their outcomes written in batches.

A link is handed to a worker only after the store has marked it *in flight* for good. Marking the next links and
writing the outcomes of the last ones is one transaction, so that a crash leaves at most the links in flight open.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Protocol, TypeVar

import structlog

from zoho_crm.core.models import LinkResult, PlannedLink
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.verdict import StopReason
from zoho_crm.operators.adaptive_concurrency import AdaptiveConcurrency
from zoho_crm.telemetry import span

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoho_crm.hooks.zoho_response import ZohoResponse

log = logging.getLogger(__name__)
events = structlog.get_logger(__name__)

T = TypeVar("T")

SAME_REFUSALS = 5
"""Identical answers of the kind that waits for every link, after which no further link is tried."""

BREAKER_AFTER = 50
"""Links with an outcome from which on the share of those that went wrong counts."""

BAD_OUTCOMES = (Outcome.FAILED, Outcome.REJECTED, Outcome.UNKNOWN)

_TICK_S = 0.5


class Store(Protocol):
    """Where links come from and outcomes go. Its methods block and are called in a thread, one at a time."""

    def settle(self, results: Sequence[LinkResult], take: int) -> list[PlannedLink]:
        """Write outcomes, mark up to ``take`` further links in flight, and return those; [] at the end."""

    def stop_reason(self) -> str | None:
        """Return why another task has stopped the run, None if none has."""

    def stop_run(self, why: str) -> None:
        """Keep the other tasks of the run from sending."""


class LinkProcessor(Protocol):
    """Finds out the outcome of units of links: takes them away, puts them back, or asks about them."""

    @property
    def unit_size(self) -> int:
        """Links of a unit at the most."""

    def watch(self, observe: Callable[[ZohoResponse], None], is_stopped: Callable[[], bool]) -> None:
        """Have every answer shown to ``observe``, and heed between two calls whether the run is stopped."""

    def unit_length(self, links: Sequence[PlannedLink]) -> int:
        """Return how many of the next links are one unit, from 1; ``links`` are no more than ``unit_size``."""

    async def process_unit(self, unit: Sequence[PlannedLink]) -> list[tuple[LinkResult, StopReason | None]]:
        """Return what happened to each link; links may be missing after a reason to stop."""


class Slots(Protocol):
    """How many requests this try may have in flight. Its methods block and are called in a thread."""

    @property
    def renew_every_s(self) -> float:
        """Seconds between two renewals."""

    def hold(self) -> int:
        """Renew the leases held, lease further ones where there are free ones; return how many are held."""

    def release(self) -> None:
        """Give all back."""


@dataclass(frozen=True, slots=True)
class FixedSlots:
    """As many as the task's own concurrency: for a task without a ledger, which nothing bounds beyond it."""

    slots: int
    renew_every_s: float = 3600.0

    def hold(self) -> int:
        """Return the fixed number."""
        return self.slots

    def release(self) -> None:
        """Nothing is leased."""


@dataclass(frozen=True, slots=True)
class ChunkReport:
    """
    How one try went.

    :param counts: outcomes of the links it settled
    :param stopped: why it stopped early, if it did
    :param reason: the kind of cause, where Zoho is the cause
    """

    counts: Counter[Outcome]
    stopped: str | None = None
    reason: StopReason | None = None


class ChunkRun:
    """
    One try at one chunk.

    :param worker: settles units of links
    :param concurrency: requests in flight at most; fewer when the org's slots are taken, or when Zoho says that
        too many are in flight
    :param breaker_share: share of links that may fail, be refused or stay unknown before the whole run is stopped;
        it counts once :data:`BREAKER_AFTER` links have an outcome
    :param credit_reserve: API credits of the org to leave alone; Zoho tells what is left once half are used
    """

    def __init__(
        self,
        worker: LinkProcessor,
        store: Store,
        slots: Slots,
        concurrency: int,
        *,
        breaker_share: float = 1.0,
        credit_reserve: int = 0,
    ) -> None:
        self._worker = worker
        worker.watch(self.observe, lambda: self._stopped is not None)
        self._pace = AdaptiveConcurrency(concurrency)
        self._breaker_share = breaker_share
        self._credit_reserve = credit_reserve
        self._store = store
        self._slots = slots
        self._concurrency = concurrency
        self._ahead = max(20, (4 if worker.unit_size == 1 else 1) * concurrency * worker.unit_size)
        self._todo: deque[PlannedLink] = deque()
        self._done: list[LinkResult] = []
        self._busy = 0
        self._held = 0
        self._exhausted = False
        self._stopped: str | None = None
        self._stop_reason: StopReason | None = None
        self._others_told = False
        self._seen: Counter[Outcome] = Counter()
        self._refusals: Counter[str | None] = Counter()
        self._counts: Counter[Outcome] = Counter()
        self._changed = asyncio.Event()
        self._more = asyncio.Condition()

    def stop(self, why: str, reason: StopReason | None = None) -> None:
        """Take no further link; what is in flight is waited for and written. Call it on the loop's thread."""
        if self._stopped is None:
            self._stopped, self._stop_reason = why, reason
            log.warning("No further links are sent: %s", why)
            self._changed.set()

    def observe(self, response: ZohoResponse) -> None:
        """Adapt to what a response says about the org's limits. Called on the loop's thread."""
        classified = response.classified
        if classified.is_throttled:
            self._pace.slow_down()
            return
        self._pace.speed_up()
        left = classified.credits_left if self._credit_reserve else None
        if left is not None and left < self._credit_reserve:
            self.stop(
                f"{left} API credits of the org are left, {self._credit_reserve} are reserved",
                StopReason.CREDITS,
            )

    def _allowed(self) -> int:
        return min(self._held, self._pace.allowed)

    async def run(self) -> ChunkReport:
        """
        Work the chunk off.

        :raises ClaimLostError: a newer try has taken the chunk over
        """
        workers: list[asyncio.Task[None]] = []
        keeper: asyncio.Task[None] | None = None
        try:
            await self._heed_others()
            with span("wait_for_slots"):
                await self._first_slots()
            with span("send", concurrency=self._concurrency):
                workers = [asyncio.create_task(self._work()) for _ in range(self._concurrency)]
                keeper = asyncio.create_task(self._keep_slots())
                await self._pump()
        finally:
            tasks = [*workers, *([keeper] if keeper else [])]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.shield(asyncio.to_thread(self._finish))
        return ChunkReport(self._counts, self._stopped, self._stop_reason)

    async def _pump(self) -> None:
        """Write what is done and fetch what is next, until nothing is left."""
        due = True
        while True:
            closing = self._stopped is not None
            room = 0 if closing or self._exhausted else self._ahead - len(self._todo)
            if closing:
                self._done += [self._not_attempted(planned) for planned in self._todo]
                self._todo.clear()
                await self._tell_others()
            if (due or closing) and (self._done or room > 0):
                await self._turn(room)
                due = False
            elif (closing or self._exhausted) and not (self._todo or self._busy or self._done):
                return
            else:
                await self._wait_for_change()
                due = True

    async def _turn(self, room: int) -> None:
        results, self._done = self._done, []
        write = asyncio.ensure_future(asyncio.to_thread(self._store.settle, results, room))
        try:
            await _to_the_end(write)
        finally:
            # Also when cancelled meanwhile: what is written must not be written again.
            if write.done() and not write.exception():
                taken = write.result()
                self._counts.update(result.outcome for result in results)
                self._exhausted |= room > 0 and not taken
                self._todo.extend(taken)
                events.debug(
                    "Batch written",
                    settled=len(results),
                    taken=len(taken),
                    waiting=len(self._todo),
                    in_flight=self._busy,
                    allowed=self._allowed(),
                )
            else:
                self._done = results + self._done
        async with self._more:
            self._more.notify_all()

    async def _wait_for_change(self) -> None:
        """Wait until enough is done to be worth a transaction; what is done does not wait longer than a tick."""
        try:
            async with asyncio.timeout(_TICK_S):
                await self._changed.wait()
        except TimeoutError:
            pass
        self._changed.clear()

    async def _work(self) -> None:
        while True:
            async with self._more:
                await self._more.wait_for(
                    lambda: self._todo and self._busy < self._allowed() and not self._stopped
                )
                unit = self._next_unit()
                self._busy += 1
            try:
                settled = await self._settled(unit)
            finally:
                self._busy -= 1
            for result, stop_reason in settled:
                self._done.append(result)
                self._mind_refusals(result, stop_reason)
                self._mind_failures(result)
            if not self._todo or not self._busy or len(self._done) >= self._ahead // 2:
                self._changed.set()

    def _next_unit(self) -> list[PlannedLink]:
        ahead = list(islice(self._todo, self._worker.unit_size))
        return [self._todo.popleft() for _ in range(self._worker.unit_length(ahead))]

    async def _settled(self, unit: list[PlannedLink]) -> list[tuple[LinkResult, StopReason | None]]:
        """Take a unit away; every link of it comes back with an outcome, whatever happens."""
        try:
            settled = await self._worker.process_unit(unit)
        except Exception as error:
            # Whatever it is, the links have been marked in flight and must not be lost.
            log.exception("Links could not be worked on")
            detail = f"unexpected {type(error).__name__}"
            return [
                (LinkResult(planned, Outcome.UNKNOWN, datetime.now(UTC), detail=detail), None)
                for planned in unit
            ]
        told = {result.planned.seq for result, _ in settled}
        return settled + [(self._not_attempted(planned), None) for planned in unit if planned.seq not in told]

    def _mind_refusals(self, result: LinkResult, stop_reason: StopReason | None) -> None:
        if stop_reason is None:
            # A link that was left out after a refusal tells nothing against it.
            if result.outcome is not Outcome.NOT_ATTEMPTED:
                self._refusals.clear()
            return
        said = result.zoho_message or result.detail or "no reason given"
        answer = f"{result.zoho_code or result.http_status}: {said}"
        self._refusals[answer] += 1
        if stop_reason is StopReason.CREDITS:
            self.stop(f"the org's API credits are used up ({answer})", stop_reason)
        elif stop_reason is StopReason.OVERLOADED:
            self.stop(
                f"Zoho is overloaded: too many requests in flight, after all retries ({answer})", stop_reason
            )
        elif stop_reason in {StopReason.NO_TOKEN, StopReason.THROTTLED}:
            self.stop(f"there is no access token ({said})", stop_reason)
        elif self._refusals[answer] >= SAME_REFUSALS:
            self.stop(f"Zoho refuses every link with {answer}", stop_reason)

    def _mind_failures(self, result: LinkResult) -> None:
        self._seen[result.outcome] += 1
        total = self._seen.total()
        bad = sum(self._seen[outcome] for outcome in BAD_OUTCOMES)
        if total >= BREAKER_AFTER and bad > self._breaker_share * total:
            self.stop(
                f"{bad} of {total} links failed, were refused or are unknown, above the breaker's share of "
                f"{self._breaker_share:g}",
                StopReason.REFUSED,
            )

    async def _heed_others(self) -> None:
        why = await asyncio.to_thread(self._store.stop_reason)
        if why and self._stopped is None:
            self._others_told = True
            self.stop(f"another task stopped the run: {why}", StopReason.REFUSED)

    async def _tell_others(self) -> None:
        """Stop the other tasks of the run where the cause waits for them as well."""
        if self._stop_reason is StopReason.REFUSED and not self._others_told and self._stopped:
            self._others_told = True
            await asyncio.to_thread(self._store.stop_run, self._stopped)

    async def _first_slots(self) -> None:
        """Wait until the org has a slot free for this try."""
        waited = False
        while not self._stopped:
            self._held = await self._hold()
            if self._held:
                return
            if not waited:
                log.info(
                    "All requests the org allows are in use by other tasks; waiting for one to come free"
                )
                waited = True
            await asyncio.sleep(1.0)
            await self._heed_others()

    async def _keep_slots(self) -> None:
        while True:
            await asyncio.sleep(self._slots.renew_every_s)
            try:
                await self._heed_others()
                self._held = await self._hold()
            except Exception:
                # Without a lease nothing may be sent; the next renewal tries again.
                log.exception("The leases of the org's slots could not be renewed")
                self._held = 0
            async with self._more:
                self._more.notify_all()

    async def _hold(self) -> int:
        return await _to_the_end(asyncio.ensure_future(asyncio.to_thread(self._slots.hold)))

    def _finish(self) -> None:
        """
        Write what workers finished after the last turn, and give the slots back. Runs also when cancelled.

        Links that were taken and never sent are said to be: the next try need not verify them.
        """
        try:
            results = self._done + [self._not_attempted(planned) for planned in self._todo]
            if results:
                self._done = []
                self._todo.clear()
                self._store.settle(results, 0)
                self._counts.update(result.outcome for result in results)
        finally:
            self._slots.release()

    @staticmethod
    def _not_attempted(planned: PlannedLink) -> LinkResult:
        """Return the outcome of a link that was not sent; one that an earlier try may have sent stays unknown."""
        outcome = Outcome.UNKNOWN if planned.ambiguous_before else Outcome.NOT_ATTEMPTED
        return LinkResult(planned, outcome, datetime.now(UTC), detail="the run stopped before it was sent")


async def _to_the_end(call: asyncio.Future[T]) -> T:
    """Wait for a call in a thread, which a cancellation cannot end: what follows must not run beside it."""
    try:
        return await asyncio.shield(call)
    except asyncio.CancelledError:
        await asyncio.wait([call])
        raise
