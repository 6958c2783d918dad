"""The same ledger tests on every database: a SQLite file, PostgreSQL with both of its drivers, and MariaDB."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from zoho_crm.ledger.engine import prepared
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DRIVERS_DIFFER_IN = {"test_concurrency", "test_isolation", "test_schema"}
"""Where several write at once, or a driver's errors count; elsewhere one driver of PostgreSQL speaks for both."""
MUCH_IS_WRITTEN_IN = {"test_claims", "test_plan"}
"""Where the drivers write many rows in ways that differ: the system tests run the second driver too."""


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    here = __name__.rpartition(".")[0]
    kept, left_out = [], []
    for item in items:
        folder, _, module = item.module.__name__.rpartition(".")  # type: ignore[attr-defined]
        second = folder == here and "psycopg2" in item.name and module not in DRIVERS_DIFFER_IN
        if second and module in MUCH_IS_WRITTEN_IN:
            item.add_marker(pytest.mark.systems)
        (left_out if second and module not in MUCH_IS_WRITTEN_IN else kept).append(item)
    items[:] = kept
    config.hook.pytest_deselected(items=left_out)


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[sa.Engine]:
    """An engine of an empty SQLite file, for tests that need no other database."""
    engine = prepared(sa.create_engine(f"sqlite:///{tmp_path / 'ledger.db'}"))
    yield engine
    engine.dispose()


@pytest.fixture(params=["sqlite", "psycopg", "psycopg2", pytest.param("mariadb", marks=pytest.mark.systems)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> sa.URL:
    """An empty database; its tables may be there only where a test starts from a ledger and leaves them as they are."""
    if request.param == "sqlite":
        return sa.URL.create("sqlite", database=str(tmp_path / "ledger.db"))
    has_tables = "ledger" in request.fixturenames and request.path.name != "test_schema.py"
    server = "mariadb" if request.param == "mariadb" else "postgres"
    url: sa.URL = request.getfixturevalue(f"{server}_ledger_url" if has_tables else f"{server}_url")
    return url if server == "mariadb" else url.set(drivername=f"postgresql+{request.param}")


@pytest.fixture
def engine(url: sa.URL) -> Iterator[sa.Engine]:
    engine = sa.create_engine(url, pool_size=10, max_overflow=30)
    yield engine
    engine.dispose()


@pytest.fixture
def ledger(engine: sa.Engine, empty_sqlite_ledger: Path) -> Ledger:
    if engine.url.database and engine.name == "sqlite":
        # A copy is made in a tenth of the time.
        shutil.copy(empty_sqlite_ledger, engine.url.database)
    ledger = Ledger(engine)
    ledger.ensure_schema()
    return ledger
