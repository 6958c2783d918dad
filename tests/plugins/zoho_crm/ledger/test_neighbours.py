"""What is done to one run, chunk, connection or holder leaves its neighbours as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

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
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import ClaimLostError, PlanError, ZohoConfigError
from zoho_crm.ledger import tables

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.ledger.ledger import Ledger

OTHER = "another run"
ZOHO, SANDBOX = "zoho_crm_default", "zoho_crm_sandbox"


def all_of(engine: sa.Engine, run_key: str) -> list[dict[str, Any]]:
    """Every row of a run."""
    return [
        row
        for table in (tables.runs, tables.links, tables.chunks, tables.audit)
        for row in rows_of(engine, table)
        if row["run_key"] == run_key
    ]


def crash(ledger: Ledger, run_key: str = RUN) -> None:
    take(ledger, ledger.claims.claim(run_key, 0, "a try that dies"), 2)


def close(ledger: Ledger) -> None:
    crash(ledger)
    ledger.finalizer.close_unfinished_links(RUN, origin=ORIGIN)


def finish(ledger: Ledger) -> None:
    ledger.runs.finish(RUN, status="failed", detail="over", finished_at=MOMENT)


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(crash, id="claim and take"),
        pytest.param(drive, id="settle"),
        pytest.param(lambda ledger: drive(ledger, outcome=Outcome.UNKNOWN), id="settle as unknown"),
        pytest.param(close, id="close"),
        pytest.param(finish, id="finish"),
        pytest.param(lambda ledger: ledger.runs.mark_running(RUN), id="mark running"),
        pytest.param(lambda ledger: ledger.runs.stop(RUN, "credits"), id="stop"),
        pytest.param(lambda ledger: ledger.runs.record_guard(RUN, "passed"), id="guard"),
    ],
)
@pytest.mark.parametrize("state", ["planned", "claimed", "in flight"])
def test_another_run_with_the_same_links_stays_as_it_is(
    ledger: Ledger, engine: sa.Engine, act: Callable[[Ledger], object], state: str
) -> None:
    for run_key in (RUN, OTHER):
        planned(ledger, [*pairs(5), ("c-1", "")], run_key=run_key, chunk_size=3)
    if state == "claimed":
        ledger.claims.claim(OTHER, 0, "a try")
    if state == "in flight":
        crash(ledger, OTHER)
    before, mine = all_of(engine, OTHER), all_of(engine, RUN)

    act(ledger)

    assert all_of(engine, OTHER) == before
    assert all_of(engine, RUN) != mine


def test_another_chunk_of_the_run_stays_as_it_is(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(6), chunk_size=3)
    mine = ledger.claims.claim(RUN, 0, "mine")
    theirs = ledger.claims.claim(RUN, 1, "theirs")
    before = rows_of(engine, tables.chunks)[1], rows_of(engine, tables.links)[3:]

    settle(ledger, mine, take(ledger, mine, 9))

    assert (rows_of(engine, tables.chunks)[1], rows_of(engine, tables.links)[3:]) == before
    assert len(take(ledger, theirs, 9)) == 3


def test_a_zombie_that_has_written_nothing_is_fenced_out_as_well(ledger: Ledger) -> None:
    planned(ledger, pairs(2))
    zombie = ledger.claims.claim(RUN, 0, "a zombie")
    newer = ledger.claims.claim(RUN, 0, "a newer try")

    with pytest.raises(ClaimLostError, match="of a zombie"):
        take(ledger, zombie, 1)
    assert len(take(ledger, newer, 9)) == 2


def test_a_settled_link_between_two_others_stays_settled(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(3))
    claim = ledger.claims.claim(RUN, 0, "a try")
    settle(ledger, claim, take(ledger, claim, 3)[1:2])

    taken = take(ledger, ledger.claims.claim(RUN, 0, "another try"), 3)

    assert [link.seq for link in taken] == [0, 2]
    assert states(engine) == [("in_flight", None), ("settled", "removed"), ("in_flight", None)]


def test_figures_are_of_one_run_alone(ledger: Ledger) -> None:
    planned(ledger, pairs(5), chunk_size=3)
    planned(ledger, pairs(4), run_key=OTHER)
    drive(ledger)

    assert (ledger.runs.count_unsettled(RUN), ledger.runs.count_unsettled(OTHER)) == (2, 4)
    assert ledger.runs.counts(RUN)[Outcome.REMOVED] == 3
    assert sum(ledger.runs.counts(OTHER).values()) == 0
    assert [link.link.external_id for link in take(ledger, ledger.claims.claim(OTHER, 0, "a try"), 9)] == [
        "c-00000",
        "c-00000",
        "c-00000",
        "c-00001",
    ]


def test_invalid_links_are_audited_for_their_own_run(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, [("", "d-1"), ("c-1", "")])
    planned(ledger, [("..", "d-1")], run_key=OTHER)

    rows = [(row["run_key"], row["detail"]) for row in rows_of(engine, tables.audit, "event_id")]
    assert [key for key, _ in rows] == [RUN, RUN, OTHER]
    assert "dot segment" in rows[2][1]


def test_links_are_closed_under_the_claim_of_their_own_chunk(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(9), chunk_size=3)
    drive(ledger, 1)
    for _ in range(4):
        crash_in = ledger.claims.claim(RUN, 2, "a try that dies")
    take(ledger, crash_in, 1)

    assert ledger.finalizer.close_unfinished_links(RUN, origin=ORIGIN).total() == 6

    closed = [row for row in rows_of(engine, tables.audit, "seq") if row["outcome"] != "removed"]
    assert [(row["seq"], row["claim_no"]) for row in closed] == [
        (0, 1),
        (1, 1),
        (2, 1),
        (6, 5),
        (7, 5),
        (8, 5),
    ]
    held = {row["chunk_no"]: (row["claim_no"], row["holder"]) for row in rows_of(engine, tables.chunks)}
    assert held == {0: (1, "delink closes the run"), 1: (1, "a try"), 2: (5, "delink closes the run")}
    assert all(row["claimed_at"] is not None for row in rows_of(engine, tables.chunks))


def test_a_result_needs_its_link_in_flight(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(1))
    claim = ledger.claims.claim(RUN, 0, "a try")
    taken = take(ledger, claim, 1)
    with engine.begin() as connection:
        connection.execute(sa.update(tables.links).values(state="planned"))

    with pytest.raises(PlanError, match="something else writes to the plan"):
        settle(ledger, claim, taken)
    assert rows_of(engine, tables.audit) == []


def test_a_dry_run_needs_no_link_in_flight(ledger: Ledger) -> None:
    planned(ledger, pairs(1))
    claim = ledger.claims.claim(RUN, 0, "a try")
    (link,) = take(ledger, claim, 1, in_flight=False)
    ledger.claims.settle(
        claim,
        [result(link, Outcome.WOULD_REMOVE)],
        origin=ORIGIN,
        target=TARGET,
        job=JOB,
        in_flight=False,
    )
    assert ledger.runs.count_unsettled(RUN) == 0


def test_text_for_a_run_is_cut_to_what_it_holds(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(1))
    ledger.runs.record_guard(RUN, "a\x00" + "b" * 2_000)
    (run,) = rows_of(engine, tables.runs)
    assert run["guard_decision"] == "a\\u0000" + "b" * 993


def test_slots_of_another_connection_and_holder_stay_as_they_are(ledger: Ledger, engine: sa.Engine) -> None:
    def lease(connection: str, holder: str, wanted: int) -> list[int]:
        return ledger.slots.lease(connection, holder, wanted=wanted, limit=4, lease_s=1)

    for connection in (ZOHO, SANDBOX):
        assert lease(connection, "a", 2) == [0, 1]
        assert lease(connection, "b", 2) == [2, 3]
    before = rows_of(engine, tables.slots)
    sandbox = [row for row in before if row["connection"] == SANDBOX]

    ledger.slots.release(ZOHO, "a")

    after = rows_of(engine, tables.slots)
    assert [row for row in after if row["connection"] == SANDBOX] == sandbox
    assert [row["holder"] for row in after if row["connection"] == ZOHO] == [None, None, "b", "b"]

    lease(ZOHO, "c", 2)
    assert [row for row in rows_of(engine, tables.slots) if row["connection"] == SANDBOX] == sandbox
    assert ledger.slots.renew("never leased from", "a", lease_s=1) == []


@pytest.mark.parametrize(
    ("connection", "holder", "lease_s", "says"),
    [
        pytest.param("", "a", 1, "connection must be 1 to 250 characters: ''", id="no connection"),
        pytest.param("z" * 251, "a", 1, "connection must be 1 to 250", id="long connection"),
        pytest.param("z", "", 1, "holder must be 1 to 250 characters: ''", id="no holder"),
        pytest.param("z", "a", 0, "lease_s must be above 0, not 0", id="no time"),
    ],
)
def test_a_lease_that_cannot_be_is_refused_by_name(
    ledger: Ledger, connection: str, holder: str, lease_s: float, says: str
) -> None:
    with pytest.raises(ZohoConfigError, match=says):
        ledger.slots.lease(connection, holder, wanted=1, limit=1, lease_s=lease_s)


def test_the_longest_names_and_the_shortest_lease_are_taken(ledger: Ledger) -> None:
    assert ledger.slots.lease("z" * 250, "a" * 250, wanted=1, limit=1, lease_s=0.5) == [0]
