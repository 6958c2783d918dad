from __future__ import annotations

import tracemalloc
from datetime import datetime, timedelta
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
    take,
)
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger import tables
from zoho_crm.ledger.chain import digest
from zoho_crm.ledger.finalize import seal_head
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

    from zoho_crm.ledger.chain import Finding

AUDIT = tables.audit


@pytest.fixture
def sealed(ledger: Ledger) -> Ledger:
    """A finished and sealed run of two chunks with four rows each, and two rows of the plan."""
    planned(ledger, [*pairs(8), (None, "x"), ("y", None)], chunk_size=4)
    for chunk_no in (0, 1):
        claim = ledger.claims.claim(RUN, chunk_no, "a try")
        results = [
            result(
                link,
                Outcome.REMOVED,
                attempts=1,
                sent_at=MOMENT - timedelta(milliseconds=link.seq),
                http_status=200,
                zoho_code="SUCCESS",
                zoho_message="relation removed",
                zoho_record_id="55440",
                detail=f"link {link.seq} ü ok",
            )
            for link in take(ledger, claim, 4)
        ]
        ledger.claims.settle(claim, results, origin=ORIGIN, target=TARGET, job=JOB)
    finish(ledger)
    ledger.finalizer.seal(RUN)
    return ledger


def finish(ledger: Ledger, run_key: str = RUN) -> None:
    ledger.runs.finish(run_key, status="succeeded", detail=None, finished_at=MOMENT)


def change(engine: sa.Engine, *statements: sa.Executable) -> None:
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(statement)


def event_at(engine: sa.Engine, chunk_no: int, chain_no: int) -> str:
    (event_id,) = (
        row["event_id"]
        for row in rows_of(engine, AUDIT)
        if (row["chunk_no"], row["chain_no"]) == (chunk_no, chain_no)
    )
    return str(event_id)


def summary(findings: list[Finding]) -> list[tuple[str, str | None]]:
    return [(finding.kind.value, finding.event_id) for finding in findings]


def flipped(value: Any) -> Any:
    """The value with its lowest bit, or the lowest bit of its last byte, the other way round."""
    if value is None or value == "":
        return "a"
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value ^ 1
    if isinstance(value, datetime):
        return value.replace(microsecond=value.microsecond ^ 1)
    return value[:-1] + chr(ord(value[-1]) ^ 1)


def test_audit_as_it_was_written_has_no_findings(sealed: Ledger) -> None:
    assert list(sealed.chain.verify()) == []
    assert list(sealed.chain.verify(RUN)) == []


def test_everything_the_ledger_does_verifies(ledger: Ledger) -> None:
    planned(ledger, pairs(9), chunk_size=3)
    claim = ledger.claims.claim(RUN, 0, "a try")
    links = take(ledger, claim, 1)
    while links:
        links = settle(ledger, claim, links, Outcome.FAILED, take=1)
    take(ledger, ledger.claims.claim(RUN, 1, "a try that dies"), 2)
    ledger.finalizer.close_unfinished_links(RUN, origin=ORIGIN)
    finish(ledger)
    ledger.finalizer.seal(RUN)
    for chunk_no in range(3):
        drive(ledger, chunk_no)
    finish(ledger)
    ledger.finalizer.seal(RUN)

    assert list(ledger.chain.verify()) == []


def test_flipped_byte_in_any_column_names_its_row(sealed: Ledger, engine: sa.Engine) -> None:
    event_id = event_at(engine, 1, 2)
    (row,) = (row for row in rows_of(engine, AUDIT) if row["event_id"] == event_id)
    assert [name for name, value in row.items() if value is None] == ["snapshot"]

    for name, value in row.items():
        changed = {**row, name: flipped(value)}
        change(engine, sa.delete(AUDIT).where(AUDIT.c.event_id == event_id), sa.insert(AUDIT).values(changed))
        findings = list(sealed.chain.verify())
        change(
            engine,
            sa.delete(AUDIT).where(AUDIT.c.event_id == changed["event_id"]),
            sa.insert(AUDIT).values(row),
        )

        if name == "chain_no":
            assert findings[0].detail.startswith("row 2 of chunk 1 is missing")
        elif name in {"run_key", "chunk_no"}:
            assert changed["event_id"] in {finding.event_id for finding in findings}, name
        else:
            assert summary(findings) == [("altered", changed["event_id"])], name
    assert list(sealed.chain.verify()) == []


def test_emptied_column_names_its_row(sealed: Ledger, engine: sa.Engine) -> None:
    event_id = event_at(engine, 0, 1)
    (row,) = (row for row in rows_of(engine, AUDIT) if row["event_id"] == event_id)
    mine = sa.update(AUDIT).where(AUDIT.c.event_id == event_id)

    for name in (name for name, value in row.items() if AUDIT.c[name].nullable and value is not None):
        change(engine, mine.values({name: None}))
        findings = list(sealed.chain.verify())
        change(engine, mine.values({name: row[name]}))

        assert ("altered", event_id) in summary(findings), name


def test_removed_rows_are_named_by_their_places(sealed: Ledger, engine: sa.Engine) -> None:
    before = event_at(engine, 1, 1)
    change(engine, sa.delete(AUDIT).where(AUDIT.c.chunk_no == 1, AUDIT.c.chain_no.in_([2, 3])))

    (finding,) = sealed.chain.verify()

    assert (finding.run_key, finding.kind, finding.event_id) == (RUN, "missing", None)
    assert finding.detail == f"rows 2 to 3 of chunk 1 are missing, after event {before}"


@pytest.mark.parametrize(
    ("chunk_no", "says"),
    [(-1, "rows 1 to 2 of the plan are missing"), (0, "rows 1 to 4 of chunk 0 are missing")],
)
def test_rows_of_a_whole_chunk_are_missed(
    sealed: Ledger, engine: sa.Engine, chunk_no: int, says: str
) -> None:
    change(engine, sa.delete(AUDIT).where(AUDIT.c.chunk_no == chunk_no))

    (finding,) = sealed.chain.verify()

    assert finding.detail.startswith(says)


def test_rows_of_a_plan_are_missed_before_any_seal(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, [(None, "x"), ("y", None)])
    change(engine, sa.delete(AUDIT).where(AUDIT.c.chain_no == 2))

    assert [finding.detail.split(",")[0] for finding in ledger.chain.verify()] == [
        "row 2 of the plan is missing"
    ]


def test_added_rows_are_named(sealed: Ledger, engine: sa.Engine) -> None:
    (row,) = (row for row in rows_of(engine, AUDIT) if (row["chunk_no"], row["chain_no"]) == (0, 2))
    forged = [
        {"event_id": "same place"},
        {"event_id": "at the end", "chunk_no": 1, "chain_no": 5},
        {"event_id": "no such chunk", "chunk_no": 7},
        {"event_id": "no such run", "run_key": "forged"},
    ]
    change(engine, sa.insert(AUDIT).values([{**row, **changes} for changes in forged]))

    findings = list(sealed.chain.verify())

    assert {finding.event_id: finding.kind.value for finding in findings if finding.event_id} == {
        "same place": "added",
        "at the end": "added",
        "no such chunk": "added",
        "no such run": "added",
    }


def test_first_of_two_swapped_rows_is_named(sealed: Ledger, engine: sa.Engine) -> None:
    one, other = event_at(engine, 0, 2), event_at(engine, 0, 3)
    at = {one: 3, other: 2}
    change(
        engine,
        *(
            sa.update(AUDIT).where(AUDIT.c.event_id == event_id).values(chain_no=place)
            for event_id, place in at.items()
        ),
    )

    assert [finding.event_id for finding in sealed.chain.verify()] == [other]


def test_other_runs_are_left_alone_when_one_is_asked_for(sealed: Ledger, engine: sa.Engine) -> None:
    planned(sealed, pairs(2), run_key="another")
    change(engine, sa.update(AUDIT).values(outcome="failed"))

    assert list(sealed.chain.verify("another")) == []
    assert {finding.run_key for finding in sealed.chain.verify()} == {RUN}


def test_deleted_row_of_a_run_is_found(sealed: Ledger, engine: sa.Engine) -> None:
    change(engine, sa.delete(tables.runs))

    assert ("missing", None) in summary(list(sealed.chain.verify()))


def test_flipped_byte_in_a_seal_is_found(sealed: Ledger, engine: sa.Engine) -> None:
    (seal,) = rows_of(engine, tables.seals)

    for name, value in seal.items():
        change(engine, sa.update(tables.seals).values({name: flipped(value)}))
        findings = list(sealed.chain.verify())
        change(engine, sa.update(tables.seals).values(seal))

        assert findings[0].kind == "broken_seal", name
        assert {finding.kind.value for finding in findings} <= {"broken_seal", "unsealed", "missing"}, name


@pytest.mark.parametrize(
    "ends",
    ['[["0",4,"a"]]', "[[[],4,4]]", '[[0,"4","a"]]', "[7]", "7", "[[0,4,null]]", "[" * 50_000],
    ids=["chunk as text", "chunk as list", "row as text", "number in list", "number", "no hash", "deep"],
)
def test_ends_of_another_type_are_found_in_an_intact_seal(
    sealed: Ledger, engine: sa.Engine, ends: str
) -> None:
    (seal,) = rows_of(engine, tables.seals)
    head = seal_head(1, RUN, seal["audit_rows"], digest(ends), seal["sealed_at"], "")
    change(engine, sa.update(tables.seals).values(ends=ends, run_head=digest(ends), head=head))
    change(engine, sa.delete(AUDIT).where(AUDIT.c.chunk_no == 0))

    findings = list(sealed.chain.verify())

    assert findings[0].detail == "seal 1: its ends are not a list of chunks, rows and hashes"
    assert {finding.kind.value for finding in findings} == {"broken_seal", "missing", "unsealed"}


def test_deleted_seal_is_found(sealed: Ledger, engine: sa.Engine) -> None:
    for key in ("second", "third", "fourth"):
        planned(sealed, pairs(1), run_key=key)
        sealed.finalizer.seal(key)
    change(engine, sa.delete(tables.seals).where(tables.seals.c.seal_no.in_([2, 3])))

    (finding,) = sealed.chain.verify()

    assert (finding.run_key, finding.kind) == ("fourth", "broken_seal")
    assert finding.detail.startswith("seals 2 to 3 are missing before seal 4")


def test_last_seal_that_is_gone_leaves_its_run_unsealed(sealed: Ledger, engine: sa.Engine) -> None:
    change(engine, sa.delete(tables.seals))

    assert [(finding.kind.value, finding.detail) for finding in sealed.chain.verify()] == [
        ("unsealed", "no seal of the run covers what was written last: 10 rows, 3 events")
    ]


def test_rows_after_the_last_seal_are_counted_once_the_run_is_finished(ledger: Ledger) -> None:
    planned(ledger, pairs(6), chunk_size=3)
    drive(ledger, 0, Outcome.FAILED)
    assert list(ledger.chain.verify()) == []
    finish(ledger)
    ledger.finalizer.seal(RUN)
    drive(ledger, 0)
    drive(ledger, 1)

    (finding,) = ledger.chain.verify()

    assert (finding.run_key, finding.kind, finding.event_id) == (RUN, "unsealed", None)
    assert finding.detail.endswith(": 6 rows")


def test_run_that_is_driven_meanwhile_has_no_findings(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(40), chunk_size=20)
    drive(ledger, 0)
    ledger.finalizer.seal(RUN)
    other = Ledger(sa.create_engine(engine.url))
    findings = ledger.chain.verify()
    if engine.name == "postgresql":
        # Start the check, write more rows, then finish the check.
        claim = other.claims.claim(RUN, 1, "a try")
        links = take(other, claim, 5)
        checked = []
        for _ in range(4):
            links = settle(other, claim, links, take=5)
            checked += list(ledger.chain.verify())
        assert checked == []
    assert list(findings) == []
    other.close()


@pytest.mark.integration
def test_memory_stays_flat(tmp_path: Path) -> None:
    ledger = Ledger(sa.create_engine(f"sqlite:///{tmp_path / 'ledger.db'}"))
    ledger.ensure_schema()
    planned(ledger, pairs(4_000), chunk_size=4_000)
    claim = ledger.claims.claim(RUN, 0, "a try")
    links = take(ledger, claim, 500)
    while links:
        links = settle(ledger, claim, links, take=500)
    list(ledger.chain.verify())
    tracemalloc.start()
    try:
        assert list(ledger.chain.verify()) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    # All rows at once would be twice that.
    assert peak < 5_000_000
