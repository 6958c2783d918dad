"""
Empty ledgers, without the time that it takes to create their tables. A pytest plugin.

The tables are created once in each test process: a SQLite file is copied for each test, and a database on a server is
emptied after each. Tests of the tables themselves start from an empty database instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.mariadb import MariaDbServer
    from tests.support.postgres import PostgresServer


@pytest.fixture(scope="session", autouse=True)
def sqlite_synchronous() -> Iterator[str]:
    """Let SQLite write without waiting for the disk, and yield the setting that it has outside of tests."""
    # The data need not survive a power failure, and every test commits a lot.
    from zoho_crm.ledger import engine

    with pytest.MonkeyPatch.context() as patch:
        setting = engine.SQLITE_SYNCHRONOUS
        patch.setattr(engine, "SQLITE_SYNCHRONOUS", "OFF")
        yield setting


@pytest.fixture(scope="session")
def empty_sqlite_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an empty ledger in a SQLite file, to be copied."""
    path = tmp_path_factory.mktemp("ledger") / "empty.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    _create_tables(engine)
    engine.dispose()
    return path


@pytest.fixture(scope="session")
def _postgres_ledger(postgres_server: PostgresServer) -> Iterator[sa.Engine]:
    with postgres_server.database() as name:
        engine = sa.create_engine(postgres_server.url(name), isolation_level="AUTOCOMMIT", pool_size=1)
        _create_tables(engine)
        yield engine
        engine.dispose()


@pytest.fixture
def postgres_ledger_url(_postgres_ledger: sa.Engine) -> Iterator[sa.URL]:
    yield _postgres_ledger.url
    with _postgres_ledger.connect() as connection:
        # A test that failed may have left a transaction open, which would keep the tables locked.
        connection.exec_driver_sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        _empty(connection)


@pytest.fixture(scope="session")
def _mariadb_ledger(mariadb_server: MariaDbServer) -> Iterator[sa.Engine]:
    with mariadb_server.database() as url:
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", pool_size=1)
        _create_tables(engine)
        yield engine
        engine.dispose()


@pytest.fixture
def mariadb_ledger_url(_mariadb_ledger: sa.Engine) -> Iterator[sa.URL]:
    yield _mariadb_ledger.url
    with _mariadb_ledger.connect() as connection:
        _empty(connection)


def _create_tables(engine: sa.Engine) -> None:
    # Imported here, since every test loads this file and few need a ledger.
    from zoho_crm.ledger.ledger import Ledger

    Ledger(engine).ensure_schema()


def _empty(connection: sa.Connection) -> None:
    """Delete all rows but the one with the version of the schema, and all tables that a test has added."""
    from zoho_crm.ledger import tables
    from zoho_crm.ledger.schema import SCHEMA_VERSION

    for name in sa.inspect(connection).get_table_names():
        if name not in tables.metadata.tables:
            connection.exec_driver_sql(f"DROP TABLE {name}")
    for table in tables.metadata.sorted_tables:
        rows = sa.delete(table)
        connection.execute(
            rows if table is not tables.versions else rows.where(table.c.version != SCHEMA_VERSION)
        )
