"""Engines for Airflow's connections to SQL databases, warehouse and audit alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoho_crm.errors import ZohoConfigError

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.exc import DBAPIError

LOCKS_ROWS = frozenset({"mariadb", "mysql", "postgresql", "sqlite"})
"""Databases that hold what a transaction has updated until it ends, which claims and slots rely on."""

_READS_ALL_AT_ONCE = frozenset({"mysqlconnector"})
"""Drivers with which SQLAlchemy has no result that is read as it is asked for, and the driver itself has."""

_REFUSED_BY_SQLITE = ("near ", "no such ", "wrong number ", "misuse ", "row value ", "unrecognized ")
_REFUSED_BY_MYSQL = frozenset({1052, 1054, 1064, 1111, 1142, 1143, 1146, 1222, 1241, 1305, 1370, 1582, 4078})
"""Unknown, ambiguous or forbidden names and wrong syntax: https://mariadb.com/docs/server/reference/error-codes"""


def audit_engine_of(conn_id: str, **options: Any) -> Engine:
    """
    Return the SQLAlchemy engine of an Airflow connection, if its database can hold the audit.

    Neither the hook nor the engine logs parameters: they are people's data.

    :param options: for ``sqlalchemy.create_engine``
    :raises ZohoConfigError: the connection is not one to a SQL database, or to one without row locks
    """
    hook = _hook(conn_id)
    engine, why = _sqlalchemy_engine(hook, options)
    if engine is None:
        raise ZohoConfigError(
            f"Connection {conn_id!r} has no SQLAlchemy engine ({why}): install SQLAlchemy's dialect and driver for it"
        )
    # Airflow's engine for Redshift says that it is one for PostgreSQL.
    kind = "redshift" if hook.conn_type == "redshift" else engine.dialect.name
    if kind not in LOCKS_ROWS:
        raise ZohoConfigError(
            f"Connection {conn_id!r} is one to {kind}, which cannot hold the audit: that needs row locks and "
            "transactions. Use PostgreSQL, MySQL, MariaDB or SQLite"
        )
    return engine


def source_engine_of(conn_id: str) -> Engine:
    """
    Return an engine that a warehouse is read with.

    It is the hook's own SQLAlchemy engine, or one on the hook's plain DB-API connections where SQLAlchemy has no
    dialect for the database or would take whole results into memory.

    :raises ZohoConfigError: the connection is not one to a SQL database, or its driver does not follow PEP 249
    """
    hook = _hook(conn_id)
    engine, why = _sqlalchemy_engine(hook, {})
    if engine is not None and engine.dialect.driver not in _READS_ALL_AT_ONCE:
        return engine
    from zoho_crm.dbapi_engine import dbapi_engine

    try:
        return dbapi_engine(hook.get_conn)
    except Exception as error:  # whatever a hook says of a driver that is not there, or not set right
        raise ZohoConfigError(
            f"Connection {conn_id!r} can be used neither through SQLAlchemy ({why or 'no streaming'}) nor through its "
            f"hook: {' '.join(str(error).split())}"
        ) from error


def refused(error: DBAPIError) -> bool:
    """Tell whether a database refuses the statement itself, so that trying it again cannot help."""
    from sqlalchemy.exc import OperationalError, ProgrammingError

    if error.connection_invalidated:
        return False
    if isinstance(error, ProgrammingError):
        return True
    # SQLite and MySQL have one class of errors for a wrong statement and for a database that cannot be read.
    said, args = str(error.orig), getattr(error.orig, "args", ())
    return isinstance(error, OperationalError) and (
        said.startswith(_REFUSED_BY_SQLITE) or bool(args and args[0] in _REFUSED_BY_MYSQL)
    )


def _hook(conn_id: str) -> Any:
    from airflow.sdk import BaseHook  # the ledger is used without Airflow too, by tests and the UI

    refusal = (
        f"Connection {conn_id!r} is not one to a SQL database: give one whose hook is a DbApiHook, "
        "such as postgres or sqlite"
    )
    try:
        hook: Any = BaseHook.get_hook(conn_id, hook_params={"log_sql": False})
    except TypeError as error:
        # Only hooks of SQL databases know log_sql.
        raise ZohoConfigError(refusal) from error
    if not hasattr(hook, "get_sqlalchemy_engine"):
        raise ZohoConfigError(refusal)
    return hook


def _sqlalchemy_engine(hook: Any, options: dict[str, Any]) -> tuple[Engine | None, str]:
    """Return a hook's engine, or None and why it has none, without what a URL could give away."""
    try:
        return hook.get_sqlalchemy_engine({"hide_parameters": True, **options}), ""
    except Exception as error:  # each provider has its own for a dialect or driver that is not there
        return None, type(error).__name__
