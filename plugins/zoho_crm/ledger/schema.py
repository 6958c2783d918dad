"""The schema of the audit database: made once, brought forward step by step, never back."""

from __future__ import annotations

from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from zoho_crm import __version__
from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger import migrations, tables
from zoho_crm.ledger.engine import reading

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

SCHEMA_VERSION = 3
MIGRATIONS: Mapping[int, Callable[[sa.Connection], None]] = {
    2: migrations.to_version_2,
    3: migrations.to_version_3,
}
"""What brings a database from the version before to the one that is the key. Version 1 was the first."""

_TRIES = 10
_LOCK_TIMEOUT_S = 60


class CreateView(sa.schema.ExecutableDDLElement):
    """
    ``CREATE VIEW``, which SQLAlchemy 2.0 has no element for.

    :param name: name of the view
    :param select: what it shows
    """

    def __init__(self, name: str, select: sa.Select[Any]) -> None:
        self.name = name
        self.select = select


class DropView(sa.schema.ExecutableDDLElement):
    """
    ``DROP VIEW``, which SQLAlchemy 2.0 has no element for either.

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
    """Return the version the database is at; None if it holds no ledger."""
    if not sa.inspect(connection).has_table(tables.versions.name):
        return None
    version: int | None = connection.scalar(sa.select(sa.func.max(tables.versions.c.version)))
    return version


def ensure_schema(engine: sa.Engine) -> None:
    """
    Create the tables, or bring them to :data:`SCHEMA_VERSION`. Several processes may do it at once.

    A database that is up to date is only read, so that everyday work needs no right to create tables.

    :raises ZohoConfigError: the database is at a newer version than this package knows
    """
    for tries_left in reversed(range(_TRIES)):
        with reading(engine).begin() as connection:
            version = stored_version(connection)
        if version is not None and version > SCHEMA_VERSION:
            raise ZohoConfigError(
                f"the audit database is at schema version {version}, and this package knows versions up to "
                f"{SCHEMA_VERSION}: install the newer package, or use another audit connection"
            )
        if version == SCHEMA_VERSION:
            return
        try:
            with engine.begin() as connection, _alone(connection):
                _advance(connection)
        except (sa.exc.IntegrityError, sa.exc.OperationalError, sa.exc.ProgrammingError):
            # Somebody else is creating the same table: they have it, or are about to.
            if not tries_left:
                raise


def _advance(connection: sa.Connection) -> None:
    version = stored_version(connection)
    if version == SCHEMA_VERSION:
        return
    if version is None:
        tables.versions.create(connection, checkfirst=True)
        tables.metadata.create_all(connection)
        _make_view(connection)
        _note_version(connection, SCHEMA_VERSION)
        return
    steps = range(version + 1, SCHEMA_VERSION + 1)
    note_last = _commits_by_itself(connection)
    if not note_last:
        # The key comes first: whoever cannot insert it leaves the step to the one who could.
        _note_versions(connection, steps)
    for step in steps:
        MIGRATIONS[step](connection)
    _make_view(connection)
    if note_last:
        _note_versions(connection, steps)


def _make_view(connection: sa.Connection) -> None:
    """Make the view anew: it shows all columns of its table, and not those that are added later."""
    if sa.inspect(connection).has_table(tables.latest.name):
        connection.execute(DropView(tables.latest.name))
    connection.execute(CreateView(tables.latest.name, tables.LATEST_SELECT))


def _commits_by_itself(connection: sa.Connection) -> bool:
    """Tell whether the database commits whatever changes a table, so that a step cannot be rolled back."""
    return connection.dialect.name in {"mysql", "mariadb"}


@contextmanager
def _alone(connection: sa.Connection) -> Iterator[None]:
    """
    Let one process at a time change tables where that cannot be one transaction; elsewhere the transaction does so.

    Whoever comes after one that died finds the version unchanged, and makes what is missing.
    """
    if not _commits_by_itself(connection):
        yield
        return
    lock = sa.func.concat("zoho_delink/", sa.func.md5(sa.func.database()))
    if connection.scalar(sa.select(sa.func.get_lock(lock, _LOCK_TIMEOUT_S))) != 1:
        raise ZohoConfigError(
            f"another process has been changing the audit tables for {_LOCK_TIMEOUT_S} seconds: see what it is"
        )
    try:
        yield
    finally:
        connection.execute(sa.select(sa.func.release_lock(lock)))


def _note_versions(connection: sa.Connection, versions: Iterable[int]) -> None:
    for version in versions:
        _note_version(connection, version)


def _note_version(connection: sa.Connection, version: int) -> None:
    connection.execute(
        sa.insert(tables.versions).values(
            version=version, applied_at=datetime.now(UTC), code_version=__version__
        )
    )
