"""A process that is stopped for longer than its lease changes nothing when it continues."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.proofs import killed_process
from tests.proofs.harness import Try, calls, outcomes, pairs, plan, until
from tests.proofs.kills import LONG_S, database_of
from tests.support.local_zoho import link_all, linked, zoho_connection
from zoho_crm.ledger import tables

if TYPE_CHECKING:
    from multiprocessing.context import BaseContext

    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.testing.local_zoho import LocalZoho


def freeze(pid: int, ledger: Ledger) -> None:
    """Stop a process at a moment at which it holds no lock in the database, which others would wait for."""
    for _ in range(100):
        os.kill(pid, signal.SIGSTOP)
        if not is_locked(ledger.engine.url):
            return
        os.kill(pid, signal.SIGCONT)
        time.sleep(0.005)
    pytest.fail("the process always holds a lock")


def is_locked(url: sa.URL) -> bool:
    lock = (
        "BEGIN IMMEDIATE"
        if url.get_backend_name() == "sqlite"
        else "LOCK TABLE zoho_delink_chunk, zoho_delink_slot_limit IN EXCLUSIVE MODE NOWAIT"
    )
    options = {"timeout": 0} if url.get_backend_name() == "sqlite" else {}
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args=options)
    try:
        with engine.connect() as connection:
            connection.exec_driver_sql(lock)
    except sa.exc.OperationalError:
        return True
    return False


@pytest.mark.parametrize(
    "any_ledger", ["sqlite", pytest.param("postgres", marks=pytest.mark.systems)], indirect=True
)
@pytest.mark.parametrize("strategy", ["single", "by_parent"])
def test_frozen_process_leaves_links_that_were_relinked(
    zoho: LocalZoho, processes: BaseContext, any_ledger: Ledger, strategy: str
) -> None:
    zoho.state.configure(latency_s=0.05)
    links = pairs(40, 5)
    link_all(zoho, links)
    (chunk,) = plan(any_ledger, links, strategy=strategy).chunks
    process = processes.Process(  # type: ignore[attr-defined]
        target=killed_process.run_chunk,
        args=(database_of(any_ledger), zoho_connection(zoho), chunk, {"strategy": strategy}),
    )
    process.start()
    deadline = time.monotonic() + LONG_S
    while len(calls(zoho, "DELETE")) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    freeze(process.pid, any_ledger)

    asyncio.run(Try(any_ledger, chunk, strategy, limit=10_000, try_number=2)())
    assert linked(zoho) == set()
    assert set(outcomes(any_ledger)) == set(links)
    link_all(zoho, links)
    sent = len(calls(zoho, "DELETE"))
    os.kill(process.pid, signal.SIGCONT)
    process.join(LONG_S)

    assert process.exitcode == 1, "the first try did not end with ClaimLostError"
    assert linked(zoho) == set(links)
    assert len(calls(zoho, "DELETE")) == sent


async def test_try_waits_until_an_earlier_one_may_no_longer_send(
    zoho: LocalZoho, ledger: Ledger, caplog: pytest.LogCaptureFixture
) -> None:
    links = pairs(2, 5)
    link_all(zoho, links)
    (chunk,) = plan(ledger, links).chunks
    stopped = ledger.claims.claim("run", chunk["chunk_no"], "a stopped worker")
    ledger.claims.lease(stopped, LONG_S)
    waiting = "Waiting for an earlier try that may still send: holder=a stopped worker"
    with caplog.at_level("INFO"):
        newer = asyncio.create_task(Try(ledger, chunk, renew_every_s=0.05)())
        await until(lambda: waiting in caplog.text)
    assert calls(zoho, "DELETE") == []
    with ledger.engine.begin() as connection:
        # Its lease ends.
        connection.execute(sa.update(tables.chunks).values(send_until=0.0))
    await newer
    assert linked(zoho) == set()
