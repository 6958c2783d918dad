"""
Take links of one parent away together: up to a hundred in one call, for one API credit.

Zoho documents this call for record ids only, so a page of links is first resolved: two reading calls tell the record
ids of up to a hundred parents and a hundred related records. Whatever does not come out clearly - an id that is not
found, an entry that cannot be matched, an answer that is none - is handed to the call for single links, which settles
it as if it had been alone.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zoho_crm.core.entry import json_object
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.pages import PAGE_LINKS, group_by_parent, id_lists
from zoho_crm.core.records import LinkResult
from zoho_crm.core.request import delete_related_many, delete_related_many_directly, find_records
from zoho_crm.core.verdict import Action, judge_each
from zoho_crm.errors import ZohoError, ZohoUnansweredError
from zoho_crm.hooks.delink import result_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoho_crm.core.records import PlannedLink
    from zoho_crm.core.request import ZohoRequest
    from zoho_crm.core.verdict import StopReason, Verdict
    from zoho_crm.hooks.answer import Answer
    from zoho_crm.hooks.delink import Delinker

Settled = list[tuple[LinkResult, "StopReason | None"]]

UNMATCHED = "sent together with others, and the answer does not say what became of it"


@dataclass
class ByParentDelinker:
    """
    Takes pages of links away, by parent. Many coroutines may share it.

    :param single: takes the links away that need a call of their own
    :param direct: put external ids straight into the call, without resolving them; Zoho does not document that
    """

    single: Delinker
    direct: bool = False
    unit_size: int = PAGE_LINKS

    def watch(self, observe: Callable[[Answer], None]) -> None:
        """Have every answer shown to the caller, so that it can mind the org's limits."""
        self.single.watch(observe)

    async def delink_unit(self, page: Sequence[PlannedLink]) -> Settled:
        """
        Take a page of links away, in the order of the plan.

        :return: for each link what happened, and a reason to stop the whole run if the answer is one for every link;
            after such a reason, links that were not sent are left out
        """
        grouped = group_by_parent(page)
        given = {planned.seq: planned for planned in page}
        settled: Settled = []
        if self.direct:
            alone = await self._delete_directly(grouped.parents, settled)
        else:
            alone = await self._delete_resolved(grouped.parents, settled)
        rest = sorted([*grouped.single, *alone], key=lambda planned: planned.seq)
        stop_reason: StopReason | None = None
        for planned in rest:
            if stop_reason is None:
                result, stop_reason = await self.single.delink(planned)
                settled.append((replace(result, planned=given[planned.seq]), stop_reason))
            elif planned.ambiguous_before:
                # Every further link would meet the same answer, but this one may have been removed by now.
                result = LinkResult(given[planned.seq], Outcome.UNKNOWN, self.single.now(), detail=UNMATCHED)
                settled.append((result, None))
        return settled

    async def _delete_directly(self, parents: list[list[PlannedLink]], settled: Settled) -> list[PlannedLink]:
        """Take links away by their external ids; return those that need a call of their own."""
        alone: list[PlannedLink] = []
        for links in parents:
            by_id = {planned.link.related_external_id: planned for planned in links}
            for ids in id_lists(by_id):
                request = delete_related_many_directly(
                    self.single.api_version, self.single.relation, links[0].link.external_id, ids
                )
                alone += await self._delete(request, {one: by_id[one] for one in ids}, settled)
        return alone

    async def _delete_resolved(self, parents: list[list[PlannedLink]], settled: Settled) -> list[PlannedLink]:
        """Take links away by record ids; return those that need a call of their own."""
        relation = self.single.relation
        links = [planned for group in parents for planned in group]
        parent_ids = await self._record_ids(
            relation.module, relation.external_field, [planned.link.external_id for planned in links]
        )
        related_ids = await self._record_ids(
            relation.related_module,
            relation.related_external_field,
            [planned.link.related_external_id for planned in links],
        )
        alone: list[PlannedLink] = []
        for group in parents:
            parent_id = parent_ids.get(group[0].link.external_id)
            by_id = {
                related_ids[planned.link.related_external_id]: planned
                for planned in group
                if planned.link.related_external_id in related_ids
            }
            if parent_id is None or len(by_id) < 2:
                alone += group
                continue
            alone += [planned for planned in group if planned.link.related_external_id not in related_ids]
            for ids in id_lists(by_id):
                request = delete_related_many(self.single.api_version, relation, parent_id, ids)
                alone += await self._delete(request, {one: by_id[one] for one in ids}, settled)
        return alone

    async def _record_ids(self, module: str, external_field: str, external_ids: list[str]) -> dict[str, str]:
        """Return record ids by external id, compared exactly; what is not told clearly is left out."""
        found: dict[str, str] = {}
        for ids in id_lists(external_ids):
            try:
                answer = await self.single.ask(
                    find_records(self.single.api_version, module, external_field, ids)
                )
            except ZohoError:
                continue
            found |= _record_ids_in(answer, external_field, set(ids))
        # Two external ids that lead to one record could not be told apart in an answer.
        times = Counter(found.values())
        return {external: record for external, record in found.items() if times[record] == 1}

    async def _delete(
        self, request: ZohoRequest, by_id: dict[str, PlannedLink], settled: Settled
    ) -> list[PlannedLink]:
        """
        Send one call for several links; add what it settles, and return the links it does not settle.

        :param by_id: the links, by the id that stands for each in ``ids``
        """
        sent_at = self.single.now()
        try:
            answer = await self.single.ask(request)
        except ZohoUnansweredError:
            return [replace(planned, ambiguous_before=True) for planned in by_id.values()]
        except ZohoError:
            return list(by_id.values())
        verdicts = judge_each(answer.status, answer.body, relation=self.single.relation)
        if verdicts is None:
            # An error that is about the whole call has removed nothing; anything else may have.
            refused = 400 <= answer.status < 500
            return [replace(planned, ambiguous_before=not refused) for planned in by_id.values()]
        matched = _matched(verdicts, by_id)
        finished_at = self.single.now()
        left = []
        for key, planned in by_id.items():
            verdict = matched.get(key)
            if verdict is None:
                left.append(replace(planned, ambiguous_before=True))
            elif verdict.action is Action.SETTLE:
                result = result_of(planned, verdict, attempts=1, sent_at=sent_at, finished_at=finished_at)
                settled.append((result, None))
            else:
                left.append(planned)
        return left


def _record_ids_in(answer: Answer, external_field: str, wanted: set[str]) -> dict[str, str]:
    content = json_object(answer.body) if answer.status == 200 else None
    rows = content.get("data") if content is not None else None
    found: dict[str, str] = {}
    for row in rows if isinstance(rows, list) else []:
        if isinstance(row, dict) and row.get(external_field) in wanted and isinstance(row.get("id"), str):
            found[row[external_field]] = row["id"]
    return found


def _matched(verdicts: list[Verdict], by_id: dict[str, PlannedLink]) -> dict[str, Verdict]:
    """
    Say which verdict is about which id: by the id it names, never by its place.

    Where external ids were sent, entries name record ids; but if there are as many entries as ids, and all say the
    same, it does not matter which is which.
    """
    times = Counter(verdict.record_id for verdict in verdicts)
    named = {
        verdict.record_id: verdict
        for verdict in verdicts
        if verdict.record_id is not None and verdict.record_id in by_id and times[verdict.record_id] == 1
    }
    says = {(verdict.action, verdict.outcome) for verdict in verdicts}
    if not named and len(says) == 1 and len(verdicts) == len(by_id):
        return dict(zip(by_id, verdicts, strict=True))
    return named
