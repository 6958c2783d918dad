"""The plan of a run as a file. Who may read it is proved on a real API server, in tests/e2e/test_plan_file.py."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.plugins.zoho_crm.ledger.samples import ORIGIN, RELATION, TARGET, run_start
from zoho_crm.core.run_request import run_key
from zoho_crm.ledger import tables
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterable

DAG_ID, RUN_ID = "zoho_delink__contacts_deals", "manual__2026-11-23T00:00:00+00:00"
JOBS = Path(__file__).parents[4] / "include" / "jobs"

# Airflow's own imports of its API server.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Using `httpx`")


@pytest.fixture
def app() -> Any:
    from zoho_crm.ui import app

    return app


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Ledger:
    """An audit database that the sample job's connection leads to."""
    path = tmp_path / "audit.db"
    connection = {"conn_type": "sqlite", "host": str(path)}
    monkeypatch.setenv("AIRFLOW_CONN_ZOHO_DELINK_AUDIT", json.dumps(connection))
    monkeypatch.setenv("ZOHO_CRM_JOBS_FOLDER", str(JOBS))
    return Ledger(sa.create_engine(f"sqlite:///{path}"))


def plan(
    ledger: Ledger, rows: Iterable[tuple[object, object]], dag_id: str = DAG_ID, run_id: str = RUN_ID
) -> str:
    ledger.ensure_schema()
    key = run_key("contacts_deals", dag_id, run_id)
    ledger.start_run(run_start(key))
    ledger.plan_run(key, RELATION, rows, chunk_size=500, max_chunks=1000, origin=ORIGIN, target=TARGET)
    return key


def read(response: Any) -> list[list[str]]:
    import asyncio

    async def text() -> str:
        return "".join([part async for part in response.body_iterator])

    return list(csv.reader(asyncio.run(text()).splitlines(keepends=True)))


def test_the_file_holds_the_plan_and_no_formula(app: Any, ledger: Ledger) -> None:
    rows = [("c-1", "d-1"), ("=1+1", "@x"), ('a"b', "c,d"), ("", "d-9"), ("-5", "+6")]
    plan(ledger, rows)
    response = app.plan_csv(DAG_ID, RUN_ID)
    assert read(response) == [
        ["seq", "external_id", "related_external_id", "state", "outcome", "fault"],
        ["0", "'-5", "'+6", "planned", "", ""],
        ["1", "'=1+1", "'@x", "planned", "", ""],
        ["2", 'a"b', "c,d", "planned", "", ""],
        ["3", "c-1", "d-1", "planned", "", ""],
        ["4", "", "d-9", "settled", "invalid", "external_id is blank"],
    ]
    assert response.media_type == "text/csv; charset=utf-8"
    assert response.headers["cache-control"] == "no-store"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["content-disposition"].startswith('attachment; filename="plan-contacts_deals-')


def test_a_plan_of_any_size_takes_little_memory(app: Any, ledger: Ledger) -> None:
    key = plan(ledger, ())
    with ledger.engine.begin() as connection:
        numbers = sa.text(
            "INSERT INTO zoho_delink_link (run_key, seq, pair_key, external_id, related_external_id, state) "
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99999) "
            "SELECT :key, i, i, 'c-' || i, 'd-' || i, 'planned' FROM n"
        )
        connection.execute(numbers, {"key": key})
        connection.execute(sa.update(tables.runs).values(planned=100_000))
    lines = app._lines(ledger, key)
    next(lines)
    next(lines)
    tracemalloc.start()
    try:
        count = sum(part.count("\r\n") for part in lines)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 99_500
    assert peak < 3_000_000


@pytest.mark.parametrize(
    ("dag_id", "job", "says"),
    [
        pytest.param(DAG_ID, None, None, id="its own job"),
        pytest.param(DAG_ID, "contacts_deals", None, id="its own job by name"),
        pytest.param(DAG_ID, "campaigns_leads", "This Dag is of another job", id="another job"),
        pytest.param("zoho_delink__nobody", None, "job: there is no job 'nobody'", id="no such job"),
        pytest.param("somebodys_dag", "contacts_deals", "This Dag has no plans", id="another Dag"),
        pytest.param("zoho_relink", "contacts_deals", "This run has no plan", id="no such run"),
        pytest.param("zoho_relink", None, "job: there is no job None", id="no job"),
    ],
)
def test_only_plans_of_the_dag_that_was_asked_for_are_found(
    app: Any, ledger: Ledger, dag_id: str, job: str | None, says: str | None
) -> None:
    from fastapi import HTTPException

    plan(ledger, [("c-1", "d-1")])
    if says is None:
        assert len(read(app.plan_csv(dag_id, RUN_ID, job))) == 2
        return
    with pytest.raises(HTTPException, match=says) as raised:
        app.plan_csv(dag_id, RUN_ID, job)
    assert raised.value.status_code == 404


def test_a_database_without_tables_is_told(app: Any, ledger: Ledger) -> None:
    from fastapi import HTTPException

    with pytest.raises(HTTPException, match="holds no tables yet") as raised:
        app.plan_csv(DAG_ID, RUN_ID)
    assert raised.value.status_code == 503


def test_every_address_asks_for_the_right_to_read_runs(app: Any) -> None:
    (route,) = app.app.routes
    (dependency,) = route.dependencies
    assert dependency.dependency.__qualname__.startswith("requires_access_dag")


def test_loading_the_plugin_loads_no_web_server() -> None:
    code = (
        "import airflow.sdk, sys; from zoho_crm.ui.plugin import ZohoDelinkPlugin; ZohoDelinkPlugin();"
        "sys.exit('fastapi' in sys.modules or 'zoho_crm.ui.app' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
