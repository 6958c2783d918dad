"""
Airflow's connections, from outside of a task.

They are found like those of ``airflow connections get``: in the environment (``AIRFLOW_CONN_<ID>``) and the secrets
backends, else in Airflow's metadata database.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from zoho_crm.cli.exits import Exit
from zoho_crm.cli.options import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sqlalchemy import Engine

    from zoho_crm.hooks.zoho_crm import ZohoCRMHook
    from zoho_crm.ledger.ledger import Ledger


class NoAuditError(CommandError):
    """The audit database has no tables yet: no run has ever been."""


@contextmanager
def open_ledger(audit_conn_id: str) -> Iterator[Ledger]:
    """
    Open the ledger of a connection. Nothing is created in it.

    :raises NoAuditError: no run has made the tables yet
    :raises CommandError: there is no such connection, or its tables are of another version
    :raises ZohoError: the database cannot be reached
    """
    from zoho_crm.ledger import schema
    from zoho_crm.ledger.engine import engine_of, reading
    from zoho_crm.ledger.ledger import Ledger

    require(audit_conn_id, "audit_conn_id")
    ledger = Ledger(_engine(engine_of, audit_conn_id, "audit_conn_id"))
    try:
        _check_file(ledger.engine, audit_conn_id, "audit_conn_id")
        ledger.check_connection()
        with reading(ledger.engine).connect() as connection:
            version = schema.stored_version(connection)
        if version is None:
            raise NoAuditError(
                f"The database of connection {audit_conn_id!r} holds no audit yet: the first run of a job makes it.",
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


@contextmanager
def open_engine(conn_id: str, field: str = "conn_id") -> Iterator[Engine]:
    """
    Open a SQL database that is known to answer.

    :param field: what the connection is called in the job file
    :raises CommandError: there is no such connection, or the database cannot be reached
    """
    import sqlalchemy as sa

    from zoho_crm.databases import create_source_engine

    require(conn_id, field)
    engine = _engine(create_source_engine, conn_id, field)
    try:
        _check_file(engine, conn_id, field)
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

    :raises CommandError: there is no such connection
    """
    require(conn_id, "zoho_conn_id")
    from zoho_crm.hooks.zoho_crm import ZohoCRMHook

    return ZohoCRMHook(conn_id)


def require(conn_id: str, field: str) -> None:
    """
    Check that a connection is there.

    :param field: what it is called where the user named it
    :raises CommandError: it is not; the message says where it was looked for
    """
    # What Airflow's own commands do: without it only the environment and the secrets backends are asked.
    os.environ.setdefault("_AIRFLOW_PROCESS_CONTEXT", "server")
    from airflow.sdk import BaseHook
    from airflow.sdk.exceptions import AirflowNotFoundException

    try:
        BaseHook.get_connection(conn_id)
    except AirflowNotFoundException:
        trouble = _metadata_trouble()
        raise CommandError(
            f"There is no connection {conn_id!r} ({field}): neither AIRFLOW_CONN_{conn_id.upper()} nor a secrets "
            f"backend has it, and {trouble or 'Airflow has none of that name'}.",
            Exit.USAGE_ERROR,
        ) from None
    except ValueError as error:
        # The text itself may be a secret: only the kind of the fault is told.
        raise CommandError(
            f"Connection {conn_id!r} ({field}) cannot be read ({type(error).__name__}): give "
            f"AIRFLOW_CONN_{conn_id.upper()} as a JSON object or an URI.",
            Exit.USAGE_ERROR,
        ) from None


def _engine(engine_of: Callable[[str], Engine], conn_id: str, field: str) -> Engine:
    from airflow.sdk.exceptions import AirflowException

    try:
        return engine_of(conn_id)
    except AirflowException as error:
        raise CommandError(
            f"Connection {conn_id!r} ({field}) cannot be used: {str(error)[:200]}. Is the provider package of its "
            "connection type installed here?",
            Exit.USAGE_ERROR,
        ) from None


def _check_file(engine: Engine, conn_id: str, field: str) -> None:
    """Refuse a SQLite file that is not there: SQLite would make an empty one."""
    database = engine.url.database or ""
    if engine.dialect.name != "sqlite" or database in {"", ":memory:"} or database.startswith("file:"):
        return
    if not Path(database).is_file():
        raise CommandError(
            f"The database of connection {conn_id!r} ({field}) cannot be reached: there is no file {database}",
            Exit.UNREACHABLE,
        )


def _metadata_trouble() -> str | None:
    """Say why Airflow's metadata database could not be asked, which Airflow itself does not tell."""
    import sqlalchemy as sa
    from airflow import settings

    engine = settings.engine
    if engine is None:
        return "Airflow is not set up to ask its metadata database"
    place = f"{engine.url.get_backend_name()}, {engine.url.host or 'local'}, {engine.url.database}"
    try:
        with engine.connect() as connection:
            has_table = sa.inspect(connection).has_table("connection")
    except sa.exc.SQLAlchemyError as error:
        return f"Airflow's metadata database ({place}) cannot be asked ({type(error).__name__})"
    return (
        None
        if has_table
        else f"Airflow's metadata database ({place}) has no tables: airflow db migrate makes them"
    )
