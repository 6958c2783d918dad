"""The same ledger tests on every database: a SQLite file, PostgreSQL with both of its drivers, and MariaDB."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("psycopg", marks=pytest.mark.integration),
        pytest.param("psycopg2", marks=pytest.mark.integration),
        pytest.param("mariadb", marks=[pytest.mark.integration, pytest.mark.mariadb]),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> sa.URL:
    if request.param == "sqlite":
        return sa.URL.create("sqlite", database=str(tmp_path / "ledger.db"))
    if request.param == "mariadb":
        mariadb_url: sa.URL = request.getfixturevalue("mariadb_url")
        return mariadb_url
    postgres_url: sa.URL = request.getfixturevalue("postgres_url")
    return postgres_url.set(drivername=f"postgresql+{request.param}")


@pytest.fixture
def engine(url: sa.URL) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url, pool_size=10, max_overflow=30)
    yield engine
    engine.dispose()


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
