"""The links of a claimed chunk: where a try takes them from, and where their outcomes and snapshots go."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import tenacity

from zoho_crm import telemetry
from zoho_crm.core.models import LinkResult
from zoho_crm.core.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from zoho_crm.core.models import Origin, PlannedLink, Target
    from zoho_crm.core.verdict import StopReason
    from zoho_crm.hooks.http_transport import Meter
    from zoho_crm.hooks.zoho_response import ZohoResponse
    from zoho_crm.ledger.claims import Claim
    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.operators.chunk_run import LinkProcessor, Select

log = logging.getLogger(__name__)

T = TypeVar("T")

DATABASE_PATIENCE_S = 120.0
"""Seconds that outcomes are held in memory while the audit database is unreachable."""

NO_SNAPSHOT = "not sent: its attributes have not been read; start a new run"


@dataclass
class CreditUsage:
    """
    The API credits that a try has used, and which of them are stored. All stores of a try share one.

    A process that is killed loses the credits used since its last write: the requests of one batch.

    :param meter: counts the requests of the try
    """

    meter: Meter
    _written: int = field(default=0, init=False)

    @contextmanager
    def to_write(self) -> Iterator[int]:
        """Return the credits that are not stored yet; they count as stored unless the block raises."""
        used = self.meter.credits_used
        yield used - self._written
        self._written = used


@dataclass
class ChunkStore:
    """
    A chunk of a stored plan under this try's claim.

    :param credit_usage: what the try costs, stored with each batch of outcomes
    :param in_flight: whether links are marked in flight when they are taken; not for a dry run, which sends nothing
    """

    ledger: Ledger
    claim: Claim
    origin: Origin
    target: Target
    job: str
    credit_usage: CreditUsage
    in_flight: bool = True

    def settle(self, results: Sequence[LinkResult], take: int, select: Select = len) -> list[PlannedLink]:
        """
        Write outcomes and take further links in one transaction; wait while the database is unreachable.

        :raises ClaimLostError: a newer try has taken over the chunk
        """
        with self.credit_usage.to_write() as credits_used:
            taken = retry_while_database_away(
                lambda: self.ledger.claims.settle(
                    self.claim,
                    results,
                    origin=self.origin,
                    target=self.target,
                    job=self.job,
                    take=take,
                    select=select,
                    in_flight=self.in_flight,
                    credits_used=credits_used,
                )
            )
        count_results(results, self.job, self.target)
        return taken

    def stop_reason(self) -> str | None:
        """Return why another task has stopped the run, if one has."""
        return self.ledger.runs.stop_reason(self.claim.run_key, dry_run=self.target.dry_run)

    def stop_run(self, why: str) -> None:
        """Keep the other tasks of the run from sending."""
        self.ledger.runs.stop(self.claim.run_key, why)


@dataclass
class SnapshotStore:
    """The links of a claimed chunk whose attributes are not stored yet."""

    ledger: Ledger
    claim: Claim
    credit_usage: CreditUsage

    def settle(self, results: Sequence[LinkResult], take: int, select: Select = len) -> list[PlannedLink]:
        """
        Store the snapshots that were read and hand out further links; wait while the database is unreachable.

        Nothing is marked in flight, so ``select`` does not matter.

        :raises ClaimLostError: a newer try has taken over the chunk
        """
        texts = {one.planned.seq: one.planned.snapshot for one in results if one.planned.snapshot is not None}
        if texts:
            with self.credit_usage.to_write() as credits_used:
                retry_while_database_away(
                    lambda: self.ledger.claims.store_snapshots(self.claim, texts, credits_used=credits_used)
                )
        if take < 1:
            return []
        return retry_while_database_away(lambda: self.ledger.claims.without_snapshot(self.claim, take))

    def stop_reason(self) -> str | None:
        """Return why another task has stopped the run, if one has."""
        return self.ledger.runs.stop_reason(self.claim.run_key)

    def stop_run(self, why: str) -> None:
        """Keep the other tasks of the run from sending."""
        self.ledger.runs.stop(self.claim.run_key, why)


@dataclass
class RequireSnapshot:
    """A processor that sends only links whose attributes are stored."""

    processor: LinkProcessor

    @property
    def unit_size(self) -> int:
        """Links of a unit at most."""
        return self.processor.unit_size

    def watch(self, observe: Callable[[ZohoResponse], None], is_stopped: Callable[[], bool]) -> None:
        """Pass the observer on to the processor."""
        self.processor.watch(observe, is_stopped)

    def unit_length(self, links: Sequence[PlannedLink]) -> int:
        """Return how many of the next links are one unit."""
        return self.processor.unit_length(links)

    async def process_unit(self, unit: Sequence[PlannedLink]) -> list[tuple[LinkResult, StopReason | None]]:
        """Return the outcome of each link; a link without a snapshot is not sent."""
        stored = [planned for planned in unit if planned.snapshot is not None]
        settled = await self.processor.process_unit(stored) if stored else []
        for planned in unit:
            if planned.snapshot is None:
                # An earlier try may have sent it.
                outcome = Outcome.UNKNOWN if planned.ambiguous_before else Outcome.FAILED
                settled.append((LinkResult(planned, outcome, datetime.now(UTC), detail=NO_SNAPSHOT), None))
        return settled


def count_results(results: Sequence[LinkResult], job: str, target: Target) -> None:
    """Count links whose outcome has been written, in the metrics."""
    count_outcomes(Counter(result.outcome for result in results), job, target)


def count_outcomes(counts: Counter[Outcome], job: str, target: Target) -> None:
    """Count outcomes that have been written, in the metrics."""
    telemetry.count_links(
        counts, job=job, relation=target.relation, operation=target.operation, dry_run=target.dry_run
    )


def retry_while_database_away(call: Callable[[], T]) -> T:
    """Call the audit database, and retry with growing pauses while it is unreachable."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((OperationalError, InterfaceError)),
        stop=tenacity.stop_after_delay(DATABASE_PATIENCE_S),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=10),
        before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    return retrying(call)
