"""The link from tasks to the page of their run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from zoho_crm.airflow_compat import DagBag
from zoho_crm.core.run_request import RELINK_DAG_ID, RETRY_DAG_ID
from zoho_crm.ui.plugin import DelinkRunLink, ZohoDelinkPlugin

DAGS = Path(__file__).parents[4] / "dags"
RUN = SimpleNamespace(dag_id="zoho_delink__a", run_id="manual__2026-11-24T01:00:00+00:00", task_id="delink")


@pytest.mark.parametrize(
    ("base_url", "below"),
    [("", ""), ("https://airflow.example.com", ""), ("https://example.com/data/airflow/", "/data/airflow")],
    ids=["none", "at the top", "below a path"],
)
def test_link_leads_to_the_tab_of_the_run(base_url: str, below: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", base_url)

    link = DelinkRunLink().get_link(None, ti_key=RUN)  # type: ignore[arg-type]

    assert link == (
        f"{below}/dags/zoho_delink__a/runs/manual__2026-11-24T01%3A00%3A00%2B00%3A00/plugin/zoho-delink-run"
    )
    assert {view["url_route"] for view in ZohoDelinkPlugin.external_views} >= {"zoho-delink-run"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_task_that_works_on_a_plan_has_the_link() -> None:
    with_link = {f"{one.__module__}.{one.__name__}" for one in DelinkRunLink().operators}
    dags = DagBag(dag_folder=DAGS).dags
    found = {
        task.task_id
        for dag_id in ("zoho_delink__contacts_deals", RETRY_DAG_ID, RELINK_DAG_ID)
        for task in dags[dag_id].tasks
        if f"{task.operator_class.__module__}.{task.operator_class.__name__}" in with_link
    }

    assert found >= {"plan", "guard", "approve", "delink", "relink", "report"}
    assert "preflight" not in found
