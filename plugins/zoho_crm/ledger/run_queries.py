"""Runs as people look at them: newest first, page by page, and what came of them day by day."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.runs import StoredRun
from zoho_crm.ledger.tables import runs

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

DagAndJob = tuple[str, str]
"""Id of a Dag, and the job that a run of it was for."""

_COLUMNS = tuple(runs.c[field.name] for field in fields(StoredRun))


@dataclass(frozen=True, slots=True)
class RunFilter:
    """
    Which runs are wanted; None: whichever. Texts are compared exactly.

    :param since: runs that were started then or later
    :param until: runs that were started before
    """

    job: str | None = None
    status: str | None = None
    mode: str | None = None
    operation: str | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True, order=True)
class RunPlace:
    """A run's place in the list: the page after it holds what was started earlier."""

    started_at: datetime
    run_key: str

    @classmethod
    def of(cls, run: StoredRun) -> RunPlace:
        """Return the place of a run."""
        return cls(run.started_at, run.run_key)

    @classmethod
    def read(cls, text: str) -> RunPlace:
        """Return the place that :meth:`__str__` has written; raises ValueError for any other text."""
        moment, _, run_key = text.partition("~")
        started_at = datetime.fromisoformat(moment)
        if started_at.tzinfo is None or not run_key:
            raise ValueError("not a place in the list of runs")
        return cls(started_at.astimezone(UTC), run_key)

    def __str__(self) -> str:
        """Return the place as text for an address."""
        return f"{self.started_at.astimezone(UTC).isoformat()}~{self.run_key}"


def dags_and_jobs(engine: sa.Engine) -> set[DagAndJob]:
    """Return each pair of a Dag and a job that has runs."""
    statement = sa.select(runs.c.dag_id, runs.c.job).distinct()
    with reading(engine).begin() as connection:
        return {(row.dag_id, row.job) for row in connection.execute(statement)}


def page_of_runs(
    engine: sa.Engine,
    wanted: RunFilter,
    *,
    visible: Collection[DagAndJob],
    after: RunPlace | None = None,
    limit: int = 50,
) -> list[StoredRun]:
    """
    Return runs, those started last first.

    :param visible: the Dags and jobs that the reader may see; runs of others are left out
    :param after: the last run of the page before
    """
    statement = (
        sa.select(*_COLUMNS)
        .where(_matching(wanted), runs_of_visible(visible))
        .order_by(runs.c.started_at.desc(), runs.c.run_key.desc())
        .limit(limit)
    )
    if after is not None:
        earlier = sa.and_(runs.c.started_at == after.started_at, runs.c.run_key < after.run_key)
        statement = statement.where(
            runs.c.started_at <= after.started_at,
            sa.or_(runs.c.started_at < after.started_at, earlier),
        )
    with reading(engine).begin() as connection:
        return [_stored(row) for row in connection.execute(statement).mappings()]


def runs_of_dag_run(engine: sa.Engine, dag_id: str, dag_run_id: str) -> list[StoredRun]:
    """Return what a Dag run did, one for each job, oldest first; mostly that is one, or none yet."""
    statement = (
        sa.select(*_COLUMNS)
        .where(runs.c.dag_id == dag_id, runs.c.dag_run_id == dag_run_id)
        .order_by(runs.c.started_at, runs.c.run_key)
    )
    with reading(engine).begin() as connection:
        return [_stored(row) for row in connection.execute(statement).mappings()]


def runs_started_from(engine: sa.Engine, run: StoredRun, limit: int = 20) -> list[StoredRun]:
    """Return the later runs that took up links of a run, newest first."""
    statement = (
        sa.select(*_COLUMNS)
        .where(
            runs.c.job == run.job,
            runs.c.started_at >= run.started_at,
            runs.c.origin_run_key == run.run_key,
        )
        .order_by(runs.c.started_at.desc(), runs.c.run_key.desc())
        .limit(limit)
    )
    with reading(engine).begin() as connection:
        return [_stored(row) for row in connection.execute(statement).mappings()]


def outcomes_by_day(
    engine: sa.Engine, wanted: RunFilter, *, visible: Collection[DagAndJob]
) -> dict[date, Counter[Outcome]]:
    """
    Return how many links had which outcome, by the day in UTC on which their run was started.

    Only runs that are finished and that applied count: a dry run changed nothing.
    """
    counted = [runs.c[outcome.value] for outcome in Outcome]
    statement = sa.select(runs.c.started_at, *counted).where(
        _matching(wanted), runs_of_visible(visible), runs.c.mode == "apply", runs.c.finished_at.is_not(None)
    )
    days: dict[date, Counter[Outcome]] = {}
    # Databases disagree on how a moment becomes a day, and on whose day it is.
    with reading(engine).begin() as connection:
        for row in connection.execute(statement):
            day = days.setdefault(row.started_at.date(), Counter())
            for outcome, count in zip(Outcome, row[1:], strict=True):
                if count:
                    day[outcome] += count
    return days


def _matching(wanted: RunFilter) -> sa.ColumnElement[bool]:
    conditions: list[sa.ColumnElement[bool]] = [sa.true()]
    for name in ("job", "status", "mode", "operation"):
        if (value := getattr(wanted, name)) is not None:
            conditions.append(runs.c[name] == value)
    if wanted.since is not None:
        conditions.append(runs.c.started_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(runs.c.started_at < wanted.until)
    return sa.and_(*conditions)


def runs_of_visible(visible: Collection[DagAndJob]) -> sa.ColumnElement[bool]:
    """Return the condition that a run is of one of these Dags and jobs."""
    pairs = [sa.and_(runs.c.dag_id == dag_id, runs.c.job == job) for dag_id, job in sorted(visible)]
    return sa.or_(sa.false(), *pairs)


def _stored(row: Mapping[Any, Any]) -> StoredRun:
    return StoredRun(**{**row, "params": json.loads(row["params"])})
