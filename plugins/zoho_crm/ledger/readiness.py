"""Whether an audit database keeps what is committed, and grants what a run and retention need."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger import tables
from zoho_crm.ledger.engine import reading

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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
    tables.runs: _CHANGE,
    tables.seals: _APPEND,
    tables.slot_limits: _CHANGE,
    tables.slots: _CHANGE,
    tables.staging: _STAGE,
    tables.versions: _READ,
}
RETENTION_RIGHTS: Mapping[sa.TableClause, tuple[str, ...]] = {
    tables.audit: ("UPDATE",),
    tables.chunks: ("UPDATE",),
    tables.links: ("DELETE",),
    tables.runs: ("UPDATE",),
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
