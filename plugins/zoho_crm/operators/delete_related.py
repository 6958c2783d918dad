"""Take links out of Zoho CRM by external ids: the one task that removes anything."""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from zoho_crm.core.models import DELINK
from zoho_crm.core.outcomes import DELINK_OUTCOMES, RETRYABLE_OUTCOMES, Outcome
from zoho_crm.hooks.by_parent import ByParentDelinkClient
from zoho_crm.hooks.link_operation import DelinkClient
from zoho_crm.hooks.presence import PresenceClient
from zoho_crm.operators.chunk_run import ChunkReport
from zoho_crm.operators.link_operator import LinkOperator
from zoho_crm.operators.snapshot_store import OnlyWithSnapshot, SnapshotStore
from zoho_crm.telemetry import span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoho_crm.hooks.async_client import AsyncZohoClient
    from zoho_crm.operators.chunk_run import LinkProcessor
    from zoho_crm.operators.link_operator import Drive

STRATEGIES = ("single", "by_parent")


class DeleteRelatedByExternalIdOperator(LinkOperator):
    """
    Take links between records out of Zoho CRM, by the ids that you own.

    Calls ``DELETE /{module}/{external id}/{related list}/{related external id}`` for each link, several at once,
    and says of each what happened. Both records stay. A delink cannot be undone by Zoho; what can be put back is what
    :class:`~zoho_crm.operators.relink.RelinkByExternalIdOperator` puts back. Without a ledger, a retry counts the links
    that are gone as ``already_absent``.

    Source: https://www.zoho.com/crm/developer/docs/api/v7/delete-related-records-ext.html

    The other arguments are those of :class:`~zoho_crm.operators.link_operator.LinkOperator`.

    :param strategy: ``single``: one call a link; ``by_parent``: up to 100 links of one parent in a call, by Zoho's
        record ids, which are read first
    :param snapshot_fields: attributes of the links, such as ``Contact_Role``, that are read and kept in the ledger
        before a link is taken out; a link whose attributes are not kept is not sent. Needs ``audit_conn_id``
    """

    operation = DELINK
    outcomes = DELINK_OUTCOMES
    changing = Outcome.REMOVED
    linked = unasked = Outcome.WOULD_REMOVE
    gone = Outcome.ALREADY_ABSENT
    ui_color = "#f6d5d0"

    def __init__(
        self,
        *,
        strategy: str = "single",
        snapshot_fields: Sequence[str] = (),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy {strategy!r} is none of: {', '.join(STRATEGIES)}")
        if snapshot_fields and self.audit_conn_id is None:
            raise ValueError("snapshot_fields are kept with the plan: give the audit_conn_id it is stored in")
        self.strategy = strategy
        self.snapshot_fields = snapshot_fields

    def worker(self, client: AsyncZohoClient) -> LinkProcessor:
        """Return what takes the links out."""
        single = DelinkClient(client, self.relation, client.connection.api_version)
        worker: LinkProcessor = single if self.strategy == "single" else ByParentDelinkClient(single)
        return OnlyWithSnapshot(worker) if self.snapshot_fields else worker

    def before_sending(self, drive: Drive) -> ChunkReport | None:
        """Read and keep the attributes of all links of the chunk that are still to be sent."""
        if not self.snapshot_fields:
            return None
        with span("snapshot"):
            report = self.drive(
                drive.hook,
                partial(self._snapshotter, fields=tuple(self.snapshot_fields)),
                SnapshotStore(drive.ledger, drive.claim, drive.spending),
                drive.slots,
            )
        left = sum(report.counts[outcome] for outcome in RETRYABLE_OUTCOMES)
        if not report.stopped and not left:
            return None
        why = report.stopped or f"the attributes of {left} links could not be read"
        return ChunkReport(Counter(), f"{why}; nothing was sent", report.reason)

    def _snapshotter(self, client: AsyncZohoClient, fields: Sequence[str]) -> LinkProcessor:
        return PresenceClient(client, self.relation, client.connection.api_version, fields=fields)
