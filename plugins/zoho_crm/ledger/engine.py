"""
Engines for the audit database, and its clock.

The clock orders runs and their rows, and ends leases: clocks of workers differ.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm import databases
from zoho_crm.database_limits import StatementLimits, WaitLimits, set_silence_limit, with_limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.pool import ConnectionPoolEntry

SQLITE_SYNCHRONOUS = "FULL"
"""A link must be on disk as in flight before its request leaves."""

_LOCK_S = 60
STATEMENTS = StatementLimits(silence_s=315, statement_s=300, lock_s=_LOCK_S)
STATEMENTS_FOR_PEOPLE = StatementLimits(silence_s=45, statement_s=30, lock_s=30)
"""For statements of pages and commands."""

READER_IDLE_S = 900
"""After this, PostgreSQL ends a transaction whose process does nothing, such as a download that nothing reads."""

WRITER_IDLE_S = 30
"""
After this, PostgreSQL and MariaDB end a transaction that writes and whose process does nothing: it was stopped, and
others wait for the rows that it locks.
"""

_LIMITS = WaitLimits("The audit database", STATEMENTS)
_READING = "zoho_delink_reading"
_SNAPSHOT = "zoho_delink_snapshot"
_SET_UP = "zoho_delink_set_up"

_DURABLE_COMMIT = (
    "SELECT set_config('synchronous_commit', "
    "replace(current_setting('synchronous_commit'), 'off', 'on'), true)"
)
"""Make a commit wait for the server's disk; one that also waits for standbys, or does not, stays as it is."""

Clock = Callable[[sa.Connection], float]
"""Returns the seconds since 1970, read over a connection to the audit database."""

MAX_LEASE_S = 120.0
"""
No lease is longer. One that ends later was written before the database's clock was set back: the next task that
meets it shortens it to this length.
"""

_SECONDS = {
    "postgresql": "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)",
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "mysql": "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1e6",
}
_SECONDS["mariadb"] = _SECONDS["mysql"]


def database_seconds(connection: sa.Connection) -> float:
    """Return the seconds since 1970 by the database's clock, as of this call and not of the transaction's start."""
    return float(connection.exec_driver_sql(_SECONDS[connection.dialect.name]).scalar_one())


class Store:
    """
    A part of the ledger: it owns an engine, and reads its clock.

    :param engine: engine of the audit database, as :func:`prepared` returns it
    :param clock: the time that orders runs and ends leases
    """

    def __init__(self, engine: sa.Engine, clock: Clock = database_seconds) -> None:
        self._engine = engine
        self._clock = clock

    def now(self) -> datetime:
        """Return the time by the database's clock."""
        with reading(self._engine).begin() as connection:
            return self._now(connection)

    def _now(self, connection: sa.Connection) -> datetime:
        return datetime.fromtimestamp(self._clock(connection), UTC)


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
    Return the engine with everything set that the ledger's transactions rely on, whatever the database's defaults.

    Isolation, durability and time limits are set for each transaction, not for a session: behind a connection pooler,
    the next transaction may run in another session.
    """
    begin = {
        "postgresql": _begin_postgresql,
        "sqlite": _begin_sqlite,
        "mysql": _begin_mysql,
        "mariadb": _begin_mysql,
    }.get(engine.dialect.name)
    engine.hide_parameters = True
    if begin is None or sa.event.contains(engine, "begin", begin):
        return engine
    _LIMITS.install(engine)
    sa.event.listen(engine, "begin", begin)
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "checkout", _set_up_sqlite)
    elif engine.dialect.name in {"mysql", "mariadb"}:
        sa.event.listen(engine, "checkout", _set_up_mysql)
    return engine


def reading(engine: sa.Engine) -> sa.Engine:
    """Return the engine for transactions that only read: in SQLite they do not wait for writers."""
    return engine.execution_options(**{_READING: True})


def reading_for_people(engine: sa.Engine) -> sa.Engine:
    """Return the engine for pages and commands, whose statements have a shorter time limit."""
    return with_limits(reading(engine), STATEMENTS_FOR_PEOPLE)


def reading_snapshot(engine: sa.Engine) -> sa.Engine:
    """Return the engine for transactions that see all tables as they are at the first statement."""
    return reading(engine).execution_options(**{_SNAPSHOT: True})


def _begin_postgresql(connection: sa.Connection) -> None:
    """Set up a transaction in one round trip; it ends with what it has set."""
    options, limits = connection.get_execution_options(), _LIMITS.of(connection)
    set_silence_limit(connection.connection.driver_connection, limits.silence_s)
    settings = (
        f"SET TRANSACTION ISOLATION LEVEL {_isolation(options)}{', READ ONLY' if options.get(_READING) else ''}; "
        f"SET LOCAL statement_timeout = '{limits.statement_s or 0}s'; "
        f"SET LOCAL lock_timeout = '{limits.lock_s or 0}s'; "
        f"SET LOCAL idle_in_transaction_session_timeout = '{_idle_s(options)}s'"
    )
    if not options.get(_READING):
        settings = f"{settings}; {_DURABLE_COMMIT}"
    _execute(connection, settings)


def _begin_sqlite(connection: sa.Connection) -> None:
    """
    Take the write lock as a writing transaction begins.

    SQLite gives up at once when two connections write, unless each takes the write lock as its transaction begins
    and waits for it: so writing transactions begin with ``BEGIN IMMEDIATE``, and Python's own, late ``BEGIN`` is off.
    Source: "Serializable isolation / Savepoints / Transactional DDL" of SQLAlchemy's page on SQLite.
    """
    only_reads = bool(connection.get_execution_options().get(_READING))
    _execute(connection, f"PRAGMA query_only = {int(only_reads)}")
    _execute(connection, "BEGIN" if only_reads else "BEGIN IMMEDIATE")


def _begin_mysql(connection: sa.Connection) -> None:
    """
    Set up a transaction.

    MySQL and MariaDB read what others have committed, as PostgreSQL does, rather than lock the gaps between rows.
    """
    options, limits = connection.get_execution_options(), _LIMITS.of(connection)
    _execute(
        connection,
        f"SET SESSION max_statement_time = {limits.statement_s or 0}, "
        f"SESSION idle_write_transaction_timeout = {WRITER_IDLE_S}"
        if connection.dialect.is_mariadb  # type: ignore[attr-defined]
        else f"SET SESSION max_execution_time = {(limits.statement_s or 0) * 1000}",
    )
    access = "READ ONLY" if options.get(_READING) else "READ WRITE"
    _execute(connection, f"SET TRANSACTION ISOLATION LEVEL {_isolation(options)}, {access}")


def _execute(connection: sa.Connection, statements: str) -> None:
    """Execute what sets up a transaction, without the options of its connection for the statements that follow."""
    options = {"no_parameters": True, "stream_results": False, "yield_per": None}
    connection.exec_driver_sql(statements, execution_options=options).close()


def _idle_s(options: Mapping[str, Any]) -> int:
    return READER_IDLE_S if options.get(_READING) else WRITER_IDLE_S


def _isolation(options: Mapping[str, Any]) -> str:
    return "REPEATABLE READ" if options.get(_SNAPSHOT) else "READ COMMITTED"


def _set_up_sqlite(connection: Any, entry: ConnectionPoolEntry, _proxy: object) -> None:
    if entry.info.get(_SET_UP):
        return
    connection.isolation_level = None
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_LOCK_S * 1000}")
    cursor.execute(f"PRAGMA synchronous = {SQLITE_SYNCHRONOUS}")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        # Readers beside a writer; where the file system or another process forbids it, waiting does as well.
        with suppress(connection.OperationalError):
            cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()
    entry.info[_SET_UP] = True


def _set_up_mysql(connection: Any, entry: ConnectionPoolEntry, _proxy: object) -> None:
    """Send text as UTF-8, limit waits for locks, and make what does not fit into a column an error."""
    if entry.info.get(_SET_UP):
        return
    if hasattr(connection, "set_character_set"):
        # mysqlclient encodes parameters with this character set, which is latin1 unless the URL sets another.
        connection.set_character_set("utf8mb4")
    cursor = connection.cursor()
    cursor.execute("SET SESSION sql_mode = CONCAT(@@sql_mode, ',STRICT_TRANS_TABLES')")
    cursor.execute(f"SET SESSION innodb_lock_wait_timeout = {_LOCK_S}, SESSION lock_wait_timeout = {_LOCK_S}")
    cursor.close()
    entry.info[_SET_UP] = True
