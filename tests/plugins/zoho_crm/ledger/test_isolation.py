"""The ledger on databases whose default isolation level is not the one that it needs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.support.ledger import RUN, pairs, planned, rows_of, settle, states, take
from zoho_crm.ledger import tables
from zoho_crm.ledger.engine import reading, reading_snapshot
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

LEVELS = ["repeatable read", "serializable"]
TRIES = 6


@contextmanager
def _postgres(request: pytest.FixtureRequest, level: str) -> Iterator[sa.URL]:
    server = request.getfixturevalue("postgres_server")
    with server.database() as name:
        server.run(f"ALTER DATABASE \"{name}\" SET default_transaction_isolation = '{level}'")
        yield server.url(name, request.param[0])


@contextmanager
def _mariadb(request: pytest.FixtureRequest, level: str) -> Iterator[sa.URL]:
    server = request.getfixturevalue("mariadb_server")
    with server.database() as url:
        server.run(f"SET GLOBAL TRANSACTION ISOLATION LEVEL {level}")
        try:
            yield url
        finally:
            server.run("SET GLOBAL TRANSACTION ISOLATION LEVEL REPEATABLE READ")


@pytest.fixture(
    params=[
        pytest.param((driver, level), marks=[pytest.mark.integration, *marks], id=f"{driver}, {level}")
        for driver, marks in (("psycopg", []), ("psycopg2", []), ("mariadb", [pytest.mark.systems]))
        for level in LEVELS
    ]
)
def engine(request: pytest.FixtureRequest) -> Iterator[sa.Engine]:
    driver, level = request.param
    with (_mariadb if driver == "mariadb" else _postgres)(request, level) as url:
        engine = sa.create_engine(url, pool_size=TRIES, max_overflow=TRIES)
        yield engine
        engine.dispose()


@pytest.fixture
def ledger(engine: sa.Engine) -> Ledger:
    ledger = Ledger(engine)
    ledger.ensure_schema()
    return ledger


def test_tries_at_different_chunks_work_at_the_same_time(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(TRIES * 20), chunk_size=20)
    together = Barrier(TRIES)

    def work(chunk_no: int) -> None:
        together.wait(timeout=30)
        claim = ledger.claims.claim(RUN, chunk_no, f"try {chunk_no}")
        taken = take(ledger, claim, 2)
        while taken:
            ledger.slots.lease("zoho", claim.holder, wanted=2, limit=8, lease_s=60)
            taken = settle(ledger, claim, taken, take=2)
        ledger.slots.release("zoho", claim.holder)

    with ThreadPoolExecutor(TRIES) as pool:
        list(pool.map(work, range(TRIES)))

    assert states(engine) == [("settled", "removed")] * TRIES * 20
    assert len(rows_of(engine, tables.audit)) == TRIES * 20


def test_newer_claim_waits_for_the_write_of_the_older_one(ledger: Ledger) -> None:
    planned(ledger, pairs(4), chunk_size=4)
    together = Barrier(TRIES)

    def claim(number: int) -> int:
        together.wait(timeout=30)
        return ledger.claims.claim(RUN, 0, f"try {number}").claim_no

    with ThreadPoolExecutor(TRIES) as pool:
        assert sorted(pool.map(claim, range(TRIES))) == list(range(1, TRIES + 1))


@pytest.mark.parametrize(("kind", "sees_it"), [(reading, True), (reading_snapshot, False)])
def test_only_a_snapshot_hides_what_is_committed_after_its_first_statement(
    ledger: Ledger, engine: sa.Engine, kind: object, sees_it: bool
) -> None:
    count = sa.select(sa.func.count()).select_from(tables.runs)
    with kind(engine).begin() as connection:  # type: ignore[operator]
        assert connection.scalar(count) == 0
        planned(ledger, pairs(1))
        assert connection.scalar(count) == int(sees_it)


@pytest.mark.parametrize("kind", [reading, reading_snapshot])
def test_transaction_that_only_reads_cannot_write(ledger: Ledger, engine: sa.Engine, kind: object) -> None:
    delete = sa.delete(tables.runs)
    with pytest.raises(sa.exc.DBAPIError, match=r"(?i)read.only"), kind(engine).begin() as connection:  # type: ignore[operator]
        connection.execute(delete)
