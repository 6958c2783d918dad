"""A small world for the operators' tests: connections, contexts, a job, and eyes on the audit database."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import sqlalchemy as sa

from zoho_crm.core.job import Job
from zoho_crm.core.links import Relation
from zoho_crm.core.outcomes import DELINK_OUTCOMES
from zoho_crm.ledger import tables
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    import pytest

    from include.local_zoho import LocalZoho

ZOHO = "zoho_crm_default"
AUDIT = "audit"
WAREHOUSE = "warehouse"
RELATION = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
X_EXTERNAL = "Contacts.External_Contact_ID,Deals.External_Deal_ID"
RUN_AFTER = datetime(2026, 11, 22, 2, tzinfo=UTC)
DAG_ID = "zoho_delink__contacts_deals"
RUN_ID = "manual__2026-11-22"
SQL = "SELECT external_id, related_external_id FROM pairs WHERE marked_at >= :window_start AND marked_at < :window_end"


def outcomes(**counts: int) -> dict[str, int]:
    """The summary an operator returns: every outcome, those that are not named with 0."""
    assert set(counts) <= {outcome.value for outcome in DELINK_OUTCOMES}
    return {outcome.value: counts.get(outcome.value, 0) for outcome in DELINK_OUTCOMES}


def set_connection(monkeypatch: pytest.MonkeyPatch, conn_id: str, **values: Any) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(values))


def zoho_connection(zoho: LocalZoho, **extra: Any) -> dict[str, Any]:
    return {
        "conn_type": "zoho_crm",
        "schema": "http",
        "host": zoho.host,
        "port": zoho.port,
        "login": "local-client",
        "password": "local-secret",
        "extra": {"refresh_token": "local-refresh-token", **extra},
    }


def connection_to(url: sa.URL) -> dict[str, Any]:
    """An Airflow connection to a database of the tests."""
    if url.get_backend_name() == "sqlite":
        return {"conn_type": "sqlite", "host": url.database}
    if url.get_backend_name() == "mysql":
        return {
            "conn_type": "mysql",
            "host": url.host,
            "port": url.port,
            "login": url.username,
            "password": url.password,
            "schema": url.database,
            "extra": {"client": url.get_driver_name()},
        }
    query = dict(url.query)
    return {
        "conn_type": "postgres",
        "host": query.pop("host"),
        "login": url.username,
        "schema": url.database,
        "extra": {"sqlalchemy_query": query},
    }


def context(
    task_id: str = "delink",
    *,
    run_id: str = RUN_ID,
    dag_id: str = DAG_ID,
    map_index: int | None = -1,
    try_number: int = 1,
    run_type: str = "manual",
    params: dict[str, Any] | None = None,
    interval: tuple[datetime, datetime] | None = None,
    preflight: dict[str, Any] | None = None,
    guard: dict[str, Any] | None = None,
    max_tries: int = 1,
) -> Any:
    """Airflow's context of a task, as far as the operators look at it."""

    def xcom_pull(*, task_ids: str) -> dict[str, Any] | None:
        return {"preflight": preflight, "guard": guard}[task_ids]

    made: dict[str, Any] = {
        "dag_run": SimpleNamespace(
            run_type=run_type, run_after=RUN_AFTER, logical_date=None, triggering_user_name="ada"
        ),
        "ti": SimpleNamespace(
            dag_id=dag_id,
            run_id=run_id,
            task_id=task_id,
            map_index=map_index,
            try_number=try_number,
            max_tries=max_tries,
            xcom_pull=xcom_pull,
        ),
        "params": params or {},
    }
    if interval is not None:
        made |= {"data_interval_start": interval[0], "data_interval_end": interval[1]}
    return made


def jobs_folder(sql_path: Path) -> Path:
    """The folder of job files that goes with a folder of SQL files."""
    return sql_path.parents[1] / "jobs"


def make_job(**changes: Any) -> Job:
    content = {
        "name": "contacts_deals",
        "start_date": "2026-11-01",
        "source": {"conn_id": WAREHOUSE, "sql_file": "contacts_deals.sql"},
        "relation": {
            "module": "Contacts",
            "external_field": "External_Contact_ID",
            "related_list": "Deals",
            "related_external_field": "External_Deal_ID",
        },
        "audit_conn_id": AUDIT,
    }
    return Job.model_validate({**content, **changes})


def delink(task_id: str = "delink", **changes: Any) -> DeleteRelatedByExternalIdOperator:
    return DeleteRelatedByExternalIdOperator(
        **{
            "task_id": task_id,
            "module": "Contacts",
            "external_field": "External_Contact_ID",
            "related_list": "Deals",
            "related_external_field": "External_Deal_ID",
            **changes,
        }
    )


def pairs(count: int, start: int = 0) -> list[tuple[str, str]]:
    """Links in the order a plan puts them in."""
    return [(f"c-{number:05}", f"d-{number:05}") for number in range(start, start + count)]


def link_all(zoho: LocalZoho, links: Iterable[tuple[str, str]]) -> None:
    for parent, related in links:
        zoho.state.link("Contacts", parent, "Deals", related)


def linked(zoho: LocalZoho) -> set[tuple[str, str]]:
    return zoho.state.links("Contacts", "Deals")


def sent(zoho: LocalZoho, method: str = "DELETE") -> list[tuple[str, str]]:
    """The links whose calls reached Zoho, in their order; checks each path and header on the way."""
    found = []
    for one in zoho.state.journal.requests:
        if one.method != method or not one.path.startswith("/crm/"):
            continue
        if method == "DELETE":
            raw = one.path.split("/")[1:]
            assert len(raw) == 6, one.path
            assert [raw[0], raw[1], raw[2], raw[4]] == ["crm", "v7", "Contacts", "Deals"], one.path
            assert one.query == ""
            assert one.external == X_EXTERNAL
            found.append((unquote(raw[3], errors="strict"), unquote(raw[5], errors="strict")))
        else:
            found.append((one.path, one.query))
    return found


def harms(zoho: LocalZoho) -> list[Any]:
    return list(zoho.state.journal.harms)


@dataclass
class Audit:
    """The audit database of one test, read without the code under test where that is possible."""

    url: sa.URL
    engine: sa.Engine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = sa.create_engine(self.url)

    def rows(self, table: str, order_by: str) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            result = connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY {order_by}")  # noqa: S608
            return [dict(row) for row in result.mappings()]

    def runs(self) -> list[dict[str, Any]]:
        return self.rows("zoho_delink_run", "run_key")

    def run(self) -> dict[str, Any]:
        (run,) = self.runs()
        return run

    def links(self) -> list[dict[str, Any]]:
        return self.rows("zoho_delink_link", "run_key, seq")

    def events(self) -> list[dict[str, Any]]:
        return self.rows("zoho_delink_audit", "event_id")

    def latest(self) -> dict[tuple[str, str], str]:
        """The latest outcome of each link; there must be one for each."""
        rows = self.rows("zoho_delink_latest", "run_key, seq")
        found = {(row["external_id"], row["related_external_id"]): row["outcome"] for row in rows}
        assert len(found) == len(rows)
        return found

    def leases(self) -> list[str]:
        with self.engine.connect() as connection:
            return list(
                connection.execute(
                    sa.select(tables.slots.c.holder).where(tables.slots.c.holder.is_not(None))
                ).scalars()
            )

    def ledger(self) -> Ledger:
        ledger = Ledger(self.engine)
        ledger.ensure_schema()
        return ledger


@dataclass
class Warehouse:
    """A warehouse with one table of pairs."""

    path: Path
    engine: sa.Engine = field(init=False)

    def __post_init__(self) -> None:
        self.engine = sa.create_engine(f"sqlite:///{self.path}")
        with self.engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TABLE pairs (external_id TEXT, related_external_id TEXT, marked_at TEXT)"
            )

    def add(self, links: Iterable[tuple[object, object]], at: str = "2026-11-21 12:00:00.000000") -> None:
        with self.engine.begin() as connection:
            for parent, related in links:
                connection.exec_driver_sql("INSERT INTO pairs VALUES (?, ?, ?)", (parent, related, at))

    def drop(self) -> None:
        with self.engine.begin() as connection:
            connection.exec_driver_sql("DROP TABLE pairs")
