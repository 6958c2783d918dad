from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.support.ledger import RUN, run_start
from zoho_crm.errors import ZohoConfigError, ZohoError
from zoho_crm.ledger.engine import prepared, reading
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import PostgresServer


def test_sqlite_waits_for_the_lock_and_is_durable(
    sqlite_engine: sa.Engine, sqlite_synchronous: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoho_crm.ledger.engine.SQLITE_SYNCHRONOUS", sqlite_synchronous)
    with sqlite_engine.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("busy_timeout", "journal_mode", "synchronous")
        }

    assert pragmas == {"busy_timeout": 60_000, "journal_mode": "wal", "synchronous": 2}


def test_sqlite_takes_the_write_lock_as_a_transaction_begins(sqlite_engine: sa.Engine) -> None:
    with sqlite_engine.begin():
        other = sqlite3.connect(str(sqlite_engine.url.database), timeout=0)
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            other.execute("BEGIN IMMEDIATE")
        other.close()


def test_sqlite_reads_while_another_connection_writes(sqlite_engine: sa.Engine) -> None:
    with sqlite_engine.begin() as writer:
        writer.exec_driver_sql("CREATE TABLE t (a INTEGER)")
        with reading(sqlite_engine).begin() as reader:
            assert reader.exec_driver_sql("SELECT count(*) FROM sqlite_master").scalar() == 0


def test_sqlite_rolls_a_failed_transaction_back_whole(sqlite_engine: sa.Engine) -> None:
    with sqlite_engine.connect() as connection, connection.begin() as transaction:
        connection.exec_driver_sql("CREATE TABLE t (a INTEGER)")
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
        transaction.rollback()

    assert sa.inspect(sqlite_engine).get_table_names() == []


def test_preparing_an_engine_again_changes_nothing(sqlite_engine: sa.Engine) -> None:
    prepared(sqlite_engine)

    with sqlite_engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a INTEGER)")


def test_errors_hide_parameters(ledger: Ledger, engine: sa.Engine) -> None:
    with pytest.raises(sa.exc.DBAPIError, match="SQL parameters hidden"), engine.begin() as connection:
        connection.execute(sa.text("SELECT * FROM no_such_table WHERE id = :id"), {"id": "c-1"})


def test_connection_check_passes_where_the_database_answers(ledger: Ledger) -> None:
    ledger.check_connection()


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("sqlite:////no/such/folder/ledger.db", "/no/such/folder/ledger.db"),
        ("postgresql+psycopg2://me:hunter2@127.0.0.1:1/audit", "127.0.0.1"),
        ("postgresql+psycopg://me:hunter2@127.0.0.1:1/audit", "127.0.0.1"),
    ],
    ids=["sqlite", "psycopg2", "psycopg"],
)
def test_connection_check_says_what_cannot_be_reached_and_no_password(url: str, named: str) -> None:
    with pytest.raises(ZohoError, match="cannot be reached") as caught:
        Ledger(sa.create_engine(url)).check_connection()

    assert named in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_ledger_of_an_airflow_connection_to_sqlite(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _set_connection(monkeypatch, "AUDIT", conn_type="sqlite", host=str(tmp_path / "audit.db"))

    ledger = Ledger.from_conn_id("audit")
    ledger.ensure_schema()

    assert ledger.runs.start(run_start()).run_key == RUN
    assert (tmp_path / "audit.db").exists()
    assert ledger.engine.hide_parameters
    ledger.close()


def test_ledger_of_an_airflow_connection_to_postgres(
    monkeypatch: pytest.MonkeyPatch, postgres_server: PostgresServer
) -> None:
    with postgres_server.database() as database:
        _set_connection(
            monkeypatch,
            "AUDIT",
            conn_type="postgres",
            host=postgres_server.socket_dir,
            login=postgres_server.user,
            schema=database,
        )
        ledger = Ledger.from_conn_id("audit")
        ledger.ensure_schema()
        stored = ledger.runs.start(run_start())
        ledger.close()

    assert stored.run_key == RUN


def test_connection_without_sql_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _set_connection(monkeypatch, "WEB", conn_type="http", host="example.com")

    with pytest.raises(ZohoConfigError, match="'web' is not for a SQL database"):
        Ledger.from_conn_id("web")


def test_hook_without_an_engine_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow.sdk.BaseHook.get_hook", lambda *_, **__: object())

    with pytest.raises(ZohoConfigError, match="'web' is not for a SQL database"):
        Ledger.from_conn_id("web")


def _set_connection(monkeypatch: pytest.MonkeyPatch, name: str, **fields: Any) -> None:
    monkeypatch.setenv(f"AIRFLOW_CONN_{name}", json.dumps(fields))
