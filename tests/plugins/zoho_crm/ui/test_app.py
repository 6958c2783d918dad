"""Every response of the pages: authentication, security headers, errors."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.plugins.zoho_crm.ui.conftest import JOBS
from zoho_crm.ledger import tables
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.ledger.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugins.zoho_crm.ui.conftest import Pages

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Using `httpx`")

URLS = [
    "/",
    "/links",
    "/links/" + "0" * 64,
    "/dags/a/runs/b",
    "/dags/a/runs/b/progress",
    "/dags/a/runs/b/links.csv",
    "/dags/a/runs/b/links.jsonl",
    "/dags/a/runs/b/start/relink",
    "/static/app.js",
    "/static/chart.umd.min.js",
    "/docs",
    "/openapi.json",
    "/nothing/here",
]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "OPTIONS"])
def test_requests_without_a_session_get_401(pages: Pages, method: str):
    pages.app.dependency_overrides.clear()

    for url in URLS:
        response = pages.client.request(method, url)

        assert response.status_code == 401, url
        assert response.json() == {"detail": "Not authenticated"}


def test_every_route_authenticates_first(pages: Pages):
    from zoho_crm.ui import auth

    for route in pages.app.routes:
        first = route.dependant.dependencies[0].call  # type: ignore[attr-defined] # codespell:ignore dependant
        assert first in {auth.SIGNED_IN, auth.READ_RUN}, route
        if "{dag_id}" in route.path:  # type: ignore[attr-defined]
            assert first is auth.READ_RUN


@pytest.mark.parametrize("query", ["", "?job=x&days=x"])
def test_every_response_has_the_security_headers(pages: Pages, query: str):
    for url in URLS:
        response = pages.client.get(url + query)
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert "frame-ancestors 'self'" in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        kept = "private, max-age=3600" if response.is_success and "/static/" in url else "no-store"
        assert response.headers["cache-control"] == kept


def test_pages_have_no_inline_script_or_style(pages: Pages):
    pages.store([("c-1", "d-1")])

    for url in ("/", "/links", pages.run(), "/nothing"):
        text = pages.client.get(url).text
        assert "</script>" in text
        assert text.count("<script") == text.count('<script src="/static/')
        for inline in ("<style", "style=", "onclick", "onload", "javascript:"):
            assert inline not in text


def test_serves_only_its_own_static_files(pages: Pages):
    for name in ("../app.py", "..%2Fapp.py", "app.css.map", ".", "%2e%2e"):
        assert pages.client.get(f"/static/{name}").status_code in {400, 404}


@pytest.mark.parametrize(
    ("version", "said"),
    [(SCHEMA_VERSION - 1, "the next run of a job upgrades it"), (99, "install the newer package")],
)
def test_database_of_another_schema_version_is_reported_and_left_unchanged(
    pages: Pages, version: int, said: str
):
    with pages.ledger.engine.begin() as connection:
        connection.execute(sa.update(tables.versions).values(version=version))

    page = pages.client.get("/")

    assert page.status_code == 200
    assert said in page.text


def test_database_without_tables_shows_an_empty_list(tmp_path: Path, pages: Pages):
    from zoho_crm.ui.audit_databases import AuditDatabases

    empty = f"sqlite:///{tmp_path / 'empty.db'}"
    pages.app.state.databases = AuditDatabases(JOBS, lambda _: Ledger(sa.create_engine(empty)))

    page = pages.client.get("/")

    assert page.status_code == 200
    assert "No runs yet" in page.text
    assert "are missing here" not in page.text


def test_unavailable_database_is_reported_without_its_host(tmp_path: Path, pages: Pages):
    from zoho_crm.ui.audit_databases import AuditDatabases

    nowhere = tmp_path / "nowhere" / "secret-host.db"
    pages.app.state.databases = AuditDatabases(
        JOBS, lambda _: Ledger(sa.create_engine(f"sqlite:///{nowhere}"))
    )

    page = pages.client.get("/")

    assert page.status_code == 200
    assert "it cannot be opened" in page.text
    assert "secret-host" not in page.text


def test_database_that_becomes_unavailable_returns_503(pages: Pages):
    pages.client.get("/")
    with pages.ledger.engine.begin() as connection:
        connection.execute(sa.text("DROP TABLE zoho_delink_run"))

    page = pages.client.get("/")

    assert page.status_code == 503
    assert "is unavailable" in page.text


def test_urls_include_the_path_that_airflow_is_served_at(pages: Pages):
    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    pages.store([("c-1", "d-1")])
    airflow = FastAPI(root_path="/team/airflow")
    airflow.mount("/zoho-delinks", pages.app)

    text = TestClient(airflow).get(f"/team/airflow/zoho-delinks{pages.run()}").text

    assert 'href="/team/airflow/zoho-delinks/"' in text
    assert 'src="/team/airflow/zoho-delinks/static/theme.js' in text
    assert 'href="/team/airflow/dags/zoho_delink__contacts_deals/runs/scheduled__' in text


@pytest.mark.integration
def test_loading_the_plugin_loads_no_web_server():
    code = (
        "import airflow.sdk, sys; from zoho_crm.ui.plugin import ZohoDelinkPlugin; ZohoDelinkPlugin();"
        "sys.exit('fastapi' in sys.modules or 'zoho_crm.ui.app' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_exhausted_connection_pool_returns_503(pages: Pages, monkeypatch: pytest.MonkeyPatch):
    def exhausted(*_: object) -> None:
        raise sa.exc.TimeoutError("QueuePool limit of size 2 overflow 3 reached")

    monkeypatch.setattr("zoho_crm.ledger.run_queries.RunQueries.of_dag_run", exhausted)

    page = pages.client.get(pages.run())

    assert page.status_code == 503
    assert "is unavailable" in page.text


@pytest.mark.parametrize(
    "url",
    [
        "/?job=a%00b",
        "/dags/a%00/runs/b",
        "/dags/a/runs/b%00/links.csv",
        "/dags/a/runs/b?outcome=%00",
        "/links/%00",
    ],
)
def test_nul_in_a_url_returns_400_with_the_security_headers(pages: Pages, url: str):
    response = pages.client.get(url)

    assert response.status_code == 400
    assert response.json() == {"detail": "The URL contains a NUL character: remove it."}
    assert response.headers["content-security-policy"].startswith("default-src 'none'")


def test_nul_in_a_form_returns_400_with_the_security_headers(pages: Pages):
    pages.store([("c-1", "d-1")])

    for url in (pages.run(), "/links"):
        response = pages.client.post(url, data={"job": "contacts_deals", "external_id": "c\x00"})

        assert response.status_code == 400
        assert "NUL character" in response.text
        assert response.headers["x-content-type-options"] == "nosniff"


def test_unexpected_error_returns_500_with_the_security_headers(
    pages: Pages, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fail(*_: object) -> None:
        raise RuntimeError("secret-host")

    monkeypatch.setattr("zoho_crm.ledger.run_queries.RunQueries.of_dag_run", fail)

    response = pages.client.get(pages.run())

    assert response.status_code == 500
    assert response.json() == {"detail": "Internal error. The log of the API server has the reason."}
    assert response.headers["cache-control"] == "no-store"
    assert "Request failed: path=" in caplog.text
