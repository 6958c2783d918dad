"""
Process one chunk: some links in flight at any time, their outcomes written in batches.

A link goes to a worker only after the store has durably marked it *in flight*. Marking the next links and writing the
outcomes of the last ones is one transaction. What is marked at once is bounded: see ``LookAhead``.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

import structlog

from zoho_crm.core.models import LinkResult
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.verdict import StopReason
from zoho_crm.operators.breaker import AdaptiveConcurrency, Breaker, LookAhead, Room, Stop, UnitSizes
from zoho_crm.operators.slot_keeper import SlotKeeper, wait_uncancelled
from zoho_crm.telemetry import span

if TYPE_CHECKING:
    from zoho_crm.core.models import PlannedLink
    from zoho_crm.hooks.send_right import SendRight
    from zoho_crm.hooks.zoho_response import ZohoResponse
    from zoho_crm.operators.breaker import NotFoundLimit
    from zoho_crm.operators.slot_keeper import Slots

log = logging.getLogger(__name__)
events = structlog.get_logger(__name__)

SLOT_WAIT_S = 300.0
"""Seconds that a try waits in its worker for a slot of the org."""

_TICK_S = 0.5

Select = Callable[[Sequence["PlannedLink"]], int]
"""Returns how many of the next links of a chunk to take."""

UnitResults = list[tuple[LinkResult, StopReason | None]]
"""Outcomes of a unit, each with a reason to stop if the response concerns every link."""


class Store(Protocol):
    """Where links come from and outcomes go. The methods block and are called in a thread, one at a time."""

    def settle(self, results: Sequence[LinkResult], take: int, select: Select = len) -> list[PlannedLink]:
        """
        Write outcomes, mark further links in flight, and return those; [] at the end.

        :param take: maximum number of further links
        :param select: returns how many of the next links to mark; all by default
        """

    def stop_reason(self) -> str | None:
        """Return why another task has stopped the run, None if none has."""

    def stop_run(self, why: str) -> None:
        """Keep the other tasks of the run from sending."""


class LinkProcessor(UnitSizes, Protocol):
    """Finds out the outcome of units of links: removes, restores or verifies them."""

    def watch(self, observe: Callable[[ZohoResponse], None], is_stopped: Callable[[], bool]) -> None:
        """Pass every response to ``observe``, and check between two calls whether the run is stopped."""

    async def process_unit(self, unit: Sequence[PlannedLink]) -> UnitResults:
        """Return the outcome of each link; links may be missing after a reason to stop."""


@dataclass(frozen=True, slots=True)
class ChunkReport:
    """
    The result of one try.

    :param counts: outcomes of the links it settled
    :param stopped: why it stopped early, if it did
    :param reason: the kind of cause, if Zoho is the cause
    """

    counts: Counter[Outcome]
    stopped: str | None = None
    reason: StopReason | None = None


class ChunkRun:
    """
    One try at one chunk.

    :param processor: settles units of links
    :param concurrency: requests in flight at most; fewer if the org's slots are in use, or if Zoho says that too many
        are in flight
    :param breaker_share: share of links with a bad outcome above which the whole run is stopped
    :param credit_reserve: API credits of the org to leave unused
    :param not_found: limit of links without a record in Zoho; None: no limit
    :param check: called once slots are held and before any link is sent; returns a reason to stop
    """

    def __init__(
        self,
        processor: LinkProcessor,
        store: Store,
        slots: Slots,
        concurrency: int,
        *,
        breaker_share: float = 1.0,
        credit_reserve: int = 0,
        not_found: NotFoundLimit | None = None,
        check: Callable[[], Awaitable[Stop | None]] | None = None,
    ) -> None:
        self._processor = processor
        processor.watch(self.observe, lambda: self._stopped is not None)
        self._pace = AdaptiveConcurrency(concurrency)
        self._breaker = Breaker(breaker_share, credit_reserve, not_found)
        self._store = store
        self._check = check
        self._slots = SlotKeeper(slots, self._is_stopped)
        self._concurrency = concurrency
        self._marked = LookAhead(processor)
        self._done: list[LinkResult] = []
        self._exhausted = False
        self._stopped: Stop | None = None
        self._stop_is_shared = False
        self._held_at = 0.0
        self._counts: Counter[Outcome] = Counter()
        self._changed = asyncio.Event()
        self._more = asyncio.Condition()

    @property
    def right(self) -> SendRight:
        """The right of this try to send, for the client of its processor."""
        return self._slots

    def stop(self, why: str, reason: StopReason | None = None) -> None:
        """Take no further link; what is in flight is waited for and written. Call it on the loop's thread."""
        if self._stopped is None:
            self._stopped = Stop(why, reason)
            log.warning("No further links are sent: reason=%s", why)
            self._changed.set()

    def observe(self, response: ZohoResponse) -> None:
        """Adapt to what a response says about the org's limits. Called on the loop's thread."""
        if response.classified.is_throttled:
            self._pace.slow_down()
            return
        self._pace.speed_up()
        if stop := self._breaker.check_credits(response):
            self.stop(*stop)

    async def run(self) -> ChunkReport:
        """
        Process the chunk.

        :raises ClaimLostError: a newer try has taken over the chunk
        """
        tasks: list[asyncio.Task[None]] = []
        try:
            with span("wait_for_slots"):
                await self._wait_for_slots()
            await self._check_first()
            with span("send", concurrency=self._concurrency):
                tasks = [asyncio.create_task(self._work()) for _ in range(self._concurrency)]
                tasks.append(asyncio.create_task(self._slots.keep_renewed(self._wake_workers)))
                await self._pump()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.shield(asyncio.to_thread(self._finish))
        why, reason = self._stopped or (None, None)
        return ChunkReport(self._counts, why, reason)

    async def _check_first(self) -> None:
        if self._check and not self._stopped and (stop := await self._check()):
            self.stop(*stop)

    async def _wait_for_slots(self) -> None:
        """Wait for a slot of the org; stop if none is free for :data:`SLOT_WAIT_S`, so that no worker is held."""
        try:
            async with asyncio.timeout(SLOT_WAIT_S) as limit:
                await self._slots.acquire()
        except TimeoutError:
            if not limit.expired():
                raise
            self._stop_waiting()
        self._held_at = time.monotonic()

    def _stop_without_slots(self) -> None:
        """
        Stop if others have taken all slots since, and kept them for :data:`SLOT_WAIT_S`.

        Units at work do not count: they wait for a slot, too, and for each link again.
        """
        if self._slots.held:
            self._held_at = time.monotonic()
        elif time.monotonic() - self._held_at > SLOT_WAIT_S:
            self._stop_waiting()

    def _stop_waiting(self) -> None:
        self.stop(f"waited {SLOT_WAIT_S:g} s for {self._slots.waits_for}", StopReason.NO_SLOT)

    def _allowed(self) -> int:
        return min(self._slots.held, self._pace.allowed)

    async def _pump(self) -> None:
        """Write outcomes and fetch the next links until nothing is left."""
        due = True
        while True:
            self._slots.raise_if_lost()
            closing = self._stopped is not None
            room = self._marked.room(0 if closing or self._exhausted else self._allowed())
            if closing:
                self._done += [self._not_attempted(planned) for planned in self._marked.clear()]
                await self._share_stop()
            if (due or closing) and (self._done or room.most):
                await self._write_batch(room)
                due = False
            elif (closing or self._exhausted) and not (
                self._marked.waiting or self._marked.busy or self._done
            ):
                return
            else:
                due = await self._wait_for_change()
                self._stop_without_slots()

    async def _write_batch(self, room: Room) -> None:
        results, self._done = self._done, []
        write = asyncio.ensure_future(asyncio.to_thread(self._store.settle, results, room.most, room.count))
        try:
            await wait_uncancelled(write)
        finally:
            # Also when cancelled meanwhile: a written batch must not be written a second time.
            if write.done() and not write.exception():
                taken = write.result()
                self._counts.update(result.outcome for result in results)
                self._exhausted |= room.most > 0 and not taken
                self._marked.add(taken)
                events.debug(
                    "Batch written",
                    settled=len(results),
                    taken=len(taken),
                    waiting=self._marked.waiting,
                    in_flight=self._marked.busy,
                    allowed=self._allowed(),
                )
            else:
                self._done = results + self._done
        await self._wake_workers()

    async def _wait_for_change(self) -> bool:
        """Wait for a change, at most one tick; return whether to write now."""
        try:
            async with asyncio.timeout(_TICK_S):
                await self._changed.wait()
        except TimeoutError:
            return True
        self._changed.clear()
        # What was due during the last write may have been written by it.
        return self._is_write_due()

    async def _work(self) -> None:
        while True:
            async with self._more:
                await self._more.wait_for(self._may_start)
                unit = self._marked.start()
            try:
                settled = await self._process(unit)
            finally:
                self._marked.finish(unit)
            for result, stop_reason in settled:
                self._done.append(result)
                if stop := self._breaker.check(result, stop_reason):
                    self.stop(*stop)
            if self._is_write_due():
                self._changed.set()

    def _may_start(self) -> bool:
        return bool(self._marked.waiting) and self._marked.busy < self._allowed() and not self._stopped

    def _is_write_due(self) -> bool:
        """Return whether to write now: enough for a batch, while the waiting links still occupy the workers."""
        return not self._marked.waiting or not self._marked.busy or 4 * len(self._done) >= 3 * self._allowed()

    async def _process(self, unit: list[PlannedLink]) -> UnitResults:
        """Process a unit; every link of it gets an outcome, whatever happens."""
        try:
            settled = await self._processor.process_unit(unit)
        except Exception as error:
            # The links are marked in flight and must not be lost.
            log.exception("Links not processed: links=%d", len(unit))
            detail = f"unexpected {type(error).__name__}"
            return [
                (LinkResult(planned, Outcome.UNKNOWN, datetime.now(UTC), detail=detail), None)
                for planned in unit
            ]
        done = {result.planned.seq for result, _ in settled}
        return settled + [(self._not_attempted(planned), None) for planned in unit if planned.seq not in done]

    async def _is_stopped(self) -> bool:
        """Return whether the run is stopped, here or by another task."""
        if self._stopped is None and (why := await asyncio.to_thread(self._store.stop_reason)):
            self._stop_is_shared = True
            self.stop(f"another task stopped the run: {why}", StopReason.REFUSED)
        return self._stopped is not None

    async def _share_stop(self) -> None:
        """Stop the other tasks of the run, if the cause concerns them as well."""
        if self._stopped and self._stopped.reason is StopReason.REFUSED and not self._stop_is_shared:
            self._stop_is_shared = True
            await asyncio.to_thread(self._store.stop_run, self._stopped.why)

    async def _wake_workers(self) -> None:
        async with self._more:
            self._more.notify_all()

    def _finish(self) -> None:
        """
        Write what workers finished after the last batch, and release the slots. Runs also when cancelled.

        Links that were taken and not sent are settled as such: the next try need not verify them.
        """
        try:
            results = self._done + [self._not_attempted(planned) for planned in self._marked.clear()]
            if results:
                self._done = []
                self._store.settle(results, 0)
                self._counts.update(result.outcome for result in results)
        finally:
            self._slots.release()

    @staticmethod
    def _not_attempted(planned: PlannedLink) -> LinkResult:
        """Return the outcome of a link that was not sent; a link that an earlier try may have sent stays unknown."""
        outcome = Outcome.UNKNOWN if planned.ambiguous_before else Outcome.NOT_ATTEMPTED
        return LinkResult(planned, outcome, datetime.now(UTC), detail="the run stopped before it was sent")
