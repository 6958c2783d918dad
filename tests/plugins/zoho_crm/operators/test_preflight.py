"""Preflight against a local Zoho and real databases: one clear sentence for whatever stands in the way."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.databases import AUDIT, WAREHOUSE, Audit, Warehouse, connection_to, set_connection
from tests.support.local_zoho import ZOHO, sent, zoho_connection
from tests.support.operators import context, jobs_folder, make_job, pairs
from zoho_crm import airflow_compat
from zoho_crm.airflow_compat import AirflowFailException, TaskDeferred, has_retry_policies
from zoho_crm.core.job import RelationModel
from zoho_crm.core.models import RunStart, Target
from zoho_crm.errors import ZohoError, ZohoTokenThrottledError
from zoho_crm.hooks.zoho_crm import ZohoCRMHook
from zoho_crm.operators import preflight
from zoho_crm.operators.job_operator import FINAL_ERRORS, origin_of
from zoho_crm.operators.preflight import READ_TIMEOUT_S, PreflightOperator
from zoho_crm.operators.slot_keeper import ONE_REQUEST_LEASE_S, one_slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import sqlalchemy as sa

    from zoho_crm.core.job import Job
    from zoho_crm.testing.local_zoho import LocalZoho

RELATION = {
    "module": "Contacts",
    "external_field": "External_Contact_ID",
    "related_list": "Deals",
    "related_external_field": "External_Deal_ID",
}


def check(job: Job, sql_path: Path, **params: Any) -> dict[str, Any]:
    return PreflightOperator(task_id="preflight", job=job, jobs_folder=jobs_folder(sql_path)).execute(
        context("preflight", params=params)
    )


def test_creates_the_tables_and_records_what_it_learns(
    zoho: LocalZoho, audit: Audit, warehouse: Warehouse, sql_path: Path
) -> None:
    assert check(make_job(), sql_path) == {
        "org_id": "700000001",
        "data_center": "us",
        "api_version": "v7",
        "environment": "local",
        "credits": zoho.state.limits.credits_used,
    }
    run = audit.run()
    assert (run["status"], run["planned_at"], run["preflight_credits"]) == (
        "planned",
        None,
        zoho.state.limits.credits_used,
    )
    assert sent(zoho) == []
    assert audit.leases() == []


def test_slot_is_renewed_before_each_request_also_if_one_is_repeated(
    zoho: LocalZoho,
    audit: Audit,
    warehouse: Warehouse,
    sql_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    renewed_after: list[int] = []
    requests = zoho.state.journal.requests

    @contextmanager
    def counted(*args: Any, **options: Any) -> Iterator[Callable[[], None]]:
        with one_slot(*args, **options) as renew:

            def count() -> None:
                renewed_after.append(sum(one.path.startswith("/crm/") for one in requests))
                renew()

            yield count

    monkeypatch.setattr(preflight, "one_slot", counted)
    zoho.state.faults.add(do="status", status=503, match={"path": "settings/fields"})
    check(make_job(), sql_path)
    count = sum(one.path.startswith("/crm/") for one in requests)
    assert count > 4
    assert renewed_after == list(range(count))


def test_a_request_ends_within_the_lease_of_its_slot() -> None:
    connect_s = inspect.signature(ZohoCRMHook).parameters["connect_timeout_s"].default
    assert connect_s + 2 * READ_TIMEOUT_S < ONE_REQUEST_LEASE_S


def test_tokens_that_zoho_does_not_give_for_a_while_may_be_tried_again(
    zoho: LocalZoho, audit: Audit, warehouse: Warehouse, sql_path: Path, variables: dict[str, str]
) -> None:
    zoho.state.configure(tokens_per_window=1)
    check(make_job(), sql_path)
    variables.clear()
    with pytest.raises(ZohoTokenThrottledError if has_retry_policies() else TaskDeferred):
        check(make_job(), sql_path)
    assert audit.leases() == []


def test_leaves_an_access_token_behind_for_the_tasks(
    zoho: LocalZoho,
    audit: Audit,
    warehouse: Warehouse,
    sql_path: Path,
    variables: dict[str, str],
) -> None:
    check(make_job(), sql_path)
    check(make_job(), sql_path)
    assert list(variables) == [f"zoho_crm_access_token__{ZOHO}"]
    assert zoho.state.tokens.issued == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"password": "wrong"}, "client secret", id="secret"),
        pytest.param({"login": "no-client"}, "client", id="client"),
        pytest.param({"extra": {"refresh_token": "revoked"}}, "refresh token", id="refresh token"),
        pytest.param(
            {"extra": {"refresh_token": "x", "proxy": "http://evil"}}, "unknown extra 'proxy'", id="extra"
        ),
        pytest.param({"host": "zoho.evil"}, "for a local Zoho only", id="host"),
    ],
)
def test_a_wrong_connection_is_reported_in_one_sentence(
    zoho: LocalZoho,
    audit: Audit,
    warehouse: Warehouse,
    sql_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
    says: str,
) -> None:
    set_connection(monkeypatch, ZOHO, **{**zoho_connection(zoho), **changes})
    with pytest.raises(AirflowFailException, match=says) as error:
        check(make_job(), sql_path)
    assert ZOHO in str(error.value)
    assert "\n" not in str(error.value)
    assert "local-secret" not in str(error.value)
    assert audit.run()["status"] == "planned"


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"module": "Contcts"}, "'Contcts'", id="module"),
        pytest.param(
            {"external_field": "Last_Name"},
            "Field Contacts.Last_Name is not an external field",
            id="not external",
        ),
        pytest.param({"related_external_field": "Nothing"}, "'Nothing'", id="no such field"),
        pytest.param(
            {"external_field": "External_Deal_ID", "related_external_field": "External_Contact_ID"},
            "^Module 'Contacts' has no field 'External_Deal_ID', but 'Deals' has: are external_field and "
            "related_external_field, or module and related_list, swapped[?] "
            "Module 'Deals' has no field 'External_Contact_ID', but 'Contacts' has: are external_field",
            id="swapped fields",
        ),
        pytest.param({"related_list": "deals", "related_module": "Deals"}, "'Deals'", id="case of the list"),
        pytest.param({"related_list": "Cases", "related_module": "Deals"}, "'Cases'", id="hidden list"),
        pytest.param({"related_list": "Emails", "related_module": "Deals"}, "'Emails'", id="no href"),
        pytest.param({"related_module": "Leads"}, "Leads", id="module of the list"),
    ],
)
def test_a_wrong_relation_is_reported(
    zoho: LocalZoho,
    audit: Audit,
    warehouse: Warehouse,
    sql_path: Path,
    changes: dict[str, str],
    says: str,
) -> None:
    job = make_job(relation=RelationModel(**{**RELATION, **changes}), allow_undocumented_relation=True)
    with pytest.raises(AirflowFailException, match=says):
        check(job, sql_path)
    assert sent(zoho) == []


def test_a_missing_scope_is_reported(
    zoho: LocalZoho, audit: Audit, warehouse: Warehouse, sql_path: Path
) -> None:
    zoho.state.configure(granted_scopes=("ZohoCRM.modules.READ", "ZohoCRM.settings.ALL", "ZohoCRM.org.READ"))
    with pytest.raises(AirflowFailException, match=r"ZohoCRM\.modules\.contacts\.DELETE.*deals\.DELETE"):
        check(make_job(), sql_path)


@pytest.mark.parametrize("audit", ["sqlite"], indirect=True)
@pytest.mark.parametrize(
    "path", ["/oauth/", "/org", "settings/modules", "settings/fields", "settings/related_lists"]
)
@pytest.mark.parametrize(
    "fault",
    [
        pytest.param({"do": "html", "status": 200}, id="html"),
        pytest.param({"do": "html", "status": 403}, id="html of a proxy"),
        pytest.param({"do": "redirect"}, id="redirect"),
        pytest.param({"do": "status", "status": 408}, id="408"),
        pytest.param({"do": "status", "status": 503}, id="503"),
    ],
)
def test_an_odd_response_to_any_request_may_be_tried_again(
    zoho: LocalZoho,
    audit: Audit,
    warehouse: Warehouse,
    sql_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    fault: dict[str, Any],
) -> None:
    monkeypatch.setattr(ZohoCRMHook, "sleep", staticmethod(lambda _: None))
    zoho.state.faults.add(**fault, match={"path": path}, times=None)
    with pytest.raises(ZohoError) as error:
        check(make_job(), sql_path)
    assert not isinstance(error.value, FINAL_ERRORS)


@pytest.mark.parametrize("audit", ["sqlite"], indirect=True)
def test_a_user_based_external_field_is_refused_unless_the_job_allows_it(
    zoho: LocalZoho, audit: Audit, warehouse: Warehouse, sql_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = ZohoCRMHook.get_fields

    def user_based(hook: ZohoCRMHook, module: str) -> Any:
        return [
            row | {"external": {"type": "user"}} if row.get("external") else row for row in read(hook, module)
        ]

    monkeypatch.setattr(ZohoCRMHook, "get_fields", user_based)
    with pytest.raises(
        AirflowFailException, match=r"Contacts\.External_Contact_ID is a user-based external field"
    ):
        check(make_job(), sql_path)
    check(make_job(allow_user_external_field=True), sql_path)


@pytest.mark.parametrize("audit", ["sqlite"], indirect=True)
def test_an_approver_who_cannot_be_a_user_of_fab_is_reported(
    zoho: LocalZoho, audit: Audit, warehouse: Warehouse, sql_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(guards={"on_breach": "approve", "approvers": ["7", "ada"]})
    check(job, sql_path)
    fab = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
    monkeypatch.setenv("AIRFLOW__CORE__AUTH_MANAGER", fab)
    with pytest.raises(
        AirflowFailException, match=r"^guards\.approvers: 'ada' is not a user ID: with the FAB"
    ):
        check(job, sql_path)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("", "^source.sql_file: contacts_deals.sql is empty$"),
        (
            "SELECT :since",
            "^source.sql_file: contacts_deals.sql uses :since; a run has only :window_start and :window_end",
        ),
        (
            "DELETE FROM pairs",
            "^source.sql_file: contacts_deals.sql contains DELETE, but must only read: it must be one SELECT$",
        ),
        ("CHOOSE 1", '^source.sql_file: the warehouse refuses contacts_deals.sql: near "1": syntax error$'),
        (
            "SELECT external_id FROM pairs",
            "^source.sql_file: contacts_deals.sql must yield the column related_external_id once; "
            "it yields: external_id$",
        ),
    ],
)
def test_sql_that_no_run_can_use_is_reported(
    zoho: LocalZoho, audit: Audit, warehouse: Warehouse, sql_path: Path, sql: str, says: str
) -> None:
    sql_path.write_text(sql)
    with pytest.raises(AirflowFailException, match=says):
        check(make_job(), sql_path)


def test_a_wrong_field_of_the_form_is_reported_before_anything_is_asked(
    zoho: LocalZoho, audit: Audit, warehouse: Warehouse, sql_path: Path
) -> None:
    with pytest.raises(AirflowFailException, match="window_start: 'garbage' is not a time"):
        check(make_job(), sql_path, window_start="garbage", window_end="2026-11-01")
    assert list(zoho.state.journal.requests) == []


def test_an_audit_database_that_is_away_may_be_tried_again(
    zoho: LocalZoho, warehouse: Warehouse, sql_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_connection(
        monkeypatch,
        AUDIT,
        conn_type="postgres",
        host="127.0.0.1",
        port=1,
        login="x",
        password="x",
        schema="x",
    )
    with pytest.raises(ZohoError, match=r"the audit database .* cannot be reached"):
        check(make_job(), sql_path)
    assert list(zoho.state.journal.requests) == []


def test_a_warehouse_that_is_no_database_is_reported(
    zoho: LocalZoho, audit: Audit, sql_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_connection(monkeypatch, WAREHOUSE, conn_type="http", host="127.0.0.1")
    with pytest.raises(AirflowFailException, match="'warehouse' is not for a SQL database"):
        check(make_job(), sql_path)


@pytest.mark.parametrize("conn_id", [WAREHOUSE, ZOHO, AUDIT])
def test_a_connection_that_does_not_exist_is_not_tried_again(
    zoho: LocalZoho,
    audit: Audit,
    warehouse: Warehouse,
    sql_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    conn_id: str,
) -> None:
    monkeypatch.delenv(f"AIRFLOW_CONN_{conn_id.upper()}")
    says = f"^Connection '{conn_id}' does not exist: add it, or correct its id$"
    with pytest.raises(AirflowFailException, match=says):
        check(make_job(), sql_path)


@pytest.mark.parametrize(
    ("conn_id", "conn_type", "says"),
    [
        (ZOHO, "http", f"^Connection '{ZOHO}' has the type http: it must have the type zoho_crm$"),
        (
            WAREHOUSE,
            "nonsense",
            "^Connection 'warehouse' has a type that Airflow does not know here: correct the type",
        ),
    ],
)
def test_a_connection_of_another_type_is_not_tried_again(
    zoho: LocalZoho,
    audit: Audit,
    warehouse: Warehouse,
    sql_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    conn_id: str,
    conn_type: str,
    says: str,
) -> None:
    set_connection(monkeypatch, conn_id, conn_type=conn_type, host="127.0.0.1")
    with pytest.raises(AirflowFailException, match=says):
        check(make_job(), sql_path)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"notify": [{"notifier": "no.such.Notifier"}]},
            r"^notify\.0\.notifier: 'no\.such\.Notifier' cannot be used",
        ),
        (
            {"guards": {"max_share": 0.1, "baseline_sql_file": "guard.sql"}},
            r"^guards\.baseline_sql_file: [a-z_]+\.sql uses :day; a run has only",
        ),
        (
            {"guards": {"max_source_age": "6h", "freshness_sql_file": "guard.sql"}},
            r"^guards\.freshness_sql_file: [a-z_]+\.sql uses :day; a run has only",
        ),
        (
            {"audit_anchor": "nosuch://bucket/anchors"},
            "^audit_anchor: nosuch://bucket/anchors cannot be opened .*: correct it, or install",
        ),
        (
            {"audit_anchor": "file:///tmp/anchors", "audit_anchor_key_conn_id": WAREHOUSE},
            "^audit_anchor_key_conn_id: the password of 'warehouse' is not an Ed25519 key in PEM",
        ),
        (
            {"audit_anchor": "file:///tmp/anchors", "audit_anchor_key_conn_id": "no_such_connection"},
            "^audit_anchor_key_conn_id: the connection 'no_such_connection' does not exist: create it",
        ),
    ],
)
@pytest.mark.parametrize("audit", ["sqlite"], indirect=True)
def test_what_a_job_names_and_cannot_be_used_stops_the_run_before_it_plans(
    audit: Audit, warehouse: Warehouse, sql_path: Path, changes: dict[str, Any], says: str
) -> None:
    (sql_path.parent / "guard.sql").write_text("SELECT :day")
    with pytest.raises(AirflowFailException, match=says):
        check(make_job(**changes), sql_path)


def test_read_only_audit_database_is_refused_before_zoho_is_called(
    zoho: LocalZoho,
    postgres_ledger_url: sa.URL,
    warehouse: Warehouse,
    sql_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    url = postgres_ledger_url.update_query_dict({"options": "-cdefault_transaction_read_only=on"})
    set_connection(monkeypatch, AUDIT, **connection_to(url))
    with pytest.raises(
        AirflowFailException, match=r"The audit database .* is read-only .*: make it writable"
    ):
        check(make_job(), sql_path)
    assert not zoho.state.journal.requests


@pytest.mark.parametrize(
    ("changes", "params", "says"),
    [
        pytest.param({"relation": {**RELATION, "module": "Contcts"}}, {}, "'Contcts'", id="zoho"),
        pytest.param({}, {"window_start": "nonsense"}, "window_start", id="form"),
        pytest.param(
            {"source": {"conn_id": WAREHOUSE, "sql_file": "missing.sql"}}, {}, "missing.sql", id="sql"
        ),
    ],
)
def test_failed_check_stands_on_the_run_row_until_the_task_is_cleared(
    zoho: LocalZoho,
    audit: Audit,
    warehouse: Warehouse,
    sql_path: Path,
    changes: dict[str, Any],
    params: dict[str, Any],
    says: str,
) -> None:
    job = make_job(**{"allow_undocumented_relation": True, **changes})
    task = PreflightOperator(task_id="preflight", job=job, jobs_folder=jobs_folder(sql_path))
    with pytest.raises(AirflowFailException) as error:
        task.execute(context("preflight", params=params))
    for callback in task.on_failure_callback:
        callback({**context("preflight", params=params), "task": task, "exception": error.value})
    run = audit.run()
    assert run["status"] == "failed"
    assert run["failure"].startswith("Task preflight failed: ")
    assert says in run["failure"]
    check(make_job(), sql_path)
    run = audit.run()
    assert (run["status"], run["failure"], run["module"]) == ("planned", None, "Contacts")


@pytest.mark.parametrize(
    ("state", "status", "detail"),
    [
        ("failed", "failed", "The Dag run ended in Airflow as failed, without its report"),
        ("success", "failed", "The Dag run ended in Airflow as success, without its report"),
        ("deleted", "failed", "The Dag run was deleted in Airflow before its report ran"),
        ("running", "planned", None),
        (None, "planned", None),
    ],
)
@pytest.mark.parametrize("is_planned", [False, True])
def test_next_run_closes_runs_that_ended_without_a_report(
    zoho: LocalZoho,
    audit: Audit,
    warehouse: Warehouse,
    sql_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    state: str | None,
    status: str,
    detail: str | None,
    is_planned: bool,
) -> None:
    ledger = audit.ledger()
    origin = origin_of(context("plan", run_id="earlier"))
    target = Target(make_job().relation.as_relation(), "us", "v7")
    ledger.runs.start(RunStart("earlier", "contacts_deals", origin, target, mode="apply"))
    if is_planned:
        ledger.plans.create(
            "earlier", target.relation, pairs(2), chunk_size=5, max_chunks=5, origin=origin, target=target
        )
    monkeypatch.setattr(airflow_compat, "dag_run_state", lambda *run: state if run[1] == "earlier" else None)
    check(make_job(), sql_path)
    run = ledger.runs.get("earlier")
    assert run is not None
    closed = detail is not None
    assert (run.status, run.finished_at is not None) == (status, closed)
    if closed and is_planned:
        assert (run.detail, run.not_attempted) == (f"{detail}; 2 not_attempted", 2)
    else:
        assert run.detail == detail
    assert list(ledger.chain.verify(None)) == []
