"""API credits in the ledger: used by runs, and left to organisations."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.plugins.zoho_crm.ledger.samples import (
    JOB,
    MOMENT,
    ORIGIN,
    RUN,
    TARGET,
    pairs,
    planned,
    result,
    rows_of,
    run_start,
)
from zoho_crm.core.models import CreditReading
from zoho_crm.errors import ClaimLostError
from zoho_crm.ledger import tables
from zoho_crm.ledger.credits import READINGS_KEPT
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.ledger.progress_queries import progress
from zoho_crm.ledger.reading_credits import CreditsLeft, credits_left

if TYPE_CHECKING:
    import sqlalchemy as sa

    from zoho_crm.ledger.runs import StoredRun

VISIBLE = {(ORIGIN.dag_id, JOB)}


def stored(ledger: Ledger, run_key: str = RUN) -> StoredRun:
    run = ledger.runs.get(run_key)
    assert run is not None
    return run


def write(
    ledger: Ledger,
    left: int,
    seen_at: datetime,
    *,
    connection: str = "zoho",
    used: int = 0,
    run_key: str = RUN,
) -> None:
    """A try at the first chunk that writes nothing but what Zoho has told it."""
    claim = ledger.claims.claim(run_key, 0, "a try")
    told = CreditReading(connection, "7001", left, seen_at)
    ledger.claims.settle(claim, [], origin=ORIGIN, target=TARGET, job=JOB, credits_used=used, reading=told)


def test_cost_of_a_run_is_that_of_all_tries_and_checks(ledger: Ledger) -> None:
    ledger.runs.start(run_start(preflight_credits=6, environment="sandbox"))
    planned(ledger, pairs(12))
    for chunk_no, used in ((0, 7), (1, 2), (0, 5)):
        claim = ledger.claims.claim(RUN, chunk_no, "a try")
        results = [result(link) for link in ledger.claims.take(claim, 10)]
        ledger.claims.settle(claim, results, origin=ORIGIN, target=TARGET, job=JOB, credits_used=used)
    ledger.runs.add_preflight_credits(RUN, 6)
    ledger.runs.add_preflight_credits("no such run", 6)
    assert progress(ledger.engine, stored(ledger)).credits == 26
    assert stored(ledger).credits is None

    ledger.runs.finish(RUN, status="succeeded", detail=None, finished_at=MOMENT)

    assert (stored(ledger).credits, stored(ledger).environment) == (26, "sandbox")
    assert progress(ledger.engine, stored(ledger)).credits == 26


def test_try_that_is_fenced_out_counts_nothing(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(3))
    old = ledger.claims.claim(RUN, 0, "an older try")
    ledger.claims.claim(RUN, 0, "a newer one")
    told = CreditReading("zoho", None, 5, MOMENT)

    with pytest.raises(ClaimLostError):
        ledger.claims.settle(old, [], origin=ORIGIN, target=TARGET, job=JOB, credits_used=9, reading=told)

    assert rows_of(engine, tables.chunks)[0]["credits"] == 0
    assert rows_of(engine, tables.credit_readings) == []


def test_fewest_of_each_stretch_of_hours_is_told_to_those_who_may_see_the_run(ledger: Ledger) -> None:
    planned(ledger, pairs(3))
    ledger.runs.start(run_start("other", origin=replace(ORIGIN, dag_id="another Dag")))
    planned(ledger, pairs(3), run_key="other")
    midnight = datetime(2026, 7, 1, tzinfo=UTC)
    for minutes, left in ((10, 900), (50, 880), (70, 870), (6 * 60, 700), (-10, 4_000)):
        write(ledger, left, midnight + timedelta(minutes=minutes))
    write(ledger, 50, midnight, connection="second")
    write(ledger, 1, midnight, run_key="other")

    def told(hours: int) -> list[tuple[str, int, int]]:
        found = credits_left(ledger.engine, midnight, visible=VISIBLE, hours=hours)
        return [(one.connection, (one.since - midnight) // timedelta(hours=1), one.fewest) for one in found]

    assert told(1) == [("second", 0, 50), ("zoho", 0, 880), ("zoho", 1, 870), ("zoho", 6, 700)]
    assert told(6) == [("second", 0, 50), ("zoho", 0, 870), ("zoho", 6, 700)]
    assert credits_left(ledger.engine, midnight, visible=set()) == []
    (first, *_) = credits_left(ledger.engine, midnight - timedelta(hours=1), visible=VISIBLE)
    assert first == CreditsLeft("zoho", "7001", midnight - timedelta(hours=1), 4_000)


def test_old_readings_are_deleted(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(3))
    later = Ledger(engine, clock=lambda: (MOMENT + READINGS_KEPT).timestamp())
    for hours in (-30, -1, 0, 1):
        write(ledger, 5, MOMENT + timedelta(hours=hours))

    assert later.retention.forget_credit_readings() == 2
    assert later.retention.forget_credit_readings() == 0
    assert len(rows_of(engine, tables.credit_readings)) == 2
