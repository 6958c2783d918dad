"""What the plan of a run needs to know of the past runs whose links it takes up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from zoho_crm.core.models import DELINK
from zoho_crm.core.outcomes import LinkState, Outcome
from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.selection import open_page
from zoho_crm.ledger.tables import audit, links

if TYPE_CHECKING:
    from collections.abc import Sequence

COPY_LINKS = 5_000


def copy_snapshots(engine: sa.Engine, run_key: str, origin_run_key: str) -> None:
    """
    Give each link of a plan the attributes that the run which removed it has read; doing it again changes nothing.

    :param run_key: the run that puts links back
    :param origin_run_key: the run that removed them
    """
    snapshot = (
        sa.select(sa.func.max(audit.c.snapshot))
        .where(
            audit.c.run_key == origin_run_key,
            audit.c.pair_key == links.c.pair_key,
            audit.c.outcome == Outcome.REMOVED.value,
        )
        .scalar_subquery()
    )
    last_seq = sa.select(sa.func.max(links.c.seq)).where(links.c.run_key == run_key)
    with reading(engine).begin() as connection:
        end: int = connection.scalar(last_seq) or 0
    for start in range(0, end + 1, COPY_LINKS):
        with engine.begin() as connection:
            connection.execute(
                sa.update(links)
                .where(
                    links.c.run_key == run_key,
                    links.c.seq.between(start, start + COPY_LINKS - 1),
                    links.c.snapshot.is_(None),
                )
                .values(snapshot=snapshot)
            )


def carry_over_in_flight(engine: sa.Engine, run_key: str) -> None:
    """
    Mark the links of a plan that a request of a past run may have reached, so that they are asked about first.

    What is found gone then counts as removed, as within a run. Links that were driven already are left alone, so that
    doing it again changes nothing.
    """
    untouched = sa.and_(links.c.state == LinkState.PLANNED.value, links.c.outcome.is_(None))
    after = -1
    while page := open_page(engine, run_key, after, untouched):
        after = page[-1].seq
        doubtful = _in_doubt(engine, [row.pair_key for row in page])
        seqs = [row.seq for row in page if row.pair_key in doubtful]
        if not seqs:
            continue
        with engine.begin() as connection:
            connection.execute(
                sa.update(links)
                .where(links.c.run_key == run_key, links.c.seq.in_(seqs), untouched)
                .values(state=LinkState.IN_FLIGHT.value)
            )


def _in_doubt(engine: sa.Engine, pair_keys: Sequence[str]) -> set[str]:
    """Return which of some links a run has left in flight."""
    statement = (
        sa.select(audit.c.pair_key)
        .distinct()
        .join(links, sa.and_(links.c.run_key == audit.c.run_key, links.c.seq == audit.c.seq))
        .where(
            audit.c.pair_key.in_(pair_keys),
            audit.c.operation == DELINK,
            links.c.state == LinkState.IN_FLIGHT.value,
        )
    )
    with reading(engine).begin() as connection:
        return set(connection.scalars(statement))
