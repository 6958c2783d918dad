"""
Seals: what the audit of a run was when it was reported.

A seal holds the end of each chunk's chain, and the head of the seal before it: whoever keeps one head elsewhere can
prove that nothing which was sealed up to then has been changed since.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from zoho_crm.errors import AuditAlteredError
from zoho_crm.ledger.chain import CHUNK_OF_PLAN, ChainEnd, canonical, digest, moment
from zoho_crm.ledger.runs import no_such_run
from zoho_crm.ledger.tables import audit, chunks, runs, seals

if TYPE_CHECKING:
    from datetime import datetime

_TRIES = 100
"""Each time somebody else seals at the same moment, one of them is done."""


@dataclass(frozen=True, slots=True)
class Seal:
    """
    A seal as it is stored.

    :param seal_no: its place among all seals, from 1
    :param audit_rows: audit rows of the run that are in a chain
    :param ends: JSON list of ``[chunk_no, chain_no, row_hash]`` of the last row of each chunk that has rows
    :param run_head: SHA-256 over ``ends``
    :param head: SHA-256 over the rest of this seal and the head before it
    """

    seal_no: int
    run_key: str
    audit_rows: int
    ends: str
    run_head: str
    head: str
    sealed_at: datetime


def seal_head(
    seal_no: int, run_key: str, audit_rows: int, run_head: str, sealed_at: datetime, before: str
) -> str:
    """
    Return the head of a seal.

    :param before: head of the seal before it; empty for the first
    """
    return digest(canonical([seal_no, run_key, audit_rows, run_head, moment(sealed_at), before]))


def seal_run(engine: sa.Engine, run_key: str, now: datetime) -> Seal:
    """
    Seal a run as its audit is now, or return its last seal if nothing has been added since.

    Reads the last row of each chunk, however many there are.

    :raises PlanError: there is no such run
    :raises AuditAlteredError: the last rows are not those that were written
    """
    for tries_left in reversed(range(_TRIES)):
        try:
            with engine.begin() as connection:
                return _seal(connection, run_key, now)
        except sa.exc.IntegrityError:
            # Another run was sealed at the same moment, and has taken the number.
            if not tries_left:
                raise
    raise AssertionError


def _seal(connection: sa.Connection, run_key: str, now: datetime) -> Seal:
    if connection.scalar(sa.select(runs.c.run_key).where(runs.c.run_key == run_key)) is None:
        raise no_such_run(run_key)
    # The last seal is read first: whoever seals from now on takes the same number, and one of the two begins anew.
    last = connection.execute(_last_seal()).one_or_none()
    ends = _chain_ends(connection, run_key)
    rows = sum(end.chain_no for end in ends.values())
    text = canonical([[chunk_no, end.chain_no, end.row_hash] for chunk_no, end in sorted(ends.items())])
    run_head = digest(text)
    mine = connection.execute(_last_seal(seals.c.run_key == run_key)).one_or_none()
    if mine is not None and mine.run_head == run_head:
        return Seal(**mine._mapping)
    seal_no, before = (last.seal_no + 1, last.head) if last else (1, "")
    head = seal_head(seal_no, run_key, rows, run_head, now, before)
    seal = Seal(seal_no, run_key, rows, text, run_head, head, now)
    connection.execute(sa.insert(seals).values(asdict(seal)))
    return seal


def _last_seal(*conditions: sa.ColumnElement[bool]) -> sa.Select[tuple[object, ...]]:
    return sa.select(seals).where(*conditions).order_by(seals.c.seal_no.desc()).limit(1)


def _chain_ends(connection: sa.Connection, run_key: str) -> dict[int, ChainEnd]:
    """
    Return where the chains of a run end, by the audit rows themselves; chunks without rows are left out.

    :raises AuditAlteredError: a chunk's row knows another end
    """
    rows = audit.alias("rows")
    last_no = (
        sa.select(sa.func.max(rows.c.chain_no))
        .where(rows.c.run_key == chunks.c.run_key, rows.c.chunk_no == chunks.c.chunk_no)
        .correlate(chunks)
        .scalar_subquery()
    )
    last_row = sa.and_(
        audit.c.run_key == chunks.c.run_key,
        audit.c.chunk_no == chunks.c.chunk_no,
        audit.c.chain_no == last_no,
    )
    statement = (
        sa.select(
            chunks.c.chunk_no,
            chunks.c.chain_no.label("written"),
            chunks.c.chain_hash.label("written_hash"),
            audit.c.chain_no,
            audit.c.row_hash,
        )
        .select_from(chunks.outerjoin(audit, last_row))
        .where(chunks.c.run_key == run_key)
    )
    ends = {}
    for row in connection.execute(statement):
        end = ChainEnd(row.chain_no or 0, row.row_hash or "")
        if end != ChainEnd(row.written, row.written_hash or ""):
            raise AuditAlteredError(
                f"run {run_key!r}: the audit of chunk {row.chunk_no} ends with row {end.chain_no}, and {row.written} "
                "rows were written: somebody changes the audit database. Verify the run before relying on it"
            )
        ends[row.chunk_no] = end
    of_plan = connection.execute(
        sa.select(audit.c.chain_no, audit.c.row_hash)
        .where(audit.c.run_key == run_key, audit.c.chunk_no == CHUNK_OF_PLAN)
        .order_by(audit.c.chain_no.desc())
        .limit(1)
    ).one_or_none()
    if of_plan:
        ends[CHUNK_OF_PLAN] = ChainEnd(of_plan.chain_no, of_plan.row_hash)
    return {chunk_no: end for chunk_no, end in ends.items() if end.chain_no}
