"""The part of a task that runs on an event loop: it works links off, and waits for Zoho outside of a worker."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, ClassVar

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

from zoho_crm.airflow_compat import BaseAsyncOperator
from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES, Outcome
from zoho_crm.core.verdict import StopReason
from zoho_crm.errors import RunStoppedError, UnfinishedLinksError, ZohoTokenThrottledError
from zoho_crm.operators.chunk_run import ChunkReport, ChunkRun, LinkProcessor, Slots, Store

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.sdk import Context

    from zoho_crm.hooks.async_client import AsyncZohoClient
    from zoho_crm.hooks.zoho_crm import ZohoCRMHook

    Recruit = Callable[[AsyncZohoClient], LinkProcessor]

WAITS = {
    StopReason.CREDITS: timedelta(minutes=30),
    StopReason.OVERLOADED: timedelta(minutes=2),
    StopReason.THROTTLED: timedelta(minutes=11),
}
"""Causes that pass by themselves, and how long to wait: credits return over a day, tokens after ten minutes."""

TOLD_TO_END = "the task was told to end"


class AsyncLinkOperator(BaseAsyncOperator):
    """
    Work links off on an event loop, one or several times in a try, until the task's time is nearly up.

    A subclass sets ``breaker_share``, ``credit_reserve`` and ``wait_patience``, has the method
    ``execute_after_wait``, and calls :meth:`begin` first.
    """

    outcomes: ClassVar[tuple[Outcome, ...]]
    """What the summary counts."""
    # Airflow keeps an attribute of this name, though its own meaning of it is gone.
    task_concurrency: int
    breaker_share: float
    credit_reserve: int
    wait_patience: timedelta

    _stop: Callable[[str], object] | None = None
    _told_to_end = False
    _ends_at: float | None = None

    def begin(self) -> None:
        """Start the clock of this try."""
        self._told_to_end = False
        if self.execution_timeout:
            # Airflow's own time-out strikes anywhere; ending before it writes what is in flight.
            seconds = self.execution_timeout.total_seconds()
            self._ends_at = time.monotonic() + seconds - min(60.0, seconds / 10)

    def on_kill(self) -> None:
        """Take no further link; what is in flight is waited for and written before the process ends."""
        self._told_to_end = True
        if self._stop is not None:
            self._stop(TOLD_TO_END)

    def drive(self, hook: ZohoCRMHook, recruit: Recruit, store: Store, slots: Slots) -> ChunkReport:
        """
        Have a worker work off what a store gives.

        :param recruit: makes the worker for a client
        """
        try:
            client = hook.async_client(max_connections=self.task_concurrency)
        except ZohoTokenThrottledError as error:
            return ChunkReport(Counter(), f"there is no access token ({error})", StopReason.THROTTLED)
        self._course = (client, recruit, store, slots)
        report: ChunkReport = super().execute({})  # type: ignore[no-untyped-call]
        return report

    async def aexecute(self, context: Context) -> ChunkReport:
        """Work the links off on the event loop. Nothing here calls Airflow, whose calls would block the loop."""
        client, recruit, store, slots = self._course
        loop = asyncio.get_running_loop()
        async with client:
            run = ChunkRun(
                recruit(client),
                store,
                slots,
                self.task_concurrency,
                breaker_share=self.breaker_share,
                credit_reserve=self.credit_reserve,
            )
            self._stop = lambda why: loop.call_soon_threadsafe(run.stop, why)
            if self._told_to_end:
                run.stop(TOLD_TO_END)
            if self._ends_at is not None:
                seconds = max(0.0, self._ends_at - time.monotonic())
                loop.call_later(seconds, run.stop, "the task's time is nearly up")
            try:
                return await run.run()
            finally:
                self._stop = None

    def wait(self, report: ChunkReport, since: datetime) -> None:
        """Leave the worker until Zoho may give again; return once the job's patience is over."""
        assert report.reason is not None  # noqa: S101 - for the type checker: it is one of WAITS
        pause = WAITS[report.reason]
        if datetime.now(UTC) + pause > since + self.wait_patience:
            self.log.error("The patience of %s is over", self.wait_patience)
            return
        self.log.warning("Waiting %s outside of a worker: %s", pause, report.stopped)
        self.defer(
            trigger=TimeDeltaTrigger(pause),
            method_name="execute_after_wait",
            kwargs={"waiting_since": since.isoformat()},
        )

    def conclude(self, report: ChunkReport) -> dict[str, int]:
        """Return the summary, or raise when links are left."""
        counts = report.counts
        summary = self.summary(counts)
        if report.stopped:
            error = UnfinishedLinksError if report.reason is None else RunStoppedError
            raise error(f"Stopped: {report.stopped}. This try: {_sentence(counts)}")
        if any(counts[outcome] for outcome in RETRYABLE_OUTCOMES):
            raise UnfinishedLinksError(f"Links are left to be tried again. This try: {_sentence(counts)}")
        return summary

    def summary(self, counts: Counter[Outcome]) -> dict[str, int]:
        """Return the number of links by outcome."""
        return {outcome.value: counts[outcome] for outcome in self.outcomes}


def _sentence(counts: Counter[Outcome]) -> str:
    parts = [f"{counts[outcome]} {outcome.value}" for outcome in Outcome if counts[outcome]]
    return ", ".join(parts) or "no links"
