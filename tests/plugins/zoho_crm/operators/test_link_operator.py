"""What the deleting operator does beside deleting: it keeps attributes first, verifies dry runs, minds a plan's age."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.plugins.zoho_crm.operators.test_relink import impatient
from tests.plugins.zoho_crm.operators.test_relink import planned as stored
from tests.support.databases import AUDIT, Audit
from tests.support.local_zoho import harms, link_all, linked, sent
from tests.support.operators import context, delink, outcomes, pairs
from zoho_crm.airflow_compat import TaskDeferred
from zoho_crm.errors import RunStoppedError, UnfinishedLinksError
from zoho_crm.ledger import tables

if TYPE_CHECKING:
    from zoho_crm.core.models import ChunkRef
    from zoho_crm.testing.local_zoho import LocalZoho

__all__ = ["impatient"]

on_sqlite = pytest.mark.parametrize("audit", ["sqlite"], indirect=True)

ROLE = {"name": "Decision Maker", "id": "4876876000000006873"}
FIELDS = ["Contact_Role"]


def planned(audit: Audit, links: list[tuple[str, str]], **changes: Any) -> ChunkRef:
    return stored(audit, links, snapshot=None, operation="delink", **changes)


def methods(zoho: LocalZoho) -> list[str]:
    """Return the methods of the requests about links."""
    return [
        one.method
        for one in zoho.state.journal.requests
        if one.path.startswith("/crm/") and not one.path.endswith("/org")
    ]


def snapshots(audit: Audit) -> list[str | None]:
    return [row["snapshot"] for row in audit.links()]


def keeping(chunk: ChunkRef, **changes: Any) -> Any:
    return delink(chunk=chunk, audit_conn_id=AUDIT, snapshot_fields=FIELDS, **changes)


# -- snapshots


@pytest.mark.parametrize("strategy", ["single", "by_parent"])
def test_keeps_what_each_link_has_before_the_first_is_sent(
    zoho: LocalZoho, audit: Audit, strategy: str
) -> None:
    links = [("c-1", "d-1"), ("c-1", "d-2"), ("c-1", "d-3"), ("c-2", "d-1")]
    for link in links[:3]:
        zoho.state.link("Contacts", link[0], "Deals", link[1], {"Contact_Role": ROLE})
    zoho.state.link("Contacts", "c-2", "Deals", "d-9")
    chunk = planned(audit, [*links, ("no-record", "d-1")])
    summary = keeping(chunk, strategy=strategy).execute(context())
    assert summary == outcomes(removed=3, already_absent=1, parent_not_found=1)
    with_role, without = json.dumps({"Contact_Role": ROLE}, sort_keys=True, separators=(",", ":")), "{}"
    assert snapshots(audit) == [with_role, with_role, with_role, without, without]
    asked = methods(zoho)
    assert asked[:5].count("GET") == 5, "a link was sent before all were read"
    assert {
        (row["external_id"], row["related_external_id"]): row["snapshot"]
        for row in audit.events()
        if row["outcome"] == "removed"
    } == dict.fromkeys(links[:3], with_role)
    assert linked(zoho) == {("c-2", "d-9")}
    assert audit.leases() == []


@on_sqlite
def test_what_is_kept_is_read_once(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(4))
    chunk = planned(audit, pairs(4))
    with audit.engine.begin() as connection:
        first = sa.update(tables.links).where(tables.links.c.seq < 2)
        connection.execute(first.values(snapshot='{"Contact_Role":"kept"}'))
    keeping(chunk).execute(context())
    assert methods(zoho) == ["GET"] * 2 + ["DELETE"] * 4
    assert snapshots(audit) == ['{"Contact_Role":"kept"}'] * 2 + ["{}"] * 2


@pytest.mark.usefixtures("impatient")
@on_sqlite
def test_nothing_is_sent_while_one_link_cannot_be_read(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(6))
    chunk = planned(audit, pairs(6))
    zoho.state.faults.add(do="status", status=503, match={"path": "d-00003"}, times=None)
    with pytest.raises(
        UnfinishedLinksError, match="attributes of 1 link could not be read; nothing was sent"
    ):
        keeping(chunk).execute(context())
    assert sent(zoho) == []
    assert [row["state"] for row in audit.links()] == ["planned"] * 6
    zoho.state.faults.clear()
    read = len(methods(zoho))
    assert keeping(chunk).execute(context(try_number=2)) == outcomes(removed=6)
    assert methods(zoho)[read:].count("GET") == 1


@on_sqlite
def test_a_refusal_for_every_link_stops_the_run_before_anything_is_sent(
    zoho: LocalZoho, audit: Audit
) -> None:
    link_all(zoho, pairs(20))
    zoho.state.configure(granted_scopes=["ZohoCRM.modules.DELETE"])
    with pytest.raises(RunStoppedError, match=r"OAUTH_SCOPE_MISMATCH.*nothing was sent"):
        keeping(planned(audit, pairs(20))).execute(context())
    assert sent(zoho) == []
    assert audit.ledger().runs.stop_reason("back")


@on_sqlite
def test_reading_attributes_leaves_the_credit_reserve_and_waits(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(20))
    zoho.state.configure(credit_limit=11)
    task = keeping(planned(audit, pairs(20)), task_concurrency=1)
    with pytest.raises(TaskDeferred) as deferred:
        task.execute(context())
    assert (sent(zoho), snapshots(audit).count("{}")) == ([], 10)
    zoho.state.configure(credit_limit=1_000)
    assert task.execute_after_wait(context(), **(deferred.value.kwargs or {})) == outcomes(removed=20)
    assert methods(zoho).count("GET") == 21


@on_sqlite
def test_a_link_that_an_earlier_try_may_have_sent_is_read_before_it_is_sent(
    zoho: LocalZoho, audit: Audit
) -> None:
    link_all(zoho, pairs(3))
    chunk = planned(audit, pairs(3))
    with audit.engine.begin() as connection:
        connection.execute(sa.update(tables.links).where(tables.links.c.seq == 1).values(state="in_flight"))
    assert keeping(chunk).execute(context()) == outcomes(removed=3)
    assert linked(zoho) == set()
    assert snapshots(audit) == ["{}"] * 3


@on_sqlite
def test_links_with_a_plan_of_their_own_are_kept_as_well(zoho: LocalZoho, audit: Audit) -> None:
    zoho.state.link("Contacts", "c-1", "Deals", "d-1", {"Contact_Role": ROLE})
    task = delink(links=[("c-1", "d-1")], audit_conn_id=AUDIT, snapshot_fields=FIELDS)
    assert task.execute(context()) == outcomes(removed=1)
    assert [json.loads(text or "") for text in snapshots(audit)] == [{"Contact_Role": ROLE}]


@on_sqlite
def test_a_kill_while_attributes_are_read_sends_nothing(
    zoho: LocalZoho, audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    link_all(zoho, pairs(5))
    task = keeping(planned(audit, pairs(5)))
    send = task.send

    def killed_right_after(*args: Any, **options: Any) -> Any:
        report = send(*args, **options)
        task.on_kill()
        return report

    monkeypatch.setattr(task, "send", killed_right_after)
    with pytest.raises(UnfinishedLinksError, match="the task was killed"):
        task.execute(context())
    assert (sent(zoho), snapshots(audit)) == ([], ["{}"] * 5)
    monkeypatch.setattr(task, "send", send)
    assert task.execute(context(try_number=2)) == outcomes(removed=5)


def test_attributes_have_no_place_without_a_ledger() -> None:
    with pytest.raises(ValueError, match="audit_conn_id"):
        delink(links=[("c-1", "d-1")], snapshot_fields=FIELDS)


# -- dry runs that ask


@on_sqlite
@pytest.mark.parametrize("by", ["params", "argument", "in-memory"])
def test_a_dry_run_that_verifies_says_what_would_happen(zoho: LocalZoho, audit: Audit, by: str) -> None:
    link_all(zoho, pairs(3))
    zoho.state.unlink("Contacts", "c-00002", "Deals", "d-00002")
    links = [*pairs(3), ("no-record", "d-00000"), ("c-00000", "nothing")]
    if by == "in-memory":
        task = delink(links=links, dry_run=True, verify=True)
    elif by == "params":
        chunk = planned(audit, links, mode="dry_run", params={"verify": True})
        task = delink(chunk=chunk, audit_conn_id=AUDIT, strategy="by_parent", snapshot_fields=FIELDS)
    else:
        task = delink(chunk=planned(audit, links), audit_conn_id=AUDIT, dry_run=True, verify=True)
    assert task.execute(context()) == outcomes(
        would_remove=2, already_absent=1, parent_not_found=1, related_not_found=1
    )
    assert set(methods(zoho)) == {"GET"}
    assert (linked(zoho), harms(zoho)) == (set(pairs(2)), [])
    if by == "params":
        assert {row["dry_run"] for row in audit.events()} <= {True}
        assert audit.leases() == []


@pytest.mark.parametrize("params", [{}, {"verify": False}, {"verify": None}, {"verify": "true"}])
@on_sqlite
def test_a_dry_run_that_is_not_asked_to_verify_sends_nothing(
    zoho: LocalZoho, audit: Audit, params: dict[str, Any]
) -> None:
    link_all(zoho, pairs(3))
    chunk = planned(audit, pairs(3), mode="dry_run", params=params)
    assert delink(chunk=chunk, audit_conn_id=AUDIT).execute(context()) == outcomes(would_remove=3)
    assert list(zoho.state.journal.requests) == []


@on_sqlite
def test_verify_does_not_make_a_run_that_applies_a_dry_one(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(2))
    chunk = planned(audit, pairs(2), params={"verify": True})
    assert delink(chunk=chunk, audit_conn_id=AUDIT, verify=True).execute(context()) == outcomes(removed=2)


@pytest.mark.usefixtures("impatient")
@on_sqlite
def test_what_a_dry_run_cannot_verify_failed_and_can_be_verified_again(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(3))
    chunk = planned(audit, pairs(3), mode="dry_run", params={"verify": True})
    zoho.state.faults.add(do="html", match={"path": "d-00001"}, times=None)
    task = delink(chunk=chunk, audit_conn_id=AUDIT)
    with pytest.raises(UnfinishedLinksError, match="1 failed, 2 would_remove"):
        task.execute(context())
    failed = next(row for row in audit.events() if row["outcome"] == "failed")
    assert "status 502, which does not say" in failed["detail"]
    zoho.state.faults.clear()
    assert task.execute(context(try_number=2)) == outcomes(would_remove=1)
    assert set(methods(zoho)) == {"GET"}


# -- the age of a plan


def aged(audit: Audit, age: timedelta) -> None:
    with audit.engine.begin() as connection:
        connection.execute(sa.update(tables.runs).values(planned_at=datetime.now(UTC) - age))


@on_sqlite
@pytest.mark.parametrize("resumed", [False, True], ids=["first", "after-a-wait"])
def test_an_old_plan_is_refused_before_anything_is_claimed(
    zoho: LocalZoho, audit: Audit, resumed: bool
) -> None:
    link_all(zoho, pairs(2))
    task = delink(
        chunk=planned(audit, pairs(2)),
        audit_conn_id=AUDIT,
        max_plan_age=timedelta(days=1),
        snapshot_fields=FIELDS,
    )
    aged(audit, timedelta(days=3, seconds=1))
    since = {"waiting_since": datetime.now(UTC).isoformat()} if resumed else {}
    execute = task.execute_after_wait if resumed else task.execute
    with pytest.raises(RunStoppedError, match="The plan is 3 days old; max_plan_age is 1 day"):
        execute(context(), **since)
    assert list(zoho.state.journal.requests) == []
    (chunk,) = audit.rows("zoho_delink_chunk", "chunk_no")
    assert (chunk["claim_no"], linked(zoho)) == (0, set(pairs(2)))


@pytest.mark.parametrize(
    ("age", "allowed"),
    [(timedelta(hours=23), timedelta(days=1)), (timedelta(days=400), None)],
    ids=["young", "no-limit"],
)
@on_sqlite
def test_a_plan_that_is_young_enough_is_driven(
    zoho: LocalZoho, audit: Audit, age: timedelta, allowed: timedelta | None
) -> None:
    link_all(zoho, pairs(2))
    task = delink(chunk=planned(audit, pairs(2)), audit_conn_id=AUDIT, max_plan_age=allowed)
    aged(audit, age)
    assert task.execute(context()) == outcomes(removed=2)


@on_sqlite
def test_an_old_plan_with_nothing_left_is_no_trouble(zoho: LocalZoho, audit: Audit) -> None:
    link_all(zoho, pairs(2))
    task = delink(chunk=planned(audit, pairs(2)), audit_conn_id=AUDIT, max_plan_age=timedelta(hours=1))
    assert task.execute(context()) == outcomes(removed=2)
    aged(audit, timedelta(days=30))
    assert task.execute(context(try_number=2)) == outcomes()


@on_sqlite
def test_an_old_dry_run_is_driven(zoho: LocalZoho, audit: Audit) -> None:
    chunk = planned(audit, pairs(2), mode="dry_run")
    aged(audit, timedelta(days=30))
    task = delink(chunk=chunk, audit_conn_id=AUDIT, max_plan_age=timedelta(hours=1))
    assert task.execute(context()) == outcomes(would_remove=2)
    assert list(zoho.state.journal.requests) == []
