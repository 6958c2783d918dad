"""
Airflow connections outside of a task.

They are looked up like ``airflow connections get`` does: in the environment (``AIRFLOW_CONN_<ID>``), in the secrets
backends, then in Airflow's metadata database.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from zoho_crm.cli.airflow_home import is_temporary
from zoho_crm.cli.options import LOG_LEVEL, CommandError, Exit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from zoho_crm.hooks.zoho_crm import ZohoCRMHook
    from zoho_crm.ledger.ledger import Ledger


_NOT_CONFIGURED = "no Airflow is configured here (AIRFLOW_HOME is not set, and ~/airflow does not exist)"


class NoConnectionError(CommandError):
    """Airflow has no connection with that ID here."""


class NoAuditError(CommandError):
    """The audit database has no tables yet, or is no file yet, since no job has run."""


@contextmanager
def open_ledger(audit_conn_id: str) -> Iterator[Ledger]:
    """
    Open the ledger of a connection without creating its tables.

    :raises NoAuditError: the tables do not exist yet
    :raises CommandError: the connection does not exist, or its schema version differs
    :raises ZohoError: the database cannot be reached
    """
    from zoho_crm.ledger import schema
    from zoho_crm.ledger.engine import engine_of, reading
    from zoho_crm.ledger.ledger import Ledger

    require(audit_conn_id, "audit_conn_id")
    ledger = Ledger(_engine(engine_of, audit_conn_id, "audit_conn_id"))
    try:
        if file := _missing_file(ledger.engine):
            raise NoAuditError(
                f"The database of connection {audit_conn_id!r} does not exist yet: the first run of a job creates the "
                f"file {file}.",
                Exit.USAGE_ERROR,
            )
        ledger.check_connection()
        with reading(ledger.engine).connect() as connection:
            version = schema.stored_version(connection)
        if version is None:
            raise NoAuditError(
                f"The database of connection {audit_conn_id!r} has no audit tables yet: the first run of a job "
                "creates them.",
                Exit.USAGE_ERROR,
            )
        if version != schema.SCHEMA_VERSION:
            raise CommandError(
                f"The audit database is at schema version {version}, and this package needs version "
                f"{schema.SCHEMA_VERSION}: the next run of a job upgrades an older one; a newer one needs a newer "
                "package.",
                Exit.USAGE_ERROR,
            )
        yield ledger
    finally:
        ledger.close()


def migrate(audit_conn_id: str) -> None:
    """
    Create the tables of an audit database, or change them for this version of the package.

    :raises CommandError: the connection does not exist
    :raises ZohoError: the database cannot be reached, or its role may not create tables
    """
    from zoho_crm.ledger.engine import engine_of
    from zoho_crm.ledger.ledger import Ledger

    require(audit_conn_id, "audit_conn_id")
    ledger = Ledger(_engine(engine_of, audit_conn_id, "audit_conn_id"))
    try:
        ledger.check_connection()
        ledger.ensure_schema()
    finally:
        ledger.close()


@contextmanager
def open_engine(conn_id: str, field: str = "conn_id") -> Iterator[Engine]:
    """
    Open a SQL database and check that it can be reached.

    :param field: field of the job file that names the connection
    :raises CommandError: the connection does not exist, or the database cannot be reached
    """
    require(conn_id, field)
    import sqlalchemy as sa

    from zoho_crm.databases import create_source_engine

    engine = _engine(create_source_engine, conn_id, field)
    try:
        if file := _missing_file(engine):
            raise CommandError(
                f"The database of connection {conn_id!r} ({field}) cannot be reached: file {file} does not exist",
                Exit.UNREACHABLE,
            )
        try:
            engine.connect().close()
        except sa.exc.SQLAlchemyError as error:
            cause = " ".join(str(getattr(error, "orig", None) or error).split())
            raise CommandError(
                f"The database of connection {conn_id!r} ({field}) cannot be reached: {cause}",
                Exit.UNREACHABLE,
            ) from None
        yield engine
    finally:
        engine.dispose()


def zoho_hook(conn_id: str) -> ZohoCRMHook:
    """
    Return a hook for a Zoho connection.

    :raises CommandError: the connection does not exist
    """
    require(conn_id, "zoho_conn_id")
    from zoho_crm.hooks.zoho_crm import ZohoCRMHook

    return ZohoCRMHook(conn_id)


def require(conn_id: str, field: str) -> None:
    """
    Check that a connection exists.

    :param field: field or option that names it
    :raises NoConnectionError: it does not exist; the message lists where it was looked up
    :raises CommandError: it cannot be parsed
    """
    if not _may_have(conn_id):
        raise _no_connection(conn_id, field, _NOT_CONFIGURED)
    # As in Airflow's own commands: without it, Airflow skips its metadata database.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    from airflow.sdk import BaseHook

    from zoho_crm.airflow_compat import AirflowNotFoundException

    try:
        BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        problem = _metadata_problem() or "Airflow has no connection with that id"
        raise _no_connection(conn_id, field, problem) from None
    except ValueError as error:
        # The text may hold a secret, so that only the type of the error is shown.
        raise CommandError(
            f"Connection {conn_id!r} ({field}) cannot be parsed ({type(error).__name__}): write "
            f"{_variable_of(conn_id)} as a JSON object or a URI.",
            Exit.USAGE_ERROR,
        ) from None


def _may_have(conn_id: str) -> bool:
    """Return whether Airflow, which takes seconds to import, is to be asked for a connection."""
    settings = {name for name in os.environ if name.startswith("AIRFLOW__")} - {LOG_LEVEL}
    home = Path(os.environ.get("AIRFLOW_HOME", ""))
    return (
        bool(settings) or _variable_of(conn_id) in os.environ or not is_temporary(str(home / "airflow.cfg"))
    )


def _no_connection(conn_id: str, field: str, problem: str) -> NoConnectionError:
    return NoConnectionError(
        f"Connection {conn_id!r} ({field}) does not exist: it is neither in {_variable_of(conn_id)} nor in a secrets "
        f"backend, and {problem}.",
        Exit.USAGE_ERROR,
    )


def _variable_of(conn_id: str) -> str:
    return f"AIRFLOW_CONN_{conn_id.upper()}"


def _engine(engine_of: Callable[[str], Engine], conn_id: str, field: str) -> Engine:
    from zoho_crm.airflow_compat import AirflowException

    try:
        return engine_of(conn_id)
    except AirflowException as error:
        raise CommandError(
            f"Connection {conn_id!r} ({field}) cannot be used: {str(error)[:200]}. Install the provider package "
            "of its connection type.",
            Exit.USAGE_ERROR,
        ) from None


def _missing_file(engine: Engine) -> str | None:
    """Return the file of a SQLite database if it is missing: SQLite would create it."""
    database = engine.url.database or ""
    if engine.dialect.name != "sqlite" or database in {"", ":memory:"} or database.startswith("file:"):
        return None
    return None if Path(database).is_file() else database


def _metadata_problem() -> str | None:
    """Return why Airflow's metadata database could not be read; None if it could."""
    import sqlalchemy as sa
    from airflow import settings

    engine = settings.engine
    if engine is None:
        return "Airflow has no metadata database configured"
    if is_temporary(engine.url.database or ""):
        return _NOT_CONFIGURED
    place = f"{engine.url.get_backend_name()}, {engine.url.host or 'local'}, {engine.url.database}"
    try:
        with engine.connect() as connection:
            has_table = sa.inspect(connection).has_table("connection")
    except sa.exc.SQLAlchemyError as error:
        return f"Airflow's metadata database ({place}) cannot be read ({type(error).__name__})"
    return (
        None if has_table else f"Airflow's metadata database ({place}) has no tables: run airflow db migrate"
    )
