"""Close a run: links that no try has given an outcome get the one that is true of them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import sqlalchemy as sa

from zoho_crm.core.links import Link
from zoho_crm.core.models import LinkResult, PlannedLink, Target
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger import audit, claims
from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.runs import LinkState, existing_run
from zoho_crm.ledger.tables import links

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from zoho_crm.core.models import Origin
    from zoho_crm.ledger.claims import Claim

BATCH_ROWS = 1_000

_NEVER_SENT = sa.and_(links.c.state == LinkState.PLANNED.value, links.c.outcome.is_(None))
_UNANSWERED = sa.and_(links.c.state == LinkState.IN_FLIGHT.value, links.c.outcome.is_(None))
_CLOSED_AS = {Outcome.NOT_ATTEMPTED: _NEVER_SENT, Outcome.UNKNOWN: _UNANSWERED}
_DETAIL = {
    Outcome.NOT_ATTEMPTED: "the run ended before it was sent",
    Outcome.UNKNOWN: "the run ended while it was in flight",
}


def close_unfinished_links(
    engine: sa.Engine, run_key: str, *, origin: Origin, now: datetime
) -> Counter[Outcome]:
    """
    Give every link without an outcome one: ``not_attempted`` if it was never sent, ``unknown`` if it may have been.

    Their chunks are claimed first, so that a try that still runs somewhere stops at its next write. Links stay open
    for a later try, which a clear of the task starts.

    :param origin: the task that closes the run, for the audit rows
    :return: the number of links closed, by outcome
    """
    run = existing_run(engine, run_key)
    target = Target(
        relation=run.relation,
        data_center=run.data_center,
        api_version=run.api_version,
        strategy=run.strategy,
        org_id=run.org_id,
        dry_run=run.dry_run,
        operation=run.operation,
    )
    closed: Counter[Outcome] = Counter()
    for chunk_no in _open_chunks(engine, run_key):
        claim = claims.claim_chunk(engine, run_key, chunk_no, f"{origin.task_id} closes the run", now)
        while batch := _close_batch(engine, claim, origin=origin, target=target, job=run.job, now=now):
            closed.update(batch)
    return closed


def _open_chunks(engine: sa.Engine, run_key: str) -> Sequence[int]:
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
    with reading(engine).begin() as connection:
        return connection.execute(statement).scalars().all()


def _close_batch(
    engine: sa.Engine, claim: Claim, *, origin: Origin, target: Target, job: str, now: datetime
) -> Counter[Outcome]:
    """Close some links of a claimed chunk in one transaction; nothing when none is left."""
    with engine.begin() as connection:
        # Read before the fence, which writes what the rows do to the chain: nobody but the claim's owner writes here.
        found = {
            outcome: _results(connection, claim, condition, outcome, now)
            for outcome, condition in _CLOSED_AS.items()
        }
        results = [result for part in found.values() for result in part]
        rows = claims.audit_rows(claim, results, origin=origin, target=target, job=job)
        claims.fence(connection, claim, rows.end)
        for outcome, condition in _CLOSED_AS.items():
            if part := found[outcome]:
                first, last = part[0].planned.seq, part[-1].planned.seq
                connection.execute(
                    sa.update(links)
                    .where(links.c.run_key == claim.run_key, links.c.seq.between(first, last), condition)
                    .values(outcome=outcome.value)
                )
        audit.append(connection, rows)
    claim.count_write(rows.end)
    return Counter(result.outcome for result in results)


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
