"""PostgreSQL is killed under load with `synchronous_commit=off`: no outcome that was written is lost."""

from __future__ import annotations

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import psycopg
import sqlalchemy as sa

from include.stack import LocalPostgres
from tests.support.ledger import RUN, pairs, planned, rows_of, settle, take
from zoho_crm.ledger import tables
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

CHUNKS = 4
PER_CHUNK = 2_000


def test_written_outcomes_survive_a_killed_server_that_does_not_wait_for_its_disk(tmp_path: Path) -> None:
    written: list[int] = []
    with LocalPostgres(tmp_path / "postgres") as server:
        _write_to_disk_late(server)
        server.create_database("audit")
        with closing(Ledger(sa.create_engine(server.url("audit", "psycopg")))) as ledger:
            ledger.ensure_schema()
            planned(ledger, pairs(CHUNKS * PER_CHUNK), chunk_size=PER_CHUNK)
            with ThreadPoolExecutor(CHUNKS) as pool:
                work = [pool.submit(_settle_until_killed, ledger, n, written) for n in range(CHUNKS)]
                while len(written) < 200 and not all(one.done() for one in work):
                    time.sleep(0.01)
                _kill(server)
            for one in work:
                one.result()

    with LocalPostgres(tmp_path / "postgres") as server:
        engine = sa.create_engine(server.url("audit", "psycopg"))
        settled = {row["seq"] for row in rows_of(engine, tables.links) if row["state"] == "settled"}
        audited = {row["seq"] for row in rows_of(engine, tables.audit)}
        engine.dispose()
    assert set(written) <= settled == audited
    assert len(settled) < CHUNKS * PER_CHUNK


def _kill(server: LocalPostgres) -> None:
    for pid in server.processes():
        with suppress(ProcessLookupError):  # its own end, or that of a process killed before, came first
            os.kill(pid, signal.SIGKILL)


def _write_to_disk_late(server: LocalPostgres) -> None:
    with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET synchronous_commit = off")
        connection.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
        connection.execute("SELECT pg_reload_conf()")


def _settle_until_killed(ledger: Ledger, chunk_no: int, written: list[int]) -> None:
    """Settle links one by one, and note each once its transaction is committed."""
    try:
        claim = ledger.claims.claim(RUN, chunk_no, "a try")
        while links := take(ledger, claim, 1):
            settle(ledger, claim, links)
            written.append(links[0].seq)
    except sa.exc.OperationalError:
        pass
