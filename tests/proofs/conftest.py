"""Ledgers for the proofs, and Airflow's Variables in memory."""

from __future__ import annotations

import multiprocessing
from typing import TYPE_CHECKING

import pytest

from tests.proofs import killed_process
from tests.proofs.harness import sqlite_ledger
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session")
def processes() -> multiprocessing.context.BaseContext:
    # Processes fork from a small server process that has imported everything and has no threads.
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([killed_process.__name__])
    return processes


@pytest.fixture(autouse=True)
def _surroundings(variables: dict[str, str]) -> None:
    """Keep Airflow's Variables in memory for every proof."""


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger in a SQLite file."""
    ledger = sqlite_ledger(tmp_path / "audit.db")
    yield ledger
    ledger.close()


@pytest.fixture(params=["sqlite", "postgres"])
def any_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger in a SQLite file or in PostgreSQL."""
    if request.param == "sqlite":
        ledger = sqlite_ledger(tmp_path / "audit.db")
    else:
        import sqlalchemy as sa

        url = request.getfixturevalue("postgres_url")
        ledger = Ledger(sa.create_engine(url, pool_size=10, max_overflow=40))
        ledger.ensure_schema()
    yield ledger
    ledger.close()
