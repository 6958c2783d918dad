from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ledger import (
    JOB,
    MOMENT,
    ORIGIN,
    RELATION,
    RUN,
    TARGET,
    pairs,
    planned,
    rows_of,
    run_start,
)
from zoho_crm.core.links import Link
from zoho_crm.errors import PlanError
from zoho_crm.ledger import tables
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    import sqlalchemy as sa

DAY_S = 86_400.0


class Clock:
    def __init__(self) -> None:
        self.seconds = datetime(2026, 7, 1, tzinfo=UTC).timestamp()

    def __call__(self, _: object) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def dated(ledger: Ledger, engine: sa.Engine, clock: Clock) -> Ledger:
    """A ledger whose runs start a day apart."""
    return Ledger(engine, clock=clock)


def past_run(
    ledger: Ledger, clock: Clock, key: str, links: int, *, status: str | None = "succeeded", **changes: Any
) -> None:
    """A run with a plan of so many links, a day after the one before; without a status it has not ended."""
    clock.seconds += DAY_S
    target = changes.get("target", TARGET)
    ledger.runs.start(run_start(key, **changes))
    ledger.plans.create(
        key, RELATION, pairs(links), chunk_size=100, max_chunks=10, origin=ORIGIN, target=target
    )
    if status:
        ledger.runs.finish(key, status=status, detail=None, finished_at=MOMENT)


def test_recent_runs_are_newest_first_and_limited(dated: Ledger, clock: Clock) -> None:
    for number in range(12):
        past_run(dated, clock, f"run-{number}", number)
    past_run(dated, clock, RUN, 99, status=None)
    assert dated.runs.recent_planned_counts(JOB, RUN) == [11, 10, 9, 8, 7, 6, 5, 4, 3, 2]
    assert dated.runs.recent_planned_counts(JOB, RUN, 2) == [11, 10]


def test_baseline_counts_only_runs_that_delinked_links_of_the_source(dated: Ledger, clock: Clock) -> None:
    past_run(dated, clock, "good", 1)
    past_run(dated, clock, "partial", 2, status="partial")
    past_run(dated, clock, "failed", 3, status="failed")
    past_run(dated, clock, "stopped", 4, status="stopped")
    past_run(dated, clock, "rejected", 5, status="rejected")
    past_run(dated, clock, "running", 6, status=None)
    past_run(dated, clock, "dry", 7, mode="dry_run", target=replace(TARGET, dry_run=True))
    past_run(dated, clock, "relink", 8, target=replace(TARGET, operation="relink"))
    past_run(dated, clock, "retry", 9, origin_run_key="failed")
    past_run(dated, clock, "another job", 10, job="another")
    past_run(dated, clock, "another Dag", 11, origin=replace(ORIGIN, dag_id="zoho_delink_retry"))
    past_run(dated, clock, RUN, 12)
    past_run(dated, clock, "later", 13)
    assert dated.runs.recent_planned_counts(JOB, RUN) == [3, 2, 1]


def test_without_a_run_of_its_own_all_runs_of_the_job_count(dated: Ledger, clock: Clock) -> None:
    past_run(dated, clock, "one", 1)
    past_run(dated, clock, "two", 2)
    assert dated.runs.recent_planned_counts(JOB, "") == [2, 1]
    assert dated.runs.recent_planned_counts("another job's", "") == []


@pytest.mark.parametrize(
    ("links", "limit", "places"),
    [
        (0, 10, []),
        (3, 10, [0, 1, 2]),
        (10, 10, list(range(10))),
        (25, 10, [0, 2, 5, 7, 10, 12, 15, 17, 20, 22]),
    ],
)
def test_a_sample_is_spread_over_the_plan(ledger: Ledger, links: int, limit: int, places: list[int]) -> None:
    all_pairs = pairs(links)
    planned(ledger, all_pairs)
    assert ledger.plans.sample(RUN, limit) == [Link(*all_pairs[place]) for place in places]


def test_a_sample_holds_no_link_that_cannot_be_sent(ledger: Ledger) -> None:
    planned(ledger, [("", "d"), ("c", "."), *pairs(2), (" x", "d")])
    assert ledger.plans.sample(RUN) == [Link(*pair) for pair in pairs(2)]


def test_a_run_without_a_plan_has_no_sample(ledger: Ledger) -> None:
    ledger.runs.start(run_start())
    assert ledger.plans.sample(RUN) == []
    assert ledger.plans.sample("no such run") == []


def test_facts_are_noted(ledger: Ledger) -> None:
    planned(ledger)
    ledger.runs.record_source_facts(RUN, baseline_links=5_000_000_000, source_as_of=MOMENT)
    stored = ledger.runs.get(RUN)
    assert stored is not None
    assert (stored.baseline_links, stored.source_as_of) == (5_000_000_000, MOMENT)
    with pytest.raises(PlanError, match="holds no run"):
        ledger.runs.record_source_facts("no such run", baseline_links=1, source_as_of=None)


def test_a_run_that_asks_sends_nothing_without_a_yes(ledger: Ledger) -> None:
    planned(ledger)
    ledger.runs.record_guard(RUN, "passed")
    assert ledger.runs.stop_reason(RUN) is None
    ledger.runs.ask_approval(RUN)
    assert "waits for an approval" in str(ledger.runs.stop_reason(RUN))
    ledger.runs.record_approval(RUN, approval="rejected", approved_by="jo", approved_at=MOMENT)
    assert ledger.runs.stop_reason(RUN) == "the run was rejected"
    ledger.runs.finish(RUN, status="rejected", detail=None, finished_at=MOMENT)
    assert ledger.runs.stop_reason(RUN) == "the run was rejected"
    ledger.runs.record_approval(RUN, approval="approved", approved_by="jo", approved_at=MOMENT)
    assert ledger.runs.stop_reason(RUN) is None
    ledger.runs.stop(RUN, "out of credits")
    assert ledger.runs.stop_reason(RUN) == "out of credits"
    assert ledger.runs.stop_reason("no such run") is None


def test_run_sends_nothing_without_a_decision_of_its_guard(ledger: Ledger) -> None:
    planned(ledger)
    undecided = "its guard has not decided; clear the task guard, with the tasks after it"
    assert ledger.runs.stop_reason(RUN) == undecided
    assert ledger.runs.stop_reason(RUN, dry_run=True) is None
    ledger.runs.record_approval(RUN, approval="approved", approved_by="jo", approved_at=MOMENT)
    assert ledger.runs.stop_reason(RUN) == undecided
    ledger.runs.record_guard(RUN, "breached: 4 links planned, 3 allowed")
    breached = "the run exceeds a limit of its guards, and has no approval"
    assert ledger.runs.stop_reason(RUN) == breached
    ledger.runs.record_approval(RUN, approval="approved", approved_by="jo", approved_at=MOMENT)
    assert ledger.runs.stop_reason(RUN) is None
    ledger.runs.record_guard(RUN, "passed: 4 links planned, 9 allowed", needs_approval=True)
    assert ledger.runs.stop_reason(RUN) == "the run waits for an approval"
    ledger.runs.stop(RUN, "out of credits")
    assert ledger.runs.stop_reason(RUN, dry_run=True) == "out of credits"


def test_a_new_decision_of_the_guards_takes_an_approval_back(ledger: Ledger) -> None:
    planned(ledger)
    ledger.runs.record_approval(RUN, approval="approved", approved_by="jo", approved_at=MOMENT)
    ledger.runs.record_guard(RUN, "breached again")
    stored = ledger.runs.get(RUN)
    assert stored is not None
    assert (stored.approval, stored.approved_by, stored.approved_at) == (None, None, None)


def test_change_of_state_is_returned_once_with_the_state_before(ledger: Ledger, engine: sa.Engine) -> None:
    states = [
        ledger.runs.record_job_state(JOB, state, f"run-{number}")
        for number, state in enumerate(["ok", "ok", "failed", "failed", "ok", "breach"])
    ]
    assert states == ["", None, "ok", None, "failed", "ok"]
    assert ledger.runs.record_job_state("another", "failed", "run") == ""
    rows = rows_of(engine, tables.job_states)
    assert [(row["job"], row["state"], row["run_key"]) for row in rows] == [
        ("another", "failed", "run"),
        (JOB, "breach", "run-5"),
    ]
    assert rows[0]["changed_at"] - datetime.now(UTC) < timedelta(minutes=1)


@pytest.mark.parametrize("before", [None, "ok"])
def test_of_many_that_note_the_same_change_one_has_made_it(ledger: Ledger, before: str | None) -> None:
    if before:
        ledger.runs.record_job_state(JOB, before, "run-0")
    with ThreadPoolExecutor(8) as pool:
        results = list(
            pool.map(lambda number: ledger.runs.record_job_state(JOB, "failed", f"run-{number}"), range(8))
        )
    assert sorted(results, key=str) == sorted([before or "", *[None] * 7], key=str)
