"""API credits that runs have used, as the ledger counts them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.ledger import (
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
    stored,
    take,
)
from zoho_crm.errors import ClaimLostError
from zoho_crm.ledger import tables
from zoho_crm.ledger.run_queries import RunQueries

if TYPE_CHECKING:
    import sqlalchemy as sa

    from zoho_crm.ledger.ledger import Ledger


def test_cost_of_a_run_is_that_of_all_tries_and_checks(ledger: Ledger) -> None:
    ledger.runs.start(run_start(preflight_credits=6, environment="sandbox"))
    planned(ledger, pairs(12))
    for chunk_no, used in ((0, 7), (1, 2), (0, 5)):
        claim = ledger.claims.claim(RUN, chunk_no, "a try")
        results = [result(link) for link in take(ledger, claim, 10)]
        ledger.claims.settle(claim, results, origin=ORIGIN, target=TARGET, job=JOB, credits_used=used)
    ledger.runs.add_preflight_credits(RUN, 6)
    ledger.runs.add_preflight_credits("no such run", 6)
    assert RunQueries(ledger.engine).progress(stored(ledger)).credits == 26
    assert stored(ledger).credits is None

    ledger.runs.finish(RUN, status="succeeded", detail=None, finished_at=MOMENT)

    assert (stored(ledger).credits, stored(ledger).environment) == (26, "sandbox")
    assert RunQueries(ledger.engine).progress(stored(ledger)).credits == 26


def test_try_that_is_fenced_out_counts_nothing(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(3))
    old = ledger.claims.claim(RUN, 0, "an older try")
    ledger.claims.claim(RUN, 0, "a newer one")

    with pytest.raises(ClaimLostError):
        ledger.claims.settle(old, [], origin=ORIGIN, target=TARGET, job=JOB, credits_used=9)

    assert rows_of(engine, tables.chunks)[0]["credits"] == 0
