"""Links that a run has not finished: a wait until API credits return, and the Dag that retries them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.airflow_world import Pair, World

pytestmark = pytest.mark.systems

pytest_plugins = ["tests.support.airflow_world"]

MANUAL = "zoho_delink__manual"
RETRY = "zoho_delink_retry"

NO_CREDITS = {"code": "TOO_MANY_REQUESTS", "details": {}, "message": "no credits left", "status": "error"}
NO_PERMISSION = {"code": "NO_PERMISSION", "details": {}, "message": "permission denied", "status": "error"}


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


def start(world: World, name: str) -> tuple[str, list[Pair]]:
    """Start a run over seven links."""
    links = [(f"{name}-{number}", f"deal-{number}") for number in range(7)]
    for parent, related in links:
        world.zoho.state.link("Contacts", parent, "Deals", related)
    return world.runs.trigger(MANUAL, {"mode": "apply", "reason": f"{name} moved on", "links": links}), links


def test_task_without_api_credits_waits_in_the_triggerer_and_a_clear_resumes_it(world: World):
    state = world.zoho.state
    state.faults.add(
        do="status",
        status=429,
        headers={"X-API-CREDITS-REMAINING": "0"},
        body=json.dumps(NO_CREDITS),
        times=None,
        match={"method": "DELETE", "path": "/later-"},
    )
    run_id, links = start(world, "later")
    world.runs.until(
        lambda: [task["state"] for task in world.runs.delinks(MANUAL, run_id)] == ["deferred"],
        "a deferred task",
    )
    (trigger,) = [task["trigger"] for task in world.runs.delinks(MANUAL, run_id)]
    assert trigger["classpath"].endswith("DateTimeTrigger")

    state.faults.clear()
    before = world.snapshot()
    assert {("Contacts", parent, "Deals", related) for parent, related in links} <= before.links
    world.runs.clear(MANUAL, run_id, "delink")
    world.runs.finish(MANUAL, run_id)

    run = world.check_run(MANUAL, run_id, dict.fromkeys(links, "removed"), since=before)
    assert run["status"] == "succeeded"


def test_unfinished_links_of_a_refused_run_are_removed_by_a_retry(world: World):
    state = world.zoho.state
    state.faults.add(
        do="status",
        status=403,
        body=json.dumps(NO_PERMISSION),
        times=None,
        match={"method": "DELETE", "path": "/refused-"},
    )
    run_id, links = start(world, "refused")
    world.runs.finish(MANUAL, run_id, "failed")
    state.faults.clear()
    before = world.snapshot()
    assert {("Contacts", parent, "Deals", related) for parent, related in links} <= before.links

    world.runs.switch_on(RETRY)
    retry = world.runs.trigger(RETRY, {"job": "manual", "run": run_id, "mode": "apply"})
    world.runs.finish(RETRY, retry)

    run = world.check_run(RETRY, retry, dict.fromkeys(links, "removed"), since=before)
    assert (run["status"], run["triggered_by"]) == ("succeeded", "admin")
