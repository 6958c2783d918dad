"""Airflow's surroundings for the operators: connections in the environment, Variables in memory, real databases."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from include.local_zoho import LocalZoho
from tests.plugins.zoho_crm.operators.world import (
    AUDIT,
    SQL,
    WAREHOUSE,
    ZOHO,
    Audit,
    Warehouse,
    connection_to,
    set_connection,
    zoho_connection,
)
from zoho_crm.hooks import access_token

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.postgres import PostgresServer


@pytest.fixture(autouse=True)
def clean_process(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Leave neither a token nor a proxy of the surroundings to a test, and keep Airflow's Variables in memory."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    values: dict[str, str] = {}

    class FakeVariable:
        @staticmethod
        def get(key: str, default: Any = None) -> Any:
            return values.get(key, default)

        @staticmethod
        def set(key: str, value: str) -> None:
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
    set_connection(monkeypatch, ZOHO, **zoho_connection(zoho_server))
    return zoho_server


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.integration)])
def audit(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Audit]:
    """An empty audit database, and the connection to it."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            url = sa.URL.create("sqlite", database=str(tmp_path / "audit.db"))
        elif request.param == "mariadb":
            url = request.getfixturevalue("mariadb_url")
        else:
            # A database of its own: an Airflow connection has no place for a schema's search path.
            server: PostgresServer = request.getfixturevalue("postgres_server")
            url = server.url(stack.enter_context(server.database()))
        set_connection(monkeypatch, AUDIT, **connection_to(url))
        audit = Audit(url)
        stack.callback(audit.engine.dispose)
        yield audit


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Warehouse]:
    """A warehouse without rows, and the connection to it."""
    path = tmp_path / "warehouse.db"
    set_connection(monkeypatch, WAREHOUSE, conn_type="sqlite", host=str(path))
    warehouse = Warehouse(path)
    yield warehouse
    warehouse.engine.dispose()


@pytest.fixture
def sql_path(tmp_path: Path) -> Path:
    path = tmp_path / "include" / "sql" / "contacts_deals.sql"
    path.parent.mkdir(parents=True)
    path.write_text(SQL, encoding="utf-8")
    return path
