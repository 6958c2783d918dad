"""One local Zoho for the session, a connection to it, and Airflow's Variables in memory."""

from __future__ import annotations

import json
import threading
from typing import TYPE_CHECKING, Any

import pytest

from include.local_zoho import LocalZoho
from tests.postgres import postgres_server, postgres_url
from tests.proofs.harness import ZOHO, sqlite_ledger, zoho_connection
from zoho_crm.hooks import access_token
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["postgres_server", "postgres_url"]


@pytest.fixture(autouse=True)
def variables(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Airflow's Variables in memory, and nothing of the surroundings."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    values: dict[str, str] = {}
    lock = threading.Lock()

    class FakeVariable:
        @staticmethod
        def get(key: str, default: Any = None) -> Any:
            with lock:
                return values.get(key, default)

        @staticmethod
        def set(key: str, value: str) -> None:
            with lock:
                values[key] = value

    monkeypatch.setattr(access_token, "Variable", FakeVariable)
    monkeypatch.setattr(access_token, "_in_process", {})
    monkeypatch.setattr(access_token, "_logged_keys", set())
    return values


@pytest.fixture(scope="session")
def zoho_server() -> Iterator[LocalZoho]:
    with LocalZoho() as server:
        yield server


@pytest.fixture
def zoho(zoho_server: LocalZoho, monkeypatch: pytest.MonkeyPatch) -> LocalZoho:
    """A local Zoho without records, and the connection to it."""
    zoho_server.reset()
    monkeypatch.setenv(f"AIRFLOW_CONN_{ZOHO.upper()}", json.dumps(zoho_connection(zoho_server)))
    return zoho_server


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger in a SQLite file."""
    ledger = sqlite_ledger(tmp_path / "audit.db")
    yield ledger
    ledger.close()


@pytest.fixture(params=["sqlite", "postgres"])
def any_ledger(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger in a SQLite file, and in PostgreSQL."""
    if request.param == "sqlite":
        ledger = sqlite_ledger(tmp_path / "audit.db")
    else:
        import sqlalchemy as sa

        url = request.getfixturevalue("postgres_url")
        ledger = Ledger(sa.create_engine(url, pool_size=10, max_overflow=40))
        ledger.ensure_schema()
    yield ledger
    ledger.close()
