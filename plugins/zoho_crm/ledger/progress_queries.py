"""How far a run is, and what went wrong most often in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from zoho_crm.core.models import DELINK, RELINK
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.tables import audit, chunks, links

if TYPE_CHECKING:
    from zoho_crm.ledger.runs import StoredRun

LOOKED_AT = 500
"""Links of each outcome that :func:`reasons` looks at."""

_NO_TROUBLE = {
    Outcome.REMOVED,
    Outcome.ALREADY_ABSENT,
    Outcome.WOULD_REMOVE,
    Outcome.RELINKED,
    Outcome.ALREADY_LINKED,
    Outcome.WOULD_RELINK,
}
TROUBLE = tuple(outcome for outcome in Outcome if outcome not in _NO_TROUBLE)
"""Outcomes that somebody may want to do something about."""

_HOPED_FOR = {
    (DELINK, False): Outcome.REMOVED,
    (DELINK, True): Outcome.WOULD_REMOVE,
    (RELINK, False): Outcome.RELINKED,
    (RELINK, True): Outcome.WOULD_RELINK,
}
"""By operation, and whether it is a dry run."""


@dataclass(frozen=True, slots=True)
class Progress:
    """
    How far a run is.

    :param planned: links of the plan; 0 while there is none
    :param done: links that have an outcome
    :param chunks_done: chunks all of whose links have one
    :param credits: API credits used so far, written with each batch
    """

    planned: int
    done: int
    chunks: int
    chunks_done: int
    by_outcome: Counter[Outcome]
    credits: int | None


@dataclass(frozen=True, slots=True)
class Reason:
    """
    Why links were not dealt with.

    :param links: how many of those looked at
    :param of: how many were looked at: at the most :data:`LOOKED_AT` of each outcome
    """

    outcome: Outcome
    zoho_code: str | None
    message: str | None
    links: int
    of: int


def progress(engine: sa.Engine, run: StoredRun) -> Progress:
    """Return how far a run is: what its row says once it is finished, what its links say before."""
    planned, all_chunks = run.planned or 0, run.chunks or 0
    if run.finished_at is not None:
        by_outcome = Counter({outcome: getattr(run, outcome.value) or 0 for outcome in Outcome})
        return Progress(planned, by_outcome.total(), all_chunks, all_chunks, +by_outcome, run.credits)
    hoped_for = _HOPED_FOR[run.operation, run.dry_run]
    with reading(engine).begin() as connection:
        claimed = connection.execute(_claimed_chunks(run.run_key)).all()
        by_outcome = Counter(
            {Outcome(name): count for name, count in connection.execute(_others(run.run_key, hoped_for))}
        )
    done = sum(chunk.links - chunk.still_open for chunk in claimed) + (run.invalid or 0)
    by_outcome[hoped_for] = max(0, done - by_outcome.total())
    chunks_done = sum(1 for chunk in claimed if not chunk.still_open)
    used = run.preflight_credits + sum(chunk.credits for chunk in claimed)
    return Progress(planned, by_outcome.total(), all_chunks, chunks_done, +by_outcome, used)


def _claimed_chunks(run_key: str) -> sa.Select[tuple[int, int, int]]:
    """Return the query for the chunks that a try has claimed: links, API credits, and links that are still open."""
    # The links of a chunk that can be sent follow each other without gaps.
    still_open = (
        sa.select(sa.func.count())
        .select_from(links)
        .where(
            links.c.run_key == chunks.c.run_key,
            links.c.outcome.is_(None),
            links.c.seq.between(chunks.c.first_seq, chunks.c.first_seq + chunks.c.links - 1),
        )
        .correlate(chunks)
        .scalar_subquery()
    )
    return sa.select(chunks.c.links, chunks.c.credits, still_open.label("still_open")).where(
        chunks.c.run_key == run_key, chunks.c.claim_no > 0
    )


def _others(run_key: str, hoped_for: Outcome) -> sa.Select[tuple[str, int]]:
    """
    Return the query for how many links have each outcome but the one that is hoped for.

    Most links have that one, or none yet: to count either would be to read the whole run.
    """
    counted = [outcome.value for outcome in Outcome if outcome is not hoped_for]
    return (
        sa.select(links.c.outcome, sa.func.count())
        .where(links.c.run_key == run_key, links.c.outcome.in_(counted))
        .group_by(links.c.outcome)
    )


def reasons(engine: sa.Engine, run: StoredRun, far: Progress, limit: int = 10) -> list[Reason]:
    """
    Return the most frequent reasons of a run's troubles, each outcome's first links looked at.

    :param far: how far the run is: tells which troubles there are
    """
    counted: Counter[tuple[Outcome, str | None, str | None]] = Counter()
    looked_at: Counter[Outcome] = Counter()
    with reading(engine).begin() as connection:
        for outcome in filter(far.by_outcome.get, TROUBLE):
            for row in connection.execute(_told(run.run_key, outcome)):
                counted[(outcome, row.zoho_code, row.zoho_message or row.detail)] += row.links
                looked_at[outcome] += row.links
    return [
        Reason(outcome, code, message, count, looked_at[outcome])
        for (outcome, code, message), count in counted.most_common(limit)
    ]


def _told(run_key: str, outcome: Outcome) -> sa.Select[tuple[str | None, str | None, str | None, int]]:
    some = (
        sa.select(links.c.seq)
        .where(links.c.run_key == run_key, links.c.outcome == outcome.value)
        .order_by(links.c.seq)
        .limit(LOOKED_AT)
        .subquery("some")
    )
    later = audit.alias("later")
    superseded = sa.exists().where(
        later.c.run_key == audit.c.run_key,
        later.c.seq == audit.c.seq,
        sa.or_(
            later.c.claim_no > audit.c.claim_no,
            sa.and_(later.c.claim_no == audit.c.claim_no, later.c.event_id > audit.c.event_id),
        ),
    )
    told = (audit.c.zoho_code, audit.c.zoho_message, audit.c.detail)
    return (
        sa.select(*told, sa.func.count().label("links"))
        .select_from(some)
        .join(audit, sa.and_(audit.c.run_key == run_key, audit.c.seq == some.c.seq))
        .where(~superseded)
        .group_by(*told)
    )
