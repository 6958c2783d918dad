"""A run that passes a limit waits for a person: what they are shown, who may answer, and what the answer does."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from include.stack import ApiError

if TYPE_CHECKING:
    from tests.support.airflow_world import Pair, World

pytestmark = pytest.mark.systems

pytest_plugins = ["tests.support.airflow_world"]

_READING_S = 12.0
"""Longer than an idle scheduler sleeps between two looks at its executor, which is some five seconds."""
ASKS = "zoho_delink__asks"
"""Two links are allowed; for more a person is asked."""


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


def start(world: World, name: str) -> tuple[str, list[Pair]]:
    """Start a run over three links, one of them with a hostile id, and wait until somebody is asked."""
    links = [(f"{name}-0", "deal-0"), (f"{name}-1", "deal-1"), (f"{name}`](x) **{name}**", "deal-2")]
    for parent, related in links:
        world.zoho.state.link("Contacts", parent, "Deals", related)
    run_id = world.runs.trigger(ASKS, {"mode": "apply", "reason": f"{name} moved on", "links": links})
    wait_for_question(world, run_id)
    return run_id, links


def wait_for_question(world: World, run_id: str) -> None:
    world.runs.until(lambda: state(world, run_id) == "awaiting_input", "a question to a person")


def state(world: World, run_id: str) -> str | None:
    return world.runs.states(ASKS, run_id).get("approve")


def question(world: World, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = world.airflow.api("GET", _path(run_id))
    return found


def answer(world: World, run_id: str, option: str, user: str = "admin") -> None:
    world.airflow.api("PATCH", _path(run_id), {"chosen_options": [option], "params_input": {}}, user=user)


def decide(world: World, run_id: str, option: str) -> None:
    """
    Answer, not sooner than a person who reads the question, until Airflow takes the answer.

    Airflow 3.3 takes one that comes before its scheduler has seen the task rest for the task's death, and asks again.
    """

    def taken() -> bool:
        if state(world, run_id) == "awaiting_input" and not question(world, run_id)["response_received"]:
            time.sleep(_READING_S)
            answer(world, run_id, option)
        assert state(world, run_id) != "failed", "every try was answered before its scheduler saw it rest"
        return state(world, run_id) == "success"

    world.runs.until(taken, f"{option} to be taken")


def _path(run_id: str) -> str:
    return f"/api/v2/dags/{ASKS}/dagRuns/{quote(run_id, safe='')}/taskInstances/approve/-1/hitlDetails"


def test_nothing_is_sent_before_a_person_approves_who_then_stands_on_the_run_row(world: World):
    asked_at = datetime.now(UTC)
    run_id, links = start(world, "approved")
    before = world.look()

    asked = question(world, run_id)
    assert asked["subject"] == "Remove 3 links of asks?"
    assert (asked["options"], asked["defaults"]) == (["Approve", "Reject"], ["Reject"])
    for says in (
        "- `3 links planned, 2 allowed`",
        "- Reason: `approved moved on`",
        "- ``approved`](x) **approved**`` → `deal-2`",
        f"({world.airflow.url}/zoho-delinks/dags/{ASKS}/runs/{quote(run_id, safe='')}/links.csv?job=asks)",
    ):
        assert says in asked["body"]
    waiting = world.audit.run(ASKS, run_id)
    assert (waiting["status"], waiting["approval"], waiting["approved_by"]) == ("planned", "asked", None)
    with pytest.raises(ApiError) as refused:
        answer(world, run_id, "Approve", user="viewer")
    assert refused.value.status == 403
    assert world.delinks(before) == []

    decide(world, run_id, "Approve")
    world.runs.finish(ASKS, run_id)

    run = world.check_run(ASKS, run_id, dict.fromkeys(links, "removed"), since=before)
    assert run["status"] == "succeeded"
    assert (run["approval"], run["approved_by"]) == ("approved", "admin")
    assert asked_at < run["approved_at"] < run["finished_at"]
    assert run["guard_decision"] == "breached: 3 links planned, 2 allowed"


def test_a_rejected_run_ends_as_such_and_asks_again_when_its_question_is_cleared(world: World):
    run_id, links = start(world, "rejected")
    before = world.look()

    decide(world, run_id, "Reject")
    world.runs.finish(ASKS, run_id)

    assert world.runs.states(ASKS, run_id) == {
        "preflight": "success",
        "plan": "success",
        "guard": "success",
        "approve": "success",
        "delink": "skipped",
        "report": "success",
    }
    run = world.audit.run(ASKS, run_id)
    assert (run["status"], run["approval"], run["approved_by"]) == ("rejected", "rejected", "admin")
    assert run["approved_at"] is not None
    assert run["not_attempted"] == len(links)

    world.runs.clear(ASKS, run_id, "delink")
    world.runs.finish(ASKS, run_id)
    assert world.delinks(before) == []
    assert world.look().links == before.links

    world.runs.clear(ASKS, run_id, "approve", "delink", "report")
    wait_for_question(world, run_id)
    assert world.audit.run(ASKS, run_id)["approval"] == "asked"
    decide(world, run_id, "Approve")
    world.runs.finish(ASKS, run_id)
    run = world.check_run(ASKS, run_id, dict.fromkeys(links, "removed"), since=before)
    assert (run["status"], run["approval"], run["approved_by"]) == ("succeeded", "approved", "admin")
