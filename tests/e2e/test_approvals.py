"""A run that exceeds a limit waits for approval: what the approver sees, who may respond, and what follows."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import requests

from include.stack import ApiError
from tests.support.approvals import WAITING, question_path, respond_to_many, summary
from tests.support.releases import NAMES_REQUESTER

if TYPE_CHECKING:
    from tests.support.airflow_world import Pair, World

pytestmark = pytest.mark.systems

pytest_plugins = ["tests.support.airflow_world"]

NEEDS_APPROVAL = "zoho_delink__needs_approval"
"""Allows two links; more need an approval."""

REQUESTER = (
    "`admin`, whose approval does not count"
    if NAMES_REQUESTER
    else "unknown: Airflow names no user, so the requester can approve the run as well"
)

RESPONSES = int(os.environ.get("APPROVALS", "6"))
"""How many responses to try; CONTRIBUTING.md says when to try more."""


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


def start(world: World, name: str) -> tuple[str, list[Pair]]:
    """Start a run over three links, one of them with a hostile ID, and wait for the approval request."""
    links = [(f"{name}-0", "deal-0"), (f"{name}-1", "deal-1"), (f"{name}`](x) **{name}**", "deal-2")]
    for parent, related in links:
        world.zoho.state.link("Contacts", parent, "Deals", related)
    run_id = world.runs.trigger(
        NEEDS_APPROVAL, {"mode": "apply", "reason": f"{name} moved on", "links": links}
    )
    wait_for_request(world, run_id)
    return run_id, links


def wait_for_request(world: World, run_id: str) -> None:
    world.runs.until(lambda: state(world, run_id) in WAITING, "an approval request")


def state(world: World, run_id: str) -> str | None:
    return world.runs.states(NEEDS_APPROVAL, run_id).get("approve")


def approval_request(world: World, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = world.airflow.api("GET", question_path(NEEDS_APPROVAL, run_id))
    return found


def respond(world: World, run_id: str, option: str, user: str = "approver") -> None:
    world.airflow.api(
        "PATCH",
        question_path(NEEDS_APPROVAL, run_id),
        {"chosen_options": [option], "params_input": {}},
        user=user,
    )


def decide(world: World, run_id: str, option: str) -> None:
    """Respond, and wait until the response is used; Airflow may run the task again in between."""
    respond(world, run_id, option)
    world.runs.until(lambda: state(world, run_id) in {"success", "failed"}, f"{option} to be used", 60)
    assert state(world, run_id) == "success"


def page_of(world: World, run_id: str) -> str:
    """Return the page of a run, as a browser gets it."""
    with requests.Session() as session:
        session.trust_env = False
        address = f"{world.airflow.url}/zoho-delinks/dags/{NEEDS_APPROVAL}/runs/{quote(run_id, safe='')}"
        response = session.get(address, cookies={"_token": world.token_of("admin")}, timeout=30)
    assert response.status_code == 200
    return response.text


def test_nothing_is_sent_before_approval_and_the_run_names_its_approver(world: World):
    requested_at = datetime.now(UTC)
    run_id, links = start(world, "approved")
    before = world.snapshot()

    request = approval_request(world, run_id)
    assert request["subject"] == "Remove 3 links of needs_approval?"
    assert (request["options"], request["defaults"]) == (["Approve", "Reject"], ["Reject"])
    path = f"/zoho-delinks/dags/{NEEDS_APPROVAL}/runs/{quote(run_id, safe='')}/links.csv"
    for says in (
        "- `3 links planned, 2 allowed`",
        "- Reason: `approved moved on`",
        f"- Requested by: {REQUESTER}",
        "- ``approved`](x) **approved**`` → `deal-2`",
        f"({world.airflow.url}{path}?job=needs_approval)",
    ):
        assert says in request["body"]
    waiting = world.audit.run(NEEDS_APPROVAL, run_id)
    assert (waiting["status"], waiting["approval"], waiting["approved_by"]) == ("planned", "asked", None)
    with pytest.raises(ApiError) as refused:
        respond(world, run_id, "Approve", user="viewer")
    assert refused.value.status == 403
    assert world.delinks(before) == []

    assert "Waiting for approval" in page_of(world, run_id)
    respond(world, run_id, "Approve")
    assert "approved, by approver" in page_of(world, run_id)
    world.runs.finish(NEEDS_APPROVAL, run_id)

    run = world.check_run(NEEDS_APPROVAL, run_id, dict.fromkeys(links, "removed"), since=before)
    assert run["status"] == "succeeded"
    assert (run["approval"], run["approved_by"]) == ("approved", "approver")
    assert requested_at < run["approved_at"] < run["finished_at"]
    assert run["guard_decision"] == "breached: 3 links planned, 2 allowed"


@pytest.mark.skipif(not NAMES_REQUESTER, reason="Airflow gives a task no requester")
def test_approval_by_the_requester_does_not_count_and_the_run_waits_for_another_user(world: World):
    run_id, links = start(world, "four eyes")
    before = world.snapshot()

    for _ in range(2):
        respond(world, run_id, "Approve", user="admin")
        # Another response is possible once Airflow has discarded this one.
        world.runs.until(
            lambda: (
                state(world, run_id) in WAITING and not approval_request(world, run_id)["response_received"]
            ),
            "the question to be asked again",
            120,
        )
        run = world.audit.run(NEEDS_APPROVAL, run_id)
        assert (run["approval"], run["approved_by"], run["status"]) == ("asked", None, "planned")
        assert run["approval_note"] == (
            "The approval by admin does not count: this user requested the run, and guards.forbid_self_approval is set"
        )
    assert world.delinks(before) == []

    decide(world, run_id, "Approve")
    world.runs.finish(NEEDS_APPROVAL, run_id)
    run = world.check_run(NEEDS_APPROVAL, run_id, dict.fromkeys(links, "removed"), since=before)
    assert (run["status"], run["approval"], run["approved_by"]) == ("succeeded", "approved", "approver")


def test_rejected_run_ends_as_rejected_and_asks_again_when_cleared(world: World):
    run_id, links = start(world, "rejected")
    before = world.snapshot()

    decide(world, run_id, "Reject")
    world.runs.finish(NEEDS_APPROVAL, run_id)

    assert world.runs.states(NEEDS_APPROVAL, run_id) == {
        "preflight": "success",
        "plan": "success",
        "guard": "success",
        "approve": "success",
        "delink": "skipped",
        "report": "success",
    }
    run = world.audit.run(NEEDS_APPROVAL, run_id)
    assert (run["status"], run["approval"], run["approved_by"]) == ("rejected", "rejected", "approver")
    assert run["approved_at"] is not None
    assert run["not_attempted"] == len(links)

    world.runs.clear(NEEDS_APPROVAL, run_id, "delink")
    world.runs.finish(NEEDS_APPROVAL, run_id)
    assert world.delinks(before) == []
    assert world.snapshot().links == before.links

    world.runs.clear(NEEDS_APPROVAL, run_id, "approve", "delink", "report")
    wait_for_request(world, run_id)
    assert world.audit.run(NEEDS_APPROVAL, run_id)["approval"] == "asked"
    decide(world, run_id, "Approve")
    world.runs.finish(NEEDS_APPROVAL, run_id)
    run = world.check_run(NEEDS_APPROVAL, run_id, dict.fromkeys(links, "removed"), since=before)
    assert (run["status"], run["approval"], run["approved_by"]) == ("succeeded", "approved", "approver")


def test_responses_arrive_however_soon_they_come(world: World):
    arrivals = respond_to_many(world, RESPONSES, jobs=min(RESPONSES // 2, 4))
    print(summary(arrivals))  # noqa: T201 - pytest -rP shows it

    ends = {"Approve": ("succeeded", "approved"), "Reject": ("rejected", "rejected")}
    assert [it.end for it in arrivals] == [ends[it.option] for it in arrivals]
    if "APPROVALS" in os.environ:  # beside other tests, the time says nothing
        assert max(it.ended_s for it in arrivals) <= 60
