"""Limits between planning and sending."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.operators import context, jobs_folder, make_job, pairs
from zoho_crm.core.models import RunStart, Target
from zoho_crm.core.run_request import run_key
from zoho_crm.errors import GuardError, PlanError, ZohoConfigError
from zoho_crm.operators.guard import GuardOperator, GuardResult
from zoho_crm.operators.job_operator import origin_of
from zoho_crm.operators.plan_links import PlanLinksOperator

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.databases import Audit, Warehouse
    from zoho_crm.core.job import Job

LINKS = 10
APPLY = {"mode": "apply"}
WINDOW = {"window_start": "2026-11-21T00:00:00Z", "window_end": "2026-11-22T00:00:00Z"}

# What the ledger and the warehouse's reader do is tested on every database beside them.
pytestmark = pytest.mark.parametrize("audit", ["sqlite"], indirect=True)


@pytest.fixture(autouse=True)
def ten_links(audit: Audit, warehouse: Warehouse) -> None:
    audit.ledger()
    warehouse.add(pairs(LINKS))


def plan(job: Job, sql_path: Path, run_id: str = "manual__1", **params: Any) -> None:
    PlanLinksOperator(task_id="plan", job=job, jobs_folder=jobs_folder(sql_path)).execute(
        context("plan", run_id=run_id, params=params)
    )


def guard(job: Job, sql_path: Path, run_id: str = "manual__1", **params: Any) -> GuardResult:
    return GuardOperator(task_id="guard", job=job, jobs_folder=jobs_folder(sql_path)).execute(
        context("guard", run_id=run_id, params=params)
    )


def decide(sql_path: Path, guards: dict[str, Any], run_id: str = "manual__1", **params: Any) -> GuardResult:
    job = make_job(guards=guards)
    plan(job, sql_path, run_id, **params)
    return guard(job, sql_path, run_id, **params)


def write(sql_path: Path, name: str, sql: str) -> None:
    (sql_path.parent / name).write_text(sql)


@pytest.mark.parametrize(
    ("max_links", "decision"),
    [
        (None, "passed: 10 links planned, no limit set"),
        (10, "passed: 10 links planned, 10 allowed"),
        (11, "passed: 10 links planned, 11 allowed"),
    ],
)
def test_a_plan_within_the_limit_passes_without_an_approval(
    audit: Audit, sql_path: Path, max_links: int | None, decision: str
) -> None:
    found = decide(sql_path, {"max_links": max_links}, **APPLY)
    assert found == {"decision": decision, "ask": False, "subject": None, "body": None}
    run = audit.run()
    assert (run["guard_decision"], run["approval"]) == (decision, None)


@pytest.mark.parametrize("max_links", [0, 9])
def test_a_larger_plan_stops_and_leaves_its_reason(audit: Audit, sql_path: Path, max_links: int) -> None:
    decision = f"breached: 10 links planned, {max_links} allowed"
    with pytest.raises(
        GuardError,
        match=rf"^{decision}\. Nothing was sent\. To let it pass, raise guards\.max_links in the job file, or set "
        r"guards\.on_breach: approve$",
    ):
        decide(sql_path, {"max_links": max_links}, **APPLY)
    assert audit.run()["guard_decision"] == decision


def test_a_dry_run_only_says_what_would_happen(audit: Audit, sql_path: Path) -> None:
    found = decide(sql_path, {"max_links": 5, "on_breach": "approve"}, mode="dry_run")
    assert (found["decision"], found["ask"]) == ("breached: 10 links planned, 5 allowed", False)
    assert audit.run()["approval"] is None
    assert audit.rows("zoho_delink_job", "job") == []


def test_form_raises_the_limit_for_a_user_who_may(audit: Audit, sql_path: Path) -> None:
    guards = {"max_links": 5, "may_raise": ["ada"]}
    found = decide(sql_path, guards, **APPLY, max_links=10, reason="spring cleaning")
    decision = "passed: 10 links planned, 10 allowed (raised from 5 to 10 by ada: spring cleaning)"
    assert (found["decision"], found["ask"]) == (decision, False)
    assert audit.run()["guard_decision"] == found["decision"]


@pytest.mark.parametrize("guards", [{}, {"may_raise": ["grace"]}], ids=["no one may", "another user may"])
def test_limit_raised_without_the_right_stops_the_run(
    audit: Audit, sql_path: Path, guards: dict[str, Any]
) -> None:
    raised = r"10 links planned, 5 allowed \(raised from 5 to 10 by ada: spring cleaning\)\. Nothing was sent"
    with pytest.raises(GuardError, match=rf"^breached: {raised}"):
        decide(sql_path, {"max_links": 5, **guards}, **APPLY, max_links=10, reason="spring cleaning")
    assert audit.run()["guard_decision"].startswith("breached: ")


def test_raised_limit_needs_an_approval(audit: Audit, sql_path: Path) -> None:
    guards = {"max_links": 5, "on_breach": "approve"}
    found = decide(sql_path, guards, **APPLY, max_links=10, reason="spring cleaning")
    assert found["ask"]
    body = str(found["body"])
    assert "- `10 links planned, 5 allowed (raised from 5 to 10 by ada: spring cleaning)`" in body
    assert "- Requested by: `ada`, whose approval does not count" in body
    assert audit.run()["approval"] == "asked"


ALWAYS = {"max_links": 10, "approvals": "always"}


@pytest.mark.parametrize("on_breach", ["stop", "approve"])
def test_each_run_of_a_job_can_need_an_approval(audit: Audit, sql_path: Path, on_breach: str) -> None:
    found = decide(sql_path, {**ALWAYS, "on_breach": on_breach}, **APPLY)
    assert (found["decision"], found["ask"]) == ("passed: 10 links planned, 10 allowed", True)
    assert "Each run of this job needs an approval (`guards.approvals: always`)." in str(found["body"])
    run = audit.run()
    assert run["approval"] == "asked"
    assert audit.ledger().runs.stop_reason(run["run_key"]) == "the run waits for an approval"
    # The job is in no worse state than before.
    assert audit.rows("zoho_delink_job", "job") == []


def test_dry_run_never_needs_an_approval(audit: Audit, sql_path: Path) -> None:
    assert not decide(sql_path, ALWAYS, mode="dry_run")["ask"]
    assert audit.run()["approval"] is None


def test_run_with_nothing_to_send_needs_no_approval(audit: Audit, sql_path: Path) -> None:
    nothing = {"window_start": "2001-01-01T00:00:00Z", "window_end": "2001-01-02T00:00:00Z"}
    found = decide(sql_path, ALWAYS, **APPLY, **nothing)
    assert (found["decision"], found["ask"]) == ("passed: 0 links planned, 10 allowed", False)


def test_breach_stops_a_job_whose_runs_always_need_an_approval(audit: Audit, sql_path: Path) -> None:
    with pytest.raises(GuardError, match="10 links planned, 9 allowed"):
        decide(sql_path, {**ALWAYS, "max_links": 9}, **APPLY)
    assert audit.run()["approval"] is None


def test_the_form_can_tighten_the_limit_too(sql_path: Path) -> None:
    with pytest.raises(GuardError, match="10 links planned, 3 allowed"):
        decide(sql_path, {}, **APPLY, max_links=3, reason="careful")


def test_the_override_is_the_one_of_the_run_not_of_a_later_try(sql_path: Path) -> None:
    job = make_job(guards={"max_links": 5})
    plan(job, sql_path, **APPLY)
    with pytest.raises(GuardError, match="10 links planned, 5 allowed"):
        guard(job, sql_path, **APPLY, max_links=100, reason="later")


def test_an_override_without_a_reason_is_refused(audit: Audit, sql_path: Path) -> None:
    start = start_of("manual__1", params={"max_links": 100})
    ledger = audit.ledger()
    ledger.runs.start(start)
    plan(make_job(), sql_path)
    with pytest.raises(ZohoConfigError, match=r"^reason:"):
        guard(make_job(), sql_path)


def test_a_run_without_a_plan_is_reported(audit: Audit, sql_path: Path) -> None:
    with pytest.raises(PlanError, match="has no plan"):
        guard(make_job(), sql_path)


BASELINE = {"max_share": 0.1, "baseline_sql_file": "known.sql"}
KNOWN = "SELECT 5 * count(*) FROM pairs WHERE marked_at >= :window_start AND marked_at < :window_end"


def test_the_share_is_of_the_baseline_within_the_window(audit: Audit, sql_path: Path) -> None:
    write(sql_path, "known.sql", KNOWN)
    decision = "breached: 20% of the 50 baseline links planned, 10% allowed; 10 links planned, no limit set"
    with pytest.raises(GuardError) as stopped:
        decide(sql_path, BASELINE, **APPLY, **WINDOW)
    assert str(stopped.value) == (
        f"{decision}. Nothing was sent. For max_share, correct the source or the limit, then start a new run"
    )
    run = audit.run()
    assert (run["baseline_links"], run["source_as_of"], run["guard_decision"]) == (50, None, decision)


def test_the_baseline_is_of_what_the_plan_was_read_from(
    audit: Audit, warehouse: Warehouse, sql_path: Path
) -> None:
    write(sql_path, "known.sql", KNOWN)
    warehouse.add(pairs(2, start=LINKS), at="2026-11-20 12:00:00.000000")
    source = {"conn_id": "warehouse", "sql_file": "contacts_deals.sql", "lookback": "1d"}
    job = make_job(source=source, guards={**BASELINE, "max_share": 0.2})
    interval = (datetime(2026, 11, 21, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=UTC))
    PlanLinksOperator(task_id="plan", job=job, jobs_folder=jobs_folder(sql_path)).execute(
        context("plan", run_id="scheduled__1", run_type="scheduled", interval=interval)
    )
    guard(job, sql_path, "scheduled__1")
    run = audit.run()
    assert (run["planned"], run["baseline_links"]) == (12, 60)


def test_a_share_within_the_limit_passes(audit: Audit, sql_path: Path) -> None:
    write(sql_path, "known.sql", KNOWN)
    found = decide(sql_path, {**BASELINE, "max_share": 0.2}, **APPLY, **WINDOW)
    assert (
        found["decision"]
        == "passed: 10 links planned, no limit set; 20% of the 50 baseline links planned, 20% allowed"
    )
    assert audit.run()["baseline_links"] == 50


FRESHNESS = {"max_source_age": "6h", "freshness_sql_file": "loaded.sql"}


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT datetime('now', '-8 hours', '+5 minutes')", "7 hours 5[45] minutes old, 6 hours allowed"),
        ("SELECT '2999-01-01T00:00:00+00:00'", "which lies in the future"),
        ("SELECT max(marked_at) FROM pairs WHERE 1 = 0", "the age of the source is not known"),
    ],
)
def test_a_stale_source_stops_the_run(audit: Audit, sql_path: Path, sql: str, says: str) -> None:
    write(sql_path, "loaded.sql", sql)
    with pytest.raises(GuardError, match=rf"{says}.*For max_source_age, correct"):
        decide(sql_path, FRESHNESS, **APPLY)


def test_a_fresh_source_passes_and_its_time_stands_on_the_run_row(audit: Audit, sql_path: Path) -> None:
    loaded = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    write(sql_path, "loaded.sql", f"SELECT '{loaded.isoformat()}'")
    assert decide(sql_path, FRESHNESS, **APPLY)["decision"].startswith("passed")
    run = audit.ledger().runs.get(audit.run()["run_key"])
    assert run is not None
    assert run.source_as_of == loaded


@pytest.mark.parametrize(
    ("guards", "sql", "says"),
    [
        (BASELINE, "SELECT 'many'", r"^guards\.baseline_sql_file: must yield a whole number"),
        (
            BASELINE,
            "SELECT 1, 2",
            r"^guards\.baseline_sql_file: [a-z_]+\.sql must yield one row with one column",
        ),
        (
            BASELINE,
            "SELECT count(*) FROM gone",
            r"^guards\.baseline_sql_file: the warehouse refuses [a-z_]+\.sql: no such table",
        ),
        (FRESHNESS, "SELECT '12:00'", r"^guards\.freshness_sql_file: must yield a time"),
        (FRESHNESS, "SELECT 1 WHERE 1 = 0", r"^guards\.freshness_sql_file: [a-z_]+\.sql must yield one row"),
    ],
)
def test_sql_that_does_not_yield_what_it_must_is_reported_by_its_field(
    audit: Audit, sql_path: Path, guards: dict[str, Any], sql: str, says: str
) -> None:
    write(sql_path, next(str(name) for name in guards.values() if str(name).endswith(".sql")), sql)
    with pytest.raises(PlanError, match=says):
        decide(sql_path, guards, **APPLY)
    assert audit.run()["guard_decision"] is None


def start_of(run_id: str, **changes: Any) -> RunStart:
    """The start of a run as `plan` stores it."""
    origin = origin_of(context("plan", run_id=run_id))
    target = Target(make_job().relation.as_relation(), "us", "v7")
    key = run_key("contacts_deals", origin.dag_id, run_id)
    window = datetime(2026, 11, 21, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=UTC)
    return replace(RunStart(key, "contacts_deals", origin, target, "apply", *window, window[0]), **changes)


def test_a_jump_is_measured_against_earlier_runs(audit: Audit, sql_path: Path) -> None:
    ledger = audit.ledger()
    for number, links in enumerate((2, 2, 4)):
        start = start_of(f"manual__before_{number}")
        ledger.runs.start(start)
        ledger.plans.create(
            start.run_key,
            start.target.relation,
            pairs(links),
            chunk_size=10,
            max_chunks=10,
            origin=start.origin,
            target=start.target,
        )
        ledger.runs.finish(start.run_key, status="succeeded", detail=None, finished_at=datetime.now(UTC))
    assert decide(sql_path, {"max_jump": 5}, "manual__2", **APPLY)["decision"].startswith("passed")
    with pytest.raises(
        GuardError, match=r"10 links planned, 4\.5 times the median of the last 3 runs \(2\) allowed"
    ):
        decide(sql_path, {"max_jump": 4.5}, "manual__3", **APPLY)


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"origin_run_key": "contacts_deals:1f"}, id="retry"),
        pytest.param(
            {"target": Target(make_job().relation.as_relation(), "us", "v7", operation="relink")}, id="relink"
        ),
    ],
)
def test_links_of_another_run_are_judged_by_their_number_alone(
    audit: Audit, sql_path: Path, changes: dict[str, Any]
) -> None:
    write(sql_path, "known.sql", "this is no SQL")
    write(sql_path, "loaded.sql", "this is no SQL")
    job = make_job(guards={**BASELINE, **FRESHNESS, "max_jump": 2, "max_links": 10})
    audit.ledger().runs.start(start_of("manual__1", **changes))
    plan(job, sql_path)
    assert guard(job, sql_path)["decision"] == "passed: 10 links planned, 10 allowed"
    strict = make_job(guards={**BASELINE, **FRESHNESS, "max_links": 9})
    with pytest.raises(GuardError, match="breached: 10 links planned, 9 allowed"):
        guard(strict, sql_path)


def test_a_person_is_asked_with_all_they_need(audit: Audit, sql_path: Path) -> None:
    write(sql_path, "known.sql", "SELECT 100")
    guards = {**BASELINE, "max_share": 0.05, "max_plan_age": "3d", "on_breach": "approve"}
    found = decide(sql_path, guards, **APPLY, **WINDOW, reason="they moved on")
    assert (found["ask"], found["subject"]) == (True, "Remove 10 links of contacts_deals?")
    body = str(found["body"])
    for says in (
        "- `10% of the 100 baseline links planned, 5% allowed`",
        "- Window: 2026-11-21 00:00:00 UTC to 2026-11-22 00:00:00 UTC",
        "- Reason: `they moved on`",
        "- Share: 10% of 100 links",
        "### 10 of the links",
        "- `c-00009` → `d-00009`",
        "/zoho-delinks/dags/zoho_delink__contacts_deals/runs/manual__1/links.csv?job=contacts_deals",
    ):
        assert says in body
    run = audit.ledger().runs.get(audit.run()["run_key"])
    assert run is not None
    assert run.planned_at is not None
    assert f"- Can be sent until: {run.planned_at + timedelta(days=3):%Y-%m-%d %H:%M:%S} UTC" in body
    assert run.approval == "asked"
    assert "waits for an approval" in str(audit.ledger().runs.stop_reason(run.run_key))


def test_a_later_decision_that_passes_takes_the_question_back(audit: Audit, sql_path: Path) -> None:
    assert decide(sql_path, {"max_links": 5, "on_breach": "approve"}, **APPLY)["ask"]
    assert not guard(make_job(guards={"max_links": 50}), sql_path)["ask"]
    assert audit.ledger().runs.stop_reason(audit.run()["run_key"]) is None


def test_a_task_that_takes_its_job_from_the_form_judges_the_number_alone(
    audit: Audit, sql_path: Path
) -> None:
    folder = jobs_folder(sql_path)
    folder.mkdir()
    write(sql_path, "known.sql", "this is no SQL")
    (folder / "contacts_deals.yaml").write_text(
        "start_date: 2026-11-01\n"
        "source: {conn_id: warehouse, sql_file: contacts_deals.sql}\n"
        "relation: {module: Contacts, external_field: External_Contact_ID, related_list: Deals,"
        " related_external_field: External_Deal_ID}\n"
        "audit_conn_id: audit\n"
        "guards: {max_share: 0.1, baseline_sql_file: known.sql}\n"
    )
    plan(make_job(), sql_path, **APPLY)
    found = GuardOperator(task_id="guard", job=None, jobs_folder=folder).execute(
        context("guard", run_id="manual__1", params={"job": "contacts_deals"})
    )
    assert found["decision"] == "passed: 10 links planned, no limit set"
