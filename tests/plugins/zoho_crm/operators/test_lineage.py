"""What each task reports to OpenLineage, read from what the provider's listener would send."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.databases import AUDIT, WAREHOUSE, Audit, Warehouse, set_connection
from tests.support.local_zoho import link_all
from tests.support.operators import context, delink, jobs_folder, make_job, pairs
from zoho_crm.operators.guard import ApproveOperator, GuardOperator
from zoho_crm.operators.plan_links import PlanLinksOperator
from zoho_crm.operators.relink import RelinkByExternalIdOperator
from zoho_crm.operators.report import ReportOperator
from zoho_crm.ui.plugin import ZohoDelinkPlugin

if TYPE_CHECKING:
    from zoho_crm.core.models import ChunkRef
    from zoho_crm.testing.local_zoho import LocalZoho

pytest.importorskip("airflow.providers.openlineage")

pytestmark = [pytest.mark.systems, pytest.mark.parametrize("audit", ["sqlite"], indirect=True)]

JOINED_SQL = """\
WITH marked AS (SELECT * FROM crm.links_to_remove WHERE marked_at >= :window_start AND marked_at < :window_end)
SELECT m.parent_id AS external_id, d.our_id AS related_external_id
FROM marked m JOIN Sales."Deals" d ON d.id = m.deal_id
"""


@pytest.fixture(autouse=True)
def _tables(audit: Audit) -> None:
    audit.ledger()


def reported(operator: Any, *, at_start: bool = False) -> tuple[list[str], dict[str, int | None]]:
    """The datasets that an operator reads, and those that it writes with their rows, as the provider sees them."""
    from airflow.providers.openlineage.extractors.base import DefaultExtractor

    extractor = DefaultExtractor(operator)
    lineage = extractor.extract() if at_start else extractor.extract_on_complete(None)
    assert lineage is not None
    rows = {}
    for one in lineage.outputs:
        statistics = one.outputFacets.get("outputStatistics")
        rows[f"{one.namespace} {one.name}"] = statistics and statistics.rowCount
    return [f"{one.namespace} {one.name}" for one in lineage.inputs], rows


def of_audit(audit: Audit, table: str) -> str:
    return f"sqlite://{audit.url.database} {table}"


def task(kind: Any, sql_path: Path, **changes: Any) -> Any:
    return kind(task_id="a_task", job=make_job(**changes), jobs_folder=jobs_folder(sql_path))


def planned(sql_path: Path, **params: Any) -> ChunkRef:
    (chunk,) = task(PlanLinksOperator, sql_path).execute(
        context(
            "plan", params={"mode": "apply", **params}, preflight={"org_id": "700000001", "data_center": "us"}
        )
    )
    return chunk


def test_a_plan_leads_from_the_warehouses_tables_to_the_plans(
    audit: Audit, warehouse: Warehouse, sql_path: Path
) -> None:
    warehouse.add([*pairs(3), ("c-9", "..")])
    plan = task(PlanLinksOperator, sql_path)
    # What it reads is not known before: the form may hold pasted links.
    assert reported(plan, at_start=True) == ([], {of_audit(audit, "zoho_delink_link"): None})
    plan.execute(context("plan"))
    assert reported(plan) == ([f"sqlite://{warehouse.path} pairs"], {of_audit(audit, "zoho_delink_link"): 4})


def test_pasted_links_are_of_no_table(audit: Audit, warehouse: Warehouse, sql_path: Path) -> None:
    plan = task(PlanLinksOperator, sql_path)
    plan.execute(context("plan", params={"links": [["c-1", "d-1"]]}))
    assert reported(plan) == ([], {of_audit(audit, "zoho_delink_link"): 1})


def test_tables_are_named_as_the_hook_of_their_database_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoho_crm.lineage import tables_read

    set_connection(
        monkeypatch,
        WAREHOUSE,
        conn_type="postgres",
        host="no-such-host.invalid",
        login="someone",
        password="a-secret",
        schema="analytics",
    )
    found = tables_read(WAREHOUSE, JOINED_SQL)
    assert sorted((one.namespace, one.name) for one in found) == [
        ("postgres://no-such-host.invalid:5432", "analytics.Sales.Deals"),
        ("postgres://no-such-host.invalid:5432", "analytics.crm.links_to_remove"),
    ]
    assert "a-secret" not in str(found)


@pytest.mark.parametrize(
    ("host", "port", "expected"),
    [
        ("warehouse", 8_080, "warehouse:8080"),
        ("/data/warehouse.db", None, "/data/warehouse.db"),
        ("someone:a-secret@warehouse", 5_432, "warehouse:5432"),
        ("jdbc:other://warehouse:1/crm;password=a-secret", None, "jdbc:other://warehouse:1/crm"),
        ("warehouse?token=a-secret@b", None, "warehouse"),
        (None, None, ""),
    ],
)
def test_the_place_of_a_database_holds_no_login(host: str | None, port: int | None, expected: str) -> None:
    from zoho_crm.lineage import place_of

    assert place_of(host, port) == expected


def test_sql_that_cannot_be_read_has_no_tables(warehouse: Warehouse) -> None:
    from zoho_crm.lineage import tables_read

    assert tables_read(WAREHOUSE, "SELECTED everything") == []


def test_a_guard_reads_the_plan_and_the_tables_of_its_sql(
    audit: Audit, warehouse: Warehouse, sql_path: Path
) -> None:
    (sql_path.parent / "known.sql").write_text("SELECT count(*) FROM baseline_links")
    guard = task(GuardOperator, sql_path, guards={"max_share": 0.5, "baseline_sql_file": "known.sql"})
    inputs = [of_audit(audit, "zoho_delink_link"), f"sqlite://{warehouse.path} baseline_links"]
    assert reported(guard, at_start=True) == (inputs, {of_audit(audit, "zoho_delink_run"): None})


def test_links_taken_out_lead_from_the_plan_into_zoho_and_the_audit(
    zoho: LocalZoho, audit: Audit, warehouse: Warehouse, sql_path: Path
) -> None:
    warehouse.add(pairs(5))
    link_all(zoho, pairs(4))
    chunk = planned(sql_path)
    audit.ledger().runs.record_guard(chunk["run_key"], "passed")
    operator = delink(chunk=chunk, audit_conn_id=AUDIT)
    plan = [of_audit(audit, "zoho_delink_link")]
    assert reported(operator, at_start=True) == (plan, {of_audit(audit, "zoho_delink_audit"): None})
    operator.execute(context())
    assert reported(operator) == (
        plan,
        # The fifth has no records.
        {of_audit(audit, "zoho_delink_audit"): 5, "zoho://us/700000001 Contacts.Deals": 4},
    )
    (_, relation) = operator.get_openlineage_facets_on_complete(None).outputs
    assert [field.name for field in relation.facets["schema"].fields] == [
        "Contacts.External_Contact_ID",
        "Deals.External_Deal_ID",
    ]
    assert "c-0" not in str(relation)


def test_a_dry_run_writes_no_relation(
    zoho: LocalZoho, audit: Audit, warehouse: Warehouse, sql_path: Path
) -> None:
    warehouse.add(pairs(2))
    operator = delink(chunk=planned(sql_path, mode="dry_run"), audit_conn_id=AUDIT)
    operator.execute(context())
    assert reported(operator)[1] == {of_audit(audit, "zoho_delink_audit"): 2}


def test_links_put_back_without_a_ledger_are_of_the_relation_alone(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(2))
    zoho.state.unlink("Contacts", "c-00000", "Deals", "d-00000")
    operator = RelinkByExternalIdOperator(
        task_id="relink",
        module="Contacts",
        external_field="External_Contact_ID",
        related_list="Deals",
        related_external_field="External_Deal_ID",
        links=pairs(2),
    )
    assert reported(operator, at_start=True) == ([], {})
    operator.execute(context())
    assert reported(operator) == ([], {"zoho://us Contacts.Deals": 1})


def test_a_report_leads_from_the_audit_to_the_runs(audit: Audit, sql_path: Path) -> None:
    assert reported(task(ReportOperator, sql_path), at_start=True) == (
        [of_audit(audit, "zoho_delink_audit")],
        {of_audit(audit, "zoho_delink_run"): None},
    )


@pytest.fixture
def provider(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The provider, set to emit events, and the class that it writes a run with."""
    from airflow.providers.openlineage import conf
    from airflow.providers.openlineage.utils.utils import DagRunInfo

    monkeypatch.setattr(conf, "is_disabled", lambda: False)
    monkeypatch.setattr(DagRunInfo, "casts", {"note": lambda _: None})
    return DagRunInfo


FORM = {
    "mode": "apply",
    "links": [["c-1", "d-1"]],
    "external_id_prefix": "c-",
    "related_external_id_prefix": "d-",
    "zoho_code": "SUCCESS",
    "reason": None,
}
HIDDEN = dict.fromkeys(("links", "external_id_prefix", "related_external_id_prefix"), "***")


@pytest.mark.parametrize(
    ("dag_id", "hidden"),
    [
        pytest.param("zoho_delink__contacts_deals", HIDDEN, id="a job"),
        pytest.param("zoho_delink_relink", HIDDEN, id="relink"),
        pytest.param("another_teams", {}, id="another Dag"),
    ],
)
def test_the_provider_is_kept_from_telling_ids_that_are_typed_into_a_form(
    provider: Any, dag_id: str, hidden: dict[str, str]
) -> None:
    run = SimpleNamespace(dag_id=dag_id, run_id="a run", conf=FORM)
    assert provider(run)["conf"] == FORM
    ZohoDelinkPlugin.on_load()
    assert provider(run)["conf"] == {**FORM, **hidden}
    assert provider(SimpleNamespace(dag_id=dag_id, conf=None))["conf"] is None
    assert FORM["links"] == [["c-1", "d-1"]]


def test_a_provider_that_emits_nothing_is_left_alone(provider: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airflow.providers.openlineage.conf.is_disabled", lambda: True)
    ZohoDelinkPlugin.on_load()
    assert "conf" not in provider.casts


def test_the_text_of_an_approval_request_is_not_emitted() -> None:
    approve = ApproveOperator(task_id="approve", job=make_job(), jobs_folder=Path())
    approve.body = "such as c-00001"
    assert (approve.hitl_summary["subject"], approve.hitl_summary["body"]) == ("May this run continue?", None)


def test_a_task_for_any_job_reports_nothing_before_it_knows_its_job(sql_path: Path, audit: Audit) -> None:
    operator = ReportOperator(task_id="report", job=None, jobs_folder=jobs_folder(sql_path))
    assert operator.get_openlineage_facets_on_start() is None
