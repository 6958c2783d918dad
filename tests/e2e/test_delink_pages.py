"""Access to the delink pages on a real API server."""

from __future__ import annotations

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
def run_address(dry_run_id: str) -> str:
    return f"/zoho-delinks/dags/{MANUAL}/runs/{quote(dry_run_id, safe='')}"


@pytest.fixture
def addresses(run_address: str) -> list[str]:
    own = ("", "/progress", "/links.csv", "/links.jsonl")
    others = ("/zoho-delinks/", "/zoho-delinks/links", "/zoho-delinks/static/app.js")
    return [*(run_address + each for each in own), *others]


def ask(world: World, method: str, address: str, **options: object) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.request(
            method,
            f"{world.airflow.url}{address}",
            timeout=30,
            allow_redirects=False,
            **options,  # type: ignore[arg-type]
        )


@pytest.mark.parametrize("cookies", [{}, {"_token": "nonsense"}], ids=["no session", "a made-up one"])
def test_requests_without_a_session_are_refused(world: World, addresses: list[str], cookies: dict[str, str]):
    for address in [*addresses, "/zoho-delinks/openapi.json", "/zoho-delinks/docs", "/zoho-delinks/nothing"]:
        for method in ("GET", "POST", "DELETE"):
            response = ask(world, method, address, cookies=cookies)
            assert response.status_code in {401, 403}, (method, address)
            assert set(response.json()) == {"detail"}
            assert "who-may-see" not in response.text
            assert response.headers["content-security-policy"].startswith("default-src 'none'")


def test_viewer_may_read_but_not_start_runs(world: World, addresses: list[str], run_address: str):
    cookies = {"_token": world.token_of("viewer")}
    for address in addresses:
        response = ask(world, "GET", address, cookies=cookies)
        assert response.status_code == 200, address
    assert "who-may-see" in ask(world, "GET", run_address, cookies=cookies).text
    found = ask(world, "POST", run_address, cookies=cookies, data={"external_id": "who-"})
    assert "who-may-see" in found.text

    form = ask(world, "GET", f"{run_address}/start/relink", cookies=cookies)
    assert form.status_code == 403
    conf = {"logical_date": None, "conf": {"job": "manual", "run": "x"}}
    started = ask(world, "POST", "/api/v2/dags/zoho_delink_relink/dagRuns", cookies=cookies, json=conf)
    assert started.status_code == 403


def test_tasks_link_to_the_page_of_their_run(world: World, run_address: str):
    run_id = run_address.rpartition("/")[2]
    tab = f"/dags/{MANUAL}/runs/{run_id}/plugin/zoho-delink-run"
    tasks = f"/api/v2/dags/{MANUAL}/dagRuns/{run_id}/taskInstances"
    for task, map_index in (("plan", -1), ("guard", -1), ("delink", 0), ("report", -1)):
        links = world.airflow.api("GET", f"{tasks}/{task}/links?map_index={map_index}")
        assert links["extra_links"] == {"Zoho delinks": tab}, task
    links = world.airflow.api("GET", f"{tasks}/preflight/links")
    assert links["extra_links"] == {}


def test_pages_are_in_the_navigation_and_on_runs(world: World):
    plugins = {each["name"]: each for each in world.airflow.api("GET", "/api/v2/plugins")["plugins"]}
    views = {each["destination"]: each for each in plugins["zoho_delinks"]["external_views"]}

    assert views["nav"]["href"] == "zoho-delinks/"
    assert views["dag_run"]["href"] == "zoho-delinks/dags/{DAG_ID}/runs/{RUN_ID}"


def test_run_that_ended_without_its_report_is_shown_as_failed_and_closed_by_the_next(world: World):
    run_id = world.runs.trigger(MANUAL, {"mode": "dry_run", "reason": "to be ended"})
    in_airflow = f"/api/v2/dags/{MANUAL}/dagRuns/{quote(run_id, safe='')}"

    def page() -> requests.Response:
        return ask(
            world,
            "GET",
            f"/zoho-delinks/dags/{MANUAL}/runs/{quote(run_id, safe='')}",
            cookies={"_token": world.token_of("viewer")},
            headers={"accept": "text/html"},
        )

    world.runs.until(lambda: page().status_code == 200, "the row of the run")
    world.airflow.api("PATCH", in_airflow, {"state": "failed"})
    assert "The Dag run ended in Airflow as failed, without its report" in page().text
    world.airflow.api("DELETE", in_airflow)
    assert "The Dag run was deleted in Airflow before its report ran" in page().text

    world.runs.finish(MANUAL, world.runs.trigger(MANUAL, {"mode": "dry_run"}))

    closed = world.audit.run(MANUAL, run_id)
    assert closed["status"] == "failed"
    assert "The Dag run was deleted in Airflow before its report ran" in closed["detail"]
