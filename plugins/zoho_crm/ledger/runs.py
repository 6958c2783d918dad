"""Runs: who, why, which window, what came out."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm import __version__
from zoho_crm.core.approval import approval_block_reason
from zoho_crm.core.links import Relation
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import PlanError, ZohoConfigError
from zoho_crm.ledger.columns import fitted
from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.schema import SCHEMA_VERSION
from zoho_crm.ledger.tables import RUN_KEY_LENGTH, chunks, latest, links, runs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from zoho_crm.core.models import Origin, RunStart, Target

CHUNK_CREDITS = (
    sa.select(sa.func.coalesce(sa.func.sum(chunks.c.credits), 0))
    .where(chunks.c.run_key == runs.c.run_key)
    .correlate(runs)
    .scalar_subquery()
)
CREDITS_OF_RUN = runs.c.preflight_credits + sa.cast(CHUNK_CREDITS, sa.BigInteger)
"""All API credits that a run has used."""


class RunStatus(StrEnum):
    """Where a run stands."""

    PLANNED = "planned"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    STOPPED = "stopped"
    REJECTED = "rejected"


class LinkState(StrEnum):
    """Where a link of a plan stands."""

    PLANNED = "planned"
    """No request of it can be on its way or have been applied without our knowing."""
    IN_FLIGHT = "in_flight"
    """A request may have left; unless a result follows, nobody knows what came of it."""
    SETTLED = "settled"
    """Its outcome is final."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """
    A run as it is stored. Times are aware and in UTC; counts are None until the run is planned or finished.

    :param mode: ``apply`` or ``dry_run``
    :param window_start: start of the half-open window of the first try: later tries reuse it
    :param params: the trigger form's values
    :param source_rows: rows the source gave; None while there is no plan, as ``planned`` and ``planned_at``
    :param credits: API credits used by all requests of all tries; None while the run is not finished
    :param preflight_credits: API credits of them used outside of chunks
    """

    run_key: str
    job: str
    dag_id: str
    dag_run_id: str
    run_type: str
    logical_date: datetime | None
    data_interval_start: datetime | None
    data_interval_end: datetime | None
    triggered_by: str | None
    task_id: str
    org_id: str | None
    data_center: str
    api_version: str
    strategy: str
    operation: str
    origin_run_key: str | None
    module: str
    external_field: str
    related_list: str
    related_module: str
    related_external_field: str
    mode: str
    window_start: datetime | None
    window_end: datetime | None
    reason: str | None
    params: dict[str, Any]
    status: str
    detail: str | None
    stop_reason: str | None
    source_rows: int | None
    planned: int | None
    duplicates: int | None
    chunks: int | None
    removed: int | None
    already_absent: int | None
    parent_not_found: int | None
    related_not_found: int | None
    invalid: int | None
    rejected: int | None
    failed: int | None
    unknown: int | None
    not_attempted: int | None
    would_remove: int | None
    relinked: int | None
    already_linked: int | None
    would_relink: int | None
    credits: int | None
    preflight_credits: int
    baseline_links: int | None
    source_as_of: datetime | None
    guard_decision: str | None
    approval: str | None
    approved_by: str | None
    approved_at: datetime | None
    started_at: datetime
    planned_at: datetime | None
    finished_at: datetime | None
    pseudonymised_at: datetime | None
    environment: str | None
    code_version: str
    schema_version: int

    @property
    def relation(self) -> Relation:
        """The relation the run's links belong to: the one of its plan, whatever a job file says by now."""
        return Relation(**{part.name: getattr(self, part.name) for part in fields(Relation)})

    @property
    def dry_run(self) -> bool:
        """Whether nothing is sent."""
        return self.mode == "dry_run"


def start_run(engine: sa.Engine, run: RunStart, now: datetime) -> StoredRun:
    """
    Store a run, or return what is stored under its key: the first one wins.

    :raises ZohoConfigError: the key is too long, or the mode and the target contradict each other
    """
    _check_start(run)
    if stored := get_run(engine, run.run_key):
        return stored
    try:
        with engine.begin() as connection:
            connection.execute(sa.insert(runs).values(_new_row(run, now)))
    except sa.exc.IntegrityError:
        # Another process was first, unless the row itself is at fault.
        if (stored := get_run(engine, run.run_key)) is None:
            raise
        return stored
    return existing_run(engine, run.run_key)


def get_run(engine: sa.Engine, run_key: str) -> StoredRun | None:
    """Return a run, or None if there is none with this key."""
    names = [field.name for field in fields(StoredRun)]
    statement = sa.select(*(runs.c[name] for name in names)).where(runs.c.run_key == run_key)
    with reading(engine).begin() as connection:
        row = connection.execute(statement).mappings().one_or_none()
    return StoredRun(**{**row, "params": json.loads(row["params"])}) if row else None


def existing_run(engine: sa.Engine, run_key: str) -> StoredRun:
    """
    Return a run that must be there.

    :raises PlanError: there is none with this key
    """
    if run := get_run(engine, run_key):
        return run
    raise no_such_run(run_key)


def no_such_run(run_key: str) -> PlanError:
    """Return the error for a key that no run has."""
    return PlanError(f"the audit database holds no run {run_key!r}: start the run before anything else")


def counts(engine: sa.Engine, run_key: str) -> Counter[Outcome]:
    """Return how many links of a run have each outcome by their last audit row; others count 0."""
    with reading(engine).begin() as connection:
        return _counts(connection, run_key)


def pending(engine: sa.Engine, run_key: str) -> int:
    """Return how many planned links are not settled: never tried, or to be driven again."""
    statement = (
        sa.select(sa.func.count())
        .select_from(links)
        .where(links.c.run_key == run_key, links.c.state != LinkState.SETTLED.value)
    )
    with reading(engine).begin() as connection:
        return connection.scalar(statement) or 0


def finish_run(
    engine: sa.Engine, run_key: str, *, status: str, detail: str | None, finished_at: datetime
) -> None:
    """
    Write how a run ended; the counts are taken from the audit rows.

    :param status: a :class:`RunStatus`
    :raises ZohoConfigError: there is no such status
    :raises PlanError: there is no such run
    """
    if status not in set(RunStatus):
        raise ZohoConfigError(f"status {status!r} is none of {', '.join(RunStatus)}")
    with engine.begin() as connection:
        by_outcome = _counts(connection, run_key)
        _update(
            connection,
            run_key,
            {
                "status": str(status),
                "detail": fitted(runs.c.detail, detail),
                "finished_at": finished_at,
                # Whoever clears a task of a finished run wants it to send again.
                "stop_reason": None,
                "credits": CREDITS_OF_RUN,
                **{outcome.value: by_outcome[outcome] for outcome in Outcome},
            },
        )


def mark_running(engine: sa.Engine, run_key: str) -> None:
    """Say that a planned run has begun to send; a run in any other status is left alone."""
    with engine.begin() as connection:
        connection.execute(
            sa.update(runs)
            .where(runs.c.run_key == run_key, runs.c.status == RunStatus.PLANNED.value)
            .values(status=RunStatus.RUNNING.value)
        )


def stop_run(engine: sa.Engine, run_key: str, why: str) -> None:
    """Say that no task of the run sends anything any more; the first reason stays."""
    with engine.begin() as connection:
        connection.execute(
            sa.update(runs)
            .where(runs.c.run_key == run_key, runs.c.stop_reason.is_(None))
            .values(stop_reason=fitted(runs.c.stop_reason, why))
        )


def stop_reason(engine: sa.Engine, run_key: str) -> str | None:
    """Return why no task of the run sends anything any more, or not yet; None while they may."""
    statement = sa.select(runs.c.stop_reason, runs.c.approval).where(runs.c.run_key == run_key)
    with reading(engine).begin() as connection:
        row = connection.execute(statement).one_or_none()
    return (row.stop_reason or approval_block_reason(row.approval)) if row else None


def add_preflight_credits(engine: sa.Engine, run_key: str, used: int) -> None:
    """Count credits that a task has used which works on no chunk; nothing happens while there is no such run."""
    with engine.begin() as connection:
        connection.execute(
            sa.update(runs)
            .where(runs.c.run_key == run_key)
            .values(preflight_credits=runs.c.preflight_credits + used, credits=runs.c.credits + used)
        )


def set_columns(engine: sa.Engine, run_key: str, values: Mapping[str, str | int | datetime | None]) -> None:
    """
    Write some columns of a run; text is cut to what they hold.

    :raises PlanError: there is no such run
    """
    fitting = {
        name: fitted(runs.c[name], value) if isinstance(value, str) else value
        for name, value in values.items()
    }
    with engine.begin() as connection:
        _update(connection, run_key, fitting)


def origin_columns(origin: Origin, job: str) -> dict[str, Any]:
    """Return the columns that say where in Airflow a row comes from."""
    texts = {
        "job": job,
        "dag_id": origin.dag_id,
        "dag_run_id": origin.dag_run_id,
        "run_type": origin.run_type,
        "triggered_by": origin.triggered_by,
        "task_id": origin.task_id,
    }
    return {
        **{name: fitted(runs.c[name], text) for name, text in texts.items()},
        "logical_date": origin.logical_date,
        "data_interval_start": origin.data_interval_start,
        "data_interval_end": origin.data_interval_end,
    }


def target_columns(target: Target) -> dict[str, Any]:
    """Return the columns that say what links are taken out of, and how."""
    texts = {
        "org_id": target.org_id,
        "data_center": target.data_center,
        "api_version": target.api_version,
        "strategy": target.strategy,
        "operation": target.operation,
    }
    relation = {part.name: getattr(target.relation, part.name) for part in fields(Relation)}
    return {
        **{name: fitted(runs.c[name], text) for name, text in texts.items()},
        **relation,
    }


def _check_start(run: RunStart) -> None:
    if not 0 < len(run.run_key) <= RUN_KEY_LENGTH or fitted(runs.c.run_key, run.run_key) != run.run_key:
        raise ZohoConfigError(f"run_key must be 1 to {RUN_KEY_LENGTH} printable characters: {run.run_key!r}")
    if run.mode not in {"apply", "dry_run"}:
        raise ZohoConfigError(f"mode {run.mode!r} is neither apply nor dry_run")
    if run.target.dry_run != (run.mode == "dry_run"):
        raise ZohoConfigError(f"mode {run.mode!r} and dry_run={run.target.dry_run} contradict each other")


def _new_row(run: RunStart, now: datetime) -> dict[str, Any]:
    return {
        "run_key": run.run_key,
        **origin_columns(run.origin, run.job),
        **target_columns(run.target),
        "origin_run_key": run.origin_run_key,
        "mode": run.mode,
        "window_start": run.window_start,
        "window_end": run.window_end,
        "reason": fitted(runs.c.reason, run.reason),
        "params": json.dumps(run.params, default=str, sort_keys=True),
        "status": RunStatus.PLANNED.value,
        "preflight_credits": run.preflight_credits,
        "environment": fitted(runs.c.environment, run.environment),
        "started_at": now,
        "code_version": __version__,
        "schema_version": SCHEMA_VERSION,
    }


def _counts(connection: sa.Connection, run_key: str) -> Counter[Outcome]:
    statement = (
        sa.select(latest.c.outcome, sa.func.count())
        .where(latest.c.run_key == run_key)
        .group_by(latest.c.outcome)
    )
    return Counter({Outcome(outcome): count for outcome, count in connection.execute(statement)})


def _update(connection: sa.Connection, run_key: str, values: dict[str, Any]) -> None:
    if connection.execute(sa.update(runs).where(runs.c.run_key == run_key).values(values)).rowcount == 0:
        raise no_such_run(run_key)
