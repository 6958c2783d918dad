from __future__ import annotations

import copy
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa

from tests.support.ledger import (
    ORIGIN,
    RUN,
    drive,
    pairs,
    planned,
    rows_of,
    settle,
    take,
)
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import AuditAlteredError, ClaimLostError, PlanError
from zoho_crm.ledger import tables
from zoho_crm.ledger.chain import digest
from zoho_crm.ledger.finalize import seal_head
from zoho_crm.ledger.ledger import Ledger


def test_seal_holds_the_end_of_each_chunk_that_has_rows(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, [*pairs(9), (None, "x"), ("y", None)], chunk_size=3)
    drive(ledger, 0, Outcome.FAILED)
    drive(ledger, 0)
    drive(ledger, 2)

    seal = ledger.finalizer.seal(RUN)

    rows = rows_of(engine, tables.audit, "chunk_no", "chain_no")
    assert [(row["chunk_no"], row["chain_no"]) for row in rows] == [
        *((-1, number) for number in (1, 2)),
        *((0, number) for number in range(1, 7)),
        *((2, number) for number in range(1, 4)),
    ]
    events = rows_of(engine, tables.run_events)
    assert [event["kind"] for event in events] == ["opened", "planned"]
    assert json.loads(seal.ends) == [
        [-2, 2, events[1]["event_hash"]],
        [-1, 2, rows[1]["row_hash"]],
        [0, 6, rows[7]["row_hash"]],
        [2, 3, rows[10]["row_hash"]],
    ]
    assert (seal.seal_no, seal.run_key, seal.audit_rows) == (1, RUN, 11)
    assert seal.run_head == digest(seal.ends)
    assert seal.head == seal_head(1, RUN, 11, seal.run_head, seal.sealed_at, "")
    (stored,) = rows_of(engine, tables.seals)
    assert stored == {name: getattr(seal, name) for name in stored}


def test_chunk_knows_the_end_of_its_chain(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(3), chunk_size=3)
    claim = ledger.claims.claim(RUN, 0, "a try")
    take(ledger, claim, 2)
    ledger.finalizer.close_unfinished_links(RUN, origin=ORIGIN)
    drive(ledger)

    (chunk,) = rows_of(engine, tables.chunks)
    *_, last = rows_of(engine, tables.audit, "chain_no")
    assert (chunk["chain_no"], chunk["chain_hash"]) == (6, last["row_hash"])
    assert (last["chain_no"], last["chunk_no"]) == (6, 0)


def test_chain_costs_no_statement(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(4))
    claim = ledger.claims.claim(RUN, 0, "a try")
    links = take(ledger, claim, 2)
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    settle(ledger, claim, links, take=2)

    assert [" ".join(text.split()[:3]) for text in statements if "zoho_delink_" in text] == [
        "UPDATE zoho_delink_chunk SET",
        "UPDATE zoho_delink_link SET",
        "INSERT INTO zoho_delink_audit",
        "UPDATE zoho_delink_link SET",
    ]


def test_write_whose_answer_was_lost_is_in_the_chain_once(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(4))
    claim = ledger.claims.claim(RUN, 0, "a try")
    links = take(ledger, claim, 2)
    unaware = copy.deepcopy(claim)
    settle(ledger, claim, links)

    with pytest.raises(ClaimLostError):
        settle(ledger, unaware, links)
    drive(ledger)

    assert [row["chain_no"] for row in rows_of(engine, tables.audit, "chain_no")] == [1, 2, 3, 4]
    assert list(ledger.chain.verify()) == []


def test_unchanged_run_gets_no_other_seal(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(3))
    drive(ledger)

    assert ledger.finalizer.seal(RUN) == ledger.finalizer.seal(RUN)
    assert len(rows_of(engine, tables.seals)) == 1


def test_run_that_went_on_is_sealed_again_in_the_same_chain(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(3))
    drive(ledger, 0, Outcome.FAILED)
    first = ledger.finalizer.seal(RUN)
    planned(ledger, pairs(2), run_key="another")
    other = ledger.finalizer.seal("another")
    drive(ledger)

    second = ledger.finalizer.seal(RUN)

    assert [seal.seal_no for seal in (first, other, second)] == [1, 2, 3]
    assert [seal.audit_rows for seal in (first, other, second)] == [3, 0, 6]
    for seal, before in ((other, first), (second, other)):
        assert seal.head == seal_head(
            seal.seal_no, seal.run_key, seal.audit_rows, seal.run_head, seal.sealed_at, before.head
        )
    assert ledger.finalizer.seal(RUN) == second


def test_runs_sealed_at_the_same_moment_get_one_chain(ledger: Ledger, engine: sa.Engine) -> None:
    keys = [f"run {number}" for number in range(12)]
    for key in keys:
        planned(ledger, pairs(1), run_key=key)
        drive(ledger, run_key=key)

    with ThreadPoolExecutor(len(keys)) as pool:
        stored = list(pool.map(ledger.finalizer.seal, keys))

    assert sorted(seal.seal_no for seal in stored) == list(range(1, 13))
    assert list(ledger.chain.verify()) == []


def test_one_run_sealed_twice_at_the_same_moment_is_sealed_once(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(1))
    drive(ledger)

    with ThreadPoolExecutor(8) as pool:
        stored = list(pool.map(ledger.finalizer.seal, [RUN] * 8))

    assert len(set(stored)) == 1
    assert len(rows_of(engine, tables.seals)) == 1


def test_unknown_run_cannot_be_sealed(ledger: Ledger) -> None:
    with pytest.raises(PlanError, match="holds no run"):
        ledger.finalizer.seal("no such run")


@pytest.mark.parametrize(
    "change",
    [
        sa.delete(tables.audit).where(tables.audit.c.chain_no == 3),
        sa.update(tables.audit).where(tables.audit.c.chain_no == 3).values(row_hash="0" * 64),
        sa.update(tables.audit).where(tables.audit.c.chain_no == 3).values(chain_no=7),
        sa.update(tables.chunks).values(chain_no=2),
    ],
    ids=["last row gone", "last row altered", "last row moved", "chunk altered"],
)
def test_run_that_does_not_end_as_written_is_not_sealed(
    ledger: Ledger, engine: sa.Engine, change: sa.Executable
) -> None:
    planned(ledger, pairs(3))
    drive(ledger)
    with engine.begin() as connection:
        connection.execute(change)

    with pytest.raises(AuditAlteredError, match="the audit of chunk 0 ends with row"):
        ledger.finalizer.seal(RUN)
    assert rows_of(engine, tables.seals) == []


def test_sealing_finds_the_last_rows_through_the_index(sqlite_engine: sa.Engine) -> None:
    ledger = Ledger(sqlite_engine)
    ledger.ensure_schema()
    planned(ledger, pairs(6), chunk_size=3)
    statements: list[str] = []
    sa.event.listen(sqlite_engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    ledger.finalizer.seal(RUN)

    (asked,) = (text for text in statements if "zoho_delink_chunk" in text)
    with sqlite_engine.connect() as connection:
        steps = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked}", (RUN,)).all()
    of_audit = [step.detail for step in steps if "audit" in step.detail]
    # The last place of a chunk, and then its row: nothing in between is read.
    assert len(of_audit) == 2
    assert all("zoho_delink_audit_chain (run_key=? AND chunk_no=?" in detail for detail in of_audit)
