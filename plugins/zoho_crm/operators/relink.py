"""Restore links in Zoho CRM that were removed, by external IDs."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from zoho_crm.core.models import RELINK
from zoho_crm.core.outcomes import RELINK_OUTCOMES, Outcome
from zoho_crm.hooks.link_operation import RelinkClient
from zoho_crm.hooks.zoho_crm import ZohoCRMHook
from zoho_crm.operators.link_operator import LinkOperator

if TYPE_CHECKING:
    from zoho_crm.core.models import ChunkRef
    from zoho_crm.hooks.async_client import AsyncZohoClient
    from zoho_crm.operators.chunk_run import LinkProcessor


class RelinkByExternalIdOperator(LinkOperator):
    """
    Link records in Zoho CRM, by the external IDs of the records.

    Verifies each link first and leaves an existing one as it is (``already_linked``); else calls
    ``PUT /{module}/{external id}/{related list}`` with the related record's external ID and the attributes of the link
    that the plan holds, such as ``Contact_Role``. Links given as ``links`` have no attributes.

    Source: "Update Related Records Using External ID",
    https://www.zoho.com/crm/developer/docs/api/v7/update-related-records-ext.html

    The arguments are those of :class:`~zoho_crm.operators.delete_related.DeleteRelatedByExternalIdOperator`, without
    ``strategy`` and ``snapshot_fields``.

    :return: number of links by outcome, e.g. ``{"relinked": 10, "already_linked": 2, ...}``
    """

    operation = RELINK
    outcomes = RELINK_OUTCOMES
    changing = (Outcome.RELINKED, Outcome.PRESUMED_RELINKED)
    linked = Outcome.ALREADY_LINKED
    gone = unverified = Outcome.WOULD_RELINK
    ui_color = "#d5ecd4"

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
        task_concurrency: int = 5,
        dry_run: bool = False,
        verify: bool = False,
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

    def processor(self, client: AsyncZohoClient) -> LinkProcessor:
        """Return what restores the links."""
        return RelinkClient(client, self.relation, client.connection.api_version, now=self.now)
