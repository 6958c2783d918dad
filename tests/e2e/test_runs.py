"""Manual runs: what they remove and report, what clearing them does, and what stops them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from include.demo.cases import DUPLICATES, stale_links

if TYPE_CHECKING:
    from tests.support.airflow_world import CrmSnapshot, Pair, World

pytest_plugins = ["tests.support.airflow_world"]

MANUAL = "zoho_delink__manual"
CAMPAIGNS = "zoho_delink__campaigns_leads"
WRONG_PASSWORD = "zoho_delink__wrong_password"
OUTCOMES: dict[Pair, str] = {(case.parent_id, case.related_id): case.outcome for case in stale_links()}


@dataclass(frozen=True)
class Applied:
    run_id: str
    before: CrmSnapshot
    after: CrmSnapshot


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


@pytest.fixture(scope="module")
def applied(world: World) -> Applied:
    """Return a finished run of all the cases of the demo."""
    before = world.snapshot()
    run_id = world.runs.trigger(MANUAL, {"mode": "apply", "reason": "they moved on"})
    world.runs.finish(MANUAL, run_id)
    return Applied(run_id, before, world.snapshot())


def test_manual_apply_removes_only_the_planned_links_and_audits_each_response(world: World, applied: Applied):
    run = world.check_run(MANUAL, applied.run_id, OUTCOMES, since=applied.before, until=applied.after)

    facts = {name: run[name] for name in ("run_type", "triggered_by", "mode", "status", "reason")}
    assert facts == {
        "run_type": "manual",
        "triggered_by": "admin",
        "mode": "apply",
        "status": "succeeded",
        "reason": "they moved on",
    }
    assert run["duplicates"] == DUPLICATES
    assert run["source_rows"] == run["planned"] + DUPLICATES

    audited: dict[Pair, list[int]] = {}
    for row in world.audit.latest(run["run_key"]):
        assert row["triggered_by"] == "admin"
        assert row["dry_run"] is False
        if row["outcome"] != "invalid":
            pair = (row["external_id"], row["related_external_id"])
            audited[pair] = [row["http_status"]] * row["attempts"]
    seen: dict[Pair, list[int]] = {}
    for delink in world.delinks(applied.before, applied.after):
        seen.setdefault(delink.pair, []).append(delink.status)
    assert seen == audited


def test_mapped_tasks_are_named_by_position_and_size_without_ids(world: World, applied: Applied):
    names = [task["rendered_map_index"] for task in world.runs.delinks(MANUAL, applied.run_id)]

    run = world.audit.run(MANUAL, applied.run_id)
    chunks = world.audit.rows(
        "SELECT links FROM zoho_delink_chunk WHERE run_key = %s ORDER BY chunk_no", run["run_key"]
    )
    assert len(chunks) == 2
    assert names == [f"{place}/2, {chunk['links']} links" for place, chunk in enumerate(chunks, start=1)]


@pytest.mark.parametrize("tasks", [[("delink", 1)], []], ids=["one_mapped_task", "whole_run"])
def test_clear_of_a_finished_run_sends_nothing_and_changes_no_outcome(
    world: World, applied: Applied, tasks: list[object]
):
    run = world.audit.run(MANUAL, applied.run_id)
    rows = world.audit.rows("SELECT * FROM zoho_delink_audit ORDER BY event_id")
    tries = [task["try_number"] for task in world.runs.delinks(MANUAL, applied.run_id)]
    cleared_at = world.snapshot()

    world.runs.clear(MANUAL, applied.run_id, *tasks)
    world.runs.finish(MANUAL, applied.run_id)

    again = [task["try_number"] for task in world.runs.delinks(MANUAL, applied.run_id)]
    assert again == [tries[0] + (not tasks), tries[1] + 1]
    assert world.delinks(cleared_at) == []
    assert world.audit.rows("SELECT * FROM zoho_delink_audit ORDER BY event_id") == rows
    now = world.audit.run(MANUAL, applied.run_id)
    changes = {"finished_at", "credits", "preflight_credits"}
    assert {name: now[name] for name in now.keys() - changes} == {
        name: run[name] for name in run.keys() - changes
    }
    # A preflight that runs again sends its requests again; nothing else does.
    assert now["credits"] - run["credits"] == now["preflight_credits"] - run["preflight_credits"]
    assert (now["preflight_credits"] > run["preflight_credits"]) is (not tasks)
    assert world.snapshot().links == cleared_at.links


def test_manual_run_without_a_mode_is_a_dry_run(world: World):
    before = world.snapshot()

    run_id = world.runs.trigger(CAMPAIGNS)
    world.runs.finish(CAMPAIGNS, run_id)

    planned = {(f"k-{number % 5}", f"l-{number:03}"): "would_remove" for number in range(40)}
    run = world.check_run(CAMPAIGNS, run_id, planned, since=before)
    assert (run["mode"], run["status"]) == ("dry_run", "succeeded")
    assert all(row["dry_run"] for row in world.audit.latest(run["run_key"]))
    assert world.delinks(before) == []


def test_wrong_client_secret_fails_preflight_with_one_message(world: World):
    before = world.snapshot()

    run_id = world.runs.trigger(WRONG_PASSWORD, {"mode": "apply"})
    world.runs.finish(WRONG_PASSWORD, run_id, "failed")

    preflight, report = (
        next(task for task in world.runs.tasks(WRONG_PASSWORD, run_id) if task["task_id"] == name)
        for name in ("preflight", "report")
    )
    assert world.runs.states(WRONG_PASSWORD, run_id) == {
        "preflight": "failed",
        "plan": "upstream_failed",
        "guard": "upstream_failed",
        "approve": "upstream_failed",
        "delink": "upstream_failed",
        "report": "failed",
    }
    assert (preflight["try_number"], report["try_number"]) == (1, 1)
    log = world.runs.log(preflight)
    said = [line for line in log if "client secret" in line]
    assert len(said) == 1
    assert said[0].endswith(
        f"AirflowFailException: Connection 'zoho_wrong_password' ({world.zoho.url}): invalid_client_secret: "
        "the client secret is wrong: check password (client secret)"
    )
    assert "not-the-secret" not in "\n".join(log)
    assert "AirflowFailException: Task preflight failed: Connection 'zoho_wrong_password'" in "\n".join(
        world.runs.log(report)
    )
    tables = world.unused_audit.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    (row,) = world.unused_audit.rows("SELECT status, detail, planned FROM zoho_delink_run")
    assert (row["status"], row["planned"]) == ("failed", None)
    assert "client secret is wrong" in row["detail"]
    for name in ("zoho_delink_link", "zoho_delink_audit"):
        if {"tablename": name} in tables:
            assert world.unused_audit.rows(f"SELECT * FROM {name}") == []  # noqa: S608 - fixed names
    assert world.delinks(before) == []
    assert world.snapshot().links == before.links
