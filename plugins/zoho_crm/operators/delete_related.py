"""Remove links from Zoho CRM by external IDs: the only operator that removes anything."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from zoho_crm.core.models import DELINK
from zoho_crm.core.outcomes import DELINK_OUTCOMES, REMOVAL_OUTCOMES, Outcome
from zoho_crm.hooks.by_parent import ByParentDelinkClient
from zoho_crm.hooks.link_operation import DelinkClient
from zoho_crm.hooks.zoho_crm import ZohoCRMHook
from zoho_crm.operators.link_operator import LinkOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoho_crm.core.models import ChunkRef
    from zoho_crm.hooks.async_client import AsyncZohoClient
    from zoho_crm.operators.chunk_run import LinkProcessor

STRATEGIES = ("single", "by_parent")


class DeleteRelatedByExternalIdOperator(LinkOperator):
    """
    Remove links between records in Zoho CRM, by the external IDs of the records.

    Calls ``DELETE /{module}/{external id}/{related list}/{related external id}`` for each link, several at once, and
    returns the outcome of each. Both records stay. Zoho cannot undo it;
    :class:`~zoho_crm.operators.relink.RelinkByExternalIdOperator` can restore links that a run removed.

    With ``audit_conn_id`` every link is planned, marked before it is sent, and audited in that database; a retry, a
    clear or a crash resumes with the unsettled links. Without it the task keeps no ledger: a retry processes all links
    again and counts the removed ones as ``already_absent``, and only ``task_concurrency`` limits the requests in
    flight.

    Map it with ``.partial(...).expand(chunk=...)`` or ``expand(links=...)``, or with
    ``.partial(task_id=...).expand_kwargs(...)``.

    Source: https://www.zoho.com/crm/developer/docs/api/v7/delete-related-records-ext.html

    :param module: API name of the parents' module, e.g. ``Contacts``
    :param external_field: API name of the parents' external field
    :param related_list: API name of the related list on the parent, e.g. ``Deals``
    :param related_external_field: API name of the related records' external field
    :param related_module: API name of the related records' module; default: ``related_list``
    :param links: the links: ``{"external_id": ..., "related_external_id": ...}`` or pairs
    :param chunk: a chunk of a stored plan, as :class:`~zoho_crm.operators.plan_links.PlanLinksOperator` returns it;
        needs ``audit_conn_id``. Exactly one of ``links`` and ``chunk`` is required
    :param zoho_conn_id: connection of type ``zoho_crm``
    :param audit_conn_id: connection of the database for plan and audit
    :param strategy: ``single``: one call per link; ``by_parent``: up to 100 links of one parent in a call, by Zoho's
        record IDs, which are read first
    :param task_concurrency: requests in flight in this task, 1 to 25
    :param dry_run: change nothing; every link ends with the outcome it would have
    :param verify: in a dry run, verify each link in Zoho (1 API call per link); without it a dry run sends nothing
    :param snapshot_fields: attributes of the links, such as ``Contact_Role``, that are read and stored in the ledger
        before a link is removed; a link without stored attributes is not sent. Needs ``audit_conn_id``
    :param breaker_share: share of links that may end as failed, rejected or unknown before the whole run is stopped
    :param credit_reserve: API credits of the org to leave unused; Zoho reports the remaining ones once half are used
    :param max_not_found_share: share of the settled links that may have no record in Zoho before the whole run is
        stopped, counted from 50 links on; None: no limit. A dry run does not stop
    :param max_plan_age: age of the plan up to which a try may start to send
    :param wait_patience: how long to wait, deferred, for credits, an access token or a free slot of the org; needs
        ``audit_conn_id``
    :return: number of links by outcome, e.g. ``{"removed": 10, "already_absent": 2, ...}``
    :raises UnfinishedLinksError: links ended as ``failed``, ``unknown`` or ``not_attempted``; Airflow retries
    :raises RunStoppedError: Zoho refuses every link, or the plan is too old; an immediate retry would fail, too
    """

    operation = DELINK
    outcomes = DELINK_OUTCOMES
    changing = REMOVAL_OUTCOMES
    linked = unverified = Outcome.WOULD_REMOVE
    gone = Outcome.ALREADY_ABSENT
    ui_color = "#f6d5d0"

    def __init__(
        self,
        *,
        module: str,
        external_field: str,
        related_list: str,
        related_external_field: str,
        related_module: str | None = None,
        links: Any = None,
        chunk: ChunkRef | None = None,
        zoho_conn_id: str = ZohoCRMHook.default_conn_name,
        audit_conn_id: str | None = None,
        strategy: str = "single",
        task_concurrency: int = 5,
        dry_run: bool = False,
        verify: bool = False,
        snapshot_fields: Sequence[str] = (),
        breaker_share: float = 0.5,
        credit_reserve: int = 0,
        max_not_found_share: float | None = None,
        max_plan_age: timedelta | None = None,
        wait_patience: timedelta = timedelta(hours=24),
        **kwargs: Any,
    ) -> None:
        super().__init__(
            module=module,
            external_field=external_field,
            related_list=related_list,
            related_external_field=related_external_field,
            related_module=related_module,
            links=links,
            chunk=chunk,
            zoho_conn_id=zoho_conn_id,
            audit_conn_id=audit_conn_id,
            task_concurrency=task_concurrency,
            dry_run=dry_run,
            verify=verify,
            breaker_share=breaker_share,
            credit_reserve=credit_reserve,
            max_not_found_share=max_not_found_share,
            max_plan_age=max_plan_age,
            wait_patience=wait_patience,
            **kwargs,
        )
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy: {strategy!r} is not one of {', '.join(STRATEGIES)}")
        if snapshot_fields and audit_conn_id is None:
            raise ValueError("audit_conn_id: required with snapshot_fields, which are stored with the plan")
        self.strategy = strategy
        self.snapshot_fields = snapshot_fields

    def processor(self, client: AsyncZohoClient) -> LinkProcessor:
        """Return what removes the links."""
        single = DelinkClient(client, self.relation, client.connection.api_version, now=self.now)
        return single if self.strategy == "single" else ByParentDelinkClient(single)
