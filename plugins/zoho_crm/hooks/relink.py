"""Put single links back, with what they had of their own."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

from zoho_crm.core.links import sendable_attributes
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.relink_verdict import LINKED_AFTER_AMBIGUITY, judge_relink
from zoho_crm.core.request import put_related
from zoho_crm.core.verdict import Action, Verdict
from zoho_crm.hooks.link_operation import LinkOperation
from zoho_crm.hooks.presence import LinkClient, Presence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoho_crm.core.models import LinkResult, PlannedLink
    from zoho_crm.core.request import ZohoRequest
    from zoho_crm.core.verdict import StopReason
    from zoho_crm.hooks.zoho_response import ZohoResponse

_FIRST_LOOK = Verdict(Action.SETTLE)


class RelinkClient(LinkClient):
    """Puts links of one relation back. A link that is there already is left as it is."""

    async def process_unit(self, unit: Sequence[PlannedLink]) -> list[tuple[LinkResult, StopReason | None]]:
        """Put the links of a unit back: one link, for this class."""
        return [await self.relink(planned) for planned in unit]

    async def relink(self, planned: PlannedLink) -> tuple[LinkResult, StopReason | None]:
        """
        Put one link back, with the attributes of its snapshot, unless it is there.

        :return: what happened, and a reason to stop the whole run if the answer is one for every link
        """
        return await _Relinking(self, planned).run()


class _Relinking(LinkOperation):
    """The course of one link that is put back."""

    still = "still not linked"

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        return sendable_attributes(self._planned.snapshot, self._caller.relation)

    async def _look_first(self) -> Verdict | None:
        # Whether both records exist is told by the request itself, for one call less.
        sight = await self._caller.look_until_clear(self._planned.link, thorough=False)
        match sight.presence:
            case Presence.GONE:
                return None
            case Presence.LINKED:
                return self._seen(Presence.LINKED, _FIRST_LOOK)
            case Presence.PARENT_UNKNOWN:
                return self._verified(_FIRST_LOOK, Outcome.PARENT_NOT_FOUND)
            case Presence.RELATED_UNKNOWN:
                return self._verified(_FIRST_LOOK, Outcome.RELATED_NOT_FOUND)
        return sight.why

    def _request(self) -> ZohoRequest:
        caller = self._caller
        return put_related(caller.api_version, caller.relation, self._planned.link, self._attributes)

    def _judge(self, answer: ZohoResponse) -> Verdict:
        return judge_relink(
            answer.classified,
            relation=self._caller.relation,
            link=self._planned.link,
            attributes=self._attributes.keys(),
        )

    def _seen(self, presence: Presence, unclear: Verdict) -> Verdict | None:
        if presence is Presence.GONE:
            return None
        if self._ambiguous:
            return self._verified(unclear, Outcome.RELINKED, LINKED_AFTER_AMBIGUITY)
        return self._verified(unclear, Outcome.ALREADY_LINKED, "found linked, left as it is")
