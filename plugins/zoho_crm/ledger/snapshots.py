"""Snapshots: what links have of their own, stored before they are taken out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from zoho_crm.core.links import Link
from zoho_crm.core.models import PlannedLink
from zoho_crm.errors import PlanError
from zoho_crm.ledger import claims
from zoho_crm.ledger.columns import fitted
from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.runs import LinkState
from zoho_crm.ledger.tables import links

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoho_crm.ledger.claims import Claim


def without_snapshot(engine: sa.Engine, claim: Claim, limit: int) -> list[PlannedLink]:
    """
    Return the chunk's next links that are yet to be sent and have no snapshot; an empty list: there are no more.

    A link that is in flight may be gone already, so that nothing can be read of it any more.
    """
    if limit < 1:
        return []
    statement = (
        sa.select(links.c.seq, links.c.external_id, links.c.related_external_id, links.c.pair_key)
        .where(
            links.c.run_key == claim.run_key,
            links.c.seq >= max(claim.first_seq, claim.last_read + 1),
            links.c.seq < claim.end_seq,
            links.c.state == LinkState.PLANNED.value,
            links.c.snapshot.is_(None),
        )
        .order_by(links.c.seq)
        .limit(limit)
    )
    with reading(engine).begin() as connection:
        rows = connection.execute(statement).all()
    if rows:
        claim.last_read = rows[-1].seq
    return [
        PlannedLink(row.seq, Link(row.external_id, row.related_external_id), row.pair_key) for row in rows
    ]


def store_snapshots(
    engine: sa.Engine, claim: Claim, texts: Mapping[int, str], *, credits_used: int = 0
) -> None:
    """
    Store snapshots in one transaction.

    :param texts: JSON text by the link's place in the plan
    :param credits_used: API credits since the last write under this claim
    :raises ClaimLostError: a newer claim exists, and nothing was written
    :raises PlanError: a place is outside the chunk, or its link is being sent or done with; nothing was written
    """
    if outside := [seq for seq in texts if not claim.first_seq <= seq < claim.end_seq]:
        raise PlanError(f"link {outside[0]} of run {claim.run_key!r} is not in chunk {claim.chunk_no}")
    with engine.begin() as connection:
        claims.fence(connection, claim, credits_used=credits_used)
        for seq, text in texts.items():
            stored = connection.execute(
                sa.update(links)
                .where(
                    links.c.run_key == claim.run_key,
                    links.c.seq == seq,
                    links.c.state == LinkState.PLANNED.value,
                )
                .values(snapshot=fitted(links.c.snapshot, text))
            )
            if stored.rowcount != 1:
                raise PlanError(
                    f"link {seq} of run {claim.run_key!r} has been sent by now: a snapshot comes before; "
                    "nothing was written"
                )
    claim.count_write()
