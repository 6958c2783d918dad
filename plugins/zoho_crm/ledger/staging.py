"""Rows of a source on their way into a plan: checked, keyed, and put aside in bulk until the plan is published."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.core.links import check_links
from zoho_crm.ledger.columns import fitted
from zoho_crm.ledger.event_ids import new_event_id
from zoho_crm.ledger.tables import attempts, runs, staging

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zoho_crm.core.links import Relation

BATCH_ROWS = 5_000
ABANDONED_AFTER = timedelta(days=1)
"""No plan takes that long to make: its maker has died."""


def begin_attempt(engine: sa.Engine, run_key: str, now: datetime) -> str:
    """
    Register an attempt to plan a run, and clear away what dead attempts have left.

    :return: key of the attempt
    """
    attempt = new_event_id()
    abandoned = sa.or_(
        attempts.c.started_at < now - ABANDONED_AFTER,
        sa.exists().where(runs.c.run_key == attempts.c.run_key, runs.c.planned_at.is_not(None)),
    )
    with engine.begin() as connection:
        dead = connection.scalars(sa.select(attempts.c.attempt).where(abandoned)).all()
        connection.execute(sa.insert(attempts).values(attempt=attempt, run_key=run_key, started_at=now))
    for other in dead:
        end_attempt(engine, other)
    return attempt


def end_attempt(engine: sa.Engine, attempt: str) -> None:
    """Clear away an attempt and its rows."""
    with engine.begin() as connection:
        connection.execute(sa.delete(staging).where(staging.c.attempt == attempt))
        connection.execute(sa.delete(attempts).where(attempts.c.attempt == attempt))


def stage(engine: sa.Engine, attempt: str, relation: Relation, rows: Iterable[tuple[object, object]]) -> int:
    """
    Put all rows of a source aside, a batch at a time, each batch in a transaction of its own.

    :param rows: pairs of external id and related external id, of whatever types the source has
    :return: how many rows there were
    :raises PlanError: a row is not a pair
    """
    statement = _insert_statement(engine.dialect)
    source = _staged(relation, rows)
    count = 0
    while batch := list(islice(source, BATCH_ROWS)):
        for row_no, row in enumerate(batch, start=count):
            row["row_no"] = row_no
        with engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(statement, {"attempt": attempt, "batch": json.dumps(batch)})
            else:
                connection.execute(statement, [{"attempt": attempt, **row} for row in batch])
        count += len(batch)
    return count


def _staged(relation: Relation, rows: Iterable[tuple[object, object]]) -> Iterator[dict[str, Any]]:
    for checked in check_links(rows, relation):
        yield {
            "pair_key": checked.pair_key,
            "external_id": checked.external_id,
            "related_external_id": checked.related_external_id,
            "invalid_reason": checked.invalid_reason
            and fitted(staging.c.invalid_reason, checked.invalid_reason),
        }


def _insert_statement(dialect: sa.Dialect) -> sa.Insert:
    """
    Return the statement that takes a batch.

    PostgreSQL takes a batch as one JSON document, which is three to five times as fast as a row at a time with
    either driver; every other database gets plain rows.
    """
    if dialect.name != "postgresql":
        return sa.insert(staging)
    columns = [column for column in staging.c if column.name != "attempt"]
    document = sa.cast(sa.bindparam("batch", type_=sa.Text), sa.JSON)
    batch = sa.func.json_to_recordset(document).table_valued(
        *(sa.column(column.name, sa.BigInteger if column.name == "row_no" else sa.Text) for column in columns)
    )
    batch = batch.render_derived(with_types=True)
    attempt = sa.cast(sa.bindparam("attempt", type_=sa.Text), sa.Text)
    source = sa.select(attempt, *(batch.c[column.name] for column in columns))
    return sa.insert(staging).from_select(["attempt", *(column.name for column in columns)], source)
