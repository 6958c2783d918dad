"""The end of a run: what came out, and whether that is good enough."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ledger import take
from tests.support.operators import context, jobs_folder, make_job, pairs
from zoho_crm.airflow_compat import AirflowFailException
from zoho_crm.core.models import ChunkRef, LinkResult, Target
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import PlanError, ZohoConfigError
from zoho_crm.operators.guard import GuardOperator
from zoho_crm.operators.job_operator import first_row, origin_of, record_failure
from zoho_crm.operators.plan_links import PlanLinksOperator
from zoho_crm.operators.report import ReportOperator, run_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.databases import Audit, Warehouse

NOW = datetime(2026, 11, 23, tzinfo=UTC)


@pytest.mark.parametrize(
    ("counts", "tolerance", "status"),
    [
        ({}, 0.0, "succeeded"),
        ({"removed": 5, "already_absent": 1, "rejected": 1, "invalid": 1}, 0.0, "succeeded"),
        ({"would_remove": 5}, 0.0, "succeeded"),
        ({"removed": 99, "failed": 1}, 0.0, "failed"),
        ({"removed": 99, "failed": 1}, 0.01, "partial"),
        ({"removed": 98, "failed": 2}, 0.01, "failed"),
        ({"removed": 99, "unknown": 1}, 1.0, "failed"),
        ({"removed": 99, "not_attempted": 1}, 1.0, "stopped"),
        ({"failed": 1, "not_attempted": 99}, 0.0, "failed"),
        ({"failed": 1, "not_attempted": 99}, 0.01, "stopped"),
    ],
)
def test_status_follows_outcomes_and_tolerance(counts: dict[str, int], tolerance: float, status: str) -> None:
    by_outcome = Counter({Outcome(outcome): count for outcome, count in counts.items()})
    assert run_status(by_outcome, tolerance) == status


@pytest.mark.parametrize(
    ("counts", "status"),
    [
        pytest.param({"not_attempted": 10}, "rejected", id="nothing was sent"),
        pytest.param(
            {"not_attempted": 8, "invalid": 2}, "rejected", id="nothing was sent, some could not be"
        ),
        pytest.param({}, "rejected", id="nothing was planned"),
        pytest.param({"invalid": 2}, "rejected", id="nothing could be sent"),
        pytest.param({"removed": 4, "not_attempted": 6}, "rejected", id="some were sent before"),
        pytest.param({"removed": 10}, "succeeded", id="all were sent before"),
        pytest.param({"removed": 4, "unknown": 1, "not_attempted": 5}, "failed", id="one is unknown"),
        pytest.param({"removed": 4, "failed": 1, "not_attempted": 5}, "failed", id="one failed"),
    ],
)
def test_a_refused_run_is_rejected_unless_something_worse_happened(
    counts: dict[str, int], status: str
) -> None:
    by_outcome = Counter({Outcome(outcome): count for outcome, count in counts.items()})
    by_outcome[Outcome.REMOVED] += 0
    assert run_status(by_outcome, 0.0, rejected=True) == status


@pytest.fixture
def chunk(audit: Audit, warehouse: Warehouse, sql_path: Path) -> ChunkRef:
    """Ten links, planned in one chunk."""
    audit.ledger()
    warehouse.add(pairs(10))
    (made,) = PlanLinksOperator(task_id="plan", job=make_job(), jobs_folder=jobs_folder(sql_path)).execute(
        context("plan", params={"mode": "apply"})
    )
    return made


def settle(audit: Audit, chunk: ChunkRef, outcomes: Sequence[str]) -> None:
    """Give the first links of a chunk an outcome each."""
    ledger = audit.ledger()
    run = ledger.runs.get(chunk["run_key"])
    assert run is not None
    claim = ledger.claims.claim(chunk["run_key"], chunk["chunk_no"], "test")
    links = take(ledger, claim, len(outcomes))
    ledger.claims.settle(
        claim,
        [LinkResult(link, Outcome(outcome), NOW) for link, outcome in zip(links, outcomes, strict=True)],
        origin=origin_of(context()),
        target=Target(run.relation, "us", "v7"),
        job=run.job,
    )


def report(**changes: Any) -> dict[str, Any]:
    result: dict[str, Any] = ReportOperator(
        task_id="report", job=make_job(**changes), jobs_folder=Path()
    ).execute(context("report"))
    return result


def test_a_run_with_final_outcomes_succeeds(audit: Audit, chunk: ChunkRef) -> None:
    settle(audit, chunk, ["removed"] * 8 + ["already_absent", "rejected"])
    summary = report()
    assert (summary["status"], summary["mode"], summary["job"]) == ("succeeded", "apply", "contacts_deals")
    assert summary["outcomes"] == {"removed": 8, "already_absent": 1, "rejected": 1}
    run = audit.run()
    assert (run["status"], run["removed"], run["rejected"], run["failed"]) == ("succeeded", 8, 1, 0)
    assert run["finished_at"] is not None


def test_run_that_found_too_few_records_needs_attention(audit: Audit, chunk: ChunkRef) -> None:
    settle(audit, chunk, ["removed"] * 4 + ["parent_not_found"] * 5 + ["related_not_found"])
    assert report()["status"] == "succeeded"
    detail = audit.run()["detail"]
    assert detail.startswith("6 of 10 links have no record in Zoho: are the external fields filled in Zoho?")
    assert "Contacts.External_Contact_ID and Deals.External_Deal_ID" in detail
    report(guards={"max_not_found_share": None})
    assert audit.run()["detail"] is None


def test_links_that_were_not_taken_are_not_attempted(audit: Audit, chunk: ChunkRef) -> None:
    settle(audit, chunk, ["removed"] * 4)
    with pytest.raises(AirflowFailException, match=r"stopped: {'removed': 4, 'not_attempted': 6}"):
        report()
    run = audit.run()
    assert (run["status"], run["not_attempted"], run["detail"]) == ("stopped", 6, "6 not_attempted")
    assert len(audit.latest()) == 10


def test_links_in_flight_are_unknown_and_stay_to_be_verified(audit: Audit, chunk: ChunkRef) -> None:
    settle(audit, chunk, ["removed"] * 4)
    ledger = audit.ledger()
    take(ledger, ledger.claims.claim(chunk["run_key"], 0, "killed"), 2)
    with pytest.raises(AirflowFailException, match="'unknown': 2, 'not_attempted': 4"):
        report()
    assert audit.run()["status"] == "failed"
    again = take(ledger, ledger.claims.claim(chunk["run_key"], 0, "retry"), 10)
    assert [link.ambiguous_before for link in again] == [True, True, False, False, False, False]


def test_reporting_twice_counts_nothing_twice(audit: Audit, chunk: ChunkRef) -> None:
    settle(audit, chunk, ["removed"] * 4)
    for _ in range(2):
        with pytest.raises(AirflowFailException):
            report()
    assert len(audit.events()) == 10


def test_a_tolerated_failure_is_partial(audit: Audit, chunk: ChunkRef) -> None:
    settle(audit, chunk, ["removed"] * 9 + ["failed"])
    assert report(failure_tolerance=0.1)["status"] == "partial"
    with pytest.raises(AirflowFailException, match="failed"):
        report(failure_tolerance=0.05)


def test_why_a_run_was_stopped_stands_on_its_row_and_a_clear_may_go_on(audit: Audit, chunk: ChunkRef) -> None:
    audit.ledger().runs.record_guard(chunk["run_key"], "passed")
    audit.ledger().runs.stop(chunk["run_key"], "Zoho refuses every link")
    with pytest.raises(AirflowFailException):
        report()
    assert audit.run()["detail"] == "Zoho refuses every link; 10 not_attempted"
    assert audit.ledger().runs.stop_reason(chunk["run_key"]) is None


def test_run_without_a_plan_fails_with_the_task_that_failed(audit: Audit) -> None:
    ledger = audit.ledger()
    task = ReportOperator(task_id="report", job=make_job(), jobs_folder=Path())
    key = ledger.runs.open(first_row(task, context("preflight"), make_job())).run_key
    failure = "Task preflight failed: the SQL file is missing"
    ledger.runs.record_failure(key, failure, status="failed")
    with pytest.raises(AirflowFailException, match=f"^{failure}. Nothing was planned or sent: fix the cause"):
        report()
    run = audit.run()
    assert (run["status"], run["detail"], run["failure"]) == ("failed", failure, None)
    assert run["finished_at"] is not None
    assert list(ledger.chain.verify()) == []


def test_run_that_no_task_could_store_gets_a_row_from_the_report(audit: Audit) -> None:
    audit.ledger()
    asked = context("report")
    asked["ti"].get_task_states = lambda **_: {
        asked["ti"].run_id: {"preflight": "failed", "plan": "upstream_failed"}
    }
    task = ReportOperator(task_id="report", job=make_job(), jobs_folder=Path())
    with pytest.raises(AirflowFailException, match="Task preflight failed; its log has the reason"):
        task.execute(asked)
    assert audit.run()["detail"] == "Task preflight failed; its log has the reason"


def test_run_names_mapped_tasks_that_were_marked_as_failed(audit: Audit, chunk: ChunkRef) -> None:
    asked = context("report")
    asked["ti"].get_task_states = lambda **_: {
        asked["ti"].run_id: {"delink_0": "failed", "delink_1": "failed"}
    }
    with pytest.raises(AirflowFailException):
        ReportOperator(task_id="report", job=make_job(), jobs_folder=Path()).execute(asked)
    run = audit.run()
    assert (run["status"], run["detail"]) == (
        "stopped",
        "Task delink failed; its log has the reason; 10 not_attempted",
    )


def test_failed_guard_fails_the_run_and_says_why(audit: Audit, chunk: ChunkRef) -> None:
    failing = GuardOperator(task_id="guard", job=make_job(), jobs_folder=Path())
    for callback in failing.on_failure_callback:
        callback({**context("guard"), "task": failing, "exception": PlanError("the baseline is NULL")})
    assert audit.run()["status"] == "failed"
    with pytest.raises(AirflowFailException):
        report()
    run = audit.run()
    assert (run["status"], run["detail"]) == (
        "failed",
        "Task guard failed: the baseline is NULL; 10 not_attempted",
    )


def test_failures_of_databases_are_named_without_their_text(audit: Audit, chunk: ChunkRef) -> None:
    failing = GuardOperator(task_id="guard", job=make_job(), jobs_folder=Path())
    record_failure({**context("guard"), "task": failing, "exception": ValueError("secret c-00001")})
    assert audit.run()["failure"] == "Task guard failed: ValueError; its log has the details"


def test_a_rejected_run_ends_as_such_and_not_as_a_failure(audit: Audit, chunk: ChunkRef) -> None:
    key = chunk["run_key"]
    audit.ledger().runs.record_approval(key, approval="rejected", approved_by="ada", approved_at=NOW)
    for _ in range(2):
        summary = report()
        assert (summary["status"], summary["outcomes"]) == ("rejected", {"not_attempted": 10})
    run = audit.run()
    assert (run["status"], run["detail"]) == ("rejected", "the run was rejected; 10 not_attempted")
    assert (run["approval"], run["approved_by"]) == ("rejected", "ada")
    assert len(audit.events()) == 10


def test_an_approval_request_without_a_response_is_not_a_rejection(audit: Audit, chunk: ChunkRef) -> None:
    audit.ledger().runs.ask_approval(chunk["run_key"])
    with pytest.raises(AirflowFailException, match="stopped"):
        report()
    assert audit.run()["detail"] == ("the run waits for an approval; 10 not_attempted")


def test_a_run_is_sealed_as_it_is_reported(audit: Audit, chunk: ChunkRef) -> None:
    settle(audit, chunk, ["removed"] * 10)
    heads = {report()["seal"] for _ in range(2)}
    (seal,) = audit.rows("zoho_delink_seal", "seal_no")
    assert heads == {seal["head"]}
    assert (seal["run_key"], seal["audit_rows"]) == (chunk["run_key"], 10)


def test_failed_report_of_a_finished_run_changes_nothing(audit: Audit, chunk: ChunkRef) -> None:
    task = ReportOperator(task_id="report", job=make_job(), jobs_folder=Path())
    with pytest.raises(AirflowFailException) as error:
        task.execute(context("report"))
    before = audit.run()
    record_failure({**context("report"), "task": task, "exception": error.value})
    assert audit.run() == before
    assert before["status"] == "stopped"


def test_report_that_cannot_close_its_run_fails_it(audit: Audit, chunk: ChunkRef) -> None:
    task = ReportOperator(task_id="report", job=make_job(), jobs_folder=Path())
    record_failure({**context("report"), "task": task, "exception": ZohoConfigError("the database is away")})
    run = audit.run()
    assert (run["status"], run["failure"]) == ("failed", "Task report failed: the database is away")
