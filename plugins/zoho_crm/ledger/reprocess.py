"""Links of earlier runs that a retry or a relink starts from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoho_crm.ledger import carry_over, selection
from zoho_crm.ledger.engine import Store

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from zoho_crm.core.models import StoredRun
    from zoho_crm.core.relink_request import RelinkFilter
    from zoho_crm.ledger.selection import RemovedLink, UnfinishedLink


class OriginLinks(Store):
    """Links of earlier runs that a retry or a relink starts from."""

    def unfinished_links(
        self, past: Sequence[StoredRun], org_id: str | None = None
    ) -> Iterator[UnfinishedLink]:
        """
        Yield each link that at least one of some runs has left open, once, with its last outcome over all runs.

        :param past: runs that have ended
        :param org_id: Zoho's id of the organisation; rows of others do not count
        """
        return selection.last_outcomes(self._engine, past, org_id)

    def removed_links(
        self,
        run: StoredRun,
        *,
        org_id: str | None = None,
        wanted: RelinkFilter | None = None,
        pair_keys: Collection[str] | None = None,
    ) -> Iterator[RemovedLink]:
        """
        Yield the links that a run removed, each with what happened to it since.

        :param wanted: conditions on the audit row of the removal; None for all
        :param pair_keys: keys of the links to choose from; None for all links of the run
        """
        return selection.removed_links(self._engine, run, org_id=org_id, wanted=wanted, pair_keys=pair_keys)

    def copy_snapshots(self, run_key: str, origin_run_key: str) -> None:
        """Give each link of a plan the attributes that the run which removed it has read."""
        carry_over.copy_snapshots(self._engine, run_key, origin_run_key)

    def carry_over_in_flight(self, run_key: str) -> None:
        """Mark the links of a plan that a request of a past run may have reached: they are asked about first."""
        carry_over.carry_over_in_flight(self._engine, run_key)
