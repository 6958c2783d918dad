"""What docs/audit.md and docs/audit-proof.md show is run, on every database."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tests.support.ledger import (
    JOB,
    MOMENT,
    ORIGIN,
    RELATION,
    RUN,
    TARGET,
    pairs,
    result,
    rows_of,
    run_start,
    take,
)
from zoho_crm.ledger import tables

if TYPE_CHECKING:
    from zoho_crm.ledger.ledger import Ledger

DOCS = Path(__file__).parents[4] / "docs"
TEXT = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("audit-proof.md", "audit.md"))
OF_SEALS, UNSEALED, COUNTED, OF_PERSON, WITH_IDS = re.findall(r"```sql\n(.*?)```", TEXT, re.DOTALL)
(ROW_HASH,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def query_rows(engine: sa.Engine, query: str) -> list[tuple[Any, ...]]:
    with engine.connect() as connection:
        return [tuple(row) for row in connection.exec_driver_sql(query)]


def done(ledger: Ledger, run_key: str, links: list[tuple[object, object]]) -> None:
    """Drive a run to its end; its report has not run."""
    ledger.runs.start(run_start(run_key))
    ledger.plans.create(run_key, RELATION, links, chunk_size=4, max_chunks=9, origin=ORIGIN, target=TARGET)
    plan = ledger.plans.get(run_key)
    assert plan is not None
    for chunk in plan.chunks:
        claim = ledger.claims.claim(run_key, chunk["chunk_no"], "a try")
        results = [result(link, sent_at=MOMENT, detail="ünlinked") for link in take(ledger, claim, 9)]
        ledger.claims.settle(claim, results, origin=ORIGIN, target=TARGET, job=JOB)
    ledger.runs.finish(run_key, status="succeeded", detail=None, finished_at=MOMENT)


def test_hash_is_computed_as_it_says(ledger: Ledger, engine: sa.Engine) -> None:
    done(ledger, RUN, [*pairs(6), (None, "x")])
    names: dict[str, Any] = {}
    exec(ROW_HASH, names)  # noqa: S102 - it is our own page
    for when in ("written", "pseudonymized"):
        previous: dict[int, str] = {}
        rows = rows_of(engine, tables.audit, "chunk_no", "chain_no")
        assert len(rows) == 7
        for row in rows:
            before = previous.get(row["chunk_no"], "")
            previous[row["chunk_no"]] = row["row_hash"]
            assert names["row_hash"](row, before) == row["row_hash"], when
        ledger.retention.pseudonymize(RUN)


def test_queries_of_seals_return_what_the_page_describes(ledger: Ledger, engine: sa.Engine) -> None:
    for run_key in ("sealed", "not sealed"):
        done(ledger, run_key, pairs(6))
    seal = ledger.finalizer.seal("sealed")

    assert [row[:4] for row in query_rows(engine, OF_SEALS)] == [(1, "sealed", 6, seal.head)]
    assert [row[:2] for row in query_rows(engine, UNSEALED)] == [("not sealed", "succeeded")]
    assert query_rows(engine, COUNTED) == []
    with engine.begin() as connection:
        connection.execute(
            sa.delete(tables.audit).where(tables.audit.c.run_key == "sealed", tables.audit.c.seq.in_([0, 5]))
        )
    assert sorted(query_rows(engine, COUNTED)) == [("sealed", 0, 4, 3), ("sealed", 1, 2, 1)]


def test_queries_of_retention_return_what_the_page_describes(ledger: Ledger, engine: sa.Engine) -> None:
    for run_key in ("old", "new"):
        done(ledger, run_key, [("c-1", "d-1"), ("c-2", "d-2")])
    assert [row[:2] for row in query_rows(engine, WITH_IDS)] == [(JOB, 2)]

    ledger.retention.pseudonymize("old")

    assert [row[:2] for row in query_rows(engine, WITH_IDS)] == [(JOB, 1)]
    assert [row[:2] for row in query_rows(engine, OF_PERSON)] == [("old", "removed"), ("new", "removed")]
