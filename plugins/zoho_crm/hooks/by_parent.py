"""
Take links of one parent away together: up to a hundred in one call, for one API credit.

Zoho documents this call for record ids only, so a page of links is first resolved: two reading calls tell the record
ids of up to a hundred parents and a hundred related records. Whatever does not come out clearly - an id that is not
found, an entry that cannot be matched, an answer that is none - is handed to the call for single links, which settles
it as if it had been alone.
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
from zoho_crm.hooks.presence import result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from zoho_crm.core.models import PlannedLink
    from zoho_crm.core.request import ZohoRequest
    from zoho_crm.core.verdict import StopReason, Verdict
    from zoho_crm.hooks.delink import DelinkClient
    from zoho_crm.hooks.zoho_response import ZohoResponse

Settled = list[tuple[LinkResult, "StopReason | None"]]

PAGE_LINKS = 100
"""Links of a page: as many as one call that reads record ids takes."""

UNMATCHED = "sent together with others, and the answer does not say what became of it"
REFUSED_TOGETHER = "refused together with others, and the run stopped before it was sent alone"

_RECORD_ID = re.compile(r"[0-9]{1,20}")


@dataclass
class ByParentDelinkClient:
    """
    Takes pages of links away, by parent. Many coroutines may share it.

    :param single: takes the links away that need a call of their own
    """

    single: DelinkClient
    unit_size: int = PAGE_LINKS

    # Made anew for each: a function that is an attribute of the class would be taken for a method.
    is_stopped: Callable[[], bool] = field(default_factory=lambda: lambda: False, init=False)

    def watch(self, observe: Callable[[ZohoResponse], None], is_stopped: Callable[[], bool]) -> None:
        """Have every answer shown to the caller, so that it can mind the org's limits, and heed when it stops."""
        self.is_stopped = is_stopped
        self.single.watch(observe, is_stopped)

    def unit_length(self, links: Sequence[PlannedLink]) -> int:
        """Return how many of the next links are one unit: a page, unless all go alone, and then best side by side."""
        return len(links) if group_by_parent(links).parents else 1

    async def process_unit(self, page: Sequence[PlannedLink]) -> Settled:
        """
        Take a page of links away, in the order of the plan.

        :return: for each link what happened, and a reason to stop the whole run if the answer is one for every link;
            after such a reason, links that were not sent are left out
        """
        return await _OnePage(self, page).run()


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

    :param parents: links by parent, two or more each, that one call can take
    :param single: links that need a call of their own: the only one of their parent, or with a comma in an id
    """

    parents: list[list[PlannedLink]]
    single: list[PlannedLink]


def group_by_parent(page: Sequence[PlannedLink]) -> Grouped:
    """
    Split a page. A link that an earlier try may have sent goes alone, to be verified first.

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


class _OnePage:
    """The course of one page: what is settled, what was sent, and what needs a call of its own."""

    def __init__(self, delinker: ByParentDelinkClient, page: Sequence[PlannedLink]) -> None:
        self._single = delinker.single
        self._is_stopped = delinker.is_stopped
        self._page = page
        self._settled: Settled = []
        self._alone: list[PlannedLink] = []
        self._sent_at: dict[int, datetime] = {}
        self._is_refused = False

    async def run(self) -> Settled:
        grouped = group_by_parent(self._page)
        self._alone += grouped.single
        for call in await self._calls(grouped.parents):
            if self._is_refused or self._is_stopped():
                # The same answer waits for this call; a link alone finds out whether it waits for all links.
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
                result, stop_reason = await self._single.delink(planned)
                if sent_at is not None:
                    result = replace(result, attempts=result.attempts + 1, sent_at=sent_at)
                self._settled.append((replace(result, planned=given[planned.seq]), stop_reason))
            elif sent_at is not None:
                # Nothing further is sent, but this one may have been removed by now.
                removed = planned.ambiguous_before
                result = LinkResult(
                    given[planned.seq],
                    Outcome.UNKNOWN if removed else Outcome.NOT_ATTEMPTED,
                    self._single.now(),
                    attempts=1,
                    sent_at=sent_at,
                    detail=UNMATCHED if removed else REFUSED_TOGETHER,
                )
                self._settled.append((result, None))

    async def _calls(self, parents: list[list[PlannedLink]]) -> list[_Call]:
        """Return calls by record ids, which are read first; what has none needs a call of its own."""
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
        """Return record ids by external id, compared exactly; what is not told clearly is left out."""
        found: dict[str, str] = {}
        for ids in id_lists(external_ids):
            try:
                answer = await self._single.ask(
                    find_records(self._single.api_version, module, external_field, ids)
                )
            except ZohoError:
                continue
            found |= _record_ids_in(answer, external_field, set(ids))
        # Two external ids that lead to one record could not be told apart in an answer.
        times = Counter(found.values())
        return {external: record for external, record in found.items() if times[record] == 1}

    async def _send(self, call: _Call) -> None:
        """Send one call for several links; what it does not settle needs a call of its own."""
        sent_at = self._single.now()
        try:
            answer = await self._single.ask(call.request)
        except ZohoUnansweredError:
            self._leave(call, sent_at, ambiguous=True)
            return
        except ZohoError as error:
            # Without a connection the next call may find one; without a token it does not.
            self._is_refused |= not isinstance(error, ZohoNotSentError)
            self._leave(call, None, ambiguous=False)
            return
        verdicts = judge_each(answer.status, answer.body, relation=self._single.relation)
        if verdicts is not None:
            self._take_in(call, verdicts, sent_at)
            return
        whole = judge(answer.classified, relation=self._single.relation, ambiguous_before=False)
        self._is_refused |= whole.action in {Action.STOP, Action.REFRESH}
        # Entries that cannot be made out may be successes, whatever the one that can be says.
        ambiguous = whole.ambiguous or parse_response_items(answer.body) is not None
        self._leave(call, sent_at, ambiguous=ambiguous)

    def _leave(self, call: _Call, sent_at: datetime | None, *, ambiguous: bool) -> None:
        """Leave the links of a call to calls of their own."""
        for planned in call.links.values():
            self._alone.append(replace(planned, ambiguous_before=ambiguous))
            if sent_at is not None:
                self._sent_at[planned.seq] = sent_at

    def _take_in(self, call: _Call, verdicts: list[Verdict], sent_at: datetime) -> None:
        """Settle the links that the entries of an answer are clear about, and leave the others."""
        matched = _matched(verdicts, call.links)
        finished_at = self._single.now()
        for key, planned in call.links.items():
            verdict = matched.get(key)
            if verdict is not None and verdict.action is Action.SETTLE:
                result = result_of(planned, verdict, attempts=1, sent_at=sent_at, finished_at=finished_at)
                self._settled.append((result, None))
                continue
            ambiguous = verdict is None or verdict.ambiguous
            self._alone.append(replace(planned, ambiguous_before=ambiguous))
            self._sent_at[planned.seq] = sent_at


def _record_ids_in(answer: ZohoResponse, external_field: str, wanted: set[str]) -> dict[str, str]:
    content = json_object(answer.body) if answer.status == 200 else None
    rows = content.get("data") if content is not None else None
    found: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict):
            continue
        external, record = row.get(external_field), row.get("id")
        if isinstance(external, str) and external in wanted:
            found[external].add(record if isinstance(record, str) and _RECORD_ID.fullmatch(record) else "")
    # An external id that leads to two records is for Zoho to make out: which one it would take is not told.
    return {
        external: one for external, records in found.items() if len(records) == 1 for one in records if one
    }


def _matched(verdicts: list[Verdict], links: dict[str, PlannedLink]) -> dict[str, Verdict]:
    """
    Match verdicts to the record ids they name, never by position.

    A verdict counts for a record id if no other verdict names that one. If none names any, there is one for each
    link, and all are the same, it does not matter which is which.

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
