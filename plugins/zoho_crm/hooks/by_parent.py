"""
Remove links of one parent together: up to a hundred in one call, for one API credit.

Zoho documents this call for record ids only, so the record ids of a page of links are read first: two GETs for up to a
hundred parents and a hundred related records. Every link without a clear result - an id that is not found, a response
item that cannot be matched, an unreadable response - is then sent by its own request, as with the strategy ``single``.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import TYPE_CHECKING

from zoho_crm.core.models import LinkResult
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.request import delete_related_many, find_records, id_lists
from zoho_crm.core.response import json_object, parse_response_items
from zoho_crm.core.verdict import Action, judge, judge_each
from zoho_crm.errors import ZohoError, ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.link_operation import EARLIER_TRY, DelinkOperation
from zoho_crm.hooks.presence import link_result

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from zoho_crm.core.models import PlannedLink
    from zoho_crm.core.request import ZohoRequest
    from zoho_crm.core.verdict import StopReason, Verdict
    from zoho_crm.hooks.link_operation import DelinkClient
    from zoho_crm.hooks.zoho_response import ZohoResponse

Settled = list[tuple[LinkResult, "StopReason | None"]]

PAGE_LINKS = 100
"""Links of a page: as many as one call that reads record ids takes."""

TOGETHER = "sent together with others, without a clear response"
UNMATCHED = "sent together with others, and the response does not say what happened to it"
REFUSED_TOGETHER = "refused together with others, and the run stopped before it was sent alone"

_RECORD_ID = re.compile(r"[0-9]{1,20}")


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

    :param links: the links, by the record id that stands for each in ``ids``
    """

    request: ZohoRequest
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
    Split a page. A link that an earlier try may have sent is single, to be verified first.

    :param page: links in the order of the plan, those of a parent together
    """
    grouped = Grouped([], [])
    for _, links in groupby(page, key=lambda planned: planned.link.external_id):
        together: list[PlannedLink] = []
        for planned in links:
            alone = (
                planned.ambiguous_before or "," in planned.link.external_id + planned.link.related_external_id
            )
            (grouped.single if alone else together).append(planned)
        if len(together) > 1:
            grouped.parents.append(together)
        else:
            grouped.single.extend(together)
    return grouped


class _PageOperation:
    """The removal of one page: results so far, what was sent, and what needs its own request."""

    def __init__(self, client: ByParentDelinkClient, page: Sequence[PlannedLink]) -> None:
        self._single = client.single
        self._is_stopped = client.is_stopped
        self._page = page
        self._settled: Settled = []
        self._alone: list[PlannedLink] = []
        self._sent_at: dict[int, datetime] = {}
        self._related_ids: dict[str, str] = {}
        self._is_refused = False

    async def run(self) -> Settled:
        grouped = group_by_parent(self._page)
        self._alone += grouped.single
        for call in await self._calls(grouped.parents):
            if self._is_refused or self._is_stopped():
                # This call would be refused too; a single link finds out whether all links would be.
                self._alone += call.links.values()
            else:
                await self._send(call)
        await self._one_by_one()
        return self._settled

    async def _one_by_one(self) -> None:
        given = {planned.seq: planned for planned in self._page}
        stop_reason: StopReason | None = None
        for planned in sorted(self._alone, key=lambda planned: planned.seq):
            sent_at = self._sent_at.get(planned.seq)
            if stop_reason is None and not self._is_stopped():
                record_id = self._related_ids.get(planned.link.related_external_id)
                doubt = EARLIER_TRY if sent_at is None else TOGETHER
                result, stop_reason = await DelinkOperation(
                    self._single, planned, record_id, doubt=doubt
                ).run()
                if sent_at is not None:
                    result = replace(result, attempts=result.attempts + 1, sent_at=sent_at)
                self._settled.append((replace(result, planned=given[planned.seq]), stop_reason))
            elif sent_at is not None:
                # Nothing further is sent, but this link may be removed by now.
                may_be_removed = planned.ambiguous_before
                result = LinkResult(
                    given[planned.seq],
                    Outcome.UNKNOWN if may_be_removed else Outcome.NOT_ATTEMPTED,
                    self._single.now(),
                    attempts=1,
                    sent_at=sent_at,
                    detail=UNMATCHED if may_be_removed else REFUSED_TOGETHER,
                )
                self._settled.append((result, None))

    async def _calls(self, parents: list[list[PlannedLink]]) -> list[_Call]:
        """Read the record ids, and return the calls; a link without record ids needs its own request."""
        version, relation = self._single.api_version, self._single.relation
        planned_links = [planned for group in parents for planned in group]
        parent_ids = await self._record_ids(
            relation.module, relation.external_field, [one.link.external_id for one in planned_links]
        )
        related_ids = await self._record_ids(
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
            for ids in id_lists(links):
                request = delete_related_many(version, relation, parent_id, ids)
                calls.append(_Call(request, {one: links[one] for one in ids}))
        return calls

    async def _record_ids(self, module: str, external_field: str, external_ids: list[str]) -> dict[str, str]:
        """Return record ids by external id, compared exactly, without those that are unclear."""
        found: dict[str, str] = {}
        for ids in id_lists(external_ids):
            try:
                response = await self._single.send(
                    find_records(self._single.api_version, module, external_field, ids)
                )
            except ZohoError:
                continue
            found |= _record_ids_in(response, external_field, set(ids))
        # Two external ids of one record could not be distinguished in a response.
        times = Counter(found.values())
        return {external: record for external, record in found.items() if times[record] == 1}

    async def _send(self, call: _Call) -> None:
        """Send one call for several links; those without a clear result need their own requests."""
        sent_at = self._single.now()
        try:
            response = await self._single.send(call.request)
        except ZohoUnansweredError:
            self._send_alone(call, sent_at, ambiguous=True)
            return
        except ZohoError as error:
            # Without a connection the next call may find one; without an access token it does not.
            self._is_refused |= not isinstance(error, ZohoNotSentError)
            self._send_alone(call, sent_at if error.sends else None, ambiguous=False)
            return
        verdicts = judge_each(response.status, response.body, relation=self._single.relation)
        if verdicts is not None:
            self._settle(call, verdicts, sent_at)
            return
        whole = judge(response.classified, relation=self._single.relation, ambiguous_before=False)
        self._is_refused |= whole.action in {Action.STOP, Action.REFRESH}
        # Items that cannot be read may be successes, whatever a readable one says.
        ambiguous = whole.ambiguous or parse_response_items(response.body) is not None
        self._send_alone(call, sent_at, ambiguous=ambiguous)

    def _send_alone(self, call: _Call, sent_at: datetime | None, *, ambiguous: bool) -> None:
        """Send each link of a call by its own request."""
        for planned in call.links.values():
            self._alone.append(replace(planned, ambiguous_before=ambiguous))
            if sent_at is not None:
                self._sent_at[planned.seq] = sent_at

    def _settle(self, call: _Call, verdicts: list[Verdict], sent_at: datetime) -> None:
        """Settle the links that the items of a response are clear about; the others need their own requests."""
        matched = _matched(verdicts, call.links)
        finished_at = self._single.now()
        for key, planned in call.links.items():
            verdict = matched.get(key)
            if verdict is not None and verdict.action is Action.SETTLE:
                result = link_result(planned, verdict, attempts=1, sent_at=sent_at, finished_at=finished_at)
                self._settled.append((result, None))
                continue
            ambiguous = verdict is None or verdict.ambiguous
            self._alone.append(replace(planned, ambiguous_before=ambiguous))
            self._sent_at[planned.seq] = sent_at


def _record_ids_in(response: ZohoResponse, external_field: str, wanted: set[str]) -> dict[str, str]:
    content = json_object(response.body) if response.status == 200 else None
    rows = content.get("data") if content is not None else None
    found: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict):
            continue
        external, record = row.get(external_field), row.get("id")
        if isinstance(external, str) and external in wanted:
            found[external].add(record if isinstance(record, str) and _RECORD_ID.fullmatch(record) else "")
    # Which record Zoho would take for the external id of two records is not known: it decides by the external id.
    return {
        external: one for external, records in found.items() if len(records) == 1 for one in records if one
    }


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
