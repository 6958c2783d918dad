"""
The schema of the audit database: created once, upgraded revision by revision, never downgraded.

Version 1 is the initial schema. An empty database always gets the tables of ``tables.py`` as they are now; revisions
upgrade databases that hold an earlier version. To add version 2:

1. Change ``tables.py``, and set ``SCHEMA_VERSION`` to 2.
2. Write ``def to_version_2(op: Operations) -> None`` here. Spell out names and types: ``tables.py`` keeps changing, and
   a revision must not. Create new tables with ``tables.TABLE_OPTIONS``.
3. Add it to :data:`REVISIONS`.

MySQL and MariaDB commit each statement that changes a table, so that an interrupted revision runs again over its own
first half: check with ``sqlalchemy.inspect(op.get_bind())`` what is already there. PostgreSQL and SQLite roll it back.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from zoho_crm import __version__
from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger import tables
from zoho_crm.ledger.engine import reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from alembic.operations import Operations

SCHEMA_VERSION = 1

REVISIONS: Mapping[int, Callable[[Operations], None]] = {}
"""For each version after the first: what upgrades a database from the version before."""

_TRIES = 10
_LOCK_TIMEOUT_S = 60


class CreateView(sa.schema.ExecutableDDLElement):
    """
    ``CREATE VIEW``, which SQLAlchemy 2.0 has no element for.

    :param view: the view
    :param select: its query
    """

    def __init__(self, view: sa.TableClause, select: sa.Select[Any]) -> None:
        self.view = view
        self.select = select


class DropView(sa.schema.ExecutableDDLElement):
    """
    ``DROP VIEW``, which SQLAlchemy 2.0 has no element for.

    :param view: the view
    """

    def __init__(self, view: sa.TableClause) -> None:
        self.view = view


@compiles(CreateView)
def _compile_create_view(element: CreateView, compiler: Any, **_: Any) -> str:
    select = compiler.sql_compiler.process(element.select, literal_binds=True)
    return f"CREATE VIEW {compiler.preparer.format_table(element.view)} AS {select}"


@compiles(DropView)
def _compile_drop_view(element: DropView, compiler: Any, **_: Any) -> str:
    return f"DROP VIEW {compiler.preparer.format_table(element.view)}"


def stored_version(connection: sa.Connection) -> int | None:
    """Return the schema version of a database; None without an audit."""
    if not sa.inspect(connection).has_table(tables.versions.name):
        return None
    version: int | None = connection.scalar(sa.select(sa.func.max(tables.versions.c.version)))
    return version


def ensure_schema(engine: sa.Engine) -> None:
    """
    Create the tables, or upgrade them to :data:`SCHEMA_VERSION`. Several processes may do so at once.

    A database that is up to date is only read, so that everyday work needs no right to create tables.

    :raises ZohoConfigError: the database is at a newer version than this package supports, is read-only, or refuses
        its role to read, create or change tables
    """
    try:
        _ensure_version(engine)
    except sa.exc.DBAPIError as error:
        if not is_refusal(error):
            raise
        raise ZohoConfigError(explain_refusal(engine, error)) from None


def _ensure_version(engine: sa.Engine) -> None:
    for tries_left in reversed(range(_TRIES)):
        with reading(engine).begin() as connection:
            version = stored_version(connection)
        if version is not None and version > SCHEMA_VERSION:
            raise ZohoConfigError(
                f"the audit database is at schema version {version}, and this package supports versions up to "
                f"{SCHEMA_VERSION}: install the newer package, or use another audit connection"
            )
        if version == SCHEMA_VERSION:
            return
        try:
            with engine.begin() as connection, _exclusive(connection):
                _advance(connection)
        except (sa.exc.IntegrityError, sa.exc.OperationalError, sa.exc.ProgrammingError) as error:
            # Another process is creating the same table: the next try sees its result.
            if not tries_left or is_refusal(error):
                raise


def _advance(connection: sa.Connection) -> None:
    version = stored_version(connection)
    if version is None:
        _create(connection)
    elif version < SCHEMA_VERSION:
        _upgrade(connection, version)


def _create(connection: sa.Connection) -> None:
    """Create what does not exist yet: an interrupted creation may have left a part of the tables."""
    for table in tables.metadata.sorted_tables:
        table.create(connection, checkfirst=True)
        for index in table.indexes:
            index.create(connection, checkfirst=True)
    _create_view(connection)
    _record(connection, [SCHEMA_VERSION])


def _upgrade(connection: sa.Connection, version: int) -> None:
    # Half a second of imports, needed once in the life of a database.
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    operations = Operations(MigrationContext.configure(connection))
    versions = range(version + 1, SCHEMA_VERSION + 1)
    record_last = _commits_ddl(connection)
    if not record_last:
        # A process that cannot insert the key leaves the upgrade to the one that could.
        _record(connection, versions)
    for number in versions:
        REVISIONS[number](operations)
    _create_view(connection)
    if record_last:
        _record(connection, versions)


def _create_view(connection: sa.Connection) -> None:
    """Create or replace the view: it shows the columns that its table had when the view was created."""
    if sa.inspect(connection).has_table(tables.latest.name):
        connection.execute(DropView(tables.latest))
    connection.execute(CreateView(tables.latest, tables.LATEST_SELECT))


def _commits_ddl(connection: sa.Connection) -> bool:
    """Return whether the database commits each statement that changes a table, so that none can be rolled back."""
    return connection.dialect.name in {"mysql", "mariadb"}


@contextmanager
def _exclusive(connection: sa.Connection) -> Iterator[None]:
    """
    Let one process at a time change tables where that cannot be one transaction; elsewhere the transaction does so.

    After a process that died, the next one finds the version unchanged and creates what is missing.
    """
    if not _commits_ddl(connection):
        yield
        return
    lock = sa.func.concat("zoho_delink/", sa.func.md5(sa.func.database()))
    if connection.scalar(sa.select(sa.func.get_lock(lock, _LOCK_TIMEOUT_S))) != 1:
        raise ZohoConfigError(
            f"another process has been changing the audit tables for {_LOCK_TIMEOUT_S} seconds: check whether it "
            "still runs, and try again"
        )
    try:
        yield
    finally:
        connection.execute(sa.select(sa.func.release_lock(lock)))


def _record(connection: sa.Connection, versions: Iterable[int]) -> None:
    now = datetime.now(UTC)
    rows = [{"version": version, "applied_at": now, "code_version": __version__} for version in versions]
    connection.execute(sa.insert(tables.versions), rows)


log = logging.getLogger(__name__)

_READ, _APPEND, _CHANGE = ("SELECT",), ("SELECT", "INSERT"), ("SELECT", "INSERT", "UPDATE")
_STAGE = ("SELECT", "INSERT", "DELETE")

RUN_RIGHTS: Mapping[sa.TableClause, tuple[str, ...]] = {
    tables.attempts: _STAGE,
    tables.audit: _APPEND,
    tables.chunks: _CHANGE,
    tables.job_states: _CHANGE,
    tables.latest: _READ,
    tables.links: _CHANGE,
    tables.run_events: _APPEND,
    tables.runs: _CHANGE,
    tables.seals: _APPEND,
    tables.slot_limits: _CHANGE,
    tables.slots: _CHANGE,
    tables.source_texts: _APPEND,
    tables.staging: _STAGE,
    tables.versions: _READ,
}
RETENTION_RIGHTS: Mapping[sa.TableClause, tuple[str, ...]] = {
    tables.audit: ("UPDATE",),
    tables.chunks: ("UPDATE",),
    tables.links: ("DELETE",),
    tables.run_events: _APPEND,
    tables.runs: ("UPDATE",),
    tables.seals: _APPEND,
}

_DENIED_STATES, _READ_ONLY_STATES = frozenset({"42501", "3F000"}), frozenset({"25006"})
_DENIED_NUMBERS, _READ_ONLY_NUMBERS = frozenset({1044, 1142, 1143, 1227, 1370}), frozenset({1290, 1792, 1836})
NO_FILE = "unable to open database file"
"""SQLite cannot open or create the file, or the journal beside it."""
_READ_ONLY_FILE = ("attempt to write a readonly database", NO_FILE)
_DURABLE_FLUSHES = frozenset({1, 3})
"""Values of ``innodb_flush_log_at_trx_commit`` that wait for the disk; 3 exists in MariaDB only."""


def check_durability(engine: sa.Engine) -> None:
    """
    Check that a committed transaction survives a crash, where only the server's configuration decides that.

    :raises ZohoConfigError: it does not; the message names the setting
    """
    try:
        with reading(engine).begin() as connection:
            fault = _durability_fault(connection)
    except sa.exc.DBAPIError as error:
        if not is_refusal(error):
            raise
        log.warning("Durability of the audit database unknown: error=%s", error.orig)
        return
    if fault:
        raise ZohoConfigError(
            f"The audit database has {fault}, so that outcomes may be lost in a crash although links were removed: "
            "change the setting, or use another database for the audit"
        )


def check_rights(engine: sa.Engine, rights: Mapping[sa.TableClause, tuple[str, ...]] = RUN_RIGHTS) -> None:
    """
    Check that the role of the audit connection may do what a run, or retention, does. Changes nothing.

    :raises ZohoConfigError: it may not, or the database is read-only; the message names each table and right
    """
    with engine.connect() as connection:
        try:
            missing = list(_find_missing(connection, rights))
            role = None if engine.dialect.name == "sqlite" else connection.scalar(sa.select(_CURRENT_ROLE))
        except sa.exc.DBAPIError as error:
            if not is_refusal(error):
                raise
            raise ZohoConfigError(explain_refusal(engine, error)) from None
        finally:
            connection.rollback()
    if missing:
        raise ZohoConfigError(
            f"Role {role} of the audit connection lacks {', '.join(missing)}: grant it, or use another role"
        )


def is_refusal(error: sa.exc.DBAPIError) -> bool:
    """Whether the database refuses a statement for lack of a right, or since it is read-only."""
    return _is_denied(error) or _is_read_only(error)


def explain_refusal(engine: sa.Engine, error: sa.exc.DBAPIError) -> str:
    """Return what to change so that the database does not refuse a statement any more."""
    url, text = engine.url, " ".join(str(error.orig).split())
    place = f"{url.get_backend_name()}, {url.host or 'local'}, {url.database}"
    if _is_read_only(error):
        return (
            f"The audit database ({place}) is read-only ({text}): make it writable, including its folder if it is a "
            "file, or use another audit connection"
        )
    sentence = (
        f"The audit database ({place}) refuses its role a right ({text}): grant it, or let a role that may create "
        "tables run preflight once"
    )
    return f"{sentence}. {_describe_schemas(engine)}" if engine.dialect.name == "postgresql" else sentence


_CURRENT_ROLE: sa.ColumnElement[str] = sa.func.current_user(type_=sa.String)


def _durability_fault(connection: sa.Connection) -> str | None:
    if connection.dialect.name == "postgresql":
        fsync = connection.scalar(sa.select(sa.func.current_setting("fsync")))
        return None if fsync == "on" else f"fsync={fsync}"
    if connection.dialect.name in {"mysql", "mariadb"}:
        flush, binary_log, sync = connection.exec_driver_sql(
            "SELECT @@GLOBAL.innodb_flush_log_at_trx_commit, @@GLOBAL.log_bin, @@GLOBAL.sync_binlog"
        ).one()
        if int(flush) not in _DURABLE_FLUSHES:
            return f"innodb_flush_log_at_trx_commit={flush}"
        if int(binary_log) and int(sync) != 1:
            return f"log_bin=ON and sync_binlog={sync}"
    return None


def _find_missing(
    connection: sa.Connection, rights: Mapping[sa.TableClause, tuple[str, ...]]
) -> Iterator[str]:
    """Yield each missing right on each table, by statements that touch no row."""
    if connection.dialect.name == "sqlite":
        # Only a change of a row needs a journal beside the file.
        connection.execute(sa.update(tables.versions).values(version=tables.versions.c.version))
    for table, names in rights.items():
        for name in names:
            try:
                with connection.begin_nested():
                    connection.execute(_statement_that_needs(name, table))
            except sa.exc.DBAPIError as error:
                if not _is_denied(error):
                    raise
                yield f"{name} on {table.name}"


def _statement_that_needs(right: str, table: sa.TableClause) -> sa.Executable:
    nothing = sa.false()
    match right:
        case "SELECT":
            return sa.select(*table.c).where(nothing)
        case "INSERT":
            nulls = sa.select(*(sa.null() for _ in table.c)).where(nothing)
            return sa.insert(table).from_select(list(table.c.keys()), nulls)
        case "UPDATE":
            return sa.update(table).values({next(iter(table.c)): sa.null()}).where(nothing)
        case _:
            return sa.delete(table).where(nothing)


def _describe_schemas(engine: sa.Engine) -> str:
    """Say where the connection looks for the tables, and which schemas have them."""
    found = (
        "SELECT n.nspname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace "
        "WHERE c.relname = :name ORDER BY 1"
    )
    with reading(engine).begin() as connection:
        path = connection.exec_driver_sql("SHOW search_path").scalar()
        schemas = list(connection.execute(sa.text(found), {"name": tables.versions.name}).scalars())
    return f"search_path: {path}; schemas with audit tables: {', '.join(schemas) or 'none'}"


def _is_denied(error: sa.exc.DBAPIError) -> bool:
    return _state(error) in _DENIED_STATES or _number(error) in _DENIED_NUMBERS


def _is_read_only(error: sa.exc.DBAPIError) -> bool:
    return (
        _state(error) in _READ_ONLY_STATES
        or _number(error) in _READ_ONLY_NUMBERS
        or str(error.orig) in _READ_ONLY_FILE
    )


def _state(error: sa.exc.DBAPIError) -> str | None:
    state: str | None = getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)
    return state


def _number(error: sa.exc.DBAPIError) -> Any:
    args = getattr(error.orig, "args", ())
    return args[0] if args and isinstance(args[0], int) else None
