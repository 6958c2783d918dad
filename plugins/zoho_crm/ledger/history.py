"""How a job has done so far: what its runs planned, how it stands; and a few links of a plan to look at."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from zoho_crm.core.links import Link
from zoho_crm.core.models import DELINK
from zoho_crm.ledger.columns import fitted
from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.runs import RunStatus, get_run
from zoho_crm.ledger.tables import job_states, links, runs

if TYPE_CHECKING:
    from datetime import datetime

_WENT_THROUGH = (RunStatus.SUCCEEDED.value, RunStatus.PARTIAL.value, RunStatus.FAILED.value)
"""A run that was stopped or rejected must not become what is usual: the next one like it would pass."""

_TRIES = 20


def recent_planned(engine: sa.Engine, job: str, before_run_key: str, limit: int) -> list[int]:
    """
    Return how many links each of a job's last runs planned, newest first.

    They are runs that took links of the job's source out and went through: no dry runs, no runs that take up the
    links of another, none that was stopped or rejected.

    :param before_run_key: only runs of its Dag that started before it; with a key that no run has, all of the job
    """
    statement = sa.select(runs.c.planned).where(
        runs.c.job == job,
        runs.c.run_key != before_run_key,
        runs.c.operation == DELINK,
        runs.c.mode == "apply",
        runs.c.origin_run_key.is_(None),
        runs.c.planned.is_not(None),
        runs.c.finished_at.is_not(None),
        runs.c.status.in_(_WENT_THROUGH),
    )
    if before := get_run(engine, before_run_key):
        statement = statement.where(runs.c.dag_id == before.dag_id, runs.c.started_at <= before.started_at)
    newest = statement.order_by(runs.c.started_at.desc(), runs.c.run_key).limit(limit)
    with reading(engine).begin() as connection:
        return list(connection.scalars(newest))


def sample(engine: sa.Engine, run_key: str, limit: int) -> list[Link]:
    """Return links of a plan that can be sent, at most ``limit``, spread evenly over it and in its order."""
    run = get_run(engine, run_key)
    if run is None or run.planned is None:
        return []
    # Links that can be sent come first in a plan, and their numbers have no gaps.
    sendable = run.planned - (run.invalid or 0)
    count = min(limit, sendable)
    places = [number * sendable // count for number in range(count)]
    statement = (
        sa.select(links.c.external_id, links.c.related_external_id)
        .where(links.c.run_key == run_key, links.c.seq.in_(places))
        .order_by(links.c.seq)
    )
    with reading(engine).begin() as connection:
        return [Link(row.external_id, row.related_external_id) for row in connection.execute(statement)]


def record_job_state(engine: sa.Engine, job: str, state: str, run_key: str, now: datetime) -> str | None:
    """
    Note how a job stands. Of several that note the same change at once, one has made it.

    :param run_key: the run that says so
    :return: the state before; "" if there was none; None if nothing has changed
    """
    name, state = fitted(job_states.c.job, job), str(fitted(job_states.c.state, state))
    for tries_left in reversed(range(_TRIES)):
        with reading(engine).begin() as connection:
            before = connection.scalar(sa.select(job_states.c.state).where(job_states.c.job == name))
        if before == state:
            return None
        values = {"state": state, "run_key": run_key, "changed_at": now}
        try:
            with engine.begin() as connection:
                if before is None:
                    connection.execute(sa.insert(job_states).values(job=name, **values))
                    return ""
                is_mine = sa.and_(job_states.c.job == name, job_states.c.state == before)
                if connection.execute(sa.update(job_states).where(is_mine).values(values)).rowcount:
                    return str(before)
        except sa.exc.IntegrityError:
            # Somebody else was first to say how the job stands, unless the row itself is at fault.
            if not tries_left:
                raise
    return None
