"""
Every fault, before and after Zoho processes the request, once, twice and always: the outcome matches Zoho's state.

All cases run concurrently against one local Zoho, each on separate links; each test then checks one case.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from tests.proofs.harness import BRIEF, add_records, check_harmless, check_outcome, unlimited_zoho
from tests.support.links import RELATION, Pair
from tests.support.local_zoho import link_all, linked
from zoho_crm.core.links import Link
from zoho_crm.core.models import LinkResult, PlannedLink
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.verdict import GONE_AND_NOT_SEEN_LINKED, StopReason
from zoho_crm.hooks.by_parent import ByParentDelinkClient
from zoho_crm.hooks.link_operation import DelinkClient
from zoho_crm.hooks.zoho_crm import ZohoCRMHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoho_crm.hooks.async_client import AsyncZohoClient
    from zoho_crm.testing.local_zoho import LocalZoho

pytestmark = pytest.mark.xdist_group("fault_matrix")  # all cases run once, in one process

BYSTANDER = ("bystander", "bystander")
"""A link that a client following redirects would remove."""

PASSING = (
    '{"code":"TOO_MANY_REQUESTS","details":{},"message":"Many requests fired in concurrent","status":"error"}'
)
TOKEN = '{"code":"INVALID_TOKEN","details":{},"message":"invalid oauth token","status":"error"}'

FAULTS: dict[str, dict[str, Any]] = {
    "reset": {"do": "reset"},
    "hang": {"do": "hang", "seconds": 20.0},
    "500": {"do": "status"},
    "500-html": {"do": "html", "status": 500},
    "502-html": {"do": "html"},
    "503-retry-after": {"do": "status", "status": 503, "headers": {"Retry-After": "60"}, "body": ""},
    "200-html": {"do": "html", "status": 200},
    "200-cut": {"do": "truncate"},
    "200-empty": {"do": "status", "status": 200, "body": ""},
    "200-object": {"do": "status", "status": 200, "body": "{}"},
    "200-no-item": {"do": "status", "status": 200, "body": '{"data":[]}'},
    "204": {"do": "status", "status": 204, "body": ""},
    "closed-in-the-middle": {"do": "close_mid_body"},
    "301": {"do": "redirect", "status": 301},
    "307": {"do": "redirect", "status": 307},
    "404-html": {"do": "html", "status": 404},
    "429": {"do": "status", "status": 429, "body": PASSING},
    "429-retry-after": {"do": "status", "status": 429, "body": PASSING, "headers": {"Retry-After": "30"}},
    "401": {"do": "status", "status": 401, "body": TOKEN},
}
NEVER_APPLIED = ("429", "429-retry-after", "401")
"""Zoho sends these before it processes the request, never after."""


@dataclass(frozen=True)
class Case:
    """
    One fault on the requests of one link, or of one parent.

    :param times: number of requests that fail; None for all
    :param linked: whether the link exists before the run
    :param deletes_only: whether reading calls succeed
    """

    number: int
    fault: str
    when: str
    times: int | None
    linked: bool = True
    deletes_only: bool = True

    @property
    def pair(self) -> Pair:
        return (f"c-{self.number:04}", f"d-{self.number:04}")

    @property
    def parent(self) -> list[Pair]:
        """Three links of one parent; the last one does not exist."""
        return [(f"p-{self.number:04}", f"d-{self.number:04}-{number}") for number in range(3)]

    @property
    def may_be_applied(self) -> bool:
        return self.fault not in NEVER_APPLIED

    def __str__(self) -> str:
        times = "for-ever" if self.times is None else f"{self.times}-times"
        there = "linked" if self.linked else "absent"
        return f"{self.fault}-{self.when}-{times}-{there}{'' if self.deletes_only else '-blind'}"


def cases(*dimensions: tuple[Any, ...]) -> list[Case]:
    """
    Return all possible combinations.

    Zoho does not refuse a request after processing it. A 204 to a reading call is Zoho's normal response when nothing
    is found, so a false one is indistinguishable.
    """
    combined = [Case(0, *values) for values in product(FAULTS, ("before", "after"), *dimensions)]
    possible = [
        case
        for case in combined
        if (case.may_be_applied or case.when == "before") and (case.fault != "204" or case.deletes_only)
    ]
    return [replace(case, number=number) for number, case in enumerate(possible)]


SINGLE = cases((1, 2, None), (True, False), (True, False))
BY_PARENT = cases((1, None))


@dataclass
class Results:
    """The results of all cases."""

    single: dict[Case, tuple[LinkResult, StopReason | None]]
    by_parent: dict[Case, list[tuple[LinkResult, StopReason | None]]]
    before: set[Pair]
    after: set[Pair]


@pytest.fixture(scope="module")
def matrix() -> Iterator[Results]:
    with unlimited_zoho() as zoho:
        prepare(zoho)
        before = linked(zoho)
        results = asyncio.run(run_cases())
        check_harmless(zoho)
        yield Results(*results, before, linked(zoho))


def prepare(zoho: LocalZoho) -> None:
    link_all(zoho, [BYSTANDER])
    location = f"{zoho.url}/crm/v7/Contacts/bystander/Deals/bystander"
    for case in SINGLE:
        link_all(zoho, [case.pair] if case.linked else [])
        add_records(zoho, [case.pair])
        link_all(zoho, [(case.pair[0], "stays"), ("stays", case.pair[1])])
        match: dict[str, Any] = {"path": f"/Contacts/{case.pair[0]}(/|$)"}
        if case.deletes_only:
            match["method"] = "DELETE"
        add_fault(zoho, case, match, location)
    for case in BY_PARENT:
        link_all(zoho, case.parent[:2])
        add_records(zoho, case.parent)
        link_all(zoho, [(case.parent[0][0], "stays")])
        record_id = zoho.state.crm.find("Contacts", case.parent[0][0])
        add_fault(zoho, case, {"method": "DELETE", "path": f"/Contacts/{record_id}/Deals$"}, location)


def add_fault(zoho: LocalZoho, case: Case, match: dict[str, Any], location: str) -> None:
    fault = {**FAULTS[case.fault], "when": case.when, "times": case.times, "match": match}
    if fault["do"] == "redirect":
        fault["location"] = location
    zoho.state.faults.add(**fault)


async def run_cases() -> tuple[dict[Case, Any], dict[Case, Any]]:
    """Run all cases concurrently; only those that hang get a short timeout."""
    single: dict[Case, Any] = {}
    by_parent: dict[Case, Any] = {}
    hanging, others = ZohoCRMHook(read_timeout_s=2.0), ZohoCRMHook(read_timeout_s=20.0)
    async with hanging.async_client(30) as short, others.async_client(30) as long:

        def client(case: Case) -> AsyncZohoClient:
            return short if case.fault == "hang" else long

        async def one(case: Case) -> None:
            planned = PlannedLink(case.number, Link(*case.pair), str(case))
            (single[case],) = await DelinkClient(client(case), RELATION, "v7", BRIEF).process_unit([planned])

        async def page(case: Case) -> None:
            links = [PlannedLink(n, Link(*pair), f"{case}{n}") for n, pair in enumerate(case.parent)]
            delinker = ByParentDelinkClient(DelinkClient(client(case), RELATION, "v7", BRIEF))
            by_parent[case] = await delinker.process_unit(links)

        await asyncio.gather(*map(one, SINGLE), *map(page, BY_PARENT))
    return single, by_parent


@pytest.mark.parametrize("case", SINGLE, ids=str)
def test_outcome_of_one_link_matches_zoho(matrix: Results, case: Case) -> None:
    result, why = matrix.single[case]
    is_linked = case.pair in matrix.after
    check_outcome(case.pair, result.outcome, was_linked=case.linked, is_linked=is_linked)
    if result.ambiguous and not case.may_be_applied:
        # Only a really lost connection makes such a request ambiguous, which is not the fault under test.
        return
    assert result.outcome is expected_outcome(case)
    assert is_linked is (case.linked and case.times is None and case.when == "before")
    assert 1 <= result.attempts <= max(BRIEF.sends, BRIEF.waits + 1)
    stops = {
        "401": StopReason.REFUSED,
        "429": StopReason.OVERLOADED,
        "429-retry-after": StopReason.OVERLOADED,
    }
    assert why is (stops.get(case.fault) if case.times is None else None)
    if result.outcome is Outcome.PRESUMED_REMOVED:
        # Whether a request removed the link cannot be known; the detail says so.
        assert GONE_AND_NOT_SEEN_LINKED in (result.detail or "")


def expected_outcome(case: Case) -> Outcome:
    """Return the most precise outcome that can be known."""
    if not case.may_be_applied:
        if case.times is None:
            # A permanent 429 affects every link: the run stops, and this link is not attempted.
            return Outcome.NOT_ATTEMPTED if case.fault.startswith("429") else Outcome.FAILED
        return Outcome.REMOVED if case.linked else Outcome.ALREADY_ABSENT
    if case.times is None and not case.deletes_only:
        return Outcome.UNKNOWN
    if not case.linked:
        return Outcome.PRESUMED_REMOVED
    if case.when == "before":
        # It is seen linked after the request without a clear response, and then removed unless that goes on.
        return Outcome.UNKNOWN if case.times is None else Outcome.REMOVED
    return Outcome.PRESUMED_REMOVED


@pytest.mark.parametrize("case", BY_PARENT, ids=str)
def test_outcomes_of_links_sent_together_match_zoho(matrix: Results, case: Case) -> None:
    by_seq = {result.planned.seq: result for result, _ in matrix.by_parent[case]}
    assert sorted(by_seq) == [0, 1, 2]
    assert len(matrix.by_parent[case]) == 3
    assert {why for _, why in matrix.by_parent[case]} == {None}
    for seq, pair in enumerate(case.parent):
        result = by_seq[seq]
        check_outcome(pair, result.outcome, was_linked=seq < 2, is_linked=pair in matrix.after)
        # Single calls settle what the call for several links did not.
        assert pair not in matrix.after
        assert result.attempts >= 1
        assert result.sent_at is not None
        if result.outcome is Outcome.PRESUMED_REMOVED:
            assert case.may_be_applied
            assert case.when == "after" or seq == 2
            assert GONE_AND_NOT_SEEN_LINKED in (result.detail or "")
        else:
            assert result.outcome is (Outcome.REMOVED if seq < 2 else Outcome.ALREADY_ABSENT)


def test_no_other_link_is_touched(matrix: Results) -> None:
    planned = {case.pair for case in SINGLE} | {pair for case in BY_PARENT for pair in case.parent}
    assert matrix.before - matrix.after <= planned
    assert matrix.after <= matrix.before
    assert BYSTANDER in matrix.after
    assert len(matrix.single) == len(SINGLE)
    assert len(matrix.by_parent) == len(BY_PARENT)
