"""Audit databases and warehouses of the operators' tests, with the Airflow connections to them. A pytest plugin."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from zoho_crm.core.job_files import JobSql

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from zoho_crm.ledger.ledger import Ledger

AUDIT = "audit"
WAREHOUSE = "warehouse"
SQL = "SELECT external_id, related_external_id FROM pairs WHERE marked_at >= :window_start AND marked_at < :window_end"


def job_sql(text: str, field: str = "source.sql_file") -> JobSql:
    """SQL of a job, from the file pairs.sql."""
    return JobSql(field, "pairs.sql", text)


def set_connection(monkeypatch: pytest.MonkeyPatch, conn_id: str, **values: Any) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{conn_id.upper()}", json.dumps(values))


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
                connection.exec_driver_sql(
                    "SELECT holder FROM zoho_delink_slot WHERE holder IS NOT NULL"
                ).scalars()
            )

    def ledger(self) -> Ledger:
        from zoho_crm.ledger.ledger import Ledger

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


@pytest.fixture(params=["sqlite", "postgres"])
def audit(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Audit]:
    """An empty audit database, and the connection to it."""
    if request.param == "sqlite":
        path = shutil.copy(request.getfixturevalue("empty_sqlite_ledger"), tmp_path / "audit.db")
        url = sa.URL.create("sqlite", database=str(path))
    else:
        url = request.getfixturevalue(f"{request.param}_ledger_url")
    set_connection(monkeypatch, AUDIT, **connection_to(url))
    audit = Audit(url)
    yield audit
    audit.engine.dispose()


@pytest.fixture
def audit_without_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Audit]:
    """An audit database in which nothing was ever created, and the connection to it."""
    url = sa.URL.create("sqlite", database=str(tmp_path / "audit.db"))
    set_connection(monkeypatch, AUDIT, **connection_to(url))
    audit = Audit(url)
    audit.engine.connect().close()
    yield audit
    audit.engine.dispose()


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warehouse]:
    """A warehouse without rows, and the connection to it."""
    path = tmp_path / "warehouse.db"
    set_connection(monkeypatch, WAREHOUSE, conn_type="sqlite", host=str(path))
    warehouse = Warehouse(path)
    yield warehouse
    warehouse.engine.dispose()


@pytest.fixture
def sql_path(tmp_path: Path) -> Path:
    path = tmp_path / "include" / "sql" / "contacts_deals.sql"
    path.parent.mkdir(parents=True)
    path.write_text(SQL, encoding="utf-8")
    return path
