from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.support.ledger import (
    JOB,
    MOMENT,
    ORIGIN,
    RUN,
    TARGET,
    drive,
    pairs,
    planned,
    result,
    rows_of,
    settle,
    states,
    take,
)
from zoho_crm.core.links import Link
from zoho_crm.core.models import PlannedLink
from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES, Outcome
from zoho_crm.errors import ClaimLostError, PlanError
from zoho_crm.ledger import tables
from zoho_crm.ledger.claims import fence
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from zoho_crm.ledger.claims import Claim

DRY = replace(TARGET, dry_run=True)


@pytest.fixture
def claim(ledger: Ledger) -> Claim:
    """A claim on the first of two chunks of three links each."""
    planned(ledger, pairs(6), chunk_size=3)
    return ledger.claims.claim(RUN, 0, "first try")


def test_claim_is_numbered_and_shown_in_the_table(ledger: Ledger, engine: sa.Engine, claim: Claim) -> None:
    again = ledger.claims.claim(RUN, 0, "second try")

    assert (claim.claim_no, again.claim_no, again.links) == (1, 2, 3)
    rows = rows_of(engine, tables.chunks)
    assert [(row["claim_no"], row["holder"]) for row in rows] == [(2, "second try"), (0, None)]
    assert rows[0]["claimed_at"] is not None


def test_a_process_that_is_stopped_in_a_write_does_not_hold_up_the_next_try(
    ledger: Ledger, engine: sa.Engine, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    if engine.name == "sqlite":
        pytest.skip("SQLite waits for a writer as long as it lives")
    monkeypatch.setattr("zoho_crm.ledger.engine.WRITER_IDLE_S", 1)
    with engine.connect() as stopped:
        fence(stopped, claim)
        again = ledger.claims.claim(RUN, 0, "second try")
        with pytest.raises(sa.exc.OperationalError):
            stopped.commit()
    assert again.claim_no == 2
    with pytest.raises(ClaimLostError):
        take(ledger, claim, 1)


@pytest.mark.parametrize(("run_key", "chunk_no"), [(RUN, 2), (RUN, -1), ("other", 0)])
def test_chunk_outside_the_plan_cannot_be_claimed(
    ledger: Ledger, claim: Claim, run_key: str, chunk_no: int
) -> None:
    with pytest.raises(PlanError, match="has no chunk"):
        ledger.claims.claim(run_key, chunk_no, "a try")


def test_links_are_taken_in_order_until_the_end_of_the_chunk(
    ledger: Ledger, engine: sa.Engine, claim: Claim
) -> None:
    first, second, third = (
        take(ledger, claim, 2),
        take(ledger, claim, 2),
        take(ledger, claim, 2),
    )

    assert [link.seq for link in first + second] == [0, 1, 2]
    assert third == []
    assert [link.link for link in first + second] == [Link(*pair) for pair in pairs(3)]
    assert not any(link.ambiguous_before for link in first + second)
    assert states(engine) == [("in_flight", None)] * 3 + [("planned", None)] * 3


@pytest.mark.parametrize("limit", [0, -1])
def test_nothing_is_taken_without_a_limit(
    ledger: Ledger, engine: sa.Engine, claim: Claim, limit: int
) -> None:
    assert take(ledger, claim, limit) == []
    assert states(engine) == [("planned", None)] * 6


def test_results_are_written_and_the_next_links_taken_at_once(
    ledger: Ledger, engine: sa.Engine, claim: Claim
) -> None:
    taken = take(ledger, claim, 2)

    following = settle(ledger, claim, taken, take=2)

    assert [link.seq for link in following] == [2]
    assert states(engine)[:3] == [("settled", "removed"), ("settled", "removed"), ("in_flight", None)]
    assert ledger.runs.counts(RUN) == {Outcome.REMOVED: 2}
    assert ledger.runs.count_unsettled(RUN) == 4


def test_audit_row_says_all_that_is_known(ledger: Ledger, engine: sa.Engine, claim: Claim) -> None:
    (link,) = take(ledger, claim, 1)
    sent_at = MOMENT - timedelta(milliseconds=1234, microseconds=400)
    outcome = result(
        link,
        Outcome.REMOVED,
        attempts=2,
        sent_at=sent_at,
        http_status=200,
        zoho_code="SUCCESS",
        zoho_message="relation removed",
        zoho_record_id="5544",
        detail="asked twice",
    )

    ledger.claims.settle(claim, [outcome], origin=ORIGIN, target=TARGET, job=JOB)

    (row,) = rows_of(engine, tables.audit)
    event = uuid.UUID(row.pop("event_id"))
    assert event.version == 7
    assert len(row.pop("row_hash")) == 64
    assert row == {
        "chunk_no": 0,
        "chain_no": 1,
        "operation": "delink",
        "snapshot": None,
        "run_key": RUN,
        "job": JOB,
        "dag_id": ORIGIN.dag_id,
        "dag_run_id": ORIGIN.dag_run_id,
        "run_type": "scheduled",
        "logical_date": MOMENT,
        "data_interval_start": MOMENT - timedelta(days=1),
        "data_interval_end": MOMENT,
        "triggered_by": "timetable",
        "task_id": "delink",
        "map_index": 3,
        "try_number": 2,
        "org_id": "70000001",
        "data_center": "eu",
        "api_version": "v7",
        "strategy": "single",
        "module": "Contacts",
        "external_field": "Customer_Ref",
        "related_list": "Deals",
        "related_module": "Deals",
        "related_external_field": "Deal_Ref",
        "external_id": link.link.external_id,
        "related_external_id": link.link.related_external_id,
        "pair_key": link.pair_key,
        "seq": 0,
        "claim_no": 1,
        "attempts": 2,
        "sent_at": sent_at,
        "finished_at": MOMENT,
        "duration_ms": 1234,
        "http_status": 200,
        "zoho_code": "SUCCESS",
        "zoho_message": "relation removed",
        "zoho_record_id": "5544",
        "outcome": "removed",
        "detail": "asked twice",
        "dry_run": False,
    }


def test_long_and_unstorable_answers_are_cut_and_escaped(
    ledger: Ledger, engine: sa.Engine, claim: Claim
) -> None:
    (link,) = take(ledger, claim, 1)
    outcome = result(
        link,
        Outcome.REJECTED,
        zoho_code="C" * 9999,
        zoho_message="\x00" + "m" * 9999,
        zoho_record_id="9" * 9999,
        detail="\udc80" + "d" * 9999,
    )

    ledger.claims.settle(claim, [outcome], origin=ORIGIN, target=TARGET, job=JOB)

    (row,) = rows_of(engine, tables.audit)
    assert (len(row["zoho_code"]), len(row["zoho_message"]), len(row["detail"])) == (100, 1000, 1000)
    assert row["zoho_message"].startswith("\\u0000m")
    assert row["detail"].startswith("\\udc80d")


@pytest.mark.parametrize("outcome", Outcome)
@pytest.mark.parametrize("ambiguous_before", [False, True], ids=["clear before", "ambiguous before"])
def test_outcome_decides_where_a_link_stands(
    ledger: Ledger, engine: sa.Engine, outcome: Outcome, *, ambiguous_before: bool
) -> None:
    planned(ledger, pairs(1))
    if ambiguous_before:
        take(ledger, ledger.claims.claim(RUN, 0, "crashed"), 1)
    claim = ledger.claims.claim(RUN, 0, "a try")
    settle(ledger, claim, take(ledger, claim, 1), outcome)

    (stored,) = states(engine)

    again = take(ledger, ledger.claims.claim(RUN, 0, "next try"), 1)
    if outcome.is_final:
        assert stored == ("settled", outcome)
        assert again == []
    elif outcome is Outcome.UNKNOWN or ambiguous_before:
        # An earlier try may have removed it: nothing but a final outcome settles that question.
        assert stored == ("in_flight", outcome)
        assert [link.ambiguous_before for link in again] == [True]
    else:
        assert stored == ("planned", outcome)
        assert [link.ambiguous_before for link in again] == [False]


@pytest.mark.parametrize("outcome", sorted(RETRYABLE_OUTCOMES))
def test_a_link_that_may_be_removed_late_stays_in_flight(
    ledger: Ledger, engine: sa.Engine, claim: Claim, outcome: Outcome
) -> None:
    (link,) = take(ledger, claim, 1)
    unanswered = replace(result(link, outcome), ambiguous=True)
    ledger.claims.settle(claim, [unanswered], origin=ORIGIN, target=TARGET, job=JOB)

    assert states(engine)[0] == ("in_flight", outcome)
    (again,) = take(ledger, ledger.claims.claim(RUN, 0, "next try"), 1)
    assert again.ambiguous_before


def test_next_try_takes_up_what_is_not_settled_and_nothing_else(ledger: Ledger, claim: Claim) -> None:
    first, second, third = take(ledger, claim, 3)
    ledger.claims.settle(
        claim,
        [result(first, Outcome.FAILED), result(second, Outcome.REMOVED)],
        origin=ORIGIN,
        target=TARGET,
        job=JOB,
    )

    again = take(ledger, ledger.claims.claim(RUN, 0, "second try"), 10)

    assert [(link.seq, link.ambiguous_before) for link in again] == [(0, False), (third.seq, True)]


def test_failed_link_is_not_taken_again_under_the_same_claim(ledger: Ledger, claim: Claim) -> None:
    taken = take(ledger, claim, 3)

    assert settle(ledger, claim, taken, Outcome.FAILED, take=5) == []
    assert take(ledger, claim, 5) == []
    assert ledger.runs.count_unsettled(RUN) == 6


def test_crash_between_take_and_settle_leaves_links_ambiguous(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(4), chunk_size=4)
    crashed = Ledger(sa.create_engine(engine.url))
    take(crashed, crashed.claims.claim(RUN, 0, "crashed"), 2)
    crashed.close()

    resumed = take(ledger, ledger.claims.claim(RUN, 0, "second try"), 4)

    assert [link.ambiguous_before for link in resumed] == [True, True, False, False]
    assert rows_of(engine, tables.audit) == []


def test_older_try_is_fenced_out_when_its_chunk_is_claimed_again(
    ledger: Ledger, engine: sa.Engine, claim: Claim
) -> None:
    taken = take(ledger, claim, 2)
    ledger.claims.claim(RUN, 0, "second try")
    before = states(engine)

    with pytest.raises(ClaimLostError, match="a newer try carries on"):
        settle(ledger, claim, taken, take=1)
    with pytest.raises(ClaimLostError):
        take(ledger, claim, 1)

    assert states(engine) == before
    assert rows_of(engine, tables.audit) == []


def test_claim_on_one_chunk_leaves_the_others_alone(ledger: Ledger, claim: Claim) -> None:
    ledger.claims.claim(RUN, 1, "another task")

    assert len(take(ledger, claim, 3)) == 3


def test_write_whose_answer_was_lost_is_not_done_twice(
    ledger: Ledger, engine: sa.Engine, claim: Claim, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = take(ledger, claim, 2)

    def commit_then_lose_the_answer(connection: sa.Connection) -> None:
        connection.connection.commit() if engine.name != "sqlite" else connection.exec_driver_sql("COMMIT")
        raise ConnectionResetError

    sa.event.listen(engine, "commit", commit_then_lose_the_answer)
    with pytest.raises(ConnectionResetError):
        settle(ledger, claim, taken)
    sa.event.remove(engine, "commit", commit_then_lose_the_answer)

    with pytest.raises(ClaimLostError):
        settle(ledger, claim, taken)

    assert ledger.runs.counts(RUN) == {Outcome.REMOVED: 2}
    assert len(rows_of(engine, tables.audit)) == 2
    assert [link.seq for link in take(ledger, ledger.claims.claim(RUN, 0, "second try"), 3)] == [2]


def test_write_that_failed_can_be_repeated(ledger: Ledger, engine: sa.Engine, claim: Claim) -> None:
    taken = take(ledger, claim, 2)

    def fails(connection: sa.Connection) -> None:
        raise ConnectionResetError

    sa.event.listen(engine, "commit", fails)
    with pytest.raises(ConnectionResetError):
        settle(ledger, claim, taken)
    sa.event.remove(engine, "commit", fails)
    assert rows_of(engine, tables.audit) == []

    assert [link.seq for link in settle(ledger, claim, taken, take=1)] == [2]
    assert ledger.runs.counts(RUN) == {Outcome.REMOVED: 2}


def test_result_for_a_link_that_was_not_taken_is_refused(
    ledger: Ledger, engine: sa.Engine, claim: Claim
) -> None:
    (taken,) = take(ledger, claim, 1)
    strangers = [
        replace(taken, seq=1),
        replace(taken, seq=5),
        replace(taken, link=Link("c-00000", "another")),
        PlannedLink(99, Link("a", "b"), "k"),
    ]

    for stranger in strangers:
        with pytest.raises(PlanError, match="not waiting for a result"):
            settle(ledger, claim, [taken, stranger])

    assert rows_of(engine, tables.audit) == []


def test_result_is_written_once(ledger: Ledger, engine: sa.Engine, claim: Claim) -> None:
    taken = take(ledger, claim, 1)
    with pytest.raises(PlanError, match="not waiting for a result"):
        settle(ledger, claim, [*taken, *taken])
    settle(ledger, claim, taken, Outcome.UNKNOWN)

    with pytest.raises(PlanError, match="not waiting for a result"):
        settle(ledger, claim, taken)

    assert len(rows_of(engine, tables.audit)) == 1


def test_result_of_an_earlier_claim_is_refused_under_a_new_one(ledger: Ledger, claim: Claim) -> None:
    taken = take(ledger, claim, 1)

    with pytest.raises(PlanError, match="not waiting for a result"):
        settle(ledger, ledger.claims.claim(RUN, 0, "second try"), taken)


def test_nothing_is_written_if_the_plan_was_changed_from_outside(
    ledger: Ledger, engine: sa.Engine, claim: Claim
) -> None:
    taken = take(ledger, claim, 2)
    with engine.begin() as connection:
        connection.execute(sa.update(tables.links).where(tables.links.c.seq == 1).values(state="settled"))

    with pytest.raises(PlanError, match="something else writes to the plan"):
        settle(ledger, claim, taken)

    assert rows_of(engine, tables.audit) == []
    assert states(engine)[0] == ("in_flight", None)


def test_more_results_than_fit_one_statement_are_written(ledger: Ledger) -> None:
    planned(ledger, pairs(1_201), chunk_size=2_000)
    claim = ledger.claims.claim(RUN, 0, "a try")
    links = take(ledger, claim, 2_000)
    outcomes = [Outcome.REMOVED, Outcome.ALREADY_ABSENT, Outcome.FAILED]

    ledger.claims.settle(
        claim,
        [result(link, outcomes[link.seq % 3]) for link in links],
        origin=ORIGIN,
        target=TARGET,
        job=JOB,
    )

    assert ledger.runs.counts(RUN) == {Outcome.REMOVED: 401, Outcome.ALREADY_ABSENT: 400, Outcome.FAILED: 400}
    assert ledger.runs.count_unsettled(RUN) == 400


def test_dry_run_marks_nothing_in_flight_and_settles(ledger: Ledger, engine: sa.Engine, claim: Claim) -> None:
    taken = take(ledger, claim, 2, in_flight=False)
    assert states(engine)[:2] == [("planned", None)] * 2

    following = settle(ledger, claim, taken, Outcome.WOULD_REMOVE, target=DRY, take=2, in_flight=False)

    assert [link.seq for link in following] == [2]
    assert states(engine)[:3] == [("settled", "would_remove")] * 2 + [("planned", None)]
    assert all(row["dry_run"] for row in rows_of(engine, tables.audit))


def test_run_that_has_sent_requests_cannot_go_on_as_a_dry_run(
    ledger: Ledger, engine: sa.Engine, claim: Claim
) -> None:
    take(ledger, claim, 2)

    with pytest.raises(PlanError, match="cannot continue as a dry run"):
        take(ledger, ledger.claims.claim(RUN, 0, "dry"), 2, in_flight=False)


def test_finished_chunk_has_nothing_to_take(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(3))
    drive(ledger)

    assert drive(ledger) == 0
    assert len(rows_of(engine, tables.audit)) == 3


def test_every_link_ends_with_one_latest_outcome_after_any_number_of_tries(
    ledger: Ledger, engine: sa.Engine
) -> None:
    summary = planned(ledger, [*pairs(6), (None, "x")], chunk_size=3)
    for outcome in (
        Outcome.NOT_ATTEMPTED,
        Outcome.UNKNOWN,
        Outcome.FAILED,
        Outcome.REMOVED,
        Outcome.REJECTED,
    ):
        for chunk in summary.chunks:
            drive(ledger, chunk["chunk_no"], outcome)

    assert len(rows_of(engine, tables.audit)) == 1 + 6 * 4
    assert ledger.runs.counts(RUN) == {Outcome.REMOVED: 6, Outcome.INVALID: 1}
    assert ledger.runs.count_unsettled(RUN) == 0


# -- the right to send


def test_right_to_send_passes_to_a_newer_claim_when_it_is_released(ledger: Ledger) -> None:
    planned(ledger, pairs(1))
    first = ledger.claims.claim(RUN, 0, "first")
    assert ledger.claims.lease(first, 30) is None
    second = ledger.claims.claim(RUN, 0, "second")
    former = ledger.claims.lease(second, 30)
    assert former is not None
    assert (former.holder, 25 < former.left_s <= 30) == ("first", True)
    with pytest.raises(ClaimLostError):
        ledger.claims.lease(first, 30)
    ledger.claims.release(first)
    assert ledger.claims.lease(second, 30) is None
    ledger.claims.release(first)
    third = ledger.claims.claim(RUN, 0, "third")
    former = ledger.claims.lease(third, 30)
    assert former is not None
    assert former.holder == "second"


def planned_by_clock(engine: sa.Engine) -> tuple[Ledger, list[float]]:
    """Return a ledger with a plan of one link, and its clock: a list of one time, which a test may change."""
    now = [1_783_000_000.0]
    ledger = Ledger(engine, clock=lambda _: now[0])
    ledger.ensure_schema()
    planned(ledger, pairs(1))
    return ledger, now


def test_third_claim_waits_for_the_first_try_whose_lease_has_not_ended(engine: sa.Engine) -> None:
    ledger, now = planned_by_clock(engine)
    ledger.claims.lease(ledger.claims.claim(RUN, 0, "first"), 30)
    assert ledger.claims.lease(ledger.claims.claim(RUN, 0, "second"), 30) is not None
    third = ledger.claims.claim(RUN, 0, "third")
    former = ledger.claims.lease(third, 30)
    assert former is not None
    assert former.holder == "first"
    now[0] += 30
    assert ledger.claims.lease(third, 30) is None


def test_lease_of_a_time_when_the_clock_was_ahead_ends(engine: sa.Engine) -> None:
    ledger, now = planned_by_clock(engine)
    ledger.claims.lease(ledger.claims.claim(RUN, 0, "first"), 30)
    now[0] -= 100_000
    second = ledger.claims.claim(RUN, 0, "second")
    assert ledger.claims.lease(second, 30) is not None
    now[0] += 121
    assert ledger.claims.lease(second, 30) is None


def test_closing_a_run_waits_for_a_try_that_may_still_send(engine: sa.Engine) -> None:
    ledger, now = planned_by_clock(engine)
    slept: list[float] = []
    ledger.claims.lease(ledger.claims.claim(RUN, 0, "first"), 3)

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    ledger.finalizer.close_unfinished_links(RUN, origin=ORIGIN, sleep=sleep)
    assert slept == [1.0] * 3
