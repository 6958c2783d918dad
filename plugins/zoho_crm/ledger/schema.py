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

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from zoho_crm import __version__
from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger import tables
from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.readiness import explain_refusal, is_refusal

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

    :param name: name of the view
    :param select: the query of the view
    """

    def __init__(self, name: str, select: sa.Select[Any]) -> None:
        self.name = name
        self.select = select


class DropView(sa.schema.ExecutableDDLElement):
    """
    ``DROP VIEW``, which SQLAlchemy 2.0 has no element for.

    :param name: name of the view
    """

    def __init__(self, name: str) -> None:
        self.name = name


@compiles(CreateView)
def _compile_create_view(element: CreateView, compiler: Any, **_: Any) -> str:
    select = compiler.sql_compiler.process(element.select, literal_binds=True)
    return f"CREATE VIEW {compiler.preparer.quote(element.name)} AS {select}"


@compiles(DropView)
def _compile_drop_view(element: DropView, compiler: Any, **_: Any) -> str:
    return f"DROP VIEW {compiler.preparer.quote(element.name)}"


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
        connection.execute(DropView(tables.latest.name))
    connection.execute(CreateView(tables.latest.name, tables.LATEST_SELECT))


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
