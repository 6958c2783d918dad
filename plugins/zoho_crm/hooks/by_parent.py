"""
Remove links of one parent together: up to a hundred in one call, for one API credit.

Zoho documents this call for record ids only, so the record ids of a page of links are read first: two GETs for up to a
hundred parents and a hundred related records. After a response that is not clear, and for links that an earlier try may
have sent, the parent's list is read: what is still in it is sent again, what is not is gone. Every link that remains -
an id that is not found, a refused call, a list that cannot be read - is sent by its own request, as with ``single``.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING

from zoho_crm.core.models import LinkResult
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.request import delete_related_many, id_lists
from zoho_crm.core.response import parse_response_items
from zoho_crm.core.verdict import MISSING_OUTCOMES, Action, Verdict, judge, judge_each, judge_gone
from zoho_crm.errors import ZohoError, ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.link_operation import EARLIER_TRY, DelinkOperation
from zoho_crm.hooks.presence import link_result
from zoho_crm.hooks.record_ids import fetch_linked_records, fetch_record_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from zoho_crm.core.models import PlannedLink
    from zoho_crm.core.verdict import StopReason
    from zoho_crm.hooks.link_operation import DelinkClient
    from zoho_crm.hooks.zoho_response import ZohoResponse

Settled = list[tuple[LinkResult, "StopReason | None"]]

PAGE_LINKS = 100
"""Links of a page: as many as one call that reads record ids takes."""

TOGETHER = "sent together with others, without a clear response"
UNMATCHED = "sent together with others, and the response does not say what happened to it"
_REFUSALS = MISSING_OUTCOMES | {Outcome.REJECTED}
REFUSED_TOGETHER = "refused together with others, and the run stopped before it was sent alone"


@dataclass
class ByParentDelinkClient:
    """
    Removes pages of links, by parent. Coroutines can share it.

    :param single: removes the links that need their own request
    """

    single: DelinkClient
    unit_size: int = PAGE_LINKS

    # A factory: a plain default would be an attribute of the class, and so be called as a method.
    is_stopped: Callable[[], bool] = field(default_factory=lambda: lambda: False, init=False)

    def watch(self, observe: Callable[[ZohoResponse], None], is_stopped: Callable[[], bool]) -> None:
        """Show every response to the caller, which adapts to the org's limits, and stop when it does."""
        self.is_stopped = is_stopped
        self.single.watch(observe, is_stopped)

    def unit_length(self, links: Sequence[PlannedLink]) -> int:
        """Return how many of the next links are one unit: a page; one, where each needs its own request."""
        return len(links) if group_by_parent(links).parents else 1

    async def process_unit(self, page: Sequence[PlannedLink]) -> Settled:
        """
        Remove a page of links, in the order of the plan.

        :return: the result of each link, and a reason to stop the whole run if every link would get its response;
            after such a reason, links that were not sent are left out
        """
        return await _PageOperation(self, page).run()


@dataclass(frozen=True, slots=True)
class _Call:
    """
    One call for several links.

    :param parent_id: Zoho's record id of the parent
    :param links: the links, by the record id that stands for each in ``ids``
    """

    parent_id: str
    links: dict[str, PlannedLink]


@dataclass(frozen=True, slots=True)
class Grouped:
    """
    A page, split.

    :param parents: links by parent, two or more each, that fit in one call
    :param single: links that need their own request: the only one of their parent, or with a comma in an id
    """

    parents: list[list[PlannedLink]]
    single: list[PlannedLink]


def group_by_parent(page: Sequence[PlannedLink]) -> Grouped:
    """
    Split a page.

    :param page: links in the order of the plan, those of a parent together
    """
    grouped = Grouped([], [])
    for _, links in groupby(page, key=lambda planned: planned.link.external_id):
        together: list[PlannedLink] = []
        for planned in links:
            alone = "," in planned.link.external_id + planned.link.related_external_id
            (grouped.single if alone else together).append(planned)
        if len(together) > 1:
            grouped.parents.append(together)
        else:
            grouped.single.extend(together)
    return grouped


class _PageOperation:
    """The removal of one page: results so far, what was sent and seen, and what needs its own request."""

    def __init__(self, client: ByParentDelinkClient, page: Sequence[PlannedLink]) -> None:
        self._single = client.single
        self._is_stopped = client.is_stopped
        self._given = {planned.seq: planned for planned in page}
        self._settled: Settled = []
        self._alone: list[PlannedLink] = []
        self._attempts: Counter[int] = Counter()
        self._sent_at: dict[int, datetime] = {}
        self._seen = {planned.seq for planned in page if planned.seen_linked_at}
        self._verified: set[int] = set()
        self._related_ids: dict[str, str] = {}
        self._is_refused = False

    async def run(self) -> Settled:
        grouped = group_by_parent(list(self._given.values()))
        self._alone += grouped.single
        for call in await self._calls(grouped.parents):
            await self._process(call)
        await self._one_by_one()
        return self._settled

    async def _process(self, call: _Call) -> None:
        """Send a call, and repeat it for links that are still linked after an unclear response."""
        limit = self._single.limits.sends
        for sends in range(limit + 1):
            # One link alone costs no more than a list and a call.
            if len(call.links) < 2 or self._is_refused or self._is_stopped():
                break
            if sends:
                await self._single.pause(sends, None)
            call = await self._verify(call)
            if len(call.links) > 1 and sends < limit:
                call = await self._send(call)
        # After a refusal, a single link finds out whether all links would be refused.
        self._alone += call.links.values()

    async def _verify(self, call: _Call) -> _Call:
        """List the parent's links if some of a call may be removed; return the call with those still to be sent."""
        doubtful = {key for key, planned in call.links.items() if planned.ambiguous_before}
        if not doubtful:
            return call
        listed = await fetch_linked_records(self._single, call.parent_id, doubtful)
        links: dict[str, PlannedLink] = {}
        for key, planned in call.links.items():
            if key not in doubtful:
                links[key] = planned
            elif key in listed.ids:
                links[key] = planned
                self._seen.add(planned.seq)
                self._verified.add(planned.seq)
            elif listed.is_whole:
                self._settle_gone(planned)
            else:
                self._alone.append(planned)
        return replace(call, links=links)

    def _settle_gone(self, planned: PlannedLink) -> None:
        """Settle a link that may have been removed and is gone. Both records exist: their ids were just read."""
        doubt = TOGETHER if planned.seq in self._sent_at else EARLIER_TRY
        outcome, why = self._judge_gone(planned, ambiguous=True)
        self._settle(planned, Verdict(Action.SETTLE, outcome=outcome, detail=f"{doubt}; {why}"))

    def _judge_gone(self, planned: PlannedLink, *, ambiguous: bool) -> tuple[Outcome, str | None]:
        return judge_gone(
            ambiguous=ambiguous,
            seen_linked=planned.seq in self._seen,
            seen_at=planned.seen_linked_at,
        )

    def _settle(self, planned: PlannedLink, verdict: Verdict) -> None:
        result = link_result(
            self._given[planned.seq],
            verdict,
            attempts=self._attempts[planned.seq],
            sent_at=self._sent_at.get(planned.seq),
            finished_at=self._single.now(),
        )
        self._settled.append((replace(result, ambiguous=planned.ambiguous_before), None))

    async def _one_by_one(self) -> None:
        stop_reason: StopReason | None = None
        for planned in sorted(self._alone, key=lambda planned: planned.seq):
            if stop_reason is None and not self._is_stopped():
                stop_reason = await self._send_alone(planned)
            elif planned.seq in self._sent_at:
                # Nothing further is sent, but this link may be removed by now.
                may_be_removed = planned.ambiguous_before
                outcome = Outcome.UNKNOWN if may_be_removed else Outcome.NOT_ATTEMPTED
                detail = UNMATCHED if may_be_removed else REFUSED_TOGETHER
                self._settle(planned, Verdict(Action.SETTLE, outcome=outcome, detail=detail))

    async def _send_alone(self, planned: PlannedLink) -> StopReason | None:
        seq, sent_at = planned.seq, self._sent_at.get(planned.seq)
        operation = DelinkOperation(
            self._single,
            planned,
            self._related_ids.get(planned.link.related_external_id),
            doubt=EARLIER_TRY if sent_at is None else TOGETHER,
            seen_linked=seq in self._seen,
            is_verified=seq in self._verified,
        )
        result, stop_reason = await operation.run()
        result = replace(
            result,
            planned=self._given[seq],
            attempts=result.attempts + self._attempts[seq],
            sent_at=sent_at or result.sent_at,
        )
        self._settled.append((result, stop_reason))
        return stop_reason

    async def _calls(self, parents: list[list[PlannedLink]]) -> list[_Call]:
        """Read the record ids, and return the calls; a link without record ids needs its own request."""
        relation = self._single.relation
        planned_links = [planned for group in parents for planned in group]
        parent_ids = await fetch_record_ids(
            self._single,
            relation.module,
            relation.external_field,
            [one.link.external_id for one in planned_links],
        )
        related_ids = await fetch_record_ids(
            self._single,
            relation.related_module,
            relation.related_external_field,
            [one.link.related_external_id for one in planned_links],
        )
        self._related_ids = related_ids
        calls: list[_Call] = []
        for group in parents:
            parent_id = parent_ids.get(group[0].link.external_id)
            links = {
                related_ids[planned.link.related_external_id]: planned
                for planned in group
                if planned.link.related_external_id in related_ids
            }
            if parent_id is None or len(links) < 2:
                self._alone += group
                continue
            self._alone += [one for one in group if one.link.related_external_id not in related_ids]
            calls += [_Call(parent_id, {one: links[one] for one in ids}) for ids in id_lists(links)]
        return calls

    async def _send(self, call: _Call) -> _Call:
        """Send one call, settle the links whose results are clear, and return the call with those in doubt."""
        relation, sent_at = self._single.relation, self._single.now()
        request = delete_related_many(self._single.api_version, relation, call.parent_id, list(call.links))
        try:
            response = await self._single.send(request)
        except ZohoUnansweredError as error:
            self._count_sent(call, sent_at, error.sends + 1)
            return self._split(call, set(call.links))
        except ZohoError as error:
            # Without a connection the next call may find one; without an access token it does not.
            self._is_refused |= not isinstance(error, ZohoNotSentError)
            self._count_sent(call, sent_at, error.sends)
            return self._split(call, set())
        self._count_sent(call, sent_at, response.sends)
        verdicts = judge_each(response.status, response.body, relation=relation)
        if verdicts is not None:
            return self._settle_clear(call, _matched(verdicts, call.links))
        whole = judge(response.classified, relation=relation, ambiguous_before=False)
        self._is_refused |= whole.action in {Action.STOP, Action.REFRESH}
        # Items that cannot be read may be successes, whatever a readable one says.
        is_unclear = whole.ambiguous or parse_response_items(response.body) is not None
        return self._split(call, set(call.links) if is_unclear else set())

    def _count_sent(self, call: _Call, sent_at: datetime, sends: int) -> None:
        for planned in call.links.values() if sends else ():
            self._attempts[planned.seq] += sends
            self._sent_at.setdefault(planned.seq, sent_at)

    def _settle_clear(self, call: _Call, matched: dict[str, Verdict]) -> _Call:
        """Settle the links that the items of a response are clear about; return the call with those in doubt."""
        rest: dict[str, PlannedLink] = {}
        unclear: set[str] = set()
        for key, planned in call.links.items():
            verdict = matched.get(key)
            if verdict is None or verdict.action is not Action.SETTLE:
                rest[key] = planned
                if verdict is None or verdict.ambiguous:
                    unclear.add(key)
                continue
            if planned.ambiguous_before and verdict.outcome in _REFUSALS:
                # It says nothing about the request before: the link is verified alone.
                rest[key] = planned
                self._verified.discard(planned.seq)
                continue
            if verdict.outcome is Outcome.ALREADY_ABSENT:
                outcome, detail = self._judge_gone(planned, ambiguous=planned.ambiguous_before)
                verdict = replace(verdict, outcome=outcome, detail=detail)
            self._settle(planned, verdict)
        return self._split(replace(call, links=rest), unclear)

    def _split(self, call: _Call, unclear: set[str]) -> _Call:
        """Return the call with the links that it may have removed; the others need their own requests."""
        links: dict[str, PlannedLink] = {}
        for key, planned in call.links.items():
            if key in unclear:
                self._verified.discard(planned.seq)
                links[key] = replace(planned, ambiguous_before=True)
            else:
                self._alone.append(planned)
        return replace(call, links=links)


def _matched(verdicts: list[Verdict], links: dict[str, PlannedLink]) -> dict[str, Verdict]:
    """
    Match verdicts to the record ids they name, never by position.

    A verdict counts for a record id if no other verdict names it. Where no verdict names any, there is one for each
    link, and all are equal, the order does not matter.

    :param links: what was sent, by the record id that stands for each in ``ids``
    """
    times = Counter(verdict.record_id for verdict in verdicts if verdict.record_id is not None)
    if times:
        return {
            verdict.record_id: verdict
            for verdict in verdicts
            if verdict.record_id is not None and verdict.record_id in links and times[verdict.record_id] == 1
        }
    says = {(verdict.action, verdict.outcome) for verdict in verdicts}
    if len(says) == 1 and len(verdicts) == len(links):
        return dict(zip(links, verdicts, strict=True))
    return {}
