"""
Claims on chunks: one try works on a chunk, and a newer try fences out older ones.

Every write under a claim begins with an update of the chunk's row that names the claim and counts the writes. It
finds no row when a newer claim exists, or when this very write was done before and only its answer was lost: then
nothing is written. Where the update finds its row, the database holds the row until the write is committed, so
that a new claim waits, and then sees all that was written.

A claim fences writes, which the database sees. Requests it does not see: so a try sends only under a lease on its
chunk, whose end it knows by its local clock, and a newer try waits for the end of that lease before it sends.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.core.links import NO_ATTRIBUTES, Link
from zoho_crm.core.models import LinkResult, Origin, PlannedLink, Target
from zoho_crm.core.outcomes import LinkState, Outcome
from zoho_crm.errors import ClaimLostError, PlanError
from zoho_crm.ledger import audit
from zoho_crm.ledger.chain import ChainEnd
from zoho_crm.ledger.engine import MAX_LEASE_S, Store, reading
from zoho_crm.ledger.tables import chunks, fitted, links, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime

log = logging.getLogger(__name__)

_IN_LIST = 500
"""Values in one ``IN``: far below what any database takes."""

_UNSETTLED = [state.value for state in LinkState if state is not LinkState.SETTLED]

_READ_AHEAD = 500
"""Links that are read at once, before they are taken: no one else changes them while the claim holds."""

# Statements of every write under a claim, made once: to make them takes longer than to execute them.
_FENCE = (
    sa.update(chunks)
    .where(
        chunks.c.run_key == sa.bindparam("of_run"),
        chunks.c.chunk_no == sa.bindparam("of_chunk"),
        chunks.c.claim_no == sa.bindparam("of_claim"),
        chunks.c.write_no == sa.bindparam("of_write"),
    )
    .values(
        write_no=sa.bindparam("next_write"),
        chain_no=sa.bindparam("end_no"),
        chain_hash=sa.bindparam("end_hash"),
        credits=chunks.c.credits + sa.bindparam("more_credits", type_=chunks.c.credits.type),
    )
)
_UNSETTLED_PART = sa.and_(
    links.c.run_key == sa.bindparam("of_run"),
    links.c.seq.between(sa.bindparam("first"), sa.bindparam("last")),
    links.c.state != LinkState.SETTLED.value,
)
_READ_PART = (
    sa.select(
        links.c.seq,
        links.c.external_id,
        links.c.related_external_id,
        links.c.pair_key,
        links.c.state,
        links.c.snapshot,
        links.c.seen_linked_at,
    )
    .where(_UNSETTLED_PART)
    .order_by(links.c.seq)
    .limit(sa.bindparam("at_most", type_=sa.Integer))
)
# An outcome of an earlier try is no longer the latest.
_MARK_IN_FLIGHT = (
    sa.update(links).where(_UNSETTLED_PART).values(state=LinkState.IN_FLIGHT.value, outcome=None)
)
_WRITE_STATE = (
    sa.update(links)
    .where(
        links.c.run_key == sa.bindparam("of_run"),
        links.c.seq.in_(sa.bindparam("seqs", expanding=True)),
        links.c.state.in_(sa.bindparam("states", expanding=True)),
    )
    .values(state=sa.bindparam("next_state"), outcome=sa.bindparam("next_outcome"))
)


@dataclass(slots=True)
class Claim:
    """
    The right of one try to work on one chunk. Use it in one thread at a time.

    :param claim_no: the claim with the highest number of its chunk is the only one that may write
    :param holder: process that holds it, for people who read the table
    :param links: links in the chunk, settled ones included
    :param chain: where the chain of the chunk's audit rows ends
    :param last_read: place of the last link that was handed out to have its attributes read
    """

    run_key: str
    chunk_no: int
    claim_no: int
    holder: str
    links: int
    first_seq: int = field(repr=False)
    chain: ChainEnd = field(default=ChainEnd(), repr=False)
    last_read: int = field(default=-1, repr=False)
    _last_taken: int = field(default=-1, repr=False)
    _write_no: int = field(default=0, repr=False)
    _open: dict[int, PlannedLink] = field(default_factory=dict, repr=False)
    _ahead: list[PlannedLink] = field(default_factory=list, repr=False)

    @property
    def end_seq(self) -> int:
        """The place in the plan right after the chunk's last link."""
        return self.first_seq + self.links

    def count_write(self, chain: ChainEnd | None = None) -> None:
        """Note that a write under this claim has been committed, and where it has left the chain."""
        self._write_no += 1
        self.chain = chain or self.chain


@dataclass(frozen=True, slots=True)
class FormerTry:
    """
    An earlier try of a chunk that may still send.

    :param left_s: seconds until its lease ends
    """

    holder: str
    left_s: float

    def __str__(self) -> str:
        return f"an earlier try that may still send: holder={self.holder} lease_ends_in_s={self.left_s:.0f}"


class ChunkClaims(Store):
    """Claims on chunks, and what is written under them."""

    def claim(self, run_key: str, chunk_no: int, holder: str) -> Claim:
        """
        Claim a chunk, and fence out earlier claims.

        :param holder: who claims, for people who read the table
        :raises PlanError: the plan has no such chunk
        """
        replaced_at = sa.select(runs.c.pseudonymized_at).where(runs.c.run_key == run_key).scalar_subquery()
        mine = sa.and_(chunks.c.run_key == run_key, chunks.c.chunk_no == chunk_no)
        with self._engine.begin() as connection:
            claimed = connection.execute(
                sa.update(chunks)
                .where(mine)
                .values(
                    claim_no=chunks.c.claim_no + 1,
                    write_no=0,
                    holder=fitted(chunks.c.holder, holder),
                    claimed_at=self._now(connection),
                )
            )
            if claimed.rowcount == 0:
                raise PlanError(f"run {run_key!r} has no chunk {chunk_no}: plan the run first")
            # The update locks the row, so that this is the number it has just written.
            row = connection.execute(
                sa.select(
                    chunks.c.claim_no,
                    chunks.c.links,
                    chunks.c.first_seq,
                    chunks.c.chain_no,
                    chunks.c.chain_hash,
                    replaced_at.label("replaced_at"),
                ).where(mine)
            ).one()
            if row.replaced_at is not None:
                raise PlanError(
                    f"run {run_key!r} was pseudonymized at {row.replaced_at:%Y-%m-%d %H:%M} UTC: the IDs of its links "
                    "are gone; start a new run"
                )
        chain = ChainEnd(row.chain_no, row.chain_hash or "")
        return Claim(run_key, chunk_no, row.claim_no, holder, row.links, row.first_seq, chain)

    def lease(self, claim: Claim, lease_s: float) -> FormerTry | None:
        """
        Take or renew the right to send links of a claimed chunk; it ends by itself after ``lease_s`` seconds.

        :return: None if it is held; else the earlier try that may still send
        :raises ClaimLostError: a newer claim exists
        """
        with self._engine.begin() as connection:
            former = self._former(connection, claim)
            if former is None:
                connection.execute(
                    sa.update(chunks)
                    .where(_is_of(claim))
                    .values(sender=claim.holder, send_until=self._clock(connection) + lease_s)
                )
        return former

    def release(self, claim: Claim) -> None:
        """Give up the right to send, if this claim holds it: also after a newer claim."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(chunks)
                .where(_is_of(claim), chunks.c.sender == claim.holder)
                .values(sender=None, send_until=0.0)
            )

    def wait_for_sender(self, claim: Claim, *, sleep: Callable[[float], None] = time.sleep) -> None:
        """
        Wait until no earlier try may send links of a claimed chunk.

        :param sleep: for tests
        :raises ClaimLostError: a newer claim exists
        """
        waited = False
        while True:
            with self._engine.begin() as connection:
                former = self._former(connection, claim)
            if former is None:
                return
            if not waited:
                log.info("Waiting for %s", former)
                waited = True
            sleep(1.0)

    def _former(self, connection: sa.Connection, claim: Claim) -> FormerTry | None:
        """Lock a chunk, and return the earlier try that may still send links of it; None if there is none."""
        # The update locks the row until the transaction ends.
        locked = connection.execute(
            sa.update(chunks)
            .where(_is_of(claim), chunks.c.claim_no == claim.claim_no)
            .values(send_until=chunks.c.send_until)
        )
        if locked.rowcount == 0:
            raise ClaimLostError(
                f"chunk {claim.chunk_no} of run {claim.run_key!r}: a newer try carries on with it. This try sends "
                "nothing further"
            )
        row = connection.execute(sa.select(chunks.c.sender, chunks.c.send_until).where(_is_of(claim))).one()
        left_s = row.send_until - self._clock(connection)
        if row.sender in {None, claim.holder} or left_s <= 0:
            return None
        if left_s > MAX_LEASE_S:
            connection.execute(
                sa.update(chunks)
                .where(_is_of(claim))
                .values(send_until=chunks.c.send_until - (left_s - MAX_LEASE_S))
            )
        return FormerTry(row.sender, min(left_s, MAX_LEASE_S))

    def settle(
        self,
        claim: Claim,
        results: Sequence[LinkResult],
        *,
        origin: Origin,
        target: Target,
        job: str,
        take: int = 0,
        select: Callable[[Sequence[PlannedLink]], int] = len,
        in_flight: bool = True,
        credits_used: int = 0,
    ) -> list[PlannedLink]:
        """
        Write results with their audit rows and take the next links, in one transaction.

        :param results: one for each link at most; links without one stay as they are
        :param take: how many links to take at most
        :param select: returns how many of the next links, which are no more than ``take``, to take
        :param in_flight: False for a dry run: no request follows, so no link is marked
        :param credits_used: API credits since the last write under this claim
        :raises ClaimLostError: a newer claim exists, and nothing was written
        :raises PlanError: a result is for a link that this claim has not taken, or has settled before; or links may
            have been sent without a recorded response, and this try is a dry run
        """
        _check_results(claim, results)
        with self._engine.begin() as connection:
            now_s = self._clock(connection) if results else 0.0
            rows = audit.audit_rows(claim, results, origin=origin, target=target, job=job, now_s=now_s)
            fence(connection, claim, rows.end, credits_used)
            _write_states(connection, claim, results, in_flight=in_flight)
            audit.append(connection, rows)
            taken = _take(connection, claim, take, select, in_flight=in_flight)
        _advance(claim, results, taken, rows.end)
        return taken

    def has_unsettled(self, claim: Claim) -> bool:
        """Return whether the chunk has links that are not settled."""
        statement = sa.select(
            sa.exists().where(
                links.c.run_key == claim.run_key,
                links.c.seq >= claim.first_seq,
                links.c.seq < claim.end_seq,
                links.c.state != LinkState.SETTLED.value,
            )
        )
        with reading(self._engine).begin() as connection:
            return bool(connection.scalar(statement))

    def without_snapshot(self, claim: Claim, limit: int) -> list[PlannedLink]:
        """
        Return the chunk's next links that have no outcome and whose attributes are to be read; an empty list: no more.

        Those of a link that an earlier try or run may have sent are read again, unless this run has read them before.
        """
        if limit < 1:
            return []
        statement = (
            sa.select(links.c.seq, links.c.external_id, links.c.related_external_id, links.c.pair_key)
            .where(
                links.c.run_key == claim.run_key,
                links.c.seq >= max(claim.first_seq, claim.last_read + 1),
                links.c.seq < claim.end_seq,
                links.c.state != LinkState.SETTLED.value,
                sa.or_(
                    links.c.snapshot.is_(None),
                    sa.and_(links.c.state == LinkState.IN_FLIGHT.value, links.c.seen_linked_at.is_(None)),
                ),
            )
            .order_by(links.c.seq)
            .limit(limit)
        )
        with reading(self._engine).begin() as connection:
            rows = connection.execute(statement).all()
        if rows:
            claim.last_read = rows[-1].seq
        return [
            PlannedLink(row.seq, Link(row.external_id, row.related_external_id), row.pair_key) for row in rows
        ]

    def store_snapshots(self, claim: Claim, texts: Mapping[int, str], *, credits_used: int = 0) -> None:
        """
        Store the attributes of links in one transaction. Attributes of a link that does not exist replace none.

        :param texts: JSON text by the link's place in the plan
        :param credits_used: API credits since the last write under this claim
        :raises ClaimLostError: a newer claim exists, and nothing was written
        :raises PlanError: a link is not in the chunk, is being sent under this claim, or has an outcome; nothing was
            written
        """
        if outside := [seq for seq in texts if not claim.first_seq <= seq < claim.end_seq]:
            raise PlanError(f"link {outside[0]} of run {claim.run_key!r} is not in chunk {claim.chunk_no}")
        with self._engine.begin() as connection:
            fence(connection, claim, credits_used=credits_used)
            now = self._now(connection)
            for seq, text in texts.items():
                stored = connection.execute(
                    sa.update(links)
                    .where(
                        links.c.run_key == claim.run_key,
                        links.c.seq == seq,
                        links.c.state != LinkState.SETTLED.value,
                    )
                    .values(_snapshot_values(text, now))
                )
                if stored.rowcount != 1 or seq in claim._open:
                    raise PlanError(
                        f"link {seq} of run {claim.run_key!r} has been sent by now: a snapshot comes before; "
                        "nothing was written"
                    )
        claim._ahead.clear()
        claim.count_write()


def _snapshot_values(text: str, now: datetime) -> dict[str, Any]:
    if text == NO_ATTRIBUTES:
        return {"snapshot": sa.func.coalesce(links.c.snapshot, text)}
    # After a request that is in doubt, seeing the link is no evidence that this request removed it.
    is_undoubted = links.c.state == LinkState.PLANNED.value
    return {
        "snapshot": fitted(links.c.snapshot, text),
        "seen_linked_at": sa.case((is_undoubted, now), else_=links.c.seen_linked_at),
    }


def _is_of(claim: Claim) -> sa.ColumnElement[bool]:
    return sa.and_(chunks.c.run_key == claim.run_key, chunks.c.chunk_no == claim.chunk_no)


def _check_results(claim: Claim, results: Sequence[LinkResult]) -> None:
    seen: set[int] = set()
    for result in results:
        seq = result.planned.seq
        if seq in seen or claim._open.get(seq) != result.planned:
            raise PlanError(
                f"link {seq} of run {claim.run_key!r} is not waiting for a result under claim "
                f"{claim.claim_no} of chunk {claim.chunk_no}: nothing was written"
            )
        seen.add(seq)


def fence(
    connection: sa.Connection, claim: Claim, chain: ChainEnd | None = None, credits_used: int = 0
) -> None:
    """
    Begin a write under a claim; count it with :meth:`Claim.count_write` once it is committed.

    :param chain: where the write leaves the chain, if it appends audit rows
    :param credits_used: API credits since the last write under this claim
    :raises ClaimLostError: a newer claim exists, or this very write is committed already
    """
    chain = chain or claim.chain
    fenced = connection.execute(
        _FENCE,
        {
            "of_run": claim.run_key,
            "of_chunk": claim.chunk_no,
            "of_claim": claim.claim_no,
            "of_write": claim._write_no,
            "next_write": claim._write_no + 1,
            "end_no": chain.chain_no,
            "end_hash": chain.row_hash or None,
            "more_credits": credits_used,
        },
    )
    if fenced.rowcount == 0:
        raise ClaimLostError(
            f"chunk {claim.chunk_no} of run {claim.run_key!r} is no longer worked on under claim "
            f"{claim.claim_no} of {claim.holder}: either a newer try carries on with it, or this write was committed "
            "and its answer lost. Nothing was written now; another try resumes with what is not settled"
        )


def _write_states(
    connection: sa.Connection, claim: Claim, results: Sequence[LinkResult], *, in_flight: bool
) -> None:
    expected = [LinkState.IN_FLIGHT.value] if in_flight else _UNSETTLED
    ordered = sorted(results, key=_state_and_outcome)
    for (state, outcome), group in groupby(ordered, key=_state_and_outcome):
        seqs = [result.planned.seq for result in group]
        for start in range(0, len(seqs), _IN_LIST):
            part = seqs[start : start + _IN_LIST]
            written = connection.execute(
                _WRITE_STATE,
                {
                    "of_run": claim.run_key,
                    "seqs": part,
                    "states": expected,
                    "next_state": state,
                    "next_outcome": outcome,
                },
            )
            _check_written(claim, written, len(part), "waiting for a result")


def _check_written(claim: Claim, written: sa.CursorResult[Any], links_expected: int, what: str) -> None:
    if written.rowcount != links_expected:
        raise PlanError(
            f"run {claim.run_key!r}: {links_expected} links should be {what} and {written.rowcount} are: something "
            "else writes to the plan; nothing was written"
        )


def _state_and_outcome(result: LinkResult) -> tuple[str, str]:
    return _state_after(result).value, result.outcome.value


def _state_after(result: LinkResult) -> LinkState:
    """
    Return where a result leaves its link.

    A link that may yet be removed by a request that was not clearly answered stays in flight until an outcome is
    final: a later request that was not applied, or not sent, proves nothing about the earlier one.
    """
    if result.outcome.is_final:
        return LinkState.SETTLED
    if result.outcome is Outcome.UNKNOWN or result.ambiguous or result.planned.ambiguous_before:
        return LinkState.IN_FLIGHT
    return LinkState.PLANNED


def _take(
    connection: sa.Connection,
    claim: Claim,
    limit: int,
    select: Callable[[Sequence[PlannedLink]], int],
    *,
    in_flight: bool,
) -> list[PlannedLink]:
    if limit < 1:
        return []
    _read_ahead(connection, claim, limit)
    upcoming = claim._ahead[:limit]
    taken = upcoming[: select(upcoming)]
    if not in_flight and (doubtful := [planned for planned in taken if planned.ambiguous_before]):
        raise PlanError(
            f"run {claim.run_key!r} cannot continue as a dry run: an earlier try or run may have sent link "
            f"{doubtful[0].seq}, without a recorded response, and only a verification settles that. Nothing was sent; "
            "turn off dry_run, or start a new run as a dry run"
        )
    if in_flight and taken:
        marked = connection.execute(
            _MARK_IN_FLIGHT,
            {"of_run": claim.run_key, "first": taken[0].seq, "last": taken[-1].seq},
        )
        _check_written(claim, marked, len(taken), "unsettled")
    return taken


def _read_ahead(connection: sa.Connection, claim: Claim, limit: int) -> None:
    """Read the next links that are not settled, unless as many as may be taken have been read before."""
    known = claim._ahead
    first = known[-1].seq + 1 if known else max(claim.first_seq, claim._last_taken + 1)
    if len(known) >= limit or first >= claim.end_seq:
        return
    rows = connection.execute(
        _READ_PART,
        {
            "of_run": claim.run_key,
            "first": first,
            "last": claim.end_seq - 1,
            "at_most": max(limit - len(known), _READ_AHEAD),
        },
    )
    known += [
        PlannedLink(
            row.seq,
            Link(row.external_id, row.related_external_id),
            row.pair_key,
            ambiguous_before=row.state == LinkState.IN_FLIGHT.value,
            snapshot=row.snapshot,
            seen_linked_at=row.seen_linked_at,
        )
        for row in rows
    ]


def _advance(
    claim: Claim, results: Sequence[LinkResult], taken: Sequence[PlannedLink], chain: ChainEnd
) -> None:
    """Note in the claim what has been committed."""
    claim.count_write(chain)
    for result in results:
        del claim._open[result.planned.seq]
    for planned in taken:
        claim._open[planned.seq] = planned
        claim._last_taken = planned.seq
    del claim._ahead[: len(taken)]
