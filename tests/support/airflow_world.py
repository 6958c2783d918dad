"""
The world of the e2e tests: one Airflow, a local Zoho, a warehouse, and an audit database on PostgreSQL.

A pytest plugin of the test modules that use it. Each of them overrides `stack_env` with `jobs_env`, so that the one
Airflow of the session reads the jobs below.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import psycopg
import pytest
import sqlalchemy as sa
import yaml
from psycopg.rows import dict_row

from include.demo.world import start_demo_world
from tests.support.dag_runs import Runs

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from include.demo.world import DemoWorld
    from include.stack import LocalAirflow
    from zoho_crm.testing.local_zoho import LocalZoho

pytest_plugins = ["tests.support.airflow_stack"]

_INCLUDE = Path(__file__).parents[2] / "include"
_DAYS_BACK = 5
# The rows of the warehouse that a job uses, unless they are named after the job.
_RELATIONS = {"manual": "contacts_deals", "week_copy": "week"}

MANUAL = "zoho_delink__manual"
DRY_RUN_LINKS = [["who-may-see", "a-deal"], ["=cmd|' /C calc'!A0", "@SUM(1)"]]
AUDIT = "zoho_delink_audit"
UNUSED_AUDIT = "zoho_delink_unused"

Pair = tuple[str, str]

BROKEN_JOB = """\
description: a job with invalid fields
schedule: every night
start_date: 2026-11-01
source: {conn_id: warehouse, sql_file: contacts_deals.sql}
relation:
  module: Contacts
  external_field: External_Contact_ID
  related_list: Deals
  related_external_field: External_Deal_ID
audit_conn_id: zoho_delink_audit
chunksize: 5
"""


@dataclass(frozen=True, slots=True)
class Home:
    """The parts that exist before Airflow starts: the local Zoho, the warehouse, and a folder of job files."""

    demo: DemoWorld
    jobs: Path
    day_ends: datetime


@dataclass(frozen=True, slots=True)
class CrmSnapshot:
    """The CRM at one moment: its links, its number of records, and the requests received so far."""

    links: frozenset[tuple[str, str, str, str]]
    records: dict[str, int]
    requests: int


@dataclass(frozen=True, slots=True)
class Delink:
    """A DELETE as the local Zoho saw it."""

    pair: Pair
    status: int
    kind: str


@dataclass(frozen=True, slots=True)
class Audit:
    """The audit database, read with SQL, past the code under test."""

    url: str

    def rows(self, query: str, *values: object) -> list[dict[str, Any]]:
        with psycopg.connect(self.url, row_factory=dict_row) as connection:
            return connection.execute(query, values).fetchall()

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        (run,) = self.rows(
            "SELECT * FROM zoho_delink_run WHERE dag_id = %s AND dag_run_id = %s", dag_id, run_id
        )
        return run

    def latest(self, run_key: str) -> list[dict[str, Any]]:
        return self.rows("SELECT * FROM zoho_delink_latest WHERE run_key = %s ORDER BY seq", run_key)


@dataclass(frozen=True, slots=True)
class World:
    """
    Everything that a test uses.

    :param day_ends: end of the last complete day of the job `daily`, whose days begin half a day away from now
    """

    airflow: LocalAirflow
    runs: Runs
    zoho: LocalZoho
    warehouse: Path
    audit: Audit
    unused_audit: Audit
    day_ends: datetime

    def snapshot(self) -> CrmSnapshot:
        state = self.zoho.state
        links = frozenset(
            (link["module"], link["external_id"], link["related_list"], link["related_external_id"])
            for link in state.crm.to_json()
        )
        records = {module: state.crm.count(module) for module in state.crm.modules}
        return CrmSnapshot(links, records, len(state.journal.requests))

    def token_of(self, user: str) -> str:
        """Return an access token for Airflow's API and pages."""
        login = {"username": user, "password": self.airflow.passwords[user]}
        token: str = self.airflow.api("POST", "/auth/token", login, user=None)["access_token"]
        return token

    def delinks(self, since: CrmSnapshot, until: CrmSnapshot | None = None) -> list[Delink]:
        """Return the DELETE requests between two snapshots, or until now."""
        seen = []
        end = until.requests if until else None
        for request in list(self.zoho.state.journal.requests)[since.requests : end]:
            if request.method == "DELETE":
                segments = [unquote(segment) for segment in request.path.split("/")]
                seen.append(Delink((segments[4], segments[6]), request.status, request.kind))
        return seen

    def mark(self, relation: str, rows: Iterable[tuple[Pair, datetime]], *, linked: bool = True) -> None:
        """Write rows into the warehouse, and link their records in the CRM."""
        rows = list(rows)
        with closing(sqlite3.connect(self.warehouse)) as connection, connection:
            connection.executemany(
                "INSERT INTO crm_links_to_remove VALUES (?, ?, ?, ?)",
                [(relation, *pair, f"{marked_at:%Y-%m-%d %H:%M:%S.%f}") for pair, marked_at in rows],
            )
        for (parent, related), _ in rows if linked else ():
            self.zoho.state.link("Contacts", parent, "Deals", related)

    def check_run(
        self,
        dag_id: str,
        run_id: str,
        planned: dict[Pair, str],
        *,
        since: CrmSnapshot,
        until: CrmSnapshot | None = None,
    ) -> dict[str, Any]:
        """
        Compare the outcomes of a finished run with the local Zoho, and return the run's row.

        :param planned: the outcome that each link must have; invalid links are compared by count only
        :param since: the CRM before the run
        :param until: the CRM after the run; by default its current state
        """
        run = self.audit.run(dag_id, run_id)
        latest = self.audit.latest(run["run_key"])
        outcomes = Counter(planned.values())
        assert Counter(row["outcome"] for row in latest) == outcomes
        actual = {(row["external_id"], row["related_external_id"]): row["outcome"] for row in latest}
        assert len(actual) == len(latest), "a link has two latest outcomes"
        assert _sendable(actual) == _sendable(planned)
        assert {name: run[name] for name in outcomes} == outcomes
        assert run["planned"] == len(latest)
        assert run["finished_at"] is not None
        (states,) = self.audit.rows(
            "SELECT count(*) AS links, count(*) FILTER (WHERE state = 'settled') AS settled "
            "FROM zoho_delink_link WHERE run_key = %s",
            run["run_key"],
        )
        assert states == {"links": len(latest), "settled": len(latest)}
        self.check_crm(planned, since=since, until=until)
        return run

    def check_crm(
        self, planned: dict[Pair, str], *, since: CrmSnapshot, until: CrmSnapshot | None = None
    ) -> None:
        """Check that exactly the removed links are gone from the CRM, and that nothing else changed."""
        now = until or self.snapshot()
        removed = {pair for pair, outcome in planned.items() if outcome in {"removed", "presumed_removed"}}
        assert since.links - now.links == {("Contacts", one, "Deals", other) for one, other in removed}
        assert now.links <= since.links
        assert now.records == since.records
        assert list(self.zoho.state.journal.harms) == []
        delinks = self.delinks(since, until)
        assert {delink.kind for delink in delinks} <= {"delink"}
        assert {delink.pair for delink in delinks} <= _sendable(planned).keys()


def _sendable(outcomes: dict[Pair, str]) -> dict[Pair, str]:
    return {pair: outcome for pair, outcome in outcomes.items() if outcome != "invalid"}


@pytest.fixture(scope="session")
def delink_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    folder = tmp_path_factory.mktemp("delink")
    # Half a day away from now: the schedule is due once when it is switched on, and not again during the tests.
    day_ends = (datetime.now(UTC) - timedelta(hours=12)).replace(second=0, microsecond=0)
    with start_demo_world(folder / "demo") as demo:
        _write_jobs(folder / "include", day_ends)
        yield Home(demo, folder / "include" / "jobs", day_ends)


@pytest.fixture(scope="session")
def jobs_env(delink_home: Home) -> dict[str, str]:
    return {"ZOHO_CRM_JOBS_FOLDER": str(delink_home.jobs)}


@pytest.fixture(scope="session")
def world(airflow_stack: LocalAirflow, delink_home: Home) -> World:
    folder = airflow_stack.environment().get("ZOHO_CRM_JOBS_FOLDER")
    assert folder == str(delink_home.jobs), (
        "a test module that ran earlier does not override stack_env with jobs_env"
    )
    zoho_env = without_audit(delink_home.demo.env)
    stored = {name.removeprefix("AIRFLOW_CONN_").lower(): json.loads(zoho_env[name]) for name in zoho_env}
    stored["zoho_wrong_password"] = {**stored["zoho_crm_default"], "password": "not-the-secret"}
    for conn_id, connection in stored.items():
        body = {"connection_id": conn_id, **connection, "extra": json.dumps(connection.get("extra", {}))}
        airflow_stack.api("POST", "/api/v2/connections", body)
    return build_world(airflow_stack, delink_home.demo, delink_home.day_ends)


@pytest.fixture(scope="session")
def dry_run_id(world: World) -> str:
    """Return a finished dry run of the job `manual`, for tests that only read it."""
    run_id = world.runs.trigger(MANUAL, {"links": DRY_RUN_LINKS})
    world.runs.finish(MANUAL, run_id)
    return run_id


def build_world(airflow: LocalAirflow, demo: DemoWorld, day_ends: datetime) -> World:
    """Create the audit databases with their connections, and return the world around a healthy Airflow."""
    return World(
        airflow=airflow,
        runs=Runs(airflow),
        zoho=demo.zoho,
        warehouse=demo.warehouse,
        audit=_create_audit(airflow, AUDIT),
        unused_audit=_create_audit(airflow, UNUSED_AUDIT),
        day_ends=day_ends,
    )


def without_audit(env: dict[str, str]) -> dict[str, str]:
    """Return the environment of the demo without its audit connection, which :func:`build_world` creates."""
    return {name: value for name, value in env.items() if not name.endswith(AUDIT.upper())}


def _create_audit(airflow: LocalAirflow, name: str) -> Audit:
    airflow.postgres.create_database(name)
    url = airflow.postgres.url(name)
    parts = sa.make_url(url)
    connection = {
        "connection_id": name,
        "conn_type": "postgres",
        "host": parts.host,
        "port": parts.port,
        "login": parts.username,
        "password": parts.password,
        "schema": parts.database,
    }
    airflow.api("POST", "/api/v2/connections", connection)
    return Audit(url)


def _write_jobs(include: Path, day_ends: datetime) -> None:
    """Write the sample jobs, jobs like the sample one, and one that is broken."""
    (include / "jobs").mkdir(parents=True)
    (include / "sql").mkdir()
    for kind in ("jobs", "sql"):
        for file in (_INCLUDE / kind).iterdir():
            (include / kind / file.name).write_text(file.read_text())
    sample = yaml.safe_load((_INCLUDE / "jobs" / "contacts_deals.yaml").read_text())
    sql = (_INCLUDE / "sql" / "contacts_deals.sql").read_text()
    for name, job in _jobs(sample, day_ends).items():
        relation = _RELATIONS.get(name, name)
        job["source"] = {**job["source"], "sql_file": f"{relation}.sql"}
        (include / "sql" / f"{relation}.sql").write_text(sql.replace("contacts_deals", relation))
        (include / "jobs" / f"{name}.yaml").write_text(yaml.safe_dump(job))
    (include / "jobs" / "broken.yaml").write_text(BROKEN_JOB)


def _jobs(sample: dict[str, Any], day_ends: datetime) -> dict[str, dict[str, Any]]:
    manual = {**sample, "schedule": None}
    daily = {
        **sample,
        "schedule": f"{day_ends.minute} {day_ends.hour} * * *",
        "start_date": (day_ends - timedelta(days=_DAYS_BACK)).date(),
        "automatic": "apply",
    }
    week = {**daily, "start_date": (day_ends - timedelta(days=10)).date()}
    return {
        "manual": manual,
        "interrupted": {**manual, "chunk_size": 100, "retry_delay_seconds": 2},
        "wrong_password": {
            **manual,
            "zoho_conn_id": "zoho_wrong_password",
            "audit_conn_id": UNUSED_AUDIT,
        },
        "daily": daily,
        "week": week,
        "week_copy": week.copy(),
        "needs_approval": {
            **manual,
            "guards": {"max_links": 2, "on_breach": "approve"},
            "retry_delay_seconds": 2,
        },
        "by_asset": {**sample, "schedule": {"asset": "links_to_remove"}, "automatic": "apply"},
    }
