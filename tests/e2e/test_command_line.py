"""The command line beside a running Airflow: it finds Airflow's connections, and shows a run that was undone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.airflow_world import World

pytestmark = pytest.mark.systems

pytest_plugins = ["tests.support.airflow_world"]

MANUAL = "zoho_delink__manual"
RELINK = "zoho_delink_relink"
LINKS = [("undone-0", "deal-0"), ("undone-1", "deal-1"), ("undone-'2", "deal-2")]


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


def zoho_delink(world: World, *args: str) -> dict[str, Any]:
    """Run a command in the environment of a person on that machine: with Airflow's settings."""
    done = subprocess.run(
        [Path(sys.executable).with_name("zoho-delink"), *args, "--json"],
        env=world.airflow.environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def test_command_line_shows_a_run_and_its_relink(world: World) -> None:
    for parent, related in LINKS:
        world.zoho.state.link("Contacts", parent, "Deals", related)
    before = world.snapshot()
    run_id = world.runs.trigger(MANUAL, {"mode": "apply", "reason": "a mistake", "links": LINKS})
    world.runs.finish(MANUAL, run_id)
    assert len(before.links - world.snapshot().links) == len(LINKS)

    # Nothing but Airflow's metadata database knows these connections.
    assert zoho_delink(world, "check-connection", "--job", "manual", "--relink")["ok"] is True
    run = zoho_delink(world, "audit", "show", run_id, "--job", "manual")
    assert (run["status"], run["outcomes"], run["triggered_by"]) == ("succeeded", {"removed": 3}, "admin")

    world.runs.switch_on(RELINK)
    undo = {"job": "manual", "run": run_id, "mode": "apply", "reason": "it was a mistake"}
    world.runs.finish(RELINK, world.runs.trigger(RELINK, undo))

    assert world.snapshot().links == before.links
    (last,) = zoho_delink(world, "audit", "show", "--link", *LINKS[2], "--job", "manual")["history"][-1:]
    assert (last["outcome"], last["reason"]) == ("relinked", "it was a mistake")
    assert zoho_delink(world, "audit", "verify", run_id, "--job", "manual")["ok"] is True
