"""Engines for the audit database: what is set on them, and why."""

from __future__ import annotations

import time
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm import databases

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.pool import ConnectionPoolEntry

SQLITE_SYNCHRONOUS = "FULL"
"""A link must be on disk as in flight before its request leaves."""

SQLITE_BUSY_TIMEOUT_MS = 60_000
_READING = "zoho_delink_reading"
_SET_UP = "zoho_delink_set_up"


class Store:
    """
    A part of the ledger: it owns an engine and a clock.

    :param engine: engine of the audit database, as :func:`prepared` returns it
    :param clock: seconds since 1970
    """

    def __init__(self, engine: sa.Engine, clock: Callable[[], float] = time.time) -> None:
        self._engine = engine
        self._clock = clock

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


def engine_of(audit_conn_id: str) -> sa.Engine:
    """
    Return an engine for the audit database of an Airflow connection.

    It holds few connections, tries each before use, and keeps parameters (external IDs) out of logs and errors.

    :raises ZohoConfigError: the connection is not for a SQL database, or its database cannot hold the audit
    """
    return databases.create_audit_engine(
        audit_conn_id, max_overflow=3, pool_pre_ping=True, pool_recycle=1800, pool_size=2
    )


def prepared(engine: sa.Engine) -> sa.Engine:
    """
    Return the engine with everything set that the ledger's transactions rely on.

    SQLite gives up at once when two connections write, unless each takes the write lock as its transaction begins
    and waits for it: so writing transactions begin with ``BEGIN IMMEDIATE``, and Python's own, late ``BEGIN`` is off.
    Source: "Serializable isolation / Savepoints / Transactional DDL" of SQLAlchemy's page on SQLite.

    MySQL and MariaDB read what others have committed, as PostgreSQL does, rather than lock the gaps between rows;
    what does not fit into a column is an error there, and text is sent as UTF-8.
    """
    engine.hide_parameters = True
    if engine.dialect.name == "sqlite" and not sa.event.contains(engine, "begin", _begin_sqlite):
        sa.event.listen(engine, "checkout", _set_up_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    if engine.dialect.name in {"mysql", "mariadb"} and not sa.event.contains(
        engine, "checkout", _set_up_mysql
    ):
        sa.event.listen(engine, "checkout", _set_up_mysql)
    return engine


def reading(engine: sa.Engine) -> sa.Engine:
    """Return the engine for transactions that only read: in SQLite they do not wait for writers."""
    return engine.execution_options(**{_READING: True})


def _set_up_sqlite(connection: Any, entry: ConnectionPoolEntry, _proxy: object) -> None:
    if entry.info.get(_SET_UP):
        return
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {SQLITE_BUSY_TIMEOUT_MS}")
    cursor.execute(f"PRAGMA synchronous = {SQLITE_SYNCHRONOUS}")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        # Readers beside a writer; where the file system or another process forbids it, waiting does as well.
        with suppress(connection.OperationalError):
            cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()
    entry.info[_SET_UP] = True


def _set_up_mysql(connection: Any, entry: ConnectionPoolEntry, _proxy: object) -> None:
    if entry.info.get(_SET_UP):
        return
    if hasattr(connection, "set_character_set"):
        # mysqlclient encodes parameters with this character set, which is latin1 unless the URL sets another.
        connection.set_character_set("utf8mb4")
    cursor = connection.cursor()
    cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
    cursor.execute("SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')")
    cursor.close()
    entry.info[_SET_UP] = True


def _begin_sqlite(connection: sa.Connection) -> None:
    options = connection.get_execution_options()
    connection.exec_driver_sql("BEGIN" if options.get(_READING) else "BEGIN IMMEDIATE")
