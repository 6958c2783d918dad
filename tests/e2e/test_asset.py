"""A job started by an asset: its window comes from the asset event."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.airflow_world import World

pytestmark = pytest.mark.systems
pytest_plugins = ["tests.support.airflow_world"]

BY_ASSET = "zoho_delink__by_asset"
ASSET = "links_to_remove"
DAY = timedelta(days=1)


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


def test_asset_event_removes_the_links_of_its_window(world: World):
    end = world.day_ends
    pairs = [(f"v-{n}", f"u-{n}") for n in range(4)]
    moments = [end - DAY - timedelta(microseconds=1), end - DAY, end - timedelta(microseconds=1), end]
    world.mark("by_asset", zip(pairs, moments, strict=True))
    before = world.snapshot()

    run_id = _update(
        world, {"window_start": (end - DAY).isoformat(), "window_end": end.isoformat(), "rows": 2}
    )
    world.runs.finish(BY_ASSET, run_id)

    run = world.check_run(BY_ASSET, run_id, dict.fromkeys(pairs[1:3], "removed"), since=before)
    assert (run["mode"], run["run_type"], run["status"]) == ("apply", "asset_triggered", "succeeded")
    assert (run["window_start"], run["window_end"]) == (end - DAY, end)


def test_invalid_window_of_an_asset_event_fails_preflight_with_the_field(world: World):
    before = world.snapshot()

    run_id = _update(world, {"window_start": "last night", "window_end": world.day_ends.isoformat()})
    world.runs.finish(BY_ASSET, run_id, "failed")

    preflight = next(task for task in world.runs.tasks(BY_ASSET, run_id) if task["task_id"] == "preflight")
    assert (preflight["state"], preflight["try_number"]) == ("failed", 1)
    assert f"asset '{ASSET}', window_start: 'last night' is not a time" in "\n".join(
        world.runs.log(preflight)
    )
    assert world.delinks(before) == []


def _update(world: World, extra: dict[str, Any]) -> str:
    """Create an asset event, and return the ID of the run that it starts."""
    world.runs.switch_on(BY_ASSET)
    known = {run["dag_run_id"] for run in _runs(world)}
    (asset,) = world.airflow.api("GET", f"/api/v2/assets?name_pattern={ASSET}")["assets"]
    world.airflow.api("POST", "/api/v2/assets/events", {"asset_id": asset["id"], "extra": extra})
    world.runs.until(lambda: len(_runs(world)) > len(known), "a run that the asset starts")
    (run_id,) = {run["dag_run_id"] for run in _runs(world)} - known
    return run_id


def _runs(world: World) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.runs.get(BY_ASSET, "/dagRuns")["dag_runs"]
    return found
