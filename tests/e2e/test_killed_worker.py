"""A worker that is killed during a chunk, and the retry by Airflow."""

from __future__ import annotations

import os
import signal
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.airflow_world import World

pytestmark = pytest.mark.systems
pytest_plugins = ["tests.support.airflow_world"]

INTERRUPTED = "zoho_delink__interrupted"
LINKS = 200
CHUNK = 100
SETTLED_BEFORE = 20
LATENCY_S = 0.25


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


@pytest.fixture
def _slow_zoho(world: World) -> Iterator[None]:
    usual = world.zoho.state.settings.latency_s
    world.zoho.state.configure(latency_s=LATENCY_S)
    yield
    world.zoho.state.configure(latency_s=usual)


@pytest.mark.usefixtures("_slow_zoho")
def test_retry_after_a_killed_worker_resumes_its_chunk(world: World):
    pairs = [(f"i-{n:03}", f"j-{n % 7}") for n in range(LINKS)]
    world.mark("interrupted", [(pair, datetime.now(UTC) - timedelta(hours=1)) for pair in pairs])
    first_chunk = set(pairs[:CHUNK])
    before = world.snapshot()

    run_id = world.runs.trigger(INTERRUPTED, {"mode": "apply"})
    world.runs.until(lambda: bool(world.delinks(before)), "the first link to be sent")
    run_key = world.audit.run(INTERRUPTED, run_id)["run_key"]
    world.runs.until(
        lambda: _links_by_state(world, run_key)["settled"] >= SETTLED_BEFORE, "outcomes", poll_s=0.05
    )
    worker = world.runs.delinks(INTERRUPTED, run_id)[0]
    assert (worker["map_index"], worker["state"]) == (0, "running")
    assert worker["pid"] in world.airflow.processes()
    os.kill(worker["pid"], signal.SIGKILL)
    world.runs.until(
        lambda: world.runs.delinks(INTERRUPTED, run_id)[0]["state"] == "up_for_retry", "Airflow to notice"
    )
    left = _links_by_state(world, run_key)
    assert min(left["settled"], left["in_flight"]) > 0
    world.runs.finish(INTERRUPTED, run_id)

    # A link whose request died with the worker is found gone, without evidence that the run removed it.
    presumed = {
        (row["external_id"], row["related_external_id"])
        for row in world.audit.latest(run_key)
        if row["outcome"] == "presumed_removed"
    }
    assert presumed <= first_chunk
    assert len(presumed) <= left["in_flight"]
    expected = {pair: "presumed_removed" if pair in presumed else "removed" for pair in pairs}
    run = world.check_run(INTERRUPTED, run_id, expected, since=before)
    assert run["status"] == "succeeded"
    assert [task["try_number"] for task in world.runs.delinks(INTERRUPTED, run_id)] == [2, 1]
    # Settled links are not sent again; those in flight are.
    settled_at_once = {
        (row["external_id"], row["related_external_id"])
        for row in world.audit.latest(run["run_key"])
        if row["try_number"] == 1
    }
    assert len(settled_at_once & first_chunk) == left["settled"]
    sent = Counter(delink.pair for delink in world.delinks(before))
    assert {sent[pair] for pair in settled_at_once} == {1}
    assert set(sent.values()) <= {1, 2}


def _links_by_state(world: World, run_key: str) -> Counter[str]:
    """Count the links of the first chunk, the one whose worker is killed."""
    rows = world.audit.rows(
        "SELECT state, count(*) AS links FROM zoho_delink_link WHERE chunk_no = 0 AND run_key = %s GROUP BY state",
        run_key,
    )
    return Counter({row["state"]: row["links"] for row in rows})
