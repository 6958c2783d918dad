"""Putting links back: the operator against a local Zoho and a real ledger."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from airflow.sdk import DAG

from tests.support.databases import AUDIT, Audit
from tests.support.links import RELATION, X_EXTERNAL
from tests.support.local_zoho import harms, link_all, linked
from tests.support.operators import context, delink, pairs
from zoho_crm.airflow_compat import TaskDeferred
from zoho_crm.core.models import RunStart, Target
from zoho_crm.core.outcomes import RELINK_OUTCOMES
from zoho_crm.core.relink_verdict import LINKED_AND_NOT_SEEN_GONE
from zoho_crm.errors import PlanError, RunStoppedError, UnfinishedLinksError
from zoho_crm.hooks.presence import RetryLimits
from zoho_crm.ledger import tables
from zoho_crm.operators.job_operator import origin_of
from zoho_crm.operators.relink import RelinkByExternalIdOperator

if TYPE_CHECKING:
    from zoho_crm.core.models import ChunkRef
    from zoho_crm.testing.local_zoho import LocalZoho

on_sqlite = pytest.mark.parametrize("audit", ["sqlite"], indirect=True)

ROLE = {"name": "Decision Maker", "id": "4876876000000006873"}
SNAPSHOT = json.dumps({"Contact_Role": ROLE})


def outcomes(**counts: int) -> dict[str, int]:
    assert set(counts) <= {outcome.value for outcome in RELINK_OUTCOMES}
    return {outcome.value: counts.get(outcome.value, 0) for outcome in RELINK_OUTCOMES}


def relink(task_id: str = "relink", **changes: Any) -> RelinkByExternalIdOperator:
    return RelinkByExternalIdOperator(
        **{
            "task_id": task_id,
            "module": "Contacts",
            "external_field": "External_Contact_ID",
            "related_list": "Deals",
            "related_external_field": "External_Deal_ID",
            **changes,
        }
    )


def planned(
    audit: Audit,
    links: list[tuple[str, str]],
    *,
    snapshot: str | None = SNAPSHOT,
    mode: str = "apply",
    operation: str = "relink",
    params: dict[str, Any] | None = None,
) -> ChunkRef:
    """Store a run of one chunk, as the plan of a run that puts links back does."""
    ledger, origin = audit.ledger(), origin_of(context("plan"))
    target = Target(RELATION, "us", "v7", dry_run=mode == "dry_run", operation=operation)
    run = ledger.runs.start(
        RunStart(
            "back",
            "contacts_deals",
            origin,
            target,
            mode=mode,
            params=params or {},
            guard_decision="passed",
        )
    )
    plan = ledger.plans.create(
        run.run_key, RELATION, links, chunk_size=100, max_chunks=9, origin=origin, target=target
    )
    with audit.engine.begin() as connection:
        connection.execute(sa.update(tables.links).values(snapshot=snapshot))
    return plan.chunks[0]


def add_records(zoho: LocalZoho, links: list[tuple[str, str]]) -> None:
    link_all(zoho, links)
    for parent, related in links:
        zoho.state.unlink("Contacts", parent, "Deals", related)


def roles(zoho: LocalZoho) -> dict[tuple[str, str], Any]:
    return {
        (one["external_id"], one["related_external_id"]): one["attributes"]
        for one in zoho.state.crm.to_json()
    }


def given(links: list[tuple[str, str]], attributes: dict[str, Any]) -> dict[tuple[str, str], Any]:
    return dict.fromkeys(links, attributes)


def puts(zoho: LocalZoho) -> int:
    found = [one for one in zoho.state.journal.requests if one.method == "PUT"]
    for one in found:
        assert len(one.path.split("/")[1:]) == 5, one.path
        assert (one.query, one.external) == ("", X_EXTERNAL)
    assert not [one for one in zoho.state.journal.requests if one.method == "DELETE"]
    return len(found)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    init = RetryLimits.__init__

    def brief(self: Any, **given: Any) -> None:
        quick = {"waits": 3, "verifications": 2, "first_pause_s": 0.001, "longest_pause_s": 0.01}
        init(self, **{**quick, **given})

    monkeypatch.setattr(RetryLimits, "__init__", brief)


def test_puts_a_chunk_back_with_its_attributes_and_audits_it(zoho: LocalZoho, audit: Audit) -> None:
    links = pairs(6)
    add_records(zoho, links)
    zoho.state.link("Contacts", *_middle(links[5]), {"Contact_Role": "Purchasing"})
    before = roles(zoho)[links[5]]
    summary = relink(
        chunk=planned(audit, [*links, ("no-record", "d-00000"), ("c-00000", "nothing")]), audit_conn_id=AUDIT
    ).execute(context("relink"))
    assert summary == outcomes(relinked=5, already_linked=1, parent_not_found=1, related_not_found=1)
    assert roles(zoho) == {**given(links[:5], {"Contact_Role": ROLE}), links[5]: before}
    assert (puts(zoho), harms(zoho)) == (6, [])
    assert audit.latest() == {
        **dict.fromkeys(links[:5], "relinked"),
        links[5]: "already_linked",
        ("no-record", "d-00000"): "parent_not_found",
        ("c-00000", "nothing"): "related_not_found",
    }
    row = next(row for row in audit.events() if row["external_id"] == "c-00000")
    assert (row["operation"], row["zoho_message"], row["snapshot"]) == ("relink", "relation added", SNAPSHOT)
    assert audit.leases() == []


def _middle(link: tuple[str, str]) -> tuple[str, str, str]:
    return link[0], "Deals", link[1]


@on_sqlite
def test_a_second_execute_sends_nothing(zoho: LocalZoho, audit: Audit) -> None:
    add_records(zoho, pairs(3))
    task = relink(chunk=planned(audit, pairs(3)), audit_conn_id=AUDIT)
    task.execute(context("relink"))
    asked = len(zoho.state.journal.requests)
    assert task.execute(context("relink", try_number=2)) == outcomes()
    assert len([one for one in zoho.state.journal.requests if one.path.startswith("/crm/")]) <= asked
    assert puts(zoho) == 3


@on_sqlite
@pytest.mark.parametrize("ledger", [True, False], ids=["ledger", "in-memory"])
def test_puts_given_links_back_without_attributes(zoho: LocalZoho, audit: Audit, ledger: bool) -> None:
    add_records(zoho, pairs(3))
    link_all(zoho, pairs(1))
    more = {"audit_conn_id": AUDIT} if ledger else {}
    summary = relink(links=[*pairs(3), pairs(3)[1], ("", "x")], **more).execute(context("relink"))
    assert summary == outcomes(relinked=2, already_linked=1, invalid=1)
    assert roles(zoho) == given(pairs(3), {})
    if ledger:
        assert (audit.run()["operation"], audit.run()["relinked"], audit.run()["already_linked"]) == (
            "relink",
            2,
            1,
        )


@on_sqlite
@pytest.mark.parametrize("operation", ["delink", "relink"])
def test_a_plan_of_the_other_operation_is_refused(zoho: LocalZoho, audit: Audit, operation: str) -> None:
    link_all(zoho, pairs(2))
    chunk = planned(audit, pairs(2), operation=operation)
    task = relink if operation == "delink" else delink
    with pytest.raises(PlanError, match=f"for the operation {operation}"):
        task(chunk=chunk, audit_conn_id=AUDIT).execute(context("relink"))
    assert list(zoho.state.journal.requests) == []
    assert linked(zoho) == set(pairs(2))


@pytest.mark.usefixtures("impatient")
def test_a_link_whose_answer_was_lost_is_verified_by_the_next_try(zoho: LocalZoho, audit: Audit) -> None:
    add_records(zoho, pairs(2))
    chunk = planned(audit, pairs(2))
    zoho.state.faults.add(
        do="status", status=502, when="after", match={"method": "PUT", "external_id": "d-00001"}
    )
    zoho.state.faults.add(
        do="status", status=502, match={"method": "GET", "path": "c-00001", "nth": 2}, times=None
    )
    task = relink(chunk=chunk, audit_conn_id=AUDIT)
    with pytest.raises(UnfinishedLinksError, match="1 unknown, 1 relinked"):
        task.execute(context("relink"))
    assert audit.latest()[pairs(2)[1]] == "unknown"
    zoho.state.faults.clear()
    sent_before = puts(zoho)
    assert task.execute(context("relink", try_number=2)) == outcomes(presumed_relinked=1)
    assert puts(zoho) == sent_before
    last = [row for row in audit.events() if row["external_id"] == "c-00001"][-1]
    assert LINKED_AND_NOT_SEEN_GONE in last["detail"]
    assert roles(zoho) == given(pairs(2), {"Contact_Role": ROLE})


@on_sqlite
def test_after_a_crash_what_was_in_flight_is_asked_for_before_anything_is_sent(
    zoho: LocalZoho, audit: Audit
) -> None:
    add_records(zoho, pairs(4))
    chunk = planned(audit, pairs(4))
    with audit.engine.begin() as connection:
        connection.execute(sa.update(tables.links).where(tables.links.c.seq < 2).values(state="in_flight"))
    zoho.state.link("Contacts", *_middle(pairs(4)[0]), {"Contact_Role": ROLE})
    assert relink(chunk=chunk, audit_conn_id=AUDIT).execute(context("relink")) == outcomes(
        relinked=3, presumed_relinked=1
    )
    assert roles(zoho) == given(pairs(4), {"Contact_Role": ROLE})
    assert puts(zoho) == 3
    assert [LINKED_AND_NOT_SEEN_GONE in (row["detail"] or "") for row in audit.events()].count(True) == 1


@on_sqlite
def test_a_dry_run_sends_nothing(zoho: LocalZoho, audit: Audit) -> None:
    add_records(zoho, pairs(3))
    task = relink(chunk=planned(audit, pairs(3), mode="dry_run"), audit_conn_id=AUDIT)
    assert task.execute(context("relink")) == outcomes(would_relink=3)
    assert list(zoho.state.journal.requests) == []


@on_sqlite
@pytest.mark.parametrize("by", ["params", "argument", "in-memory"])
def test_a_dry_run_that_verifies_asks_about_every_link_and_changes_nothing(
    zoho: LocalZoho, audit: Audit, by: str
) -> None:
    add_records(zoho, pairs(3))
    link_all(zoho, pairs(1))
    links = [*pairs(3), ("no-record", "d-00000"), ("c-00000", "nothing")]
    if by == "in-memory":
        task = relink(links=links, dry_run=True, verify=True)
    elif by == "params":
        task = relink(
            chunk=planned(audit, links, mode="dry_run", params={"verify": True}), audit_conn_id=AUDIT
        )
    else:
        task = relink(chunk=planned(audit, links), dry_run=True, verify=True, audit_conn_id=AUDIT)
    assert task.execute(context("relink")) == outcomes(
        already_linked=1, would_relink=2, parent_not_found=1, related_not_found=1
    )
    assert linked(zoho) == set(pairs(1))
    assert {one.method for one in zoho.state.journal.requests if one.path.startswith("/crm/")} == {"GET"}


@on_sqlite
def test_used_up_credits_stop_at_once_and_the_rest_waits_outside_of_a_worker(
    zoho: LocalZoho, audit: Audit
) -> None:
    add_records(zoho, pairs(20))
    zoho.state.configure(credit_limit=11)
    task = relink(chunk=planned(audit, pairs(20)), audit_conn_id=AUDIT, task_concurrency=1)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context("relink"))
    assert list(audit.latest().values()).count("relinked") == 5
    zoho.state.configure(credit_limit=1_000)
    summary = task.execute_after_wait(context("relink"), **(deferred.value.kwargs or {}))
    assert summary == outcomes(relinked=15)
    assert linked(zoho) == set(pairs(20))


@on_sqlite
def test_a_missing_scope_stops_the_run(zoho: LocalZoho, audit: Audit) -> None:
    add_records(zoho, pairs(20))
    zoho.state.configure(granted_scopes=["ZohoCRM.modules.READ", "ZohoCRM.modules.DELETE"])
    with pytest.raises(RunStoppedError, match="OAUTH_SCOPE_MISMATCH"):
        relink(chunk=planned(audit, pairs(20)), audit_conn_id=AUDIT).execute(context("relink"))
    assert linked(zoho) == set()
    assert audit.ledger().runs.stop_reason("back")


@on_sqlite
def test_hostile_ids_are_put_back_as_they_are(zoho: LocalZoho, audit: Audit) -> None:
    odd = ("?a=b", "#", "%2e%2e", ";v", "a/b", '"},{"id":"1', "ä🦄", "a,b", "+ +", "{{ 1 }}")
    links = [(f"c{one}", f"d{one}x") for one in odd]
    add_records(zoho, links)
    bystanders = zoho.state.crm.to_json()
    assert relink(chunk=planned(audit, links), audit_conn_id=AUDIT).execute(context("relink")) == outcomes(
        relinked=len(links)
    )
    assert linked(zoho) == set(links)
    assert (harms(zoho), bystanders) == ([], [])


def test_has_no_argument_of_delinking_alone() -> None:
    for name in ("strategy", "snapshot_fields"):
        with pytest.raises(TypeError):
            relink(links=[("c", "d")], **{name: "single"})


def test_maps_over_arguments_of_either_call() -> None:
    with DAG("mapping", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        RelinkByExternalIdOperator.partial(task_id="relink", task_concurrency=7).expand_kwargs(
            [{"links": [], "module": "Contacts"}]
        )
    mapped: Any = dag.get_task("relink")
    names = {
        "module": "Contacts",
        "external_field": "A",
        "related_list": "Deals",
        "related_external_field": "B",
    }
    assert mapped.unmap({**names, "links": []}).task_concurrency == 7
    with pytest.raises(TypeError, match="task_concurrency"):
        mapped.unmap({**names, "links": [], "task_concurrency": 3})
