"""Past runs that somebody names by an id or by a window, and whether a new run may take up their links."""

from __future__ import annotations

from typing import TYPE_CHECKING

import sqlalchemy as sa

from zoho_crm.core.models import DELINK
from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.runs import StoredRun, existing_run
from zoho_crm.ledger.tables import runs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from zoho_crm.core.models import Target


def find_run(engine: sa.Engine, job: str, name: str) -> StoredRun:
    """
    Return the run of a job that somebody names.

    :param name: a run key, or an Airflow run id
    :raises ZohoConfigError: there is none, or several Dags of the job have a run with that id
    """
    exact = sa.select(runs.c.run_key).where(runs.c.run_key == name)
    by_run_id = (
        sa.select(runs.c.run_key)
        .where(runs.c.job == job, runs.c.dag_run_id == name)
        .order_by(runs.c.started_at, runs.c.run_key)
    )
    with reading(engine).begin() as connection:
        keys = connection.scalars(exact).all() or connection.scalars(by_run_id).all()
    if not keys:
        raise ZohoConfigError(
            f"run: the audit database holds no run {name!r} of {job}; give Airflow's run id or the run_key of its row"
        )
    if len(keys) > 1:
        raise ZohoConfigError(
            f"run: {len(keys)} runs of {job} have the id {name!r}; give the key of one: {', '.join(keys)}"
        )
    return existing_run(engine, keys[0])


def runs_in_window(engine: sa.Engine, job: str, start: datetime, end: datetime) -> list[StoredRun]:
    """
    Return the runs of a job whose own window lies in a half-open one, oldest first.

    A run that took everything still pending began at the beginning of time, and so lies in no later window.
    """
    statement = (
        sa.select(runs.c.run_key)
        .where(runs.c.job == job, runs.c.window_start >= start, runs.c.window_end <= end)
        .order_by(runs.c.started_at, runs.c.run_key)
    )
    with reading(engine).begin() as connection:
        keys: Sequence[str] = connection.scalars(statement).all()
    return [existing_run(engine, key) for key in keys]


def ineligibility_reason(run: StoredRun, job: str, target: Target) -> str | None:
    """
    Say why a new run may not take up the links of a past one, or return None if it may.

    :param job: the job of the new run
    :param target: the relation and the organisation of the new run
    :return: the rest of a sentence that begins with the run
    """
    if run.job != job:
        return f"is one of {run.job}, not of {job}"
    if run.operation != DELINK:
        return (
            f"has put links back itself; what it left is taken up by putting back "
            f"{run.origin_run_key!r} once more"
        )
    if run.relation != target.relation:
        return f"was for {run.relation}, and the job is for {target.relation} by now"
    if run.dry_run:
        return "was a dry run: it sent nothing"
    if run.planned_at is None or run.finished_at is None:
        return "is not finished; let it end, or clear its tasks"
    if run.pseudonymised_at is not None:
        return (
            f"was pseudonymised at {run.pseudonymised_at:%Y-%m-%d %H:%M} UTC: the ids of its links are gone"
        )
    here = (target.org_id, target.data_center)
    if run.org_id and target.org_id and (run.org_id, run.data_center) != here:
        return (
            f"was for the organisation {run.org_id} ({run.data_center}), and the connection leads to "
            f"{target.org_id} ({target.data_center}) by now"
        )
    return None
