from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.support.ledger import (
    JOB,
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
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import ClaimLostError, PlanError
from zoho_crm.ledger import finalize, tables

if TYPE_CHECKING:
    import sqlalchemy as sa

    from zoho_crm.ledger.ledger import Ledger

REPORT = replace(ORIGIN, task_id="report")


def test_link_without_an_outcome_gets_the_one_that_is_true_of_it(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, [*pairs(6), (None, "x")], chunk_size=3)
    claim = ledger.claims.claim(RUN, 0, "a try that dies")
    first, *_ = take(ledger, claim, 2)
    settle(ledger, claim, [first])

    assert ledger.finalizer.close_unfinished_links(RUN, origin=REPORT).total() == 5

    assert ledger.runs.counts(RUN) == {
        Outcome.REMOVED: 1,
        Outcome.UNKNOWN: 1,
        Outcome.NOT_ATTEMPTED: 4,
        Outcome.INVALID: 1,
    }
    assert states(engine)[:3] == [
        ("settled", "removed"),
        ("in_flight", "unknown"),
        ("planned", "not_attempted"),
    ]
    closed = [row for row in rows_of(engine, tables.audit, "seq") if row["task_id"] == "report"]
    assert [row["detail"] for row in closed] == [
        "it may have been sent; the run ended before its outcome was known",
        *["the run ended before it was sent"] * 4,
    ]
    assert {(row["job"], row["org_id"], row["attempts"]) for row in closed} == {(JOB, TARGET.org_id, 0)}


def test_link_that_has_an_outcome_keeps_it(ledger: Ledger) -> None:
    planned(ledger, pairs(6), chunk_size=3)
    drive(ledger, 0, Outcome.FAILED)
    drive(ledger, 1, Outcome.UNKNOWN)

    assert ledger.finalizer.close_unfinished_links(RUN, origin=REPORT).total() == 0
    assert ledger.runs.counts(RUN) == {Outcome.FAILED: 3, Outcome.UNKNOWN: 3}


def test_link_that_failed_after_an_ambiguous_try_is_verified_before_it_is_sent_again(
    ledger: Ledger,
) -> None:
    planned(ledger, pairs(1))
    take(ledger, ledger.claims.claim(RUN, 0, "a try that dies"), 1)
    drive(ledger, 0, Outcome.FAILED)

    # The failed try has seen it linked.
    assert ledger.finalizer.close_unfinished_links(RUN, origin=REPORT).total() == 0
    assert ledger.runs.counts(RUN) == {Outcome.FAILED: 1}
    (again,) = take(ledger, ledger.claims.claim(RUN, 0, "after a clear"), 1)
    assert again.ambiguous_before


def test_link_that_failed_and_was_taken_again_by_a_try_that_dies_is_unknown(ledger: Ledger) -> None:
    planned(ledger, pairs(1))
    drive(ledger, 0, Outcome.FAILED)
    take(ledger, ledger.claims.claim(RUN, 0, "a try that dies"), 1)

    assert ledger.finalizer.close_unfinished_links(RUN, origin=REPORT).total() == 1
    assert ledger.runs.counts(RUN) == {Outcome.UNKNOWN: 1}


def test_closing_again_changes_nothing(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(3))
    ledger.finalizer.close_unfinished_links(RUN, origin=REPORT)
    before = rows_of(engine, tables.audit)

    assert ledger.finalizer.close_unfinished_links(RUN, origin=REPORT).total() == 0
    assert rows_of(engine, tables.audit) == before


def test_try_that_still_runs_is_fenced_out(ledger: Ledger) -> None:
    planned(ledger, pairs(3))
    claim = ledger.claims.claim(RUN, 0, "a zombie")
    taken = take(ledger, claim, 2)

    ledger.finalizer.close_unfinished_links(RUN, origin=REPORT)

    with pytest.raises(ClaimLostError):
        settle(ledger, claim, taken)


def test_closed_links_are_taken_up_by_a_later_try(ledger: Ledger) -> None:
    planned(ledger, pairs(3))
    take(ledger, ledger.claims.claim(RUN, 0, "a try that dies"), 1)
    ledger.finalizer.close_unfinished_links(RUN, origin=REPORT)
    assert ledger.runs.count_unsettled(RUN) == 3

    claim = ledger.claims.claim(RUN, 0, "after a clear")
    links = take(ledger, claim, 3)
    ledger.claims.settle(claim, [result(link) for link in links], origin=ORIGIN, target=TARGET, job=JOB)

    assert [link.ambiguous_before for link in links] == [True, False, False]
    assert ledger.runs.counts(RUN) == {Outcome.REMOVED: 3}


def test_many_links_are_closed_in_batches(
    ledger: Ledger, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finalize, "BATCH_ROWS", 4)
    planned(ledger, pairs(30), chunk_size=15)
    take(ledger, ledger.claims.claim(RUN, 1, "a try that dies"), 7)

    assert ledger.finalizer.close_unfinished_links(RUN, origin=REPORT).total() == 30

    assert ledger.runs.counts(RUN) == {Outcome.NOT_ATTEMPTED: 23, Outcome.UNKNOWN: 7}
    assert len(rows_of(engine, tables.audit)) == 30


def test_run_that_is_not_there_cannot_be_closed(ledger: Ledger) -> None:
    with pytest.raises(PlanError, match="holds no run"):
        ledger.finalizer.close_unfinished_links("no such run", origin=REPORT)
