"""One run on two Celery workers that share Redis, PostgreSQL, a token and Zoho's limit; one worker is killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import time
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
import yaml

from include.demo.world import start_demo_world
from include.stack.processes import Supervisor
from tests.support.airflow_stack import logs_kept
from tests.support.airflow_world import AUDIT, build_world, without_audit
from tests.support.celery_airflow import REDIS_MISSING, CeleryAirflow, LocalRedis
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.airflow_world import CrmSnapshot, World

# One at a time, beside that of tests/e2e: each needs an Airflow of its kind.
pytestmark = [pytest.mark.systems, pytest.mark.xdist_group("other_airflows")]
pytest.importorskip(
    "airflow.providers.celery", reason="needs the dependency group `systems`: make test-systems"
)

JOB = "two_workers"
DAG_ID = f"zoho_delink__{JOB}"
POOL = "zoho_crm"
LINKS = 20_000
CHUNK = 500
WORKERS = 2
TASKS_EACH = 2
ORG_LIMIT = 10
LATENCY_S = 0.01
HEARTBEAT_TIMEOUT_S = 20
KILL_AT = 0.4 * LINKS

SETTINGS = {
    # A task without a heartbeat for that long goes to another worker; the default is five minutes.
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(HEARTBEAT_TIMEOUT_S),
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    # The same for a task that a worker has received but not started.
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "2",
    # The Dag files do not change.
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
}

# A worker's log, at the start of each task.
_STARTED = re.compile(
    r"Executing workload in Celery: .*task_id='delink'.*?try_number=(\d+).*?map_index=(\d+)"
)

Try = tuple[int, int]
"""Number of a chunk, and of the try at it."""


@dataclass(frozen=True, slots=True)
class Lost:
    """
    The state of the run when a worker was killed.

    :param at: time of the kill
    :param chunks: the chunks of the worker, and the number of links in flight of each
    :param done: number of links of the run with an outcome
    """

    worker: str
    at: datetime
    chunks: dict[int, int]
    done: int


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    if shutil.which("redis-server") is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(REDIS_MISSING)
    home = tmp_path / "airflow"
    _write_job(tmp_path / "include")
    with start_demo_world(tmp_path / "demo") as demo, logs_kept(home, "two-workers-logs", request.session):
        demo.zoho.state.configure(latency_s=LATENCY_S, concurrency_limit=ORG_LIMIT)
        env = {
            **without_audit(demo.env),
            **SETTINGS,
            "ZOHO_CRM_JOBS_FOLDER": str(tmp_path / "include" / "jobs"),
        }
        with CeleryAirflow(home, workers=WORKERS, worker_concurrency=TASKS_EACH, env=env) as airflow:
            airflow.wait_until_healthy()
            airflow.wait_for_workers()
            pool = {"name": POOL, "slots": WORKERS * TASKS_EACH, "include_deferred": False}
            airflow.api("POST", "/api/v2/pools", pool)
            yield build_world(airflow, demo, datetime.now(UTC))


def test_run_finishes_on_the_other_worker_when_one_is_killed(world: World) -> None:
    pairs = [(f"t-{n:05}", f"u-{n % 997:03}") for n in range(LINKS)]
    world.mark(JOB, [(pair, datetime.now(UTC) - timedelta(hours=1)) for pair in pairs])
    before = world.snapshot()

    run_id = world.runs.trigger(DAG_ID, {"mode": "apply"})
    world.runs.until(lambda: bool(world.delinks(before)), "the first link to be sent")
    began = time.monotonic()
    lost = kill_a_worker(world, run_id)
    world.runs.finish(DAG_ID, run_id)
    print_figures(world, run_id, lost, time.monotonic() - began)

    # Links whose requests died with the worker are found gone, without evidence that the run removed them.
    latest = world.audit.latest(world.audit.run(DAG_ID, run_id)["run_key"])
    expected = dict.fromkeys(pairs, "removed") | {
        (row["external_id"], row["related_external_id"]): "presumed_removed"
        for row in latest
        if row["outcome"] == "presumed_removed" and row["try_number"] > 1
    }
    run = world.check_run(DAG_ID, run_id, expected, since=before)
    assert run["status"] == "succeeded"
    engine = sa.create_engine(world.airflow.postgres.url(AUDIT, "psycopg"))
    assert list(Ledger(engine).chain.verify(run["run_key"])) == []
    engine.dispose()

    limits = world.zoho.state.limits
    assert limits.refused == 0
    assert ORG_LIMIT // 2 < limits.max_in_flight <= ORG_LIMIT
    assert world.zoho.state.tokens.issued == 1
    check_requests(world, before, lost)
    check_tasks(world, lost)


@pytest.mark.skipif(shutil.which("redis-server") is None, reason=REDIS_MISSING)
def test_redis_requires_its_password(tmp_path: Path) -> None:
    with Supervisor() as supervisor:
        redis = LocalRedis(tmp_path / "redis", supervisor)
        redis.start()
        with socket.create_connection(("127.0.0.1", redis.port), timeout=5) as connection:
            connection.sendall(b"KEYS *\r\n")
            assert connection.recv(100).startswith(b"-NOAUTH")
        assert stat.S_IMODE((tmp_path / "redis" / "redis.conf").stat().st_mode) == 0o600


def check_requests(world: World, before: CrmSnapshot, lost: Lost) -> None:
    """Check that a link was sent twice only if it was in flight on the killed worker."""
    sent = Counter(delink.pair for delink in world.delinks(before))
    again = {pair for pair, times in sent.items() if times > 1}
    assert set(sent.values()) <= {1, 2}
    assert len(again) <= sum(lost.chunks.values())
    assert {int(parent.removeprefix("t-")) // CHUNK for parent, _ in again} <= lost.chunks.keys()


def check_tasks(world: World, lost: Lost) -> None:
    """Check that both workers ran chunks, and that only the lost chunks ran again, on the other worker."""
    started = {worker: started_by(world, worker) for worker in world.airflow.workers}
    (survivor,) = started.keys() - {lost.worker}
    chunks = {worker: Counter(chunk for chunk, _ in tries) for worker, tries in started.items()}
    assert all(each.total() > TASKS_EACH for each in chunks.values())
    assert chunks[lost.worker].keys() & chunks[survivor].keys() == lost.chunks.keys()
    assert chunks[lost.worker].keys() | chunks[survivor].keys() == set(range(LINKS // CHUNK))
    assert {times for each in chunks.values() for times in each.values()} == {1}
    # A task killed before Airflow knew that it ran is queued again as the same try.
    assert {number for chunk, number in started[survivor] if chunk in lost.chunks} <= {1, 2}


def kill_a_worker(world: World, run_id: str) -> Lost:
    """Kill a worker with all its slots busy, once both workers have finished some chunks."""
    run_key = world.audit.run(DAG_ID, run_id)["run_key"]
    victim = world.airflow.workers[-1]

    def unfinished_chunks() -> dict[int, Counter[str]]:
        """Count the links by state of each unfinished chunk."""
        rows = world.audit.rows(
            "SELECT chunk_no, state, count(*) AS links FROM zoho_delink_link WHERE run_key = %s "
            "GROUP BY chunk_no, state",
            run_key,
        )
        found: dict[int, Counter[str]] = {}
        for row in rows:
            found.setdefault(row["chunk_no"], Counter())[row["state"]] = row["links"]
        return {chunk: states for chunk, states in found.items() if states["settled"] < CHUNK}

    def both_busy() -> bool:
        left = unfinished_chunks()
        settled = LINKS - sum(states.total() - states["settled"] for states in left.values())
        at_work = [chunk for chunk, _ in sorted(started_by(world, victim))[-TASKS_EACH:]]
        return settled >= KILL_AT and all(left.get(chunk, Counter())["settled"] > 0 for chunk in at_work)

    world.runs.until(both_busy, "the middle of the run", poll_s=0.1)
    world.airflow.kill_worker(victim)
    at = datetime.now(UTC)
    left = unfinished_chunks()
    mine = {chunk for chunk, _ in started_by(world, victim)} & left.keys()
    assert mine, "the worker was killed between two chunks"
    done = LINKS - sum(states.total() - states["settled"] for states in left.values())
    return Lost(victim, at, {chunk: left[chunk]["in_flight"] for chunk in mine}, done)


def started_by(world: World, worker: str) -> set[Try]:
    """Return the chunks that a worker has started, from its log."""
    log = (world.airflow.home / "logs" / f"{worker}.log").read_text(errors="replace")
    return {(int(chunk), int(try_number)) for try_number, chunk in _STARTED.findall(log)}


def print_figures(world: World, run_id: str, lost: Lost, seconds: float) -> None:
    """Print the figures for docs/performance.md."""
    tasks = world.runs.delinks(DAG_ID, run_id)
    starts = [datetime.fromisoformat(task["start_date"]) for task in tasks if task["try_number"] == 2]
    waits = sorted((start - lost.at).total_seconds() for start in starts)
    figures = {
        "links": LINKS,
        "seconds from the first to the last link": round(seconds, 1),
        "links per second": round(LINKS / seconds, 1),
        "links with an outcome when the worker was killed": lost.done,
        "unfinished chunks of that worker, and links in flight in each": lost.chunks,
        "seconds until their retries started": [round(wait, 1) for wait in waits],
        "tasks of each worker": {each: len(started_by(world, each)) for each in world.airflow.workers},
        "maximum requests in flight": world.zoho.state.limits.max_in_flight,
        "tokens": world.zoho.state.tokens.issued,
    }
    print(json.dumps(figures, indent=2))  # noqa: T201 - shown by pytest -s


def _write_job(include: Path) -> None:
    include.mkdir()
    for folder in ("jobs", "sql"):
        (include / folder).mkdir()
    project = Path(__file__).parents[2] / "include"
    job = yaml.safe_load((project / "jobs" / "contacts_deals.yaml").read_text())
    job |= {
        "schedule": None,
        "source": {"conn_id": "warehouse", "sql_file": f"{JOB}.sql"},
        "chunk_size": CHUNK,
        # Each of the four tasks gets slots: the last one gets what the others leave.
        "task_concurrency": 3,
        "max_active_chunks": WORKERS * TASKS_EACH,
        "pool": POOL,
        "retry_delay_seconds": 2,
        "guards": {"max_links": LINKS},
    }
    (include / "jobs" / f"{JOB}.yaml").write_text(yaml.safe_dump(job))
    sql = (project / "sql" / "contacts_deals.sql").read_text()
    (include / "sql" / f"{JOB}.sql").write_text(sql.replace("contacts_deals", JOB))
