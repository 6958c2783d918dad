from __future__ import annotations

import json
from dataclasses import fields, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.support.ledger import (
    MOMENT,
    ORIGIN,
    RELATION,
    RUN,
    TARGET,
    drive,
    pairs,
    planned,
    rows_of,
    run_start,
)
from zoho_crm import __version__
from zoho_crm.core.models import StoredRun
from zoho_crm.core.outcomes import Outcome, RunStatus
from zoho_crm.errors import PlanError, ZohoConfigError
from zoho_crm.ledger import runs, tables
from zoho_crm.ledger.schema import SCHEMA_VERSION

if TYPE_CHECKING:
    from zoho_crm.core.models import RunStart
    from zoho_crm.ledger.ledger import Ledger


def test_stored_run_has_a_field_for_every_column() -> None:
    assert {field.name for field in fields(StoredRun)} == {column.name for column in tables.runs.c}


def test_run_is_stored_as_it_started(ledger: Ledger) -> None:
    start = run_start(
        window_start=MOMENT - timedelta(days=1),
        window_end=MOMENT,
        reason="stale links\x00 of \ud800 last week",
        params={"mode": "apply", "links": "a\u0000,b", "at": MOMENT},
    )

    stored = ledger.runs.start(start)

    assert stored == ledger.runs.get(RUN)
    assert (stored.window_start, stored.window_end) == (start.window_start, start.window_end)
    assert stored.reason == "stale links\\u0000 of \\ud800 last week"
    assert stored.params == {"mode": "apply", "links": "a\u0000,b", "at": str(MOMENT)}
    assert (stored.dag_id, stored.run_type, stored.triggered_by) == (
        ORIGIN.dag_id,
        ORIGIN.run_type,
        ORIGIN.triggered_by,
    )
    assert (stored.logical_date, stored.org_id) == (MOMENT, "70000001")
    assert (stored.relation, stored.dry_run) == (RELATION, False)
    assert (stored.status, stored.planned_at, stored.planned, stored.removed) == ("planned", None, None, None)
    assert (stored.code_version, stored.schema_version) == (__version__, SCHEMA_VERSION)
    assert stored.started_at.utcoffset() == timedelta(0)


def test_run_that_is_started_again_is_what_it_was_the_first_time(ledger: Ledger) -> None:
    first = ledger.runs.start(run_start(window_start=MOMENT, window_end=MOMENT + timedelta(hours=1)))

    dry = replace(TARGET, dry_run=True)
    again = ledger.runs.start(run_start(window_start=None, mode="dry_run", target=dry, reason="another"))

    assert again == first


def test_run_that_another_process_starts_at_the_same_moment_is_the_one_it_stored(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    def looks_a_moment_too_early(*_: object) -> None:
        monkeypatch.undo()
        ledger.runs.start(run_start(reason="first"))

    monkeypatch.setattr(runs.RunStore, "get", looks_a_moment_too_early)

    assert ledger.runs.start(run_start(reason="second")).reason == "first"


def test_run_without_a_key_in_the_database_is_none(ledger: Ledger) -> None:
    assert ledger.runs.get("no such run") is None
    assert ledger.plans.get("no such run") is None
    assert ledger.runs.counts("no such run") == {}
    assert ledger.runs.count_unsettled("no such run") == 0


@pytest.mark.parametrize(
    ("start", "named"),
    [
        (run_start(""), "run_key"),
        (run_start("x" * 513), "run_key"),
        (run_start("a\x00b"), "run_key"),
        (run_start(mode="auto"), "mode 'auto'"),
        (run_start(mode="dry_run"), "contradict"),
        (run_start(target=replace(TARGET, dry_run=True)), "contradict"),
    ],
    ids=["no key", "long key", "NUL in key", "unknown mode", "dry mode, wet target", "wet mode, dry target"],
)
def test_run_that_contradicts_itself_is_refused(ledger: Ledger, start: RunStart, named: str) -> None:
    with pytest.raises(ZohoConfigError, match=named):
        ledger.runs.start(start)


def test_naive_window_is_refused(ledger: Ledger) -> None:
    with pytest.raises(sa.exc.StatementError, match="must be aware"):
        ledger.runs.start(run_start(window_start=MOMENT.replace(tzinfo=None)))


def test_planned_run_becomes_running_and_a_finished_one_stays_finished(ledger: Ledger) -> None:
    planned(ledger, pairs(1))

    ledger.runs.mark_running(RUN)
    assert _status(ledger) == "running"

    ledger.runs.finish(RUN, status="succeeded", detail=None, finished_at=MOMENT)
    ledger.runs.mark_running(RUN)
    assert _status(ledger) == "succeeded"


def test_finished_run_that_is_reopened_ends_again(ledger: Ledger) -> None:
    planned(ledger, pairs(1))
    drive(ledger, outcome=Outcome.FAILED)
    ledger.runs.finish(RUN, status="failed", detail="1 failed", finished_at=MOMENT)

    ledger.runs.mark_running(RUN, reopen=True)
    run = ledger.runs.existing(RUN)
    assert (run.status, run.detail, run.finished_at) == ("running", None, None)
    assert [each.run_key for each in ledger.runs.unfinished(run.job)] == [RUN]

    later = MOMENT + timedelta(hours=1)
    ledger.runs.finish(RUN, status="failed", detail="1 failed", finished_at=later)
    assert ledger.runs.existing(RUN).finished_at == later
    ledger.finalizer.seal(RUN)
    assert list(ledger.chain.verify()) == []


def test_finished_run_holds_counts_derived_from_the_last_audit_row_of_each_link(ledger: Ledger) -> None:
    planned(ledger, [*pairs(4), ("c-9", None)], chunk_size=2)
    drive(ledger, 0, Outcome.FAILED)
    drive(ledger, 0, Outcome.REMOVED)
    drive(ledger, 1, Outcome.UNKNOWN)

    assert ledger.runs.counts(RUN) == {Outcome.REMOVED: 2, Outcome.UNKNOWN: 2, Outcome.INVALID: 1}
    assert ledger.runs.counts(RUN)[Outcome.FAILED] == 0
    assert ledger.runs.count_unsettled(RUN) == 2

    ledger.runs.finish(RUN, status=RunStatus.PARTIAL, detail="x" * 5000, finished_at=MOMENT)

    stored = ledger.runs.get(RUN)
    assert stored is not None
    expected = {outcome.value: 0 for outcome in Outcome} | {"removed": 2, "unknown": 2, "invalid": 1}
    assert {outcome.value: getattr(stored, outcome.value) for outcome in Outcome} == expected
    assert (stored.status, stored.finished_at) == ("partial", MOMENT)
    assert stored.detail == "x" * 1000


def test_run_that_worked_on_links_again_has_ended_again_and_a_repeated_report_changes_nothing(
    ledger: Ledger,
) -> None:
    planned(ledger, pairs(2))
    ends = []
    for hour, is_worked_on in enumerate([True, False, True, False]):
        if is_worked_on:
            drive(ledger, outcome=Outcome.FAILED)
        moment = MOMENT + timedelta(hours=hour)
        ledger.runs.finish(RUN, status="failed", detail="2 failed", finished_at=moment)
        ends.append(ledger.runs.existing(RUN).finished_at)

    assert ends == [MOMENT, MOMENT, MOMENT + timedelta(hours=2), MOMENT + timedelta(hours=2)]
    finished = [row for row in rows_of(ledger.engine, tables.run_events) if row["kind"] == "finished"]
    assert [json.loads(row["facts"])["audit_rows"] for row in finished] == [2, 4]
    ledger.finalizer.seal(RUN)
    assert list(ledger.chain.verify()) == []


def test_status_outside_the_vocabulary_is_refused(ledger: Ledger) -> None:
    planned(ledger)

    with pytest.raises(ZohoConfigError, match="'done' is none of planned, running, succeeded"):
        ledger.runs.finish(RUN, status="done", detail=None, finished_at=MOMENT)


def test_guard_and_approval_are_stored(ledger: Ledger) -> None:
    planned(ledger)

    ledger.runs.record_guard(RUN, "waits: 500 links, limit 100")
    ledger.runs.record_approval(RUN, approval="approved", approved_by="jo", approved_at=MOMENT)

    stored = ledger.runs.get(RUN)
    assert stored is not None
    assert stored.guard_decision == "waits: 500 links, limit 100"
    assert (stored.approval, stored.approved_by, stored.approved_at) == ("approved", "jo", MOMENT)


def test_stopped_run_says_why_until_it_is_finished(ledger: Ledger) -> None:
    planned(ledger)
    ledger.runs.record_guard(RUN, "passed")
    assert ledger.runs.stop_reason(RUN) is None

    ledger.runs.stop(RUN, "out of credits")
    ledger.runs.stop(RUN, "another reason, later")
    assert ledger.runs.stop_reason(RUN) == "out of credits"

    ledger.runs.finish(RUN, status="stopped", detail=None, finished_at=MOMENT)
    assert ledger.runs.stop_reason(RUN) is None


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("finish", {"status": "failed", "detail": None, "finished_at": MOMENT}),
        ("record_guard", {"decision": "go"}),
        ("record_approval", {"approval": "approved", "approved_by": "jo", "approved_at": MOMENT}),
    ],
)
def test_writing_to_a_run_that_is_not_there_is_an_error(
    ledger: Ledger, method: str, options: dict[str, Any]
) -> None:
    with pytest.raises(PlanError, match="holds no run 'no such run'"):
        getattr(ledger.runs, method)("no such run", **options)


def _status(ledger: Ledger) -> str:
    stored = ledger.runs.get(RUN)
    assert stored is not None
    return stored.status
