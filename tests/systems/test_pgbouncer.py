"""The audit database and a warehouse behind a PgBouncer in transaction mode, with fewer sessions than clients."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa

from include.stack import LocalPostgres
from tests.support.databases import job_sql, set_connection
from tests.support.ledger import MOMENT, RUN, pairs, planned, rows_of, settle, states, take
from tests.support.pgbouncer import running_pgbouncer
from zoho_crm.databases import create_source_engine
from zoho_crm.ledger import tables
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.ledger.link_queries import LinkQueries
from zoho_crm.source import stream_links

if TYPE_CHECKING:
    from collections.abc import Iterator

TRIES = 5
LINKS = 40
"""Links of each try: more transactions than psycopg runs before it would prepare a statement."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalPostgres]:
    with LocalPostgres(tmp_path_factory.mktemp("pg") / "postgres") as server:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            for setting in ("synchronous_commit = off", "default_transaction_isolation = 'serializable'"):
                connection.execute(f"ALTER SYSTEM SET {setting}")
            connection.execute("SELECT pg_reload_conf()")
        yield server


@pytest.fixture(params=["psycopg", "psycopg2"])
def url(request: pytest.FixtureRequest, server: LocalPostgres) -> Iterator[sa.URL]:
    name = f"audit_{request.param}"
    server.create_database(name)
    with running_pgbouncer(sa.make_url(server.url(name))) as url:
        yield url.set(drivername=f"postgresql+{request.param}")


def test_a_run_of_many_tries_at_once_and_all_that_is_read_of_it(
    url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = sa.create_engine(url, pool_size=TRIES, pool_pre_ping=True)
    ledger = Ledger(engine)
    ledger.check_connection()
    ledger.ensure_schema()
    ledger.check_readiness()
    planned(ledger, pairs(TRIES * LINKS), chunk_size=LINKS)
    together = Barrier(TRIES)

    def work(chunk_no: int) -> None:
        together.wait(timeout=30)
        claim = ledger.claims.claim(RUN, chunk_no, f"try {chunk_no}")
        taken = take(ledger, claim, 1)
        while taken:
            ledger.slots.lease("zoho", claim.holder, wanted=1, limit=TRIES, lease_s=60)
            taken = settle(ledger, claim, taken, take=1)
        ledger.slots.release("zoho", claim.holder)

    with ThreadPoolExecutor(TRIES) as pool:
        list(pool.map(work, range(TRIES)))
    ledger.runs.finish(RUN, status="succeeded", detail=None, finished_at=MOMENT)
    ledger.finalizer.seal(RUN)

    assert states(engine) == [("settled", "removed")] * TRIES * LINKS
    assert list(ledger.chain.verify()) == []
    assert len(list(LinkQueries(engine).audit_rows(RUN, only_latest=False))) == TRIES * LINKS
    assert len(rows_of(engine, tables.seals)) == 1
    _check_source(url, monkeypatch)
    ledger.close()


def _check_source(url: sa.URL, monkeypatch: pytest.MonkeyPatch) -> None:
    """Read the links of the plan like a job's SQL does, more often than a statement is run before it is prepared."""
    set_connection(
        monkeypatch,
        "warehouse",
        conn_type="postgres",
        host=url.host,
        port=url.port,
        login=url.username,
        password=url.password,
        schema=url.database,
        extra={"sqlalchemy_scheme": url.drivername},
    )
    engine = create_source_engine("warehouse")
    sql = "SELECT external_id, related_external_id FROM zoho_delink_link WHERE :window_start <= :window_end"
    for _ in range(10):
        assert len(list(stream_links(engine, job_sql(sql), MOMENT, MOMENT))) == TRIES * LINKS
    engine.dispose()
