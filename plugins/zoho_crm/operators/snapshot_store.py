"""What links have of their own, kept before they are taken out: where it is kept, and what is not sent without."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from zoho_crm.core.models import LinkResult
from zoho_crm.core.outcomes import Outcome
from zoho_crm.operators.credit_usage import spent_by
from zoho_crm.operators.stores import retry_while_database_away

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoho_crm.core.models import PlannedLink
    from zoho_crm.core.verdict import StopReason
    from zoho_crm.hooks.zoho_response import ZohoResponse
    from zoho_crm.ledger.claims import Claim
    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.operators.chunk_run import LinkProcessor
    from zoho_crm.operators.credit_usage import CreditUsage

NOT_KEPT = "not sent: its attributes have not been read; start a new run"


@dataclass
class SnapshotStore:
    """The links of a claimed chunk whose attributes are not kept yet, and the place where they are kept."""

    ledger: Ledger
    claim: Claim
    spending: CreditUsage | None = None

    def settle(self, results: Sequence[LinkResult], take: int) -> list[PlannedLink]:
        """
        Keep the snapshots that were read, and hand out further links; wait for a database that is away.

        :raises ClaimLostError: a newer try has taken the chunk over
        """
        texts = {one.planned.seq: one.planned.snapshot for one in results if one.planned.snapshot is not None}
        if texts:
            with spent_by(self.spending) as spent:
                retry_while_database_away(
                    lambda: self.ledger.claims.store_snapshots(
                        self.claim, texts, credits_used=spent.credits_used
                    )
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
class OnlyWithSnapshot:
    """Hands a worker the links whose attributes are kept, and no others."""

    worker: LinkProcessor

    @property
    def unit_size(self) -> int:
        """Links of a unit at the most: the worker's."""
        return self.worker.unit_size

    def watch(self, observe: Callable[[ZohoResponse], None], is_stopped: Callable[[], bool]) -> None:
        """Have the worker watched."""
        self.worker.watch(observe, is_stopped)

    def unit_length(self, links: Sequence[PlannedLink]) -> int:
        """Return how many of the next links are one unit: as the worker says."""
        return self.worker.unit_length(links)

    async def process_unit(self, unit: Sequence[PlannedLink]) -> list[tuple[LinkResult, StopReason | None]]:
        """Return what happened to each link; one without a snapshot is not sent."""
        kept = [planned for planned in unit if planned.snapshot is not None]
        settled = await self.worker.process_unit(kept) if kept else []
        for planned in unit:
            if planned.snapshot is None:
                # What an earlier try may have sent is not known to be as before.
                outcome = Outcome.UNKNOWN if planned.ambiguous_before else Outcome.FAILED
                settled.append((LinkResult(planned, outcome, datetime.now(UTC), detail=NOT_KEPT), None))
        return settled
