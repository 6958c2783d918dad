"""API credits that organisations had left, as people look at them: the fewest of each stretch of hours."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from zoho_crm.ledger.credits import hour_of, start_of_hour
from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.run_queries import runs_of_visible
from zoho_crm.ledger.tables import credit_readings, runs

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from zoho_crm.ledger.run_queries import DagAndJob


@dataclass(frozen=True, slots=True)
class CreditsLeft:
    """
    The fewest credits that an organisation had left, in some hours.

    :param org_id: Zoho's id of the organisation; None where nobody has learned it
    :param since: when these hours began
    """

    connection: str
    org_id: str | None
    since: datetime
    fewest: int


def credits_left(
    engine: sa.Engine, since: datetime, *, visible: Collection[DagAndJob], hours: int = 1
) -> list[CreditsLeft]:
    """
    Return the credits left by connection and time, oldest first.

    :param visible: the Dags and jobs that the reader may see; what runs of others were told is left out
    :param hours: length of a stretch; each begins at a multiple of it since 1970
    """
    seen = credit_readings.c
    fewest = sa.func.min(seen.credits_left).label("fewest")
    # First the readings of an hour become one, and then the runs are asked about: there are far fewer of them.
    by_hour = (
        sa.select(seen.connection, seen.org_id, seen.run_key, seen.seen_hour, fewest)
        .where(seen.seen_hour >= hour_of(since))
        .group_by(seen.connection, seen.org_id, seen.run_key, seen.seen_hour)
        .subquery("by_hour")
    )
    statement = (
        sa.select(by_hour.c.connection, by_hour.c.org_id, by_hour.c.seen_hour, by_hour.c.fewest)
        .join_from(by_hour, runs, runs.c.run_key == by_hour.c.run_key)
        .where(runs_of_visible(visible))
    )
    found: dict[tuple[int, str, str | None], int] = {}
    with reading(engine).begin() as connection:
        for row in connection.execute(statement):
            key = row.seen_hour - row.seen_hour % hours, row.connection, row.org_id
            found[key] = min(row.fewest, found.get(key, row.fewest))
    return [
        CreditsLeft(connection_id, org_id, start_of_hour(hour), count)
        for (hour, connection_id, org_id), count in sorted(found.items(), key=lambda item: item[0][:2])
    ]
