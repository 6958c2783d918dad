"""The links of a run as a file, from a real API server: who may read it, and what it contains."""

from __future__ import annotations

import csv
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import requests

if TYPE_CHECKING:
    from tests.support.airflow_world import World

pytest_plugins = ["tests.support.airflow_world"]

MANUAL = "zoho_delink__manual"


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


@pytest.fixture
def address(dry_run_id: str) -> str:
    """Return the address of the links of a dry run."""
    return f"/zoho-delinks/dags/{MANUAL}/runs/{quote(dry_run_id, safe='')}/links.csv"


def get(world: World, path: str, token: str | None = None, **cookies: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return session.get(
            f"{world.airflow.url}{path}", headers=headers, cookies=cookies, timeout=30, allow_redirects=False
        )


def test_file_is_refused_without_a_valid_session(world: World, address: str):
    without, wrong, wrong_cookie = (
        get(world, address),
        get(world, address, "nonsense"),
        get(world, address, _token="nonsense"),
    )
    assert without.status_code == 401
    assert {wrong.status_code, wrong_cookie.status_code} <= {401, 403}
    for response in (without, wrong, wrong_cookie):
        assert response.headers["content-type"] == "application/json"
        assert "who-may-see" not in response.text
    for page in ("docs", "redoc", "openapi.json", ""):
        assert get(world, f"/zoho-delinks/{page}").status_code == 401


@pytest.mark.parametrize("user", ["admin", "viewer"])
def test_file_is_sent_to_users_who_may_read_the_runs_of_the_dag(world: World, address: str, user: str):
    token = world.token_of(user)
    for response in (get(world, address, token), get(world, f"{address}?job=manual", _token=token)):
        assert response.status_code == 200
        assert response.headers["content-type"] == "text/csv; charset=utf-8"
        assert response.headers["cache-control"] == "no-store"
        rows = list(csv.DictReader(response.text.splitlines()))
        assert [(row["external_id"], row["related_external_id"], row["outcome"]) for row in rows] == [
            ("'=cmd|' /C calc'!A0", "'@SUM(1)", "would_remove"),
            ("who-may-see", "a-deal", "would_remove"),
        ]


def test_missing_run_is_404(world: World, address: str):
    token = world.token_of("viewer")
    for path in (
        f"{address}?job=daily",
        address.replace(MANUAL, "zoho_delink__missing"),
        address.replace("/links.csv", "0/links.csv"),
    ):
        assert get(world, path, token).status_code == 404


def test_airflow_loads_the_plugin(world: World):
    plugins = {each["name"]: each for each in world.airflow.api("GET", "/api/v2/plugins")["plugins"]}
    (app,) = plugins["zoho_delinks"]["fastapi_apps"]
    assert app["url_prefix"] == "/zoho-delinks"
    assert world.airflow.api("GET", "/api/v2/plugins/importErrors")["import_errors"] == []
