"""Ask about links and change nothing: what a dry run that verifies does, and what keeps the attributes of links."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zoho_crm.core.links import NO_ATTRIBUTES, snapshot_of
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.verdict import Action, Verdict
from zoho_crm.errors import ZohoError
from zoho_crm.hooks.presence import LinkClient, Presence, PresenceCheck, judge_error, result_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoho_crm.core.models import LinkResult, PlannedLink
    from zoho_crm.core.verdict import StopReason

log = logging.getLogger(__name__)


@dataclass
class PresenceClient(LinkClient):
    """
    Asks about links of one relation by GET, and sends nothing else.

    :param linked: outcome of a link that is there
    :param gone: outcome of a link that is not, while both records are
    :param fields: attributes to read; the results then carry the link with its snapshot, ``{}`` where it is not
        there, None where that is unclear. Whether both records exist is not asked for then
    """

    linked: Outcome = Outcome.WOULD_REMOVE
    gone: Outcome = Outcome.ALREADY_ABSENT
    fields: Sequence[str] = ()

    async def process_unit(self, unit: Sequence[PlannedLink]) -> list[tuple[LinkResult, StopReason | None]]:
        """Ask about the links of a unit: one link, for this class."""
        return [await self.probe(planned) for planned in unit]

    async def probe(self, planned: PlannedLink) -> tuple[LinkResult, StopReason | None]:
        """
        Ask about one link.

        :return: what would happen to it, and a reason to stop the whole run if the answer is one for every link
        """
        names = tuple(dict.fromkeys(("id", *self.fields)))
        try:
            sight = await self.look_until_clear(planned.link, names, thorough=not self.fields)
            verdict = sight.why or Verdict(Action.SETTLE, outcome=self._outcome(sight.presence))
            if self.fields:
                planned, verdict = self._kept(planned, sight, verdict)
        except ZohoError as error:
            verdict = judge_error(error)
        except Exception as error:
            # Left to the caller it would count as sent, which nothing of a probe ever is.
            log.exception("A link could not be asked about")
            verdict = Verdict(
                Action.SETTLE, outcome=Outcome.FAILED, detail=f"unexpected {type(error).__name__}"
            )
        result = result_of(planned, verdict, attempts=0, sent_at=None, finished_at=self.now())
        return result, verdict.stop_reason

    def _outcome(self, presence: Presence) -> Outcome:
        return {
            Presence.LINKED: self.linked,
            Presence.GONE: self.gone,
            Presence.PARENT_UNKNOWN: Outcome.PARENT_NOT_FOUND,
            Presence.RELATED_UNKNOWN: Outcome.RELATED_NOT_FOUND,
        }.get(presence, Outcome.FAILED)

    def _kept(
        self, planned: PlannedLink, sight: PresenceCheck, verdict: Verdict
    ) -> tuple[PlannedLink, Verdict]:
        if sight.presence is Presence.UNCLEAR:
            return planned, verdict
        if sight.presence is not Presence.LINKED:
            return replace(planned, snapshot=NO_ATTRIBUTES), verdict
        if sight.record is None or not sight.record.keys() >= set(self.fields):
            detail = "Zoho does not show all of the attributes that are to be kept"
            return planned, replace(verdict, outcome=Outcome.FAILED, detail=detail)
        return replace(planned, snapshot=snapshot_of(sight.record, self.fields)), verdict
