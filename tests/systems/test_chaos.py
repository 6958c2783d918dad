"""
What machines do to a real Airflow: they stop for a minute and continue, and their processes are killed.

Frozen tasks that continue after their links were relinked change nothing. After five minutes of kills, freezes, clears
and repeated windows, every link is compared: no `removed` for a link that others removed, no link that we removed
without `removed` or `presumed_removed`, and no other link touched.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import psutil  # type: ignore[import-untyped]
import pytest
import requests
import sqlalchemy as sa
import yaml

from include.demo.world import start_demo_world
from include.stack import ApiError, LocalAirflow
from include.stack.postgres import LocalPostgres
from include.stack.processes import Supervisor
from tests.support.airflow_stack import logs_kept
from tests.support.airflow_world import AUDIT, Audit, World, without_audit
from tests.support.dag_runs import Runs
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.support.airflow_world import Pair

# One at a time, beside that of tests/e2e: each needs an Airflow of its kind.
pytestmark = [pytest.mark.systems, pytest.mark.xdist_group("other_airflows")]

JOB = "chaos"
DAG_ID = f"zoho_delink__{JOB}"
CHAOS_S = 300.0
CALM_S = 600.0
WINDOW_LINKS = 400
CHUNK = 100
FROZEN_LINKS = 200
ORG_LIMIT = 10
LATENCY_S = 0.25
SEED = 20261127

FROZEN_JOBS = {
    "frozen_single": "single",
    "frozen_by_parent": "by_parent",
    "frozen_single_offline": "single",
    "frozen_by_parent_offline": "by_parent",
}
"""Jobs whose task is frozen, with their strategy; the task of an `offline` one continues without an API server."""

SETTINGS = {
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
    "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "2",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": "20",
    "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "2",
    "AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300",
}


@dataclass
class Chaos:
    """
    What is done to the world, and what is known about it.

    :param ledger: the database server of the ledger alone
    :param random: chooses what happens
    :param by_others: links that were removed by others than us
    :param windows: links of each window
    :param run_ids: runs, with the number of their window
    :param done: how often each thing was done
    """

    world: World
    ledger: LocalPostgres
    ledger_supervisor: Supervisor
    random: random.Random
    by_others: set[Pair] = field(default_factory=set)
    windows: list[list[Pair]] = field(default_factory=list)
    run_ids: dict[str, int] = field(default_factory=dict)
    done: Counter[str] = field(default_factory=Counter)
    _frozen: dict[int, float] = field(default_factory=dict)

    def kill_task(self) -> bool:
        """Kill a task that sends."""
        return self._signal_task(signal.SIGKILL) is not None

    def freeze_task(self) -> bool:
        """Stop a task that sends, for shorter or longer than its leases last."""
        pid = self._signal_task(signal.SIGSTOP)
        if pid is not None:
            self._frozen[pid] = time.monotonic() + self.random.choice([5, 20, 70, 100])
        return pid is not None

    def thaw(self, *, all_of_them: bool = False) -> None:
        """Continue the tasks that were stopped for long enough."""
        for pid, until in list(self._frozen.items()):
            if all_of_them or until < time.monotonic():
                del self._frozen[pid]
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def kill_scheduler(self) -> bool:
        """Kill the scheduler with all tasks, as the end of its machine does, and start another."""
        airflow = self.world.airflow
        scheduler = airflow.component("scheduler")
        airflow.supervisor.kill(scheduler)
        time.sleep(self.random.uniform(0, 5))
        _start_again(airflow, "scheduler", scheduler.log, "--skip-serve-logs")
        return True

    def kill_ledger(self) -> bool:
        """Kill the database server of the ledger and start it again."""
        (server,) = self.ledger_supervisor.components
        self.ledger_supervisor.kill(server)
        time.sleep(self.random.uniform(0, 8))
        self.ledger.start()
        return True

    def clear(self) -> bool:
        """Clear one chunk of a run, finished or not."""
        if not self.run_ids:
            return False
        run_id = self.random.choice(list(self.run_ids)[-2:])
        chunk = self.random.randrange(WINDOW_LINKS // CHUNK)
        with suppress(ApiError):
            self.world.runs.clear(DAG_ID, run_id, ["delink", chunk])
            return True
        return False

    def remove_as_others(self) -> bool:
        """Remove some links of the latest window, as people do in Zoho."""
        if not self.windows:
            return False
        for pair in self.random.sample(self.windows[-1], 10):
            if self.world.zoho.state.unlink("Contacts", pair[0], "Deals", pair[1]):
                self.by_others.add(pair)
        return True

    def start_run(self) -> None:
        """Start a run over a new window, or over an earlier one."""
        if not self.windows or self.random.random() < 0.6:
            self._add_window()
        window = self.random.randrange(len(self.windows)) if self.run_ids else 0
        window = self.random.choice([window, len(self.windows) - 1])
        start = BASE + timedelta(hours=window)
        run_id = self.world.runs.trigger(
            DAG_ID,
            {
                "mode": "apply",
                "window_start": start.isoformat(),
                "window_end": (start + timedelta(hours=1)).isoformat(),
            },
        )
        self.run_ids[run_id] = window

    def unfinished(self) -> list[str]:
        return [
            run_id
            for run_id in self.run_ids
            if _state_of(self.world, DAG_ID, run_id) in {"queued", "running"}
        ]

    def _add_window(self) -> None:
        number = len(self.windows)
        pairs = [(f"w{number:02}-{n:03}", f"x-{n % 37:02}") for n in range(WINDOW_LINKS)]
        self.world.mark(JOB, [(pair, BASE + timedelta(hours=number, minutes=5)) for pair in pairs])
        self.windows.append(pairs)

    def _signal_task(self, number: signal.Signals) -> int | None:
        """Send a signal to one of the tasks that send, and return its process ID; None if there is none."""
        deadline = time.monotonic() + 15
        while not (pids := self._sending()):
            if time.monotonic() > deadline:
                return None
            time.sleep(0.5)
        pid = self.random.choice(pids)
        with suppress(ProcessLookupError):
            os.kill(pid, number)
        return pid

    def _sending(self) -> list[int]:
        return [
            task["pid"]
            for run_id in self.unfinished()
            for task in self.world.runs.delinks(DAG_ID, run_id)
            if task["state"] == "running" and task["pid"] and psutil.pid_exists(task["pid"])
        ]


BASE = datetime(2026, 11, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def chaos(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Chaos]:
    tmp_path = tmp_path_factory.mktemp("chaos")
    home = tmp_path / "airflow"
    for job, strategy in {JOB: "single", **FROZEN_JOBS}.items():
        _write_job(tmp_path / "include", job, strategy)
    with (
        start_demo_world(tmp_path / "demo") as demo,
        logs_kept(home, "chaos-logs", request.session),
        Supervisor() as ledger_supervisor,
    ):
        demo.zoho.state.configure(
            latency_s=LATENCY_S, concurrency_limit=ORG_LIMIT, tokens_per_window=100, journal_size=100_000
        )
        ledger = LocalPostgres(tmp_path / "ledger", ledger_supervisor)
        ledger.start()
        ledger.create_database(AUDIT)
        jobs = str(tmp_path / "include" / "jobs")
        env = {**without_audit(demo.env), **SETTINGS, "ZOHO_CRM_JOBS_FOLDER": jobs}
        env[f"AIRFLOW_CONN_{AUDIT.upper()}"] = _connection(ledger.url(AUDIT))
        with LocalAirflow(home, env=env) as airflow:
            airflow.wait_until_healthy()
            world = World(
                airflow=airflow,
                runs=Runs(airflow),
                zoho=demo.zoho,
                warehouse=demo.warehouse,
                audit=Audit(ledger.url(AUDIT)),
                unused_audit=Audit(ledger.url(AUDIT)),
                day_ends=BASE,
            )
            # A fixed seed: what happens is repeated, when it happens is not.
            yield Chaos(world, ledger, ledger_supervisor, random.Random(SEED))  # noqa: S311


@dataclass
class FrozenTask:
    """
    A task that was frozen while it sent, with the process that supervises it.

    :param links: the links of its run
    :param run_id: of its Dag run
    """

    job: str
    run_id: str
    links: list[Pair]
    process: psutil.Process
    supervisor: psutil.Process

    def is_over(self) -> bool:
        """Return whether the task's process has ended."""
        return not self.process.is_running() or self.process.status() == psutil.STATUS_ZOMBIE


def test_frozen_tasks_leave_links_that_were_relinked(chaos: Chaos) -> None:
    world = chaos.world
    runs = {job: _start_job(world, job) for job in FROZEN_JOBS}
    tasks = _freeze_each(world, runs)
    # Airflow runs a second try once it misses the heartbeats of the first.
    calm_down(world, ((f"zoho_delink__{task.job}", task.run_id) for task in tasks))
    links = [pair for task in tasks for pair in task.links]
    assert world.zoho.state.links("Contacts", "Deals").isdisjoint(links)
    for parent, related in links:
        world.zoho.state.link("Contacts", parent, "Deals", related)
    requests_before = len(_deletes(world))

    online = [task for task in tasks if not task.job.endswith("offline")]
    _continue(online)
    api_server = world.airflow.component("api-server")
    world.airflow.supervisor.kill(api_server)
    try:
        _continue([task for task in tasks if task not in online])
    finally:
        _start_again(world.airflow, "api-server", api_server.log)
        world.airflow.wait_until_healthy()

    assert len(_deletes(world)) == requests_before
    assert set(links) <= world.zoho.state.links("Contacts", "Deals")


def _start_job(world: World, job: str) -> tuple[str, list[Pair]]:
    """Start a run over new links, and return its ID and the links."""
    per_parent = 1 if FROZEN_JOBS[job] == "single" else 4
    links = [(f"{job}-{n // per_parent:03}", f"x-{n % 37:02}") for n in range(FROZEN_LINKS)]
    world.mark(job, [(pair, BASE + timedelta(minutes=5)) for pair in links])
    window = {
        "window_start": BASE.isoformat(),
        "window_end": (BASE + timedelta(hours=1)).isoformat(),
    }
    return world.runs.trigger(f"zoho_delink__{job}", {"mode": "apply", **window}), links


def _freeze_each(world: World, runs: dict[str, tuple[str, list[Pair]]]) -> list[FrozenTask]:
    """Stop the task of each run, and its supervisor, once it has removed the first links."""
    frozen: dict[str, FrozenTask] = {}

    def freeze_those_that_send() -> bool:
        linked = world.zoho.state.links("Contacts", "Deals")
        for job, (run_id, links) in runs.items():
            if job not in frozen and not linked.issuperset(links):
                frozen[job] = _freeze(world, job, run_id, links)
        return len(frozen) == len(runs)

    world.runs.until(freeze_those_that_send, "removed links of each run", poll_s=0.02)
    return list(frozen.values())


def _freeze(world: World, job: str, run_id: str, links: list[Pair]) -> FrozenTask:
    (task,) = world.runs.delinks(f"zoho_delink__{job}", run_id)
    process = psutil.Process(task["pid"])
    supervisor = process.parent()
    for one in (supervisor, process):
        one.suspend()
    left = world.zoho.state.links("Contacts", "Deals") & set(links)
    assert left, f"the task of {job} was done before it was frozen"
    return FrozenTask(job, run_id, links, process, supervisor)


def _continue(tasks: list[FrozenTask]) -> None:
    """Continue frozen tasks: first without their supervisors, which would end them, then with these."""
    for task in tasks:
        task.process.resume()
    time.sleep(10)
    for task in tasks:
        task.supervisor.resume()
    deadline = time.monotonic() + 120
    while not all(task.is_over() for task in tasks):
        assert time.monotonic() < deadline, [task.job for task in tasks if not task.is_over()]
        time.sleep(0.5)


def _deletes(world: World, since: int = 0) -> list[str]:
    """Return the paths of the DELETE requests after the first ones."""
    requests = list(world.zoho.state.journal.requests)[since:]
    return [request.path for request in requests if request.method == "DELETE"]


def _start_again(airflow: LocalAirflow, name: str, log: Path, *options: str) -> None:
    airflow.supervisor.start(
        name, [sys.executable, "-m", "airflow", name, *options], env=airflow.environment(), log=log
    )


def test_nothing_false_is_recorded_and_nothing_else_is_removed(chaos: Chaos) -> None:
    world = chaos.world
    kept = world.snapshot()
    wreak(chaos)
    calm_down(world, ((DAG_ID, run_id) for run_id in chaos.run_ids))
    assert {"kill_task", "freeze_task", "kill_scheduler", "kill_ledger", "clear"} <= (+chaos.done).keys()
    print(json.dumps({"done": chaos.done, "runs": len(chaos.run_ids)}, indent=2))  # noqa: T201 - shown by -s

    planned = {pair for pairs in chaos.windows for pair in pairs}
    linked = {("Contacts", parent, "Deals", related) for parent, related in planned}
    now = world.snapshot().links
    assert kept.links <= now, "a link was removed that is in no window"
    ours = {(parent, related) for _, parent, _, related in linked - now} - chaos.by_others
    recorded: dict[Pair, Counter[str]] = {pair: Counter() for pair in planned}
    for run_id, window in chaos.run_ids.items():
        check_run(world, run_id, chaos.windows[window], recorded)
    for pair, outcomes in recorded.items():
        if pair in ours:
            assert outcomes["removed"] + outcomes["presumed_removed"] >= 1, (pair, outcomes)
            assert outcomes["removed"] <= 1, (pair, outcomes)
        else:
            assert outcomes["removed"] == 0, (pair, outcomes)
    assert sum(outcomes["removed"] for outcomes in recorded.values()) > len(ours) // 2
    check_zoho(world, planned, since=kept.requests)


def wreak(chaos: Chaos) -> None:
    """Do one thing after the other, with a run at work at any time."""
    actions: list[Callable[[], bool]] = [
        chaos.kill_task,
        chaos.kill_task,
        chaos.freeze_task,
        chaos.freeze_task,
        chaos.kill_scheduler,
        chaos.kill_ledger,
        chaos.clear,
        chaos.clear,
        chaos.clear,
        chaos.remove_as_others,
        chaos.remove_as_others,
        chaos.remove_as_others,
    ]
    deck: list[Callable[[], bool]] = []
    end = time.monotonic() + CHAOS_S
    while time.monotonic() < end:
        if len(chaos.unfinished()) < 2:
            chaos.start_run()
        deck = deck or chaos.random.sample(actions, len(actions))
        action = deck.pop()
        chaos.done[action.__name__] += action()
        chaos.thaw()
        time.sleep(chaos.random.uniform(3, 8))
    chaos.thaw(all_of_them=True)


def calm_down(world: World, runs: Iterable[tuple[str, str]]) -> None:
    """
    Let all runs end well; what has failed for good is cleared, as a person would.

    :param runs: a Dag ID and a run ID each
    """
    deadline = time.monotonic() + CALM_S
    unfinished = set(runs)
    while unfinished:
        assert time.monotonic() < deadline, unfinished
        for dag_id, run_id in sorted(unfinished):
            state = _state_of(world, dag_id, run_id)
            if state == "success":
                unfinished.remove((dag_id, run_id))
            if state == "failed":
                body = {"dry_run": False, "dag_run_id": run_id, "only_failed": True}
                with suppress(ApiError, requests.ConnectionError):
                    world.airflow.api("POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", body)
        time.sleep(2)


def _state_of(world: World, dag_id: str, run_id: str) -> str:
    return str(world.runs.get(dag_id, f"/dagRuns/{quote(run_id, safe='')}")["state"])


def check_run(world: World, run_id: str, links: list[Pair], recorded: dict[Pair, Counter[str]]) -> None:
    """Check that a run has one outcome for each link, and counts that match; collect the outcomes."""
    run = world.audit.run(DAG_ID, run_id)
    latest = world.audit.latest(run["run_key"])
    outcomes = {(row["external_id"], row["related_external_id"]): row["outcome"] for row in latest}
    assert len(latest) == len(outcomes) == run["planned"]
    assert outcomes.keys() == set(links)
    counts = Counter(outcomes.values())
    assert counts.keys() <= {"removed", "presumed_removed", "already_absent"}
    assert {name: run[name] for name in counts} == counts
    assert run["status"] == "succeeded"
    for pair, outcome in outcomes.items():
        recorded[pair][outcome] += 1


def check_zoho(world: World, planned: set[Pair], since: int) -> None:
    """Check the requests: the links of the plans alone, never too many at a time, few tokens; and the seals."""
    state = world.zoho.state
    assert list(state.journal.harms) == []
    assert state.limits.refused == 0
    assert state.tokens.issued <= 3
    sent = [path.split("/") for path in _deletes(world, since)]
    assert {len(parts) for parts in sent} == {7}
    assert {(parts[4], parts[6]) for parts in sent} <= planned
    engine = sa.create_engine(world.audit.url.replace("postgresql://", "postgresql+psycopg://"))
    runs = world.audit.rows("SELECT run_key FROM zoho_delink_run")
    assert [fault for run in runs for fault in Ledger(engine).chain.verify(run["run_key"])] == []
    engine.dispose()


def _connection(url: str) -> str:
    parts = sa.make_url(url)
    return json.dumps(
        {
            "conn_type": "postgres",
            "host": parts.host,
            "port": parts.port,
            "login": parts.username,
            "password": parts.password,
            "schema": parts.database,
        }
    )


def _write_job(include: Path, name: str, strategy: str) -> None:
    (include / "jobs").mkdir(parents=True, exist_ok=True)
    (include / "sql").mkdir(exist_ok=True)
    project = Path(__file__).parents[2] / "include"
    job: dict[str, Any] = yaml.safe_load((project / "jobs" / "contacts_deals.yaml").read_text())
    job |= {
        "schedule": None,
        "source": {"conn_id": "warehouse", "sql_file": f"{name}.sql"},
        "strategy": strategy,
        "chunk_size": CHUNK if name == JOB else FROZEN_LINKS,
        # The tasks that are frozen together leave two slots of the organization free.
        "task_concurrency": 4 if name == JOB else 2,
        "max_active_chunks": 4,
        "retries": 20,
        "retry_delay_seconds": 2,
        "guards": {"max_links": WINDOW_LINKS},
    }
    (include / "jobs" / f"{name}.yaml").write_text(yaml.safe_dump(job))
    sql = (project / "sql" / "contacts_deals.sql").read_text()
    (include / "sql" / f"{name}.sql").write_text(sql.replace("contacts_deals", name))
