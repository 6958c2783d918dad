"""
The end of a run: links without an outcome get one, and the audit is sealed.

A seal records the end of each chunk's chain, and the head of the seal before it: people who keep one head elsewhere
can prove that nothing which was sealed until then has been changed since.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, TypeVar

import sqlalchemy as sa

from zoho_crm.core.links import Link
from zoho_crm.core.models import LinkResult, PlannedLink, Target
from zoho_crm.core.outcomes import LinkState, Outcome
from zoho_crm.errors import AuditAlteredError
from zoho_crm.ledger.audit import append, audit_rows, end_of_events
from zoho_crm.ledger.chain import CHUNK_OF_EVENTS, CHUNK_OF_PLAN, ChainEnd, canonical, digest, moment
from zoho_crm.ledger.claims import ChunkClaims, fence
from zoho_crm.ledger.engine import Store, reading
from zoho_crm.ledger.runs import RunStore, no_such_run
from zoho_crm.ledger.tables import audit, chunks, links, runs, seals

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from zoho_crm.core.models import Origin
    from zoho_crm.ledger.claims import Claim

_Written = TypeVar("_Written")

BATCH_ROWS = 1_000

_NEVER_SENT = sa.and_(links.c.state == LinkState.PLANNED.value, links.c.outcome.is_(None))
_UNANSWERED = sa.and_(links.c.state == LinkState.IN_FLIGHT.value, links.c.outcome.is_(None))
_CLOSED_AS = {Outcome.NOT_ATTEMPTED: _NEVER_SENT, Outcome.UNKNOWN: _UNANSWERED}
_CLOSED_UNTRIED = {Outcome.NOT_ATTEMPTED: sa.or_(_NEVER_SENT, _UNANSWERED)}
"""For a chunk that no try has claimed: what is in flight there, an earlier run has left so."""
_DETAIL = {
    Outcome.NOT_ATTEMPTED: "the run ended before it was sent",
    Outcome.UNKNOWN: "it may have been sent; the run ended before its outcome was known",
}


_TRIES = 100
"""Of several processes that seal at the same moment, one succeeds at each try."""


@dataclass(frozen=True, slots=True)
class Seal:
    """
    A seal as it is stored.

    :param seal_no: its place among all seals, from 1
    :param audit_rows: audit rows of the run that are in a chain
    :param ends: JSON list of ``[chunk_no, chain_no, row_hash]`` of the last row of each chunk that has rows, and of the
        last event of the run
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


class RunFinalizer(Store):
    """The end of a run: outcomes for unfinished links, and the seal."""

    def close_unfinished_links(
        self, run_key: str, *, origin: Origin, sleep: Callable[[float], None] = time.sleep
    ) -> Counter[Outcome]:
        """
        Give every link without an outcome one: ``not_attempted`` if it was never sent, else ``unknown``.

        A try that still runs is fenced out, and the end of its right to send is waited for: a closed run sends nothing.
        The links stay unfinished for a later try.

        :param sleep: for tests
        :return: the number of links closed, by outcome
        """
        run = RunStore(self._engine).existing(run_key)
        target = Target(
            relation=run.relation,
            data_center=run.data_center,
            api_version=run.api_version,
            strategy=run.strategy,
            org_id=run.org_id,
            dry_run=run.dry_run,
            operation=run.operation,
        )
        claims = ChunkClaims(self._engine, self._clock)
        closed: Counter[Outcome] = Counter()
        for chunk_no in self._open_chunks(run_key):
            claim = claims.claim(run_key, chunk_no, f"{origin.task_id} closes the run")
            claims.wait_for_sender(claim, sleep=sleep)
            while batch := self._close_batch(claim, origin=origin, target=target, job=run.job):
                closed.update(batch)
        return closed

    def _open_chunks(self, run_key: str) -> Sequence[int]:
        statement = (
            sa.select(links.c.chunk_no)
            .distinct()
            .where(
                links.c.run_key == run_key,
                links.c.chunk_no.is_not(None),
                sa.or_(_NEVER_SENT, _UNANSWERED),
            )
            .order_by(links.c.chunk_no)
        )
        with reading(self._engine).begin() as connection:
            return connection.execute(statement).scalars().all()

    def _close_batch(self, claim: Claim, *, origin: Origin, target: Target, job: str) -> Counter[Outcome]:
        """Close some links of a claimed chunk in one transaction; nothing when none is left."""
        closed_as = _CLOSED_AS if claim.claim_no > 1 else _CLOSED_UNTRIED
        with self._engine.begin() as connection:
            now = self._now(connection)
            # Read before the fence, which stores the chain's end after these rows: only the claim's owner writes here.
            found = {
                outcome: _results(connection, claim, condition, outcome, now)
                for outcome, condition in closed_as.items()
            }
            results = [result for part in found.values() for result in part]
            rows = audit_rows(claim, results, origin=origin, target=target, job=job, now_s=now.timestamp())
            fence(connection, claim, rows.end)
            for outcome, condition in closed_as.items():
                if part := found[outcome]:
                    first, last = part[0].planned.seq, part[-1].planned.seq
                    connection.execute(
                        sa.update(links)
                        .where(links.c.run_key == claim.run_key, links.c.seq.between(first, last), condition)
                        .values(outcome=outcome.value)
                    )
            append(connection, rows)
        claim.count_write(rows.end)
        return Counter(result.outcome for result in results)

    def seal(self, run_key: str) -> Seal:
        """
        Seal a run as its audit is now, or return its last seal if nothing has been added since.

        :raises PlanError: there is no such run
        :raises AuditAlteredError: the last audit rows are not those that were written
        """
        return sealing(self._engine, lambda connection: seal_run(connection, run_key, self._now(connection)))

    def seals(self, *, before: int | None = None, limit: int = BATCH_ROWS) -> list[Seal]:
        """
        Return seals, newest first.

        :param before: only seals with smaller numbers
        """
        older = sa.true() if before is None else seals.c.seal_no < before
        statement = sa.select(seals).where(older).order_by(seals.c.seal_no.desc()).limit(limit)
        with reading(self._engine).begin() as connection:
            return [Seal(**row) for row in connection.execute(statement).mappings()]


def _results(
    connection: sa.Connection,
    claim: Claim,
    condition: sa.ColumnElement[bool],
    outcome: Outcome,
    now: datetime,
) -> list[LinkResult]:
    statement = (
        sa.select(
            links.c.seq, links.c.external_id, links.c.related_external_id, links.c.pair_key, links.c.snapshot
        )
        .where(
            links.c.run_key == claim.run_key,
            links.c.seq >= claim.first_seq,
            links.c.seq < claim.end_seq,
            condition,
        )
        .order_by(links.c.seq)
        .limit(BATCH_ROWS)
    )
    return [
        LinkResult(
            PlannedLink(
                row.seq,
                Link(row.external_id, row.related_external_id),
                row.pair_key,
                snapshot=row.snapshot,
            ),
            outcome,
            now,
            detail=_DETAIL[outcome],
        )
        for row in connection.execute(statement)
    ]


def sealing(engine: sa.Engine, write: Callable[[sa.Connection], _Written]) -> _Written:
    """Return what a transaction that seals returns; it is repeated while others seal at the same moment."""
    for tries_left in reversed(range(_TRIES)):
        try:
            with engine.begin() as connection:
                return write(connection)
        except sa.exc.IntegrityError:
            # Another run was sealed at the same moment, under the same number.
            if not tries_left:
                raise
    raise AssertionError


def seal_run(connection: sa.Connection, run_key: str, now: datetime) -> Seal:
    """
    Seal a run within a transaction of :func:`sealing`, as :meth:`RunFinalizer.seal` does.

    :raises PlanError: there is no such run
    :raises AuditAlteredError: the last audit rows are not those that were written; nothing was changed
    """
    if connection.scalar(sa.select(runs.c.run_key).where(runs.c.run_key == run_key)) is None:
        raise no_such_run(run_key)
    # The last seal is read first: a process that seals from now on uses the same number, and one of them starts again.
    last = connection.execute(_last_seal()).one_or_none()
    ends = _chain_ends(connection, run_key)
    rows = sum(end.chain_no for end in ends.values())
    if (events := end_of_events(connection, run_key)).chain_no:
        ends[CHUNK_OF_EVENTS] = events
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

    :raises AuditAlteredError: a chunk's row records another end
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
                "rows were written: something changed the audit database. Verify the run before relying on it"
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
