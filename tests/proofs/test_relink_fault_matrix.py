"""
Every fault while relinking, before and after Zoho processes the request: the outcome matches Zoho's state.

All cases run concurrently against one local Zoho, each on a separate link; each test then checks one case.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import pytest

from tests.proofs.harness import BRIEF, add_records, check_harmless, unlimited_zoho
from tests.proofs.test_fault_matrix import FAULTS, NEVER_APPLIED
from tests.support.links import RELATION, X_EXTERNAL, Pair
from tests.support.local_zoho import link_all, linked
from zoho_crm.core.links import Link
from zoho_crm.core.models import LinkResult, PlannedLink
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.relink_verdict import LINKED_AND_NOT_SEEN_GONE
from zoho_crm.core.verdict import StopReason
from zoho_crm.hooks.link_operation import RelinkClient
from zoho_crm.hooks.zoho_crm import ZohoCRMHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoho_crm.hooks.async_client import AsyncZohoClient
    from zoho_crm.testing.local_zoho import LocalZoho

pytestmark = pytest.mark.xdist_group("relink_fault_matrix")  # all cases run once, in one process

ROLE = {"name": "Purchasing", "id": "4876876000000006875"}
OTHER = {"name": "Decision Maker", "id": "4876876000000006873"}
SNAPSHOT = json.dumps({"Contact_Role": ROLE})
BYSTANDER = ("bystander", "bystander")
"""A link whose attributes a followed redirect would change."""


@dataclass(frozen=True)
class Case:
    """
    One fault on the requests of one link.

    :param times: number of requests that fail; None for all
    :param linked: whether the link exists before the run
    :param repeated: whether an earlier try may have relinked it
    :param puts_only: whether reading calls succeed
    """

    number: int
    fault: str
    when: str
    times: int | None
    linked: bool
    repeated: bool
    puts_only: bool

    @property
    def pair(self) -> Pair:
        return (f"c-{self.number:04}", f"d-{self.number:04}")

    @property
    def may_be_applied(self) -> bool:
        return self.fault not in NEVER_APPLIED

    def __str__(self) -> str:
        times = "for-ever" if self.times is None else f"{self.times}-times"
        there = "linked" if self.linked else "absent"
        tail = f"{'-repeated' if self.repeated else ''}{'' if self.puts_only else '-blind'}"
        return f"{self.fault}-{self.when}-{times}-{there}{tail}"


def cases() -> list[Case]:
    """
    Return all possible combinations.

    An existing link is not relinked, so a fault on PUT alone never occurs for it. A 204 to a reading call is Zoho's
    normal response when nothing is found.
    """
    dimensions = ((1, 2, None), (True, False), (True, False), (True, False))
    combined = [Case(0, *values) for values in product(FAULTS, ("before", "after"), *dimensions)]
    possible = [
        case
        for case in combined
        if (case.may_be_applied or case.when == "before")
        and (case.fault != "204" or case.puts_only)
        and not (case.linked and case.puts_only)
    ]
    return [replace(case, number=number) for number, case in enumerate(possible)]


CASES = cases()


@dataclass
class Results:
    """The results of all cases."""

    results: dict[Case, tuple[LinkResult, StopReason | None]]
    before: set[Pair]
    after: set[Pair]
    roles: dict[Pair, Any]
    puts: dict[Pair, int]


@pytest.fixture(scope="module")
def matrix() -> Iterator[Results]:
    with unlimited_zoho() as zoho:
        prepare(zoho)
        before = linked(zoho)
        results = asyncio.run(run_cases())
        check_harmless(zoho)
        yield Results(results, before, linked(zoho), roles_of(zoho), puts_of(zoho))


def prepare(zoho: LocalZoho) -> None:
    zoho.state.link("Contacts", "bystander", "Deals", "bystander", {"Contact_Role": OTHER})
    location = f"{zoho.url}/crm/v7/Contacts/bystander/Deals"
    for case in CASES:
        if case.linked:
            zoho.state.link("Contacts", case.pair[0], "Deals", case.pair[1], {"Contact_Role": OTHER})
        add_records(zoho, [case.pair])
        link_all(zoho, [(case.pair[0], "stays"), ("stays", case.pair[1])])
        match: dict[str, Any] = {"path": f"/Contacts/{case.pair[0]}(/|$)"}
        if case.puts_only:
            match["method"] = "PUT"
        fault = {**FAULTS[case.fault], "when": case.when, "times": case.times, "match": match}
        if fault["do"] == "redirect":
            fault["location"] = location
        zoho.state.faults.add(**fault)


def roles_of(zoho: LocalZoho) -> dict[Pair, Any]:
    return {
        (one["external_id"], one["related_external_id"]): one["attributes"].get("Contact_Role")
        for one in zoho.state.crm.to_json()
    }


def puts_of(zoho: LocalZoho) -> dict[Pair, int]:
    """Count the PUTs of each parent; check that each carries a list of links."""
    counts = {case.pair: 0 for case in CASES}
    for one in zoho.state.journal.requests:
        if one.method != "GET" and one.path.startswith("/crm/"):
            segments = one.path.split("/")[1:]
            assert one.method == "PUT"
            assert (len(segments), segments[2], segments[4]) == (5, "Contacts", "Deals"), one
            assert (one.query, one.external) == ("", X_EXTERNAL), one
            counts[(segments[3], segments[3].replace("c-", "d-"))] += 1
    return counts


async def run_cases() -> dict[Case, tuple[LinkResult, StopReason | None]]:
    """Run all cases concurrently; only those that hang get a short timeout."""
    results: dict[Case, tuple[LinkResult, StopReason | None]] = {}
    hanging, others = ZohoCRMHook(read_timeout_s=2.0), ZohoCRMHook(read_timeout_s=20.0)
    async with hanging.async_client(30) as short, others.async_client(30) as long:

        def client(case: Case) -> AsyncZohoClient:
            return short if case.fault == "hang" else long

        async def one(case: Case) -> None:
            planned = PlannedLink(
                case.number, Link(*case.pair), str(case), ambiguous_before=case.repeated, snapshot=SNAPSHOT
            )
            (results[case],) = await RelinkClient(client(case), RELATION, "v7", BRIEF).process_unit([planned])

        await asyncio.gather(*map(one, CASES))
    return results


@pytest.mark.parametrize("case", CASES, ids=str)
def test_outcome_matches_zoho(matrix: Results, case: Case) -> None:
    result, why = matrix.results[case]
    is_linked = case.pair in matrix.after
    check_outcome(case, result, is_linked=is_linked)
    if result.ambiguous and not case.may_be_applied and not case.repeated:
        # Only a really lost connection makes such a request ambiguous, which is not the fault under test.
        return
    assert result.outcome is expected_outcome(case)
    stops = {
        "401": StopReason.REFUSED,
        "429": StopReason.OVERLOADED,
        "429-retry-after": StopReason.OVERLOADED,
    }
    # A verification whose token is rejected does not stop the run: the next try handles the link.
    goes_on = case.fault == "401" and case.repeated and not case.puts_only
    assert why is (stops.get(case.fault) if case.times is None and not goes_on else None)
    # A request on a kept-alive connection that the server is closing counts as sent, but never arrives.
    assert result.attempts - 1 <= matrix.puts[case.pair] <= result.attempts
    if result.outcome is Outcome.PRESUMED_RELINKED:
        # Whether a request created the link cannot be known; the detail says so.
        assert case.repeated
        assert LINKED_AND_NOT_SEEN_GONE in (result.detail or "")


def check_outcome(case: Case, result: LinkResult, *, is_linked: bool) -> None:
    match result.outcome:
        case Outcome.RELINKED:
            assert is_linked
            assert not case.linked, f"{case} is reported as relinked, but was linked"
        case Outcome.PRESUMED_RELINKED:
            assert is_linked
        case Outcome.ALREADY_LINKED:
            assert case.linked
            assert is_linked
        case Outcome.FAILED | Outcome.NOT_ATTEMPTED:
            assert is_linked is case.linked, f"{case} is reported as not applied, but was"
        case Outcome.UNKNOWN:
            assert result.ambiguous
        case _:
            raise AssertionError((case, result))
    assert result.attempts <= max(BRIEF.sends, BRIEF.waits + 1) + 1


def expected_outcome(case: Case) -> Outcome:
    """Return the most precise outcome that can be known."""
    if case.times is None and not case.puts_only:
        # Nothing can be read, so nothing is sent; a 204 has no body that could be damaged.
        whole_204 = (
            case.fault in {"200-cut", "closed-in-the-middle"} and case.when == "after" and not case.linked
        )
        if case.repeated or whole_204:
            return Outcome.UNKNOWN
        return Outcome.NOT_ATTEMPTED if case.fault.startswith("429") else Outcome.FAILED
    if case.linked:
        return Outcome.PRESUMED_RELINKED if case.repeated else Outcome.ALREADY_LINKED
    if case.times is None and (case.when == "before" or not case.may_be_applied):
        if case.repeated or case.may_be_applied:
            return Outcome.UNKNOWN
        return Outcome.NOT_ATTEMPTED if case.fault.startswith("429") else Outcome.FAILED
    return Outcome.RELINKED


@pytest.mark.parametrize("case", [case for case in CASES if not case.linked], ids=str)
def test_attributes_are_restored_with_the_link(matrix: Results, case: Case) -> None:
    if case.pair in matrix.after:
        assert matrix.roles[case.pair] == ROLE


def test_no_other_link_is_touched(matrix: Results) -> None:
    absent = {case.pair for case in CASES if not case.linked}
    assert matrix.before <= matrix.after <= matrix.before | absent
    assert all(matrix.roles[case.pair] == OTHER for case in CASES if case.linked)
    assert matrix.roles[BYSTANDER] == OTHER
    assert all(matrix.puts[case.pair] == 0 for case in CASES if case.linked)
    assert len(matrix.results) == len(CASES)
