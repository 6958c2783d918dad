from __future__ import annotations

import json
import re
import threading
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
import sqlalchemy as sa
from airflow.providers.standard.triggers.temporal import DateTimeTrigger
from airflow.sdk import DAG, BaseOperator

from tests.support.databases import AUDIT, Audit, Warehouse, set_connection
from tests.support.ledger import take
from tests.support.links import RELATION
from tests.support.local_zoho import ZOHO, harms, link_all, linked, sent, zoho_connection
from tests.support.operators import RUN_ID, context, delink, jobs_folder, make_job, outcomes, pairs
from tests.support.releases import DagSerialization
from zoho_crm.airflow_compat import AirflowFailException, TaskDeferred
from zoho_crm.core.links import external_id_fault
from zoho_crm.core.models import ChunkRef, RunStart
from zoho_crm.errors import PlanError, RunStoppedError, UnfinishedLinksError, ZohoConfigError
from zoho_crm.hooks.zoho_crm import ZohoCRMHook
from zoho_crm.ledger import tables
from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator
from zoho_crm.operators.job_operator import origin_of
from zoho_crm.operators.link_operator import LinkOperator
from zoho_crm.operators.plan_links import PlanLinksOperator

if TYPE_CHECKING:
    from pathlib import Path

    from zoho_crm.testing.local_zoho import LocalZoho

CHUNK: ChunkRef = {"run_key": "contacts_deals:0", "chunk_no": 0, "links": 1, "label": "1/1 from c-1"}
LINK = {"external_id": "c-1", "related_external_id": "d-1"}
PARTIAL = {
    "task_id": "delink",
    "module": "Contacts",
    "external_field": "External_Contact_ID",
    "related_list": "Deals",
    "related_external_field": "External_Deal_ID",
}

# Airflow's own reading of .airflowignore, when it looks for plugins while it reads a Dag back.
reads_a_dag_back = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")


# -- the constructor's contract


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({}, "give exactly one of them", id="neither"),
        pytest.param({"links": [LINK], "chunk": CHUNK, "audit_conn_id": AUDIT}, "exactly one", id="both"),
        pytest.param({"chunk": CHUNK}, "audit_conn_id", id="chunk-without-ledger"),
        pytest.param({"links": [LINK], "strategy": "bulk"}, "strategy: .bulk.", id="strategy"),
        pytest.param({"links": [LINK], "task_concurrency": 0}, "1 to 25", id="no-concurrency"),
        pytest.param({"links": [LINK], "task_concurrency": 26}, "1 to 25", id="too-much-concurrency"),
    ],
)
def test_refuses_arguments_that_contradict_the_contract(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        delink(**changes)


@pytest.mark.parametrize("concurrency", [1, 25])
def test_takes_the_ends_of_the_range_of_concurrency(concurrency: int) -> None:
    assert delink(links=[LINK], task_concurrency=concurrency).task_concurrency == concurrency


def test_takes_no_positional_argument() -> None:
    with pytest.raises(TypeError):
        DeleteRelatedByExternalIdOperator("delink", "Contacts")  # type: ignore[call-arg, misc]


@pytest.mark.parametrize("missing", [name for name in PARTIAL if name != "task_id"])
def test_asks_for_every_part_of_the_relation(missing: str) -> None:
    arguments = {name: value for name, value in PARTIAL.items() if name != missing}
    with pytest.raises(TypeError, match=f"missing keyword argument '{missing}'"):
        DeleteRelatedByExternalIdOperator(links=[LINK], **arguments)


def test_related_module_defaults_to_the_list_and_keeps_arguments_as_they_are() -> None:
    task = delink(links=[LINK])
    assert task.relation == RELATION
    assert (task.related_module, task.zoho_conn_id, task.audit_conn_id) == (None, ZOHO, None)
    assert (task.strategy, task.task_concurrency, task.chunk, task.links) == ("single", 5, None, [LINK])
    assert delink(links=[LINK], related_list="Contact_Roles", related_module="Deals").relation.x_external == (
        "Contacts.External_Contact_ID,Deals.External_Deal_ID"
    )


def test_a_dry_run_flag_does_not_hide_airflows_method() -> None:
    assert callable(delink(links=[LINK], dry_run=True).dry_run)


@reads_a_dag_back
@pytest.mark.parametrize(
    ("name", "values", "constant"),
    [
        pytest.param("links", [[LINK], [["c-2", "d-2"]]], {}, id="links"),
        pytest.param("chunk", [CHUNK, {**CHUNK, "chunk_no": 1}], {"audit_conn_id": AUDIT}, id="chunk"),
    ],
)
def test_maps_and_unmaps_with_task_concurrency(
    name: str, values: list[Any], constant: dict[str, Any]
) -> None:
    with DAG("mapping", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        DeleteRelatedByExternalIdOperator.partial(**PARTIAL, task_concurrency=7, **constant).expand(
            **{name: values}
        )
    stored = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    (task,) = DagSerialization.from_dict(stored).tasks
    assert task.is_mapped
    mapped: Any = dag.get_task("delink")
    for value in values:
        unmapped = mapped.unmap({name: value})
        assert isinstance(unmapped, DeleteRelatedByExternalIdOperator)
        assert unmapped.task_concurrency == 7
        assert getattr(unmapped, name) == value


def test_partial_defaults_like_the_constructor_and_leaves_other_operators_alone() -> None:
    with DAG("mapping", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        DeleteRelatedByExternalIdOperator.partial(**PARTIAL).expand(links=[[LINK]])
    mapped: Any = dag.get_task("delink")
    assert mapped.unmap({"links": [LINK]}).task_concurrency == delink(links=[LINK]).task_concurrency
    assert "partial" not in vars(PlanLinksOperator)
    assert "partial" in vars(LinkOperator)
    assert vars(BaseOperator)["partial"] is not vars(LinkOperator)["partial"]


@reads_a_dag_back
def test_serialises_with_a_dag() -> None:
    with DAG("plain", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        delink(links=[LINK], dry_run=True)
    stored = json.loads(json.dumps(DagSerialization.to_dict(dag)))
    assert DagSerialization.from_dict(stored).get_task("delink").template_fields == ["links", "chunk"]


HOSTILE_TEXTS = [
    "{{ 1+1 }}",
    "a{#b#}c",
    "{% raw %}x",
    "{{ conn.zoho_crm_default.password }}",
    "ends with a newline\n",
    "file.sql",
    "{{",
]


@pytest.mark.parametrize("text", HOSTILE_TEXTS)
def test_ids_are_data_and_not_templates(text: str) -> None:
    with DAG("plain", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
        listed = delink("listed", links=[{"external_id": text, "related_external_id": text}, (text, text)])
        chunked = delink("chunked", chunk={**CHUNK, "label": text}, audit_conn_id=AUDIT)
    for task in (listed, chunked):
        task.render_template_fields({"ds": "2026-11-22"})  # type: ignore[arg-type]
    assert listed.links == [{"external_id": text, "related_external_id": text}, (text, text)]
    assert chunked.chunk == {**CHUNK, "label": text}


def test_results_of_other_tasks_are_resolved_and_not_rendered() -> None:
    pulled = [[LINK, ["{{ 1+1 }}", "a{#b#}c\n"]]]
    with DAG("plain", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)):
        before = BaseOperator(task_id="before")
        task = delink(links=before.output)
    context_ = context()
    asked = []

    def xcom_pull(**kwargs: Any) -> Any:
        asked.append(kwargs["task_ids"])
        return pulled[0]

    context_["ti"].xcom_pull = xcom_pull
    context_["ti"].task = task
    context_["expanded_ti_count"] = None
    task.render_template_fields(context_)
    assert task.links == pulled[0]
    assert asked == ["before"]


# -- links without a ledger


def test_takes_exactly_the_given_links_without_a_ledger(zoho: LocalZoho) -> None:
    link_all(zoho, [*pairs(6), ("c-00000", "d-00005")])
    zoho.state.unlink("Contacts", "c-00004", "Deals", "d-00004")
    summary = delink(
        links=[
            {"external_id": "c-00000", "related_external_id": "d-00000"},
            ["c-00001", "d-00001"],
            ("c-00001", "d-00001"),
            ("c-00004", "d-00004"),
            ("no-record", "d-00000"),
            ("c-00002", "nothing"),
            ("..", "d-00002"),
            (7, None),
        ]
    ).execute(context())
    assert summary == outcomes(
        removed=2, already_absent=1, parent_not_found=1, related_not_found=1, invalid=2
    )
    assert linked(zoho) == {*pairs(6)[2:4], ("c-00005", "d-00005"), ("c-00000", "d-00005")}
    assert sorted(sent(zoho)) == [
        ("c-00000", "d-00000"),
        ("c-00001", "d-00001"),
        ("c-00002", "nothing"),
        ("c-00004", "d-00004"),
        ("no-record", "d-00000"),
    ]
    assert not harms(zoho)


def test_a_second_execute_without_a_ledger_finds_the_links_absent(zoho: LocalZoho) -> None:
    link_all(zoho, pairs(3))
    task = delink(links=pairs(3))
    assert task.execute(context()) == outcomes(removed=3)
    assert task.execute(context(try_number=2)) == outcomes(already_absent=3)


@pytest.mark.parametrize("links", [[], None], ids=["empty", "xcom-none"])
def test_no_links_are_no_work(zoho: LocalZoho, links: Any) -> None:
    task = delink(links=[LINK])
    task.links = links
    assert task.execute(context()) == outcomes()
    assert sent(zoho) == []


@pytest.mark.parametrize(
    ("links", "place"),
    [
        pytest.param("c-1,d-1", "links: not a list", id="text"),
        pytest.param({"external_id": "a"}, "links: not a list", id="mapping"),
        pytest.param([LINK, "ab"], r"links\[1\]", id="two-characters"),
        pytest.param([b"ab"], r"links\[0\]", id="two-bytes"),
        pytest.param([LINK, {"external_id": "a"}], r"links\[1\]", id="half-a-link"),
        pytest.param([("a", "b", "c")], r"links\[0\]", id="three"),
    ],
)
def test_names_the_place_of_what_is_no_link(monkeypatch: pytest.MonkeyPatch, links: Any, place: str) -> None:
    unreachable = {"schema": "http", "host": "127.0.0.1", "port": 1}
    set_connection(
        monkeypatch,
        ZOHO,
        conn_type="zoho_crm",
        login="x",
        password="y",
        extra={"refresh_token": "z"},
        **unreachable,
    )
    with pytest.raises(ZohoConfigError, match=place):
        delink(links=links).execute(context())


def test_a_dry_run_without_a_ledger_sends_nothing_at_all(zoho: LocalZoho) -> None:
    link_all(zoho, pairs(3))
    summary = delink(links=[*pairs(3), pairs(1)[0], (".", "d")], dry_run=True).execute(context())
    assert summary == outcomes(would_remove=3, invalid=1)
    assert list(zoho.state.journal.requests) == []
    assert linked(zoho) == set(pairs(3))


def test_unknown_links_without_a_ledger_raise(zoho: LocalZoho, monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)
    link_all(zoho, pairs(3))
    zoho.state.faults.add(do="status", status=503, match={"method": "DELETE", "path": "c-00001"}, times=None)
    with pytest.raises(UnfinishedLinksError, match="2 removed, 1 unknown"):
        delink(links=pairs(3)).execute(context())
    assert linked(zoho) == {pairs(3)[1]}


# -- links with a ledger


def test_links_with_a_ledger_are_planned_audited_and_summed_up(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(5))
    zoho.state.unlink("Contacts", "c-00004", "Deals", "d-00004")
    links = [*pairs(5), pairs(1)[0], ("no-record", "d-00000"), ("", "d-00001")]
    summary = delink("take", links=links, audit_conn_id=AUDIT).execute(
        context("take", map_index=2, try_number=3)
    )
    assert summary == outcomes(removed=4, already_absent=1, parent_not_found=1, invalid=1)
    assert linked(zoho) == set()
    assert audit.latest() == {
        **dict.fromkeys(pairs(4), "removed"),
        ("c-00004", "d-00004"): "already_absent",
        ("no-record", "d-00000"): "parent_not_found",
        ("", "d-00001"): "invalid",
    }
    run = audit.run()
    assert (run["status"], run["mode"], run["job"]) == (
        "succeeded",
        "apply",
        "zoho_delink__contacts_deals.take",
    )
    assert (run["source_rows"], run["planned"], run["duplicates"], run["removed"], run["invalid"]) == (
        8,
        7,
        1,
        4,
        1,
    )
    assert (run["detail"], run["finished_at"] is not None) == (None, True)
    removed = next(row for row in audit.events() if row["external_id"] == "c-00000")
    assert {
        name: removed[name] for name in ("task_id", "map_index", "try_number", "triggered_by", "dag_run_id")
    } == {
        "task_id": "take",
        "map_index": 2,
        "try_number": 3,
        "triggered_by": "ada",
        "dag_run_id": RUN_ID,
    }
    assert (removed["attempts"], removed["http_status"], removed["zoho_code"], removed["zoho_message"]) == (
        1,
        200,
        "SUCCESS",
        "relation removed",
    )
    assert removed["zoho_record_id"] == zoho.state.crm.find("Deals", "d-00000")
    assert (removed["module"], removed["related_module"], removed["strategy"]) == (
        "Contacts",
        "Deals",
        "single",
    )
    assert audit.leases() == []


def test_a_second_execute_with_a_ledger_sends_nothing(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(4))
    first = delink(links=pairs(4), audit_conn_id=AUDIT).execute(context())
    requests, rows = len(zoho.state.journal.requests), audit.events()
    assert delink(links=pairs(4), audit_conn_id=AUDIT).execute(context(try_number=2)) == first
    assert len(zoho.state.journal.requests) == requests
    assert audit.events() == rows
    assert audit.run()["status"] == "succeeded"


def test_a_retry_works_on_the_stored_links_alone(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(4))
    delink(links=pairs(2), audit_conn_id=AUDIT).execute(context())
    assert delink(links=pairs(4), audit_conn_id=AUDIT).execute(context(try_number=2)) == outcomes(removed=2)
    assert linked(zoho) == set(pairs(4)[2:])


def test_mapped_tasks_and_runs_keep_plans_of_their_own(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(3))
    for number, ctx in enumerate(
        [context(map_index=0), context(map_index=1), context(map_index=0, run_id="other")]
    ):
        assert delink(links=[pairs(3)[number]], audit_conn_id=AUDIT).execute(ctx) == outcomes(removed=1)
    assert len(audit.runs()) == 3
    assert linked(zoho) == set()


def test_a_second_try_sends_only_unfinished_links(
    zoho: LocalZoho, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    link_all(zoho, pairs(6))
    zoho.state.faults.add(do="status", status=503, match={"method": "DELETE", "path": "c-0000[24]"}, times=8)
    with pytest.raises(UnfinishedLinksError, match="4 removed, 2 unknown"):
        delink(links=pairs(6), audit_conn_id=AUDIT).execute(context())
    assert (audit.run()["status"], audit.run()["unknown"], audit.run()["detail"]) == (
        "failed",
        2,
        "2 unknown",
    )
    before = len(sent(zoho))
    assert delink(links=pairs(6), audit_conn_id=AUDIT).execute(context(try_number=2)) == outcomes(removed=6)
    assert sorted(sent(zoho)[before:]) == [pairs(6)[2], pairs(6)[4]]
    assert audit.latest() == dict.fromkeys(pairs(6), "removed")
    assert [row["outcome"] for row in audit.events() if row["external_id"] == "c-00002"] == [
        "unknown",
        "removed",
    ]
    run = audit.run()
    assert (run["status"], run["removed"], run["unknown"], run["detail"]) == ("succeeded", 6, 0, None)


def leave_one_in_doubt(zoho: LocalZoho, monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove two links; Zoho applies both requests, and the second cannot be verified after its lost answer."""
    impatient(monkeypatch)
    link_all(zoho, pairs(2))
    zoho.state.faults.add(do="reset", when="after", match={"method": "DELETE", "path": "c-00001"}, times=1)
    unreadable = zoho.state.faults.add(
        do="status", status=500, match={"method": "GET", "path": "c-00001"}, times=None
    )
    with pytest.raises(UnfinishedLinksError, match="1 removed, 1 unknown"):
        delink(links=pairs(2), audit_conn_id=AUDIT).execute(context())
    zoho.state.faults.rules.remove(unreadable)


def test_a_link_whose_answer_was_lost_is_verified_by_the_next_try_before_anything_is_sent(
    zoho: LocalZoho, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_one_in_doubt(zoho, monkeypatch)
    deletes = len(sent(zoho))
    assert delink(links=pairs(2), audit_conn_id=AUDIT).execute(context(try_number=2)) == outcomes(
        removed=1, presumed_removed=1
    )
    assert len(sent(zoho)) == deletes
    last = audit.events()[-1]
    assert (last["outcome"], last["attempts"], last["sent_at"]) == ("presumed_removed", 0, None)
    assert "an earlier try or run may have sent it" in last["detail"]
    run = audit.run()
    assert (run["status"], run["removed"], run["presumed_removed"]) == ("succeeded", 1, 1)


def test_next_run_of_the_operator_presumes_what_an_unanswered_request_of_this_one_removed(
    zoho: LocalZoho, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_one_in_doubt(zoho, monkeypatch)
    link_all(zoho, pairs(1))
    assert delink(links=pairs(2), audit_conn_id=AUDIT).execute(context(run_id="next")) == outcomes(
        removed=1, presumed_removed=1
    )


def test_a_link_whose_request_is_applied_late_is_unknown_until_the_next_try(
    zoho: LocalZoho, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    link_all(zoho, pairs(2))
    zoho.state.faults.add(do="reset", match={"method": "DELETE", "path": "c-00001"}, times=None)
    with pytest.raises(UnfinishedLinksError, match="1 removed, 1 unknown"):
        delink(links=pairs(2), audit_conn_id=AUDIT).execute(context())
    assert linked(zoho) == {pairs(2)[1]}
    assert {row["state"] for row in audit.links()} == {"settled", "in_flight"}
    assert (audit.run()["failed"], audit.run()["unknown"]) == (0, 1)

    # Zoho applies one of the requests now.
    zoho.state.unlink("Contacts", "c-00001", "Deals", "d-00001")
    deletes = len(sent(zoho))
    assert delink(links=pairs(2), audit_conn_id=AUDIT).execute(context(try_number=2)) == outcomes(
        removed=1, presumed_removed=1
    )
    assert len(sent(zoho)) == deletes


def test_a_killed_try_claims_no_removal_of_links_that_were_gone_before(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(4))
    for parent, related in pairs(4):
        zoho.state.unlink("Contacts", parent, "Deals", related)
    (chunk,) = planned(audit, pairs(4))
    ledger = audit.ledger()
    # A try that dies with three links in flight, none of which it has sent.
    take(ledger, ledger.claims.claim(chunk["run_key"], 0, "a try that dies"), 3)
    summary = delink(chunk=chunk, audit_conn_id=AUDIT).execute(context(map_index=0, try_number=2))
    assert summary == outcomes(presumed_removed=3, already_absent=1)
    assert sent(zoho) == [pairs(4)[3]]


@pytest.mark.parametrize("given", ["links", "chunk"])
def test_a_dry_run_with_a_ledger_sends_no_request(zoho: LocalZoho, audit: Audit, given: str) -> None:
    link_all(zoho, pairs(3))
    if given == "links":
        summary = delink(links=[*pairs(3), ("", "")], audit_conn_id=AUDIT, dry_run=True).execute(context())
        assert summary == outcomes(would_remove=3, invalid=1)
        assert (audit.run()["mode"], audit.run()["status"], audit.run()["would_remove"]) == (
            "dry_run",
            "succeeded",
            3,
        )
    else:
        (chunk,) = planned(audit, pairs(3), mode="dry_run")
        assert delink(chunk=chunk, audit_conn_id=AUDIT).execute(context(map_index=0)) == outcomes(
            would_remove=3
        )
    assert all(row["dry_run"] for row in audit.events())
    assert all(row["sent_at"] is None and row["attempts"] == 0 for row in audit.events())
    assert list(zoho.state.journal.requests) == []
    assert linked(zoho) == set(pairs(3))


def test_a_dry_run_of_many_links_settles_each_once(
    zoho: LocalZoho, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoho_crm.operators.drivers.DRY_RUN_BATCH", 4)
    (chunk,) = planned(audit, pairs(11), mode="dry_run")
    assert delink(chunk=chunk, audit_conn_id=AUDIT).execute(context()) == outcomes(would_remove=11)
    assert len(audit.events()) == 11
    assert delink(chunk=chunk, audit_conn_id=AUDIT).execute(context(try_number=2)) == outcomes()
    assert len(audit.events()) == 11
    assert list(zoho.state.journal.requests) == []


# -- a chunk of a stored plan


def test_works_off_the_chunks_of_a_plan_operator(
    zoho: LocalZoho, audit: Audit, warehouse: Warehouse, sql_path: Path
) -> None:
    link_all(zoho, pairs(10))
    warehouse.add(pairs(7))
    audit.ledger()
    job = make_job(chunk_size=3)
    preflight = {"org_id": "700000001", "data_center": "us", "api_version": "v7"}
    chunks = PlanLinksOperator(task_id="plan", job=job, jobs_folder=jobs_folder(sql_path)).execute(
        context("plan", params={"mode": "apply"}, preflight=preflight)
    )
    audit.ledger().runs.record_guard(chunks[0]["run_key"], "passed")
    assert [chunk["links"] for chunk in chunks] == [3, 3, 1]
    summaries = [
        delink(chunk=chunk, audit_conn_id=AUDIT).execute(context(map_index=chunk["chunk_no"]))
        for chunk in chunks
    ]
    assert summaries == [outcomes(removed=3), outcomes(removed=3), outcomes(removed=1)]
    assert linked(zoho) == set(pairs(10)[7:])
    assert audit.latest() == dict.fromkeys(pairs(7), "removed")
    assert audit.run()["status"] == "running"
    assert {(row["map_index"], row["org_id"], row["job"]) for row in audit.events()} == {
        (number, "700000001", "contacts_deals") for number in range(3)
    }
    requests = len(zoho.state.journal.requests)
    for chunk in chunks:
        assert (
            delink(chunk=chunk, audit_conn_id=AUDIT).execute(context(map_index=0, try_number=2)) == outcomes()
        )
    assert len(zoho.state.journal.requests) == requests


def test_a_plan_of_another_relation_is_refused(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(2))
    (chunk,) = planned(audit, pairs(2))
    task = delink(chunk=chunk, audit_conn_id=AUDIT, related_external_field="Other_Deal_ID")
    with pytest.raises(PlanError, match="the job was changed after planning"):
        task.execute(context())
    assert sent(zoho) == []
    assert {row["state"] for row in audit.links()} == {"planned"}


@pytest.mark.parametrize(
    ("column", "planned_for", "says"),
    [
        pytest.param("org_id", "42", "for organization 42.* now leads to 700000001", id="organization"),
        pytest.param("data_center", "eu", "for data center eu, environment local", id="data center"),
        pytest.param("environment", "sandbox", "for data center us, environment sandbox", id="environment"),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"snapshot_fields": ["Contact_Role"]}, {"strategy": "by_parent"}])
def test_connection_to_another_org_than_that_of_the_plan_is_refused(
    zoho: LocalZoho, audit: Audit, column: str, planned_for: str, says: str, settings: dict[str, Any]
) -> None:
    link_all(zoho, pairs(2))
    (chunk,) = planned(audit, pairs(2))
    with audit.engine.begin() as connection:
        connection.execute(sa.update(tables.runs).values({column: planned_for}))
    with pytest.raises(AirflowFailException, match=says):
        delink(chunk=chunk, audit_conn_id=AUDIT, **settings).execute(context())
    assert linked(zoho) == set(pairs(2))
    paths = {one.path for one in zoho.state.journal.requests if one.path.startswith("/crm/")}
    assert paths <= {"/crm/v7/org"}
    assert {row["state"] for row in audit.links()} == {"planned"}
    assert audit.events() == []
    assert audit.leases() == []


def test_an_org_of_another_environment_than_the_connection_says_is_refused(
    zoho: LocalZoho, audit: Audit
) -> None:
    link_all(zoho, pairs(2))
    zoho.state.configure(environment="sandbox")
    with pytest.raises(
        AirflowFailException, match="environment is production, but the organization is of type sandbox"
    ):
        delink(links=pairs(2), audit_conn_id=AUDIT).execute(context())
    assert linked(zoho) == set(pairs(2))


def test_own_plan_keeps_to_the_org_of_its_first_try(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(2))
    task = delink(links=pairs(2), audit_conn_id=AUDIT)
    task.execute(context())
    assert audit.run()["org_id"] == "700000001"
    assert {row["org_id"] for row in audit.events()} == {"700000001"}
    with audit.engine.begin() as connection:
        connection.execute(sa.update(tables.runs).values(org_id="42"))
        connection.execute(sa.update(tables.links).values(state="planned", outcome=None))
    link_all(zoho, pairs(2))
    with pytest.raises(AirflowFailException, match="for organization 42"):
        task.execute(context(try_number=2))
    assert linked(zoho) == set(pairs(2))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"run_key": "contacts_deals:gone"}, "audit database has no run", id="run"),
        pytest.param({"chunk_no": 5}, "no chunk 5", id="chunk"),
    ],
)
def test_a_chunk_that_is_not_stored_is_refused(
    zoho: LocalZoho, audit: Audit, changes: dict[str, Any], says: str
) -> None:
    (chunk,) = planned(audit, pairs(2))
    with pytest.raises(PlanError, match=says):
        delink(chunk={**chunk, **changes}, audit_conn_id=AUDIT).execute(context())
    assert sent(zoho) == []


def test_an_applied_run_cannot_go_on_as_a_dry_run_over_links_that_were_sent(
    zoho: LocalZoho, audit: Audit
) -> None:
    (chunk,) = planned(audit, pairs(2))
    ledger = audit.ledger()
    take(ledger, ledger.claims.claim(chunk["run_key"], 0, "a try that died"), 1)
    with pytest.raises(PlanError, match="dry run"):
        delink(chunk=chunk, audit_conn_id=AUDIT, dry_run=True).execute(context())
    assert sent(zoho) == []


@pytest.mark.parametrize(
    ("code", "status"), [("OAUTH_SCOPE_MISMATCH", 401), ("NO_PERMISSION", 403), ("INVALID_MODULE", 400)]
)
def test_a_refusal_that_waits_for_every_link_stops_for_good(
    zoho: LocalZoho, audit: Audit, code: str, status: int
) -> None:
    link_all(zoho, pairs(40))
    body = {"code": code, "details": {}, "message": "no", "status": "error"}
    zoho.state.faults.add(do="status", status=status, body=body, match={"method": "DELETE"}, times=None)
    (chunk,) = planned(audit, pairs(40))
    with pytest.raises(RunStoppedError, match=f"Zoho refuses every link with {code}: no"):
        delink(chunk=chunk, audit_conn_id=AUDIT, task_concurrency=2).execute(context())
    # The fifth refusal stops it; what is in flight beside it may still end.
    assert 5 <= len(sent(zoho)) <= 6
    counts = {
        outcome: list(audit.latest().values()).count(outcome) for outcome in ("failed", "not_attempted")
    }
    assert counts["failed"] == len(sent(zoho))
    assert linked(zoho) == set(pairs(40))
    assert audit.leases() == []


@pytest.mark.parametrize("given", ["links", "chunk"])
def test_used_up_credits_stop_at_once_and_the_rest_waits_outside_of_a_worker(
    zoho: LocalZoho, audit: Audit, given: str
) -> None:
    link_all(zoho, pairs(30))
    zoho.state.configure(credit_limit=11)
    work: dict[str, Any] = (
        {"links": pairs(30)} if given == "links" else {"chunk": planned(audit, pairs(30))[0]}
    )
    task = delink(**work, audit_conn_id=AUDIT, task_concurrency=1)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context())
    found = list(audit.latest().values())
    assert (found.count("removed"), len(sent(zoho))) == (10, 11)
    assert set(found) == {"removed", "not_attempted"}
    assert [row["state"] for row in audit.links()].count("planned") == 20
    assert audit.run()["status"] == "running"
    assert audit.leases() == []
    assert isinstance(deferred.value.trigger, DateTimeTrigger)
    assert abs(deferred.value.trigger.moment - datetime.now(UTC) - timedelta(minutes=30)) < timedelta(
        minutes=1
    )

    zoho.state.configure(credit_limit=1_000)
    resume = getattr(task, deferred.value.method_name)
    assert resume(context(), None, **(deferred.value.kwargs or {})) == outcomes(
        removed=30 if given == "links" else 20
    )
    assert linked(zoho) == set()
    assert len(sent(zoho)) == 31


def test_waits_no_longer_than_its_patience(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(5))
    zoho.state.configure(credit_limit=0)
    (chunk,) = planned(audit, pairs(5))
    task = delink(chunk=chunk, audit_conn_id=AUDIT, wait_patience=timedelta(hours=2))
    now = datetime.now(UTC)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute_after_wait(context(), waiting_since=(now - timedelta(minutes=80)).isoformat())
    assert (deferred.value.kwargs or {})["waiting_since"] == (now - timedelta(minutes=80)).isoformat()
    with pytest.raises(RunStoppedError, match="credits are used up"):
        task.execute_after_wait(context(), waiting_since=(now - timedelta(minutes=100)).isoformat())
    assert linked(zoho) == set(pairs(5))
    assert audit.run()["stop_reason"] is None


def test_waits_for_an_access_token_when_zoho_gives_none(
    zoho: LocalZoho, audit: Audit, variables: dict[str, str]
) -> None:
    link_all(zoho, pairs(2))
    zoho.state.configure(tokens_per_window=1)
    assert ZohoCRMHook(ZOHO).token_source.get()
    variables.clear()
    (chunk,) = planned(audit, pairs(2))
    with pytest.raises(TaskDeferred) as deferred:
        delink(chunk=chunk, audit_conn_id=AUDIT).execute(context())
    assert isinstance(deferred.value.trigger, DateTimeTrigger)
    assert deferred.value.trigger.moment - datetime.now(UTC) > timedelta(minutes=10)
    assert sent(zoho) == []
    assert {row["state"] for row in audit.links()} == {"planned"}


def test_waits_outside_of_a_worker_for_a_slot_of_the_org(
    zoho: LocalZoho, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoho_crm.operators.chunk_run.SLOT_WAIT_S", 0.2)
    link_all(zoho, pairs(2))
    (chunk,) = planned(audit, pairs(2))
    limit = ZohoCRMHook(ZOHO).connection.max_concurrency
    audit.ledger().slots.lease(ZOHO, "another task", wanted=limit, limit=limit, lease_s=60)
    with pytest.raises(TaskDeferred):
        delink(chunk=chunk, audit_conn_id=AUDIT).execute(context())
    assert sent(zoho) == []
    with pytest.raises(RunStoppedError, match=r"waited 0\.2 s for a free slot: other tasks use all"):
        delink(chunk=chunk, audit_conn_id=AUDIT, wait_patience=timedelta(0)).execute(context())
    assert {row["state"] for row in audit.links()} == {"planned"}


def test_credits_under_the_reserve_are_left_to_others(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(60))
    zoho.state.configure(credit_limit=60)
    (chunk,) = planned(audit, pairs(60))
    with pytest.raises(TaskDeferred):
        delink(chunk=chunk, audit_conn_id=AUDIT, task_concurrency=2, credit_reserve=20).execute(context())
    assert 18 <= zoho.state.to_json()["credits_remaining"] <= 19
    assert "failed" not in audit.latest().values()


def test_without_a_ledger_links_that_were_never_taken_count_as_not_attempted(zoho: LocalZoho) -> None:
    link_all(zoho, pairs(50))
    zoho.state.configure(credit_limit=3)
    with pytest.raises(RunStoppedError, match="3 removed, 47 not_attempted"):
        delink(links=pairs(50), task_concurrency=1).execute(context())


def test_a_refusal_for_every_link_stops_the_other_tasks_of_the_run(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(40))
    body = {"code": "NO_PERMISSION", "details": {}, "message": "no", "status": "error"}
    refusing = zoho.state.faults.add(
        do="status", status=403, body=body, match={"method": "DELETE"}, times=None
    )
    first, second = planned(audit, pairs(40), chunk_size=20)
    with pytest.raises(RunStoppedError, match="NO_PERMISSION"):
        delink(chunk=first, audit_conn_id=AUDIT, task_concurrency=1).execute(context(map_index=0))
    requests = len(zoho.state.journal.requests)
    zoho.state.faults.rules.remove(refusing)
    with pytest.raises(RunStoppedError, match="another task stopped the run: Zoho refuses every link"):
        delink(chunk=second, audit_conn_id=AUDIT).execute(context(map_index=1))
    assert len(zoho.state.journal.requests) == requests
    # Closing the run lifts the stop: a clear after the cause is fixed starts again.
    audit.ledger().runs.finish(
        "contacts_deals:1", status="stopped", detail=None, finished_at=datetime.now(UTC)
    )
    for chunk in (first, second):
        delink(chunk=chunk, audit_conn_id=AUDIT).execute(context(try_number=2))
    assert linked(zoho) == set()


def test_finished_run_is_unfinished_while_a_cleared_task_works_on_links_it_left(
    zoho: LocalZoho, audit: Audit
) -> None:
    link_all(zoho, pairs(4))
    first, second = planned(audit, pairs(4), chunk_size=2)
    delink(chunk=first, audit_conn_id=AUDIT).execute(context(map_index=0))
    runs = audit.ledger().runs
    runs.finish("contacts_deals:1", status="stopped", detail=None, finished_at=datetime.now(UTC))

    delink(chunk=first, audit_conn_id=AUDIT).execute(context(map_index=0, try_number=2))
    assert (audit.run()["status"], runs.unfinished("contacts_deals")) == ("stopped", [])

    runs.ask_approval("contacts_deals:1")
    with pytest.raises(RunStoppedError, match="the run waits for an approval"):
        delink(chunk=second, audit_conn_id=AUDIT).execute(context(map_index=1))
    assert (audit.run()["status"], runs.unfinished("contacts_deals")) == ("stopped", [])

    runs.record_approval(
        "contacts_deals:1", approval="approved", approved_by="jo", approved_at=datetime.now(UTC)
    )
    delink(chunk=second, audit_conn_id=AUDIT).execute(context(map_index=1, try_number=2))
    assert linked(zoho) == set()
    assert [run.status for run in runs.unfinished("contacts_deals")] == ["running"]


def test_too_many_failures_stop_the_run(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(200))
    for number in range(200):
        zoho.state.lock("Deals", f"d-{number:05}")
    (chunk,) = planned(audit, pairs(200))
    with pytest.raises(RunStoppedError, match=r"above the breaker's share of 0\.5"):
        delink(chunk=chunk, audit_conn_id=AUDIT, task_concurrency=1).execute(context())
    assert len(sent(zoho)) == 50
    found = list(audit.latest().values())
    assert found.count("rejected") == 50
    assert set(found) == {"rejected", "not_attempted"}


def test_too_many_links_without_a_record_stop_the_whole_run(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(10))
    chunks = planned(audit, pairs(200), chunk_size=20)
    options = {"audit_conn_id": AUDIT, "task_concurrency": 1, "max_not_found_share": 0.5}
    for number, chunk in enumerate(chunks[:2]):
        delink(chunk=chunk, **options).execute(context(map_index=number))
    says = (
        "40 of 50 links have no record in Zoho: are the external fields filled in Zoho? Check "
        "Contacts.External_Contact_ID (guards.max_not_found_share allows 50%)"
    )
    with pytest.raises(RunStoppedError, match=re.escape(says)):
        delink(chunk=chunks[2], **options).execute(context(map_index=2))
    requests = len(sent(zoho))
    with pytest.raises(RunStoppedError, match="another task stopped the run: 40 of 50 links"):
        delink(chunk=chunks[3], **options).execute(context(map_index=3))
    assert len(sent(zoho)) == requests
    assert audit.run()["stop_reason"] == says


def test_links_without_a_record_stop_nothing_without_a_limit(zoho: LocalZoho, audit: Audit) -> None:
    (chunk,) = planned(audit, pairs(100))
    counts = delink(chunk=chunk, audit_conn_id=AUDIT).execute(context())
    assert counts == outcomes(parent_not_found=100)


def test_verified_dry_run_counts_all_links_without_a_record(zoho: LocalZoho, audit: Audit) -> None:
    (chunk,) = planned(audit, pairs(100), mode="dry_run")
    options = {"audit_conn_id": AUDIT, "verify": True, "max_not_found_share": 0.5}
    assert delink(chunk=chunk, **options).execute(context()) == outcomes(parent_not_found=100)


def test_removes_links_of_one_parent_together(zoho: LocalZoho, audit: Audit) -> None:
    links = [(f"c-{n % 3}", f"d-{n}") for n in range(60)]
    link_all(zoho, [*links, ("c-0", "stays")])
    task = delink(links=links, audit_conn_id=AUDIT, strategy="by_parent")
    assert task.execute(context()) == outcomes(removed=60)
    assert linked(zoho) == {("c-0", "stays")}
    deletes = [one for one in zoho.state.journal.requests if one.method == "DELETE"]
    assert [one.path.count("/") for one in deletes] == [5, 5, 5]
    assert {one.kind for one in deletes} == {"delink_many"}
    assert not harms(zoho)
    assert audit.latest() == dict.fromkeys(links, "removed")
    assert {row["strategy"] for row in audit.events()} == {"by_parent"}


def test_the_time_limit_of_the_task_ends_it_in_order(
    zoho: LocalZoho, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    zoho.state.configure(latency_s=0.05)
    link_all(zoho, pairs(60))
    (chunk,) = planned(audit, pairs(60))
    task = delink(
        chunk=chunk, audit_conn_id=AUDIT, task_concurrency=1, execution_timeout=timedelta(seconds=2)
    )
    with pytest.raises(UnfinishedLinksError, match="execution_timeout is nearly reached"):
        task.execute(context())
    found = audit.latest()
    assert len(found) < 60 or "not_attempted" in found.values()
    removed = {pair for pair, outcome in found.items() if outcome == "removed"}
    assert set(pairs(60)) - linked(zoho) == removed
    assert set(found.values()) <= {"removed", "not_attempted"}
    assert {row["state"] for row in audit.links()} == {"settled", "planned"}
    assert audit.leases() == []


def test_a_kill_ends_it_in_order(zoho: LocalZoho, audit: Audit) -> None:
    zoho.state.configure(latency_s=0.05)
    link_all(zoho, pairs(60))
    (chunk,) = planned(audit, pairs(60))
    task = delink(chunk=chunk, audit_conn_id=AUDIT, task_concurrency=2)
    task.on_kill()  # before it runs there is nothing to stop
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(task.execute, context())
        wait_until(lambda: len(sent(zoho)) >= 4)
        task.on_kill()
        with pytest.raises(UnfinishedLinksError, match="the task was killed"):
            running.result(timeout=20)
    removed = {pair for pair, outcome in audit.latest().items() if outcome == "removed"}
    assert 4 <= len(removed) < 60
    assert set(pairs(60)) - linked(zoho) == removed
    assert {row["state"] for row in audit.links()} == {"settled", "planned"}
    task.on_kill()


def test_a_newer_try_takes_the_chunk_over_and_no_link_is_lost(zoho: LocalZoho, audit: Audit) -> None:
    zoho.state.configure(latency_s=0.05)
    link_all(zoho, pairs(60))
    ctx = context()
    first, second = (delink(links=pairs(60), audit_conn_id=AUDIT, task_concurrency=2) for _ in range(2))
    with ThreadPoolExecutor(1) as pool:
        old = pool.submit(first.execute, ctx)
        wait_until(lambda: len(sent(zoho)) >= 4)
        zoho.state.configure(latency_s=0.01)
        summary = second.execute(context(try_number=2))
        error = old.exception(timeout=30)
    assert type(error).__name__ == "ClaimLostError"
    # What the fenced try removed, the newer one found gone.
    assert summary["removed"] + summary["presumed_removed"] == 60
    assert linked(zoho) == set()
    assert set(audit.latest()) == set(pairs(60))
    assert set(audit.latest().values()) <= {"removed", "presumed_removed"}
    assert audit.run()["status"] == "succeeded"
    assert audit.leases() == []


def test_chunks_of_one_connection_stay_within_its_limit_together(
    zoho: LocalZoho, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 4
    zoho.state.configure(latency_s=0.01, concurrency_limit=limit)
    set_connection(monkeypatch, ZOHO, **zoho_connection(zoho, max_concurrency=limit))
    link_all(zoho, pairs(90))
    chunks = planned(audit, pairs(90), chunk_size=30)
    barrier = threading.Barrier(3)

    def work(chunk: ChunkRef) -> dict[str, int]:
        barrier.wait()
        task = delink(chunk=chunk, audit_conn_id=AUDIT, task_concurrency=3)
        return task.execute(context(map_index=chunk["chunk_no"]))

    with ThreadPoolExecutor(3) as pool:
        summaries = list(pool.map(work, chunks))
    assert summaries == [outcomes(removed=30)] * 3
    assert zoho.state.limits.max_in_flight <= limit
    assert zoho.state.limits.max_in_flight >= 2
    assert zoho.state.limits.refused == 0
    assert len(sent(zoho)) == 90
    assert linked(zoho) == set()
    assert audit.leases() == []


# -- ids that look like addresses


def hostile_ids() -> list[str]:
    """Some 300 texts that have led a client astray somewhere, and a few that no record can have."""
    atoms = [
        ".", "..", "...", "/", "//", "\\", "?", "#", "%", "%2e", "%2E%2e", "%2f", "%252f", "%00", "%0d%0a", ";", ":",
        "@",
        "&", "=", "+", " ", ",", "~", "*", "'", '"', "<", ">", "|", "^", "`", "{", "}", "[", "]", "$",
        "!", "(", ")",
        "\r\n", "\n", "\r", "\t", "\x00", "\x7f", "\x85", "\u2028", "\u200b", "\u202e", "\ufeff", "\ufffd", "\uff0e",
        "\uff0f", "\u2024", "\u2215", "\ud800", "\udfff", "e\u0301", "\u00e9", "\u212b", "\u00c5", "\ufb01", "\u0130",
        "🙂", "東京", "\u05d0", "A", "a",
    ]  # fmt: skip
    ids = [shape.format(atom) for atom in atoms for shape in ("{}", "x{}y", "{0}{0}", "a/{}/b")]
    ids += [
        "../Deals", "../../Contacts/1", "..%2f..%2f", "%2e%2e/", "./", "/.", "..;/", "c-1/Deals/d-1", "c-1/../..",
        "?ids=1", "x?fields=id", "#frag", "http://evil.invalid/", "//evil.invalid/x", "\\\\evil\\x",
        "a\r\nX-EXTERNAL: b", "c-1/../../Leads",
        "Contacts.External_Contact_ID", "4876876000000100001", "0", "-1", "1e3", "NaN", "null", "true", "x" * 255,
        "x" * 256, "x" * 10_000, "é" * 255, "🙂" * 255, "%" * 255, "/" * 255, "." * 255,
        unicodedata.normalize("NFD", "Ångström"),
        unicodedata.normalize("NFC", "Ångström"), "'; DROP TABLE Contacts; --", "{{ ds }}", "${jndi:x}",
        "$(id)", " lead", "trail ", "\u00a0nbsp\u00a0",
    ]  # fmt: skip
    return list(dict.fromkeys(ids))


def test_no_external_id_leads_to_another_address(zoho: LocalZoho, audit: Audit) -> None:
    ids = hostile_ids()
    assert len(ids) >= 300
    sendable = [one for one in ids if external_id_fault(one) is None]
    unsendable = [one for one in ids if external_id_fault(one) is not None]
    assert len(sendable) >= 200
    assert len(unsendable) >= 40
    for one in sendable:  # not left to link(), which takes the Zoho id among them for a record's
        zoho.state.add_record("Contacts", {"External_Contact_ID": one})
        zoho.state.add_record("Deals", {"External_Deal_ID": one})
    for place, one in enumerate(sendable):
        zoho.state.link("Contacts", one, "Deals", f"d-{place}")
        zoho.state.link("Contacts", f"c-{place}", "Deals", one)
    for number in range(20):
        zoho.state.link("Contacts", f"kept-{number}", "Deals", f"kept-{number}")
    records = zoho.state.to_json(include_links=False)["records"]
    meant = [(one, f"d-{place}") for place, one in enumerate(sendable)]
    meant += [(f"c-{place}", one) for place, one in enumerate(sendable)]
    hopeless = [(one, "d-0") for one in unsendable] + [("c-0", one) for one in unsendable]
    absent = [(one, one) for one in sendable[:50]]

    summary = delink(links=[*meant, *hopeless, *absent], audit_conn_id=AUDIT, task_concurrency=10).execute(
        context()
    )

    assert summary == outcomes(removed=len(meant), already_absent=len(absent), invalid=len(hopeless))
    requests = [
        one
        for one in zoho.state.journal.requests
        if one.path.startswith("/crm/") and not one.path.endswith("/org")
    ]
    assert {one.method for one in requests} == {"DELETE"}
    assert {one.kind for one in requests} == {"delink"}
    for one in requests:
        raw = one.path.split("/")
        assert len(raw) == 7, one.path
        assert "?" not in one.path
        assert one.query == ""
    assert sorted(sent(zoho)) == sorted([*meant, *absent])
    assert linked(zoho) == {(f"kept-{number}", f"kept-{number}") for number in range(20)}
    assert zoho.state.to_json(include_links=False)["records"] == records
    assert not harms(zoho)
    assert len(audit.links()) == len(meant) + len(hopeless) + len(absent)
    assert {row["external_id"] for row in audit.events() if row["outcome"] == "removed"} >= set(sendable)
    assert unquote(requests[0].path).startswith("/crm/v7/Contacts/")


# -- helpers


def planned(
    audit: Audit, links: list[tuple[str, str]], *, mode: str = "apply", chunk_size: int = 1_000
) -> list[ChunkRef]:
    """Store the plan of a job's run, as PlanOperator does."""
    from zoho_crm.core.models import Target

    ledger, origin = audit.ledger(), origin_of(context("plan"))
    target = Target(RELATION, "us", "v7", dry_run=mode == "dry_run")
    start = RunStart("contacts_deals:1", "contacts_deals", origin, target, mode=mode, guard_decision="passed")
    run = ledger.runs.start(start)
    plan = ledger.plans.create(
        run.run_key, RELATION, links, chunk_size=chunk_size, max_chunks=100, origin=origin, target=target
    )
    return plan.chunks


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no link wait long for a Zoho in trouble."""
    from zoho_crm.hooks.presence import RetryLimits

    monkeypatch.setattr(
        "zoho_crm.hooks.presence.RetryLimits.__init__",
        _with_defaults(
            RetryLimits.__init__, sends=4, waits=3, verifications=2, first_pause_s=0.001, longest_pause_s=0.01
        ),
    )


def _with_defaults(init: Any, **defaults: Any) -> Any:
    def patched(self: Any, **given: Any) -> None:
        init(self, **{**defaults, **given})

    return patched


def wait_until(condition: Any, timeout_s: float = 10.0) -> None:
    import time

    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        with suppress(InterruptedError):
            time.sleep(0.005)
