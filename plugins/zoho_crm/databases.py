"""SQLAlchemy engines for Airflow connections: warehouses that jobs read, and audit databases."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from zoho_crm.errors import ZohoConfigError, missing_connection

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.exc import DBAPIError

LOCKS_ROWS = frozenset({"mariadb", "mysql", "postgresql", "sqlite"})
"""Databases that lock updated rows until the transaction ends, which claims and slots rely on."""

SOURCE_SILENCE_S = 6 * 3600.0
"""For the first row of a warehouse's query, and for each batch after it."""

_SQLITE_STATEMENT_ERRORS = ("near ", "no such ", "wrong number ", "misuse ", "row value ", "unrecognized ")
_MYSQL_STATEMENT_ERRORS = frozenset(
    {1052, 1054, 1064, 1111, 1142, 1143, 1146, 1222, 1241, 1305, 1370, 1582, 4078}
)
"""Unknown, ambiguous or forbidden names and wrong syntax: https://mariadb.com/docs/server/reference/error-codes"""


def create_audit_engine(conn_id: str, **options: Any) -> Engine:
    """
    Create the engine of an audit database.

    :param options: for ``sqlalchemy.create_engine``
    :raises ZohoConfigError: the connection has no SQLAlchemy engine, or its database has no row locks
    """
    hook = _get_hook(conn_id)
    engine = _create_engine(hook, conn_id, options)
    # Airflow's engine for Redshift has the dialect of PostgreSQL.
    database = "redshift" if hook.conn_type == "redshift" else engine.dialect.name
    if database not in LOCKS_ROWS:
        raise ZohoConfigError(
            f"Connection {conn_id!r} is for {database}, which cannot hold the audit: that needs row locks and "
            "transactions. Use PostgreSQL, MySQL, MariaDB or SQLite"
        )
    return engine


def create_source_engine(conn_id: str) -> Engine:
    """
    Create the engine that a job's SQL is read with, row by row.

    :raises ZohoConfigError: the connection has no SQLAlchemy engine, or only one that buffers whole results
    """
    hook = _get_hook(conn_id)
    options = {"creator": partial(_connect_duckdb, hook)} if hook.conn_type == "duckdb" else {}
    engine = _create_engine(hook, conn_id, options)
    if engine.dialect.driver == "mysqlconnector":
        raise ZohoConfigError(
            f"Connection {conn_id!r} uses mysql-connector-python, which holds whole results in memory under "
            "SQLAlchemy: set its extra client to pymysql, or remove the extra to use mysqlclient"
        )
    from zoho_crm.database_limits import StatementLimits, WaitLimits

    limits = StatementLimits(silence_s=SOURCE_SILENCE_S)
    WaitLimits(f"The database of connection {conn_id!r}", limits).install(engine)
    return engine


def is_statement_error(error: DBAPIError) -> bool:
    """Whether the database rejects the statement itself, so that a retry cannot help."""
    from sqlalchemy.exc import OperationalError, ProgrammingError

    if error.connection_invalidated:
        return False
    if isinstance(error, ProgrammingError):
        return True
    # SQLite and MySQL raise the same class for a wrong statement and for a database that cannot be read.
    message, args = str(error.orig), getattr(error.orig, "args", ())
    return isinstance(error, OperationalError) and (
        message.startswith(_SQLITE_STATEMENT_ERRORS) or bool(args and args[0] in _MYSQL_STATEMENT_ERRORS)
    )


def _get_hook(conn_id: str) -> Any:
    from airflow.sdk import BaseHook  # tests and the UI use the ledger without Airflow

    from zoho_crm.airflow_compat import AirflowException, AirflowNotFoundException

    message = (
        f"Connection {conn_id!r} is not for a SQL database: use a connection type whose hook is a DbApiHook, "
        "such as postgres or sqlite"
    )
    try:
        hook: Any = BaseHook.get_hook(conn_id, hook_params={"log_sql": False})
    except AirflowNotFoundException:
        raise missing_connection(conn_id) from None
    except AirflowException as error:
        if "Unknown hook type" not in str(error):
            raise
        raise ZohoConfigError(
            f"Connection {conn_id!r} has a type that Airflow does not know here: correct the type, or install its "
            "provider package"
        ) from None
    except TypeError as error:
        # Only hooks of SQL databases accept log_sql.
        raise ZohoConfigError(message) from error
    if not hasattr(hook, "get_sqlalchemy_engine"):
        raise ZohoConfigError(message)
    return hook


def _create_engine(hook: Any, conn_id: str, options: dict[str, Any]) -> Engine:
    try:
        engine: Engine = hook.get_sqlalchemy_engine({"hide_parameters": True, **options})
    except Exception as error:  # each provider raises its own for a missing dialect or driver
        # The class alone: the message may hold the URL, and that a password.
        raise ZohoConfigError(
            f"Connection {conn_id!r} has no SQLAlchemy engine ({type(error).__name__}): install the SQLAlchemy "
            "dialect and the driver of its database"
        ) from error
    return engine


def _connect_duckdb(hook: Any) -> Any:
    """Connect through the hook: the URL of its engine has the path alone, without ``read_only`` and settings."""
    from duckdb_engine import ConnectionWrapper

    return ConnectionWrapper(hook.get_conn())
