"""
An SQLAlchemy engine on plain DB-API connections, to read from databases that SQLAlchemy has no dialect for.

SQLAlchemy's compiler writes bound parameters in the driver's style (PEP 249: ``qmark``, ``numeric``, ``named``,
``format`` or ``pyformat``); everything else is the driver's own.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.engine.default import DefaultDialect, DefaultExecutionContext

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from sqlalchemy.engine.interfaces import DBAPIModule, ExecutionContext

_DATABASES = {
    "duckdb": "duckdb",
    "_duckdb": "duckdb",
    "mysql": "mysql",
    "pymysql": "mysql",
    "MySQLdb": "mysql",
    "psycopg": "postgresql",
    "psycopg2": "postgresql",
}
"""SQLAlchemy's names of the databases that some drivers are for."""


def dbapi_engine(connect: Callable[[], Any]) -> sa.Engine:
    """
    Return an engine for reading; the first connection is made at once, for its driver's parameter style.

    That the database cannot be reached is said when the engine is used, as with an engine of SQLAlchemy's own.

    :param connect: makes a DB-API connection
    :raises NotImplementedError: the driver says nowhere in which style it takes parameters
    """
    first: list[Any] = []
    try:
        first.append(connect())
    except Exception as error:
        driver = _driver_of(error)
        if driver is None:
            raise
    else:
        driver = _driver_of(first[0])
    if driver is None:
        connection = first.pop()
        connection.close()
        raise NotImplementedError(f"the driver of {type(connection).__module__} has no paramstyle")
    engine = sa.create_engine(
        "dbapi://",
        creator=lambda: first.pop() if first else connect(),
        module=driver,
        paramstyle=driver.paramstyle,
        poolclass=sa.NullPool,
        hide_parameters=True,
    )
    engine.dialect.name = _DATABASES.get(_package(driver), "dbapi")
    return engine


def _package(driver: ModuleType | DBAPIModule) -> str:
    return str(driver.__name__).partition(".")[0]


def _driver_of(thing: Any) -> ModuleType | None:
    """Return the module that a driver's connection or error is of, as PEP 249 describes it."""
    for kind in type(thing).__mro__:
        name = kind.__module__
        while name:
            module = sys.modules.get(name)
            if module and hasattr(module, "paramstyle") and hasattr(module, "Error"):
                return module
            name = name.rpartition(".")[0]
    return None


class _Context(DefaultExecutionContext):
    def create_default_cursor(self) -> Any:
        connection = self._dbapi_connection
        if self.dialect.name == "duckdb":
            return _DuckDbCursor(connection.driver_connection)
        if self.execution_options.get("stream_results"):
            return _streaming_cursor(connection)
        return connection.cursor()


class DbApiDialect(DefaultDialect):
    """What all drivers have in common, and nothing that only some databases understand."""

    name = "dbapi"
    driver = "dbapi"
    supports_statement_cache = True
    execution_ctx_cls = _Context

    def do_begin(self, dbapi_connection: Any) -> None:
        """Begin where the driver does not do so by itself."""
        if self.name == "duckdb":
            dbapi_connection.execute("BEGIN TRANSACTION READ ONLY")

    def do_rollback(self, dbapi_connection: Any) -> None:
        """Leave nothing behind; a driver without transactions, or with rows not yet read, may refuse."""
        with suppress(self.loaded_dbapi.Error):
            dbapi_connection.rollback()

    def do_execute(
        self, cursor: Any, statement: str, parameters: Any, context: ExecutionContext | None = None
    ) -> None:
        """
        Hand a statement over, with ``%`` as the driver wants it.

        The compiler has doubled each of them for drivers that put parameters in by Python's ``%``. Without parameters
        most of those leave ``%%`` as it is, and mysql-connector-python does so always.
        """
        doubled = self.paramstyle in {"format", "pyformat"} and getattr(context, "compiled", None)
        if doubled and (not parameters or _package(self.loaded_dbapi) == "mysql"):
            statement = statement.replace("%%", "%")
        cursor.execute(statement, *([parameters] if parameters else []))


class _DuckDbCursor:
    """A connection of DuckDB as its own cursor: its ``cursor()`` makes another connection, with other settings."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, parameters: Sequence[Any] | None = None) -> None:
        self._connection.execute(statement, parameters)

    def close(self) -> None:
        """Leave the connection open."""


def _streaming_cursor(connection: Any) -> Any:
    """Return the cursor with which a driver does not take the whole result into memory."""
    driver = type(connection.driver_connection).__module__.partition(".")[0]
    if driver in {"pymysql", "MySQLdb"}:
        return connection.cursor(sys.modules[f"{driver}.cursors"].SSCursor)
    if driver == "mysql":
        # Else it refuses to close a cursor whose rows have not all been read.
        connection.driver_connection.can_consume_results = True
    return connection.cursor()


sa.dialects.registry.register("dbapi", __name__, DbApiDialect.__name__)
