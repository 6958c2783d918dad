"""The same ledger tests on every database: a SQLite file, PostgreSQL with both of its drivers, and MariaDB."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from zoho_crm.ledger import tables
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.ledger.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.mariadb import MariaDbServer

DRIVERS_DIFFER_IN = {"test_claims", "test_concurrency", "test_plan", "test_schema"}
"""Where much is written at once, or by several at once; elsewhere one driver of PostgreSQL speaks for both."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = __name__.rpartition(".")[0]
    kept, left_out = [], []
    for item in items:
        folder, _, module = item.module.__name__.rpartition(".")  # type: ignore[attr-defined]
        repeats = folder == here and "psycopg2" in item.name and module not in DRIVERS_DIFFER_IN
        (left_out if repeats else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


MAKES_TABLES = {"test_schema.py"}
"""Tests that need a database of their own in MariaDB, where the tables of a ledger take a while to make."""


@pytest.fixture(
    params=[
        "sqlite",
        "psycopg",
        "psycopg2",
        pytest.param("mariadb", marks=pytest.mark.systems),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> sa.URL:
    if request.param == "sqlite":
        return sa.URL.create("sqlite", database=str(tmp_path / "ledger.db"))
    if request.param == "mariadb":
        makes_tables = request.path.name in MAKES_TABLES
        mariadb_url: sa.URL = request.getfixturevalue("mariadb_url" if makes_tables else "mariadb_ledger_url")
        return mariadb_url
    postgres_url: sa.URL = request.getfixturevalue("postgres_url")
    return postgres_url.set(drivername=f"postgresql+{request.param}")


@pytest.fixture
def engine(url: sa.URL) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url, pool_size=10, max_overflow=30)
    yield engine
    engine.dispose()


@pytest.fixture(scope="session")
def empty_mariadb_ledger(mariadb_server: MariaDbServer) -> Iterator[sa.Engine]:
    with mariadb_server.database() as url:
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", pool_size=1)
        Ledger(engine).ensure_schema()
        yield engine
        engine.dispose()


@pytest.fixture
def mariadb_ledger_url(empty_mariadb_ledger: sa.Engine) -> Iterator[sa.URL]:
    yield empty_mariadb_ledger.url
    with empty_mariadb_ledger.connect() as connection:
        for name in sa.inspect(connection).get_table_names():
            if name not in tables.metadata.tables:
                connection.exec_driver_sql(f"DROP TABLE {name}")
        for table in tables.metadata.sorted_tables:
            connection.execute(sa.delete(table) if table is not tables.versions else _other_versions())


def _other_versions() -> sa.Delete:
    return sa.delete(tables.versions).where(tables.versions.c.version != SCHEMA_VERSION)


@pytest.fixture(scope="session")
def empty_sqlite_ledger(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ledger") / "empty.db"
    ledger = Ledger(sa.create_engine(f"sqlite:///{path}"))
    ledger.ensure_schema()
    ledger.close()
    return path


@pytest.fixture
def ledger(engine: sa.Engine, empty_sqlite_ledger: Path) -> Ledger:
    if engine.url.database and engine.name == "sqlite":
        # A copy is made in a tenth of the time.
        shutil.copy(empty_sqlite_ledger, engine.url.database)
    ledger = Ledger(engine)
    ledger.ensure_schema()
    return ledger
