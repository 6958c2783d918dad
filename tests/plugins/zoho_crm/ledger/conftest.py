"""The same ledger tests on every database: a SQLite file, and PostgreSQL with both of its drivers."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DRIVERS_DIFFER_IN = {"test_claims", "test_concurrency", "test_migrations", "test_plans", "test_schema"}
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


@pytest.fixture(
    params=[
        "sqlite",
        pytest.param("psycopg", marks=pytest.mark.integration),
        pytest.param("psycopg2", marks=pytest.mark.integration),
    ]
)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> sa.URL:
    if request.param == "sqlite":
        return sa.URL.create("sqlite", database=str(tmp_path / "ledger.db"))
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
