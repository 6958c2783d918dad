"""API credits: what runs have used by our own count, and how many Zoho said that an organisation has left."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import sqlalchemy as sa

from zoho_crm.ledger.columns import fitted
from zoho_crm.ledger.event_ids import new_event_id
from zoho_crm.ledger.tables import chunks, credit_readings, runs

if TYPE_CHECKING:
    from zoho_crm.core.models import CreditReading

READINGS_KEPT = timedelta(days=100)
"""Longer than any chart looks back."""

_HOUR = timedelta(hours=1)
_BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)

CHUNK_CREDITS = (
    sa.select(sa.func.coalesce(sa.func.sum(chunks.c.credits), 0))
    .where(chunks.c.run_key == runs.c.run_key)
    .correlate(runs)
    .scalar_subquery()
)
"""What all tries at the chunks of a run have used."""

CREDITS_OF_RUN = runs.c.preflight_credits + sa.cast(CHUNK_CREDITS, sa.BigInteger)
"""All API credits that a run has used."""


def append_reading(connection: sa.Connection, run_key: str, reading: CreditReading) -> None:
    """Write a reading into the transaction that writes a batch's outcomes."""
    connection.execute(
        sa.insert(credit_readings).values(
            event_id=new_event_id(),
            connection=fitted(credit_readings.c.connection, reading.connection),
            org_id=fitted(credit_readings.c.org_id, reading.org_id),
            run_key=run_key,
            seen_at=reading.seen_at,
            seen_hour=hour_of(reading.seen_at),
            credits_left=reading.credits_left,
        )
    )


def add_preflight_credits(engine: sa.Engine, run_key: str, used: int) -> None:
    """Count credits that a task has used which works on no chunk; nothing happens while there is no such run."""
    with engine.begin() as connection:
        connection.execute(
            sa.update(runs)
            .where(runs.c.run_key == run_key)
            .values(preflight_credits=runs.c.preflight_credits + used, credits=runs.c.credits + used)
        )


def forget_readings(engine: sa.Engine, now: datetime) -> int:
    """Delete readings older than :data:`READINGS_KEPT`; return how many there were."""
    with engine.begin() as connection:
        deleted = connection.execute(
            sa.delete(credit_readings).where(credit_readings.c.seen_hour < hour_of(now - READINGS_KEPT))
        )
    return deleted.rowcount


def hour_of(moment: datetime) -> int:
    """Return the whole hours since 1970: databases disagree on how to cut a moment."""
    return (moment - _BEGINNING) // _HOUR


def start_of_hour(hour: int) -> datetime:
    """Return the moment at which an hour of :func:`hour_of` begins."""
    return _BEGINNING + hour * _HOUR
