"""Put links back that were taken out of Zoho CRM, by external ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoho_crm.core.models import RELINK
from zoho_crm.core.outcomes import RELINK_OUTCOMES, Outcome
from zoho_crm.hooks.link_operation import RelinkClient
from zoho_crm.operators.link_operator import LinkOperator

if TYPE_CHECKING:
    from zoho_crm.hooks.async_client import AsyncZohoClient
    from zoho_crm.operators.chunk_run import LinkProcessor


class RelinkByExternalIdOperator(LinkOperator):
    """
    Link records in Zoho CRM again, by the ids that you own.

    Asks for each link whether it is there, and leaves it as it is if so (``already_linked``); else calls
    ``PUT /{module}/{external id}/{related list}`` with the related record's external id and the attributes that the
    plan holds of the link, such as ``Contact_Role``. Links given as ``links`` have no attributes.

    Source: "Update Related Records Using External ID",
    https://www.zoho.com/crm/developer/docs/api/v7/update-related-records-ext.html

    The arguments are those of :class:`~zoho_crm.operators.link_operator.LinkOperator`.

    :return: number of links by outcome, e.g. ``{"relinked": 10, "already_linked": 2, ...}``
    """

    operation = RELINK
    outcomes = RELINK_OUTCOMES
    changing = Outcome.RELINKED
    linked = Outcome.ALREADY_LINKED
    gone = unasked = Outcome.WOULD_RELINK
    ui_color = "#d5ecd4"

    def worker(self, client: AsyncZohoClient) -> LinkProcessor:
        """Return what puts the links back."""
        return RelinkClient(client, self.relation, client.connection.api_version)
