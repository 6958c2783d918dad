"""Dag runs on a real scheduler: this project's Dag, and one with a mapped task per link."""

from __future__ import annotations

import json
import shutil
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import psutil  # type: ignore[import-untyped]
import requests
import yaml

from benchmarks.world import (
    CONCURRENCY,
    PROJECT,
    RELATION,
    X_EXTERNAL,
    as_environment,
    links_of,
    postgres_connection,
    sqlite_connection,
    write_links,
)
from include.stack import LocalAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from benchmarks.world import Zoho

_RUN_TIMEOUT_S = 400.0

JOB = {
    "schedule": None,
    "start_date": "2026-11-01",
    "relation": RELATION,
    "audit_conn_id": "zoho_delink_audit",
    "guards": {"max_links": None},
    # Two running tasks use the org's limit; a third waits to replace the first that ends.
    "chunk_size": 2_500,
    "task_concurrency": CONCURRENCY // 2,
    "max_active_chunks": 3,
}
"""Recommended settings of a job with many links."""


@dataclass(frozen=True, slots=True)
class Run:
    """
    A finished Dag run.

    :param wall_s: seconds from its trigger to its end
    :param cpu_s: seconds of CPU, of Airflow's processes, its tasks and PostgreSQL together
    """

    wall_s: float
    cpu_s: float
    tasks: list[dict[str, Any]]

    def span_s(self, task_id: str) -> float:
        """Return seconds from the first start to the last end of a mapped task."""
        mine = [task for task in self.tasks if task["task_id"] == task_id]
        ends = max(_instant(task["end_date"]) for task in mine)
        return (ends - min(_instant(task["start_date"]) for task in mine)).total_seconds()


@dataclass(frozen=True, slots=True)
class Bench:
    """A running Airflow with the Dags of the benchmarks."""

    airflow: LocalAirflow

    def run(self, dag_id: str, conf: Mapping[str, object] | None = None) -> Run:
        """Run a Dag until it succeeds."""
        self.airflow.wait_for_dag(dag_id, 120)
        self.airflow.unpause(dag_id)
        cpu_s = self._cpu_s()
        run_id = self.airflow.trigger(dag_id, conf)
        state = self._wait(dag_id, run_id)
        cpu_s = self._cpu_s() - cpu_s
        path = f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}"
        run = self.airflow.api("GET", path)
        tasks: list[dict[str, Any]] = []
        while page := self.airflow.api("GET", f"{path}/taskInstances?limit=100&offset={len(tasks)}"):
            if not page["task_instances"]:
                break
            tasks += page["task_instances"]
        if state != "success":
            raise RuntimeError(
                f"{dag_id} ended as {state}: {[(t['task_id'], t['state']) for t in tasks][:20]}"
            )
        wall = _instant(run["end_date"]) - _instant(run["queued_at"])
        return Run(wall.total_seconds(), cpu_s, tasks)

    def _wait(self, dag_id: str, run_id: str) -> str:
        """Return the final state of a run; the API may time out while tasks use all cores."""
        deadline = time.monotonic() + _RUN_TIMEOUT_S
        while True:
            try:
                return self.airflow.wait_for_run(dag_id, run_id, _RUN_TIMEOUT_S)
            except requests.Timeout:
                if time.monotonic() > deadline:
                    raise

    def _cpu_s(self) -> float:
        """Return the CPU seconds of all processes of this Airflow, ended ones included."""
        total = 0.0
        for pid in self.airflow.processes():
            with suppress(psutil.NoSuchProcess):
                times = psutil.Process(pid).cpu_times()
                total += times.user + times.system + times.children_user + times.children_system
        return total


@contextmanager
def bench_airflow(folder: Path, zoho: Zoho, jobs: Mapping[str, int], per_link: int) -> Iterator[Bench]:
    """
    Run an Airflow with jobs, given as number of links by name.

    :param per_link: number of links of the Dag with one mapped task per link
    """
    include, dags = folder / "include", folder / "dags"
    for made in (include / "jobs", include / "sql", dags):
        made.mkdir(parents=True)
    for source in (PROJECT / "dags" / "zoho_delink.py", PROJECT / "benchmarks" / "dags" / "per_link.py"):
        shutil.copy(source, dags)
    warehouse = folder / "warehouse.db"
    for name, links in jobs.items():
        write_links(warehouse, name, job_links(name, links))
        (include / "sql" / f"{name}.sql").write_text(f"SELECT * FROM {name}\n")  # noqa: S608 - our own name
        job = {**JOB, "source": {"conn_id": "warehouse", "sql_file": f"{name}.sql"}}
        (include / "jobs" / f"{name}.yaml").write_text(yaml.safe_dump(job))
    parts = urlsplit(zoho.url)
    http = {
        "conn_type": "http",
        "host": f"http://{parts.hostname}",
        "port": parts.port,
        "extra": {"Authorization": f"Zoho-oauthtoken {zoho.token()}", "X-EXTERNAL": X_EXTERNAL},
    }
    connections = {
        "zoho_crm_default": zoho.connection(),
        "warehouse": sqlite_connection(warehouse),
        "bench_http": http,
    }
    env = {
        **as_environment(connections),
        "ZOHO_CRM_JOBS_FOLDER": str(include / "jobs"),
        "BENCH_PER_LINK": str(per_link),
    }
    airflow = LocalAirflow(folder / "airflow", dags_folder=dags, parallelism=16, env=env, triggerer=False)
    with airflow:
        audit = postgres_connection(airflow.postgres, "zoho_delink_audit")
        body = {"connection_id": "zoho_delink_audit", **audit, "extra": json.dumps({})}
        airflow.wait_until_healthy()
        airflow.api("POST", "/api/v2/connections", body)
        yield Bench(airflow)


def job_links(name: str, links: int) -> list[tuple[str, str]]:
    """Return the links of a job; jobs share no links."""
    return [(f"{name}-{parent}", f"{name}-{related}") for parent, related in links_of(links)]


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
