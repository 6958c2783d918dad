"""The schema of the audit database: made once, brought forward step by step, never back."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles

from zoho_crm import __version__
from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger import migrations, tables
from zoho_crm.ledger.engine import reading

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

SCHEMA_VERSION = 2
MIGRATIONS: Mapping[int, Callable[[sa.Connection], None]] = {2: migrations.to_version_2}
"""What brings a database from the version before to the one that is the key. Version 1 was the first."""

_TRIES = 10


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
            with engine.begin() as connection:
                _advance(connection)
        except (sa.exc.IntegrityError, sa.exc.OperationalError, sa.exc.ProgrammingError):
            # Somebody else is creating the same table: they have it, or are about to.
            if not tries_left:
                raise


def _advance(connection: sa.Connection) -> None:
    version = stored_version(connection)
    if version is None:
        tables.versions.create(connection)
        tables.metadata.create_all(connection)
        connection.execute(CreateView(tables.latest.name, tables.LATEST_SELECT))
        _note_version(connection, SCHEMA_VERSION)
        return
    for step in range(version + 1, SCHEMA_VERSION + 1):
        # The key comes first: whoever cannot insert it leaves the step to the one who could.
        _note_version(connection, step)
        MIGRATIONS[step](connection)
    # It shows all columns of its table, and the ones that were added are not among them.
    connection.execute(DropView(tables.latest.name))
    connection.execute(CreateView(tables.latest.name, tables.LATEST_SELECT))


def _note_version(connection: sa.Connection, version: int) -> None:
    connection.execute(
        sa.insert(tables.versions).values(
            version=version, applied_at=datetime.now(UTC), code_version=__version__
        )
    )
