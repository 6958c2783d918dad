"""What other processes do in the ledger's tests. Each opens the database itself, as a task of Airflow does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tests.support.ledger import RUN, pairs, planned, run_start, settle, take
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator


def _ledger(url: str) -> Ledger:
    return Ledger(sa.create_engine(url, poolclass=sa.NullPool))


def ensure_schema(url: str) -> None:
    _ledger(url).ensure_schema()


def start(url: str, reason: str) -> str | None:
    return _ledger(url).runs.start(run_start(reason=reason)).reason


def plan(url: str, first: int) -> tuple[int, str]:
    """Plan 300 links of this process's own."""
    summary = planned(_ledger(url), pairs(first + 300)[first:], chunk_size=50)
    return summary.planned, summary.chunks[0]["label"]


def drive(url: str, chunk_no: int, batch: int) -> int:
    """Drive a chunk to its end, a batch at a time; return how many links there were."""
    ledger = _ledger(url)
    claim = ledger.claims.claim(RUN, chunk_no, f"process {os.getpid()}")
    links = take(ledger, claim, batch)
    count = 0
    while links:
        count += len(links)
        links = settle(ledger, claim, links, take=batch)
    return count


def die_after_take(url: str, count: int) -> None:
    """Take links and die without a word, as a worker that runs out of memory does."""
    ledger = _ledger(url)
    take(ledger, ledger.claims.claim(RUN, 0, "doomed"), count)
    os._exit(1)


def die_while_staging(url: str) -> None:
    def rows() -> Iterator[tuple[object, object]]:
        yield from pairs(6_000)
        os._exit(1)

    planned(_ledger(url), rows())
