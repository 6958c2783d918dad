"""Verify the audit: rows against their chains, chains against the seals, seals against each other."""

from __future__ import annotations

import json
from collections import defaultdict
from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.ledger.chain import (
    CHUNK_OF_PLAN,
    COMMON,
    OWN,
    ChainEnd,
    ChainRow,
    ChunkCheck,
    Finding,
    Kind,
    SealedEnd,
    digest,
)
from zoho_crm.ledger.engine import Store, reading, reading_snapshot
from zoho_crm.ledger.finalize import seal_head
from zoho_crm.ledger.tables import audit, chunks, runs, seals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

_FETCH = 1_000
_CHUNK_NO = COMMON.index("chunk_no")


class AuditChain(Store):
    """The hash chain of the audit, and the seals over it."""

    def verify(
        self,
        run_key: str | None = None,
        counted: Callable[[Iterator[ChainRow]], Iterator[ChainRow]] = iter,
    ) -> Iterator[Finding]:
        """
        Yield what is wrong with the audit; nothing if it is intact. Memory stays flat.

        :param run_key: verify this run alone; None for all
        :param counted: passes the rows of a run through, to follow the progress
        """
        yield from self._check_seals(run_key)
        for key in [run_key] if run_key is not None else self._run_keys():
            yield from self._check_run(key, counted)

    def _check_seals(self, run_key: str | None) -> Iterator[Finding]:
        last_no, before = 0, ""
        with reading(self._engine).begin() as connection:
            statement = sa.select(seals).order_by(seals.c.seal_no)
            for seal in connection.execute(statement, execution_options={"yield_per": _FETCH}):
                if run_key in {None, seal.run_key}:
                    if seal.seal_no != last_no + 1:
                        yield _seals_missing(seal, last_no)
                    elif fault := _seal_fault(seal, before):
                        yield Finding(seal.run_key, Kind.BROKEN_SEAL, None, f"seal {seal.seal_no}: {fault}")
                last_no, before = seal.seal_no, seal.head

    def _run_keys(self) -> Sequence[str]:
        """Return the keys of runs, audit rows and seals: a row whose key was changed must be found as well."""
        every = sa.union(sa.select(runs.c.run_key), sa.select(audit.c.run_key), sa.select(seals.c.run_key))
        with reading(self._engine).begin() as connection:
            return sorted(connection.execute(every).scalars())

    def _check_run(
        self, run_key: str, counted: Callable[[Iterator[ChainRow]], Iterator[ChainRow]]
    ) -> Iterator[Finding]:
        with reading_snapshot(self._engine).begin() as connection:
            run = connection.execute(
                sa.select(runs.c.planned, runs.c.planned_at, runs.c.finished_at).where(
                    runs.c.run_key == run_key
                )
            ).one_or_none()
            if run is None:
                yield Finding(run_key, Kind.MISSING, None, "the row of the run is missing")
            ends = _written_ends(connection, run_key, run)
            sealed = _sealed_ends(connection, run_key)
            unsealed, checked = 0, set()
            for chunk_no, rows in groupby(counted(_chained_rows(connection, run_key)), key=_chunk_no):
                check = _check_of(run_key, chunk_no, ends, sealed)
                finding = check.first_break(rows)
                checked.add(chunk_no)
                if finding is not None:
                    yield finding
                else:
                    unsealed += check.unsealed
            for chunk_no in sorted({*ends, *sealed} - checked):
                if finding := _check_of(run_key, chunk_no, ends, sealed).first_break(()):
                    yield finding
            if run is not None and run.finished_at is not None and unsealed:
                yield Finding(
                    run_key,
                    Kind.UNSEALED,
                    None,
                    f"{unsealed} rows were written after the last seal of the run, or it has none",
                )


def _seals_missing(seal: sa.Row[Any], last_no: int) -> Finding:
    first, last = last_no + 1, seal.seal_no - 1
    gone = f"seal {first} is missing" if first == last else f"seals {first} to {last} are missing"
    return Finding(
        seal.run_key,
        Kind.BROKEN_SEAL,
        None,
        f"{gone} before seal {seal.seal_no}, which itself cannot be checked without them",
    )


def _seal_fault(seal: sa.Row[Any], before: str) -> str | None:
    if digest(seal.ends) != seal.run_head:
        return "its ends differ from what was written"
    head = seal_head(seal.seal_no, seal.run_key, seal.audit_rows, seal.run_head, seal.sealed_at, before)
    return None if head == seal.head else "it differs from what was written, or the seal before it does"


def _check_of(
    run_key: str, chunk_no: int, ends: dict[int, ChainEnd], sealed: dict[int, list[SealedEnd]]
) -> ChunkCheck:
    # Nothing was written to a chunk that the plan does not have.
    unknown = None if chunk_no == CHUNK_OF_PLAN else ChainEnd()
    return ChunkCheck(run_key, chunk_no, ends.get(chunk_no, unknown), sealed.get(chunk_no, ()))


def _chained_rows(connection: sa.Connection, run_key: str) -> Iterator[ChainRow]:
    statement = (
        sa.select(
            audit.c.event_id, audit.c.chain_no, audit.c.row_hash, *(audit.c[name] for name in (*COMMON, *OWN))
        )
        .where(audit.c.run_key == run_key)
        .order_by(audit.c.chunk_no, audit.c.chain_no, audit.c.event_id)
    )
    first, end = 3, 3 + len(COMMON)
    for row in connection.execute(statement, execution_options={"yield_per": _FETCH}):
        yield ChainRow(row[0], row[1], row[2], tuple(row[first:end]), tuple(row[end:]))


def _chunk_no(row: ChainRow) -> int:
    chunk_no: int = row.common[_CHUNK_NO]
    return chunk_no


def _written_ends(connection: sa.Connection, run_key: str, run: sa.Row[Any] | None) -> dict[int, ChainEnd]:
    """Return where the chains of a run must end by its plan; the plan's own chain is not there if that is unknown."""
    statement = sa.select(chunks.c.chunk_no, chunks.c.links, chunks.c.chain_no, chunks.c.chain_hash).where(
        chunks.c.run_key == run_key
    )
    stored = connection.execute(statement).all()
    ends = {row.chunk_no: ChainEnd(row.chain_no, row.chain_hash or "") for row in stored}
    if run is not None and run.planned_at:
        # A link in no chunk cannot be sent, and has an audit row from the plan.
        ends[CHUNK_OF_PLAN] = ChainEnd(run.planned - sum(row.links for row in stored))
    return ends


def _sealed_ends(connection: sa.Connection, run_key: str) -> dict[int, list[SealedEnd]]:
    """Return the ends that the run's seals record, by chunk; unreadable seals are reported elsewhere."""
    ends: dict[int, list[SealedEnd]] = defaultdict(list)
    statement = sa.select(seals.c.seal_no, seals.c.ends, seals.c.run_head).where(seals.c.run_key == run_key)
    for seal in connection.execute(statement.order_by(seals.c.seal_no)):
        if digest(seal.ends) == seal.run_head:
            with suppress(ValueError, TypeError):
                for chunk_no, chain_no, row_hash in json.loads(seal.ends):
                    ends[chunk_no].append(SealedEnd(seal.seal_no, ChainEnd(chain_no, row_hash)))
    return ends
