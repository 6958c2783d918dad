"""Take single links away."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.request import delete_related
from zoho_crm.core.verdict import GONE_AFTER_AMBIGUITY, judge
from zoho_crm.hooks.link_operation import LinkOperation
from zoho_crm.hooks.presence import LinkClient, Presence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoho_crm.core.models import LinkResult, PlannedLink
    from zoho_crm.core.request import ZohoRequest
    from zoho_crm.core.verdict import StopReason, Verdict
    from zoho_crm.hooks.zoho_response import ZohoResponse


class DelinkClient(LinkClient):
    """Takes links of one relation away, each by a call of its own."""

    async def process_unit(self, unit: Sequence[PlannedLink]) -> list[tuple[LinkResult, StopReason | None]]:
        """Take the links of a unit away: of one link, for this class."""
        return [await self.delink(planned) for planned in unit]

    async def delink(self, planned: PlannedLink) -> tuple[LinkResult, StopReason | None]:
        """
        Take one link away.

        A link that an earlier try may have sent is verified before anything is sent again.

        :return: what happened, and a reason to stop the whole run if the answer is one for every link
        """
        return await _Delinking(self, planned).run()


class _Delinking(LinkOperation):
    """The course of one link that is taken away."""

    still = "still linked"

    def _request(self) -> ZohoRequest:
        return delete_related(self._caller.api_version, self._caller.relation, self._planned.link)

    def _judge(self, answer: ZohoResponse) -> Verdict:
        relation = self._caller.relation
        return judge(answer.classified, relation=relation, ambiguous_before=self._ambiguous)

    def _seen(self, presence: Presence, unclear: Verdict) -> Verdict | None:
        if presence is Presence.LINKED:
            return None
        if self._ambiguous:
            return self._verified(unclear, Outcome.REMOVED, GONE_AFTER_AMBIGUITY)
        return self._verified(
            unclear, Outcome.ALREADY_ABSENT, "verified: both records exist, the link does not"
        )
