"""Queries about runs, for the pages and the CLI: lists, progress, and reasons of links that need attention."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, fields
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.core.approval import ASKED
from zoho_crm.core.models import (
    DELINK,
    RELINK,
    SUCCEEDED_NEEDS_ATTENTION,
    WAITING_FOR_APPROVAL,
    RunEvent,
    StoredRun,
)
from zoho_crm.core.outcomes import NOT_FOUND_OUTCOMES, PRESUMED_OUTCOMES, Outcome, RunStatus
from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger.engine import reading_for_people
from zoho_crm.ledger.runs import RunStore, stored_run
from zoho_crm.ledger.tables import audit, chunks, links, run_events, runs, source_texts

if TYPE_CHECKING:
    from collections.abc import Collection

DagAndJob = tuple[str, str]
"""Id of a Dag, and the job of its run."""

REASONS = 10
"""Reasons of a run that pages and CLI show."""
REASON_SAMPLE = 500
"""Links of each outcome that are read to find the most frequent reasons."""

NEEDS_ATTENTION = (
    Outcome.PARENT_NOT_FOUND,
    Outcome.RELATED_NOT_FOUND,
    Outcome.INVALID,
    Outcome.REJECTED,
    Outcome.PRESUMED_REMOVED,
    Outcome.PRESUMED_RELINKED,
    Outcome.FAILED,
    Outcome.UNKNOWN,
    Outcome.NOT_ATTEMPTED,
)
"""Outcomes whose reasons are shown: a person may have to do something about these links."""

_COLUMNS = tuple(runs.c[field.name] for field in fields(StoredRun))
_EXPECTED = {
    (DELINK, False): Outcome.REMOVED,
    (DELINK, True): Outcome.WOULD_REMOVE,
    (RELINK, False): Outcome.RELINKED,
    (RELINK, True): Outcome.WOULD_RELINK,
}
"""The most frequent outcome, by operation and whether it is a dry run."""


@dataclass(frozen=True, slots=True)
class RunFilter:
    """
    Filter for runs; None matches every run. Except for ``search``, texts are compared exactly.

    :param ending: one of :data:`~zoho_crm.core.models.ENDINGS`
    :param since: start of the half-open range of start times
    :param until: end of that range
    :param search: part of the job's name, Airflow's run id or the run key, in any case
    """

    job: str | None = None
    ending: str | None = None
    mode: str | None = None
    operation: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    search: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class RunPosition:
    """Position of a run in the list of runs; the next page starts after it."""

    started_at: datetime
    run_key: str

    @classmethod
    def of(cls, run: StoredRun) -> RunPosition:
        """Return the position of a run."""
        return cls(run.started_at, run.run_key)

    @classmethod
    def parse(cls, text: str) -> RunPosition:
        """
        Parse the output of :meth:`__str__`.

        :raises ValueError: the text is not a position
        """
        moment, _, run_key = text.partition("~")
        started_at = datetime.fromisoformat(moment)
        if started_at.tzinfo is None or not run_key:
            raise ValueError("not a position in the list of runs")
        return cls(started_at.astimezone(UTC), run_key)

    def __str__(self) -> str:
        """Return the position as text for a URL."""
        return f"{self.started_at.astimezone(UTC).isoformat()}~{self.run_key}"


@dataclass(frozen=True, slots=True)
class Progress:
    """
    Progress of a run.

    :param planned: links of the plan; 0 if the run has no plan yet
    :param done: links with an outcome
    :param chunks_done: chunks in which every link has an outcome
    :param credits: API credits used so far, updated with each batch
    """

    planned: int
    done: int
    chunks: int
    chunks_done: int
    by_outcome: Counter[Outcome]
    credits: int | None


@dataclass(frozen=True, slots=True)
class Reason:
    """
    Why links of a run need attention.

    :param links: number of links with this reason, of those that were read
    :param of: number of links with this outcome that were read
    """

    outcome: Outcome
    zoho_code: str | None
    message: str | None
    links: int
    of: int


class RunQueries:
    """
    Read-only queries about runs.

    ``visible`` limits the result to runs of these Dags and jobs; None means all.

    :param engine: engine of the audit database
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = reading_for_people(engine)

    def get(self, run_key: str) -> StoredRun | None:
        """Return a run by its key, or None."""
        return RunStore(self._engine).get(run_key)

    def events(self, run_key: str) -> list[RunEvent]:
        """Return what was decided about a run, in order."""
        names = [field.name for field in fields(RunEvent)]
        statement = (
            sa.select(*(run_events.c[name] for name in names))
            .where(run_events.c.run_key == run_key)
            .order_by(run_events.c.event_no)
        )
        with self._engine.begin() as connection:
            found = connection.execute(statement).mappings().all()
        return [RunEvent(**{**row, "facts": json.loads(row["facts"])}) for row in found]

    def texts(self, run: StoredRun) -> dict[str, str]:
        """Return job file and SQL as the run used them, by the field that names them."""
        statement = sa.select(source_texts.c.text_hash, source_texts.c.content).where(
            source_texts.c.text_hash.in_(set(run.texts.values()))
        )
        with self._engine.begin() as connection:
            by_hash = {row.text_hash: row.content for row in connection.execute(statement)}
        return {name: by_hash[key] for name, key in run.texts.items() if key in by_hash}

    def find(self, name: str, job: str | None = None) -> StoredRun:
        """
        Return a run by its key or by Airflow's run id.

        :param job: job of the run; None for any job
        :raises ZohoConfigError: no run or several runs match
        """
        statement = (
            sa.select(*_COLUMNS)
            .where(sa.or_(runs.c.run_key == name, runs.c.dag_run_id == name), _matches(RunFilter(job=job)))
            .order_by(runs.c.job, runs.c.run_key)
        )
        found = self._runs(statement)
        found = [run for run in found if run.run_key == name] or found
        of_job = f" of {job}" if job else ""
        if not found:
            raise ZohoConfigError(
                f"The audit database has no run {name!r}{of_job}: give Airflow's run id or the run_key"
            )
        if len(found) > 1:
            raise ZohoConfigError(
                f"{len(found)} runs{of_job} have the id {name!r}: "
                f"{'' if job else 'name the job with --job, or '}give one of these keys: "
                + ", ".join(run.run_key for run in found)
            )
        return found[0]

    def dags_and_jobs(self) -> set[DagAndJob]:
        """Return each pair of a Dag and a job that has runs."""
        statement = sa.select(runs.c.dag_id, runs.c.job).distinct()
        with self._engine.begin() as connection:
            return {(row.dag_id, row.job) for row in connection.execute(statement)}

    def page(
        self,
        wanted: RunFilter,
        *,
        visible: Collection[DagAndJob] | None,
        after: RunPosition | None = None,
        limit: int = 50,
    ) -> list[StoredRun]:
        """
        Return a page of runs, newest first.

        :param after: position of the last run of the previous page
        """
        statement = (
            sa.select(*_COLUMNS)
            .where(_matches(wanted), is_visible(visible))
            .order_by(runs.c.started_at.desc(), runs.c.run_key.desc())
            .limit(limit)
        )
        if after is not None:
            same_time = sa.and_(runs.c.started_at == after.started_at, runs.c.run_key < after.run_key)
            statement = statement.where(
                runs.c.started_at <= after.started_at,
                sa.or_(runs.c.started_at < after.started_at, same_time),
            )
        return self._runs(statement)

    def of_dag_run(self, dag_id: str, dag_run_id: str) -> list[StoredRun]:
        """Return the runs of a Dag run, one for each job, oldest first; usually one, or none yet."""
        return self._runs(
            sa.select(*_COLUMNS)
            .where(runs.c.dag_id == dag_id, runs.c.dag_run_id == dag_run_id)
            .order_by(runs.c.started_at, runs.c.run_key)
        )

    def started_from(self, run: StoredRun, limit: int = 20) -> list[StoredRun]:
        """Return the retries and relinks that started from a run, newest first."""
        return self._runs(
            sa.select(*_COLUMNS)
            .where(
                runs.c.job == run.job,
                runs.c.started_at >= run.started_at,
                runs.c.origin_run_key == run.run_key,
            )
            .order_by(runs.c.started_at.desc(), runs.c.run_key.desc())
            .limit(limit)
        )

    def outcomes_by_day(
        self, wanted: RunFilter, *, visible: Collection[DagAndJob] | None
    ) -> dict[date, Counter[Outcome]]:
        """
        Return the number of links by outcome, for each day in UTC on which their run started.

        Dry runs and unfinished runs are excluded.
        """
        counted = [runs.c[outcome.value] for outcome in Outcome]
        statement = sa.select(runs.c.started_at, *counted).where(
            _matches(wanted), is_visible(visible), runs.c.mode == "apply", runs.c.finished_at.is_not(None)
        )
        days: dict[date, Counter[Outcome]] = {}
        # Databases disagree on how to convert a timestamp to a day, and in which time zone.
        with self._engine.begin() as connection:
            for row in connection.execute(statement):
                day = days.setdefault(row.started_at.date(), Counter())
                for outcome, count in zip(Outcome, row[1:], strict=True):
                    if count:
                        day[outcome] += count
        return days

    def progress(self, run: StoredRun) -> Progress:
        """Return the progress of a run: from its row once it is finished, from its links before."""
        planned, all_chunks = run.planned or 0, run.chunks or 0
        if run.finished_at is not None:
            by_outcome = Counter({outcome: getattr(run, outcome.value) or 0 for outcome in Outcome})
            return Progress(planned, by_outcome.total(), all_chunks, all_chunks, +by_outcome, run.credits)
        expected = _EXPECTED[run.operation, run.dry_run]
        with self._engine.begin() as connection:
            claimed = connection.execute(_claimed_chunks(run.run_key)).all()
            others = connection.execute(_links_by_other_outcome(run.run_key, expected))
            by_outcome = Counter({Outcome(name): count for name, count in others})
        done = sum(chunk.links - chunk.pending for chunk in claimed) + (run.invalid or 0)
        by_outcome[expected] = max(0, done - by_outcome.total())
        chunks_done = sum(1 for chunk in claimed if not chunk.pending)
        used = run.preflight_credits + sum(chunk.credits for chunk in claimed)
        return Progress(planned, by_outcome.total(), all_chunks, chunks_done, +by_outcome, used)

    def reasons(self, run: StoredRun, progress: Progress) -> list[Reason]:
        """
        Return the most frequent reasons of links that need attention, the same for pages and CLI.

        :param progress: progress of the run; only its outcomes are queried
        """
        counted: Counter[tuple[Outcome, str | None, str | None]] = Counter()
        read: Counter[Outcome] = Counter()
        with self._engine.begin() as connection:
            for outcome in filter(progress.by_outcome.get, NEEDS_ATTENTION):
                for row in connection.execute(_last_messages(run.run_key, outcome)):
                    counted[outcome, row.zoho_code, row.zoho_message or row.detail] += row.links
                    read[outcome] += row.links
        return [
            Reason(outcome, code, message, count, read[outcome])
            for (outcome, code, message), count in counted.most_common(REASONS)
        ]

    def finished_versions(self) -> dict[str, int]:
        """
        Return by run key the number of each finished run's last event, the runs that changed first at the beginning.

        A run whose external IDs are being replaced by hashes is left out until that is complete.
        """
        statement = (
            _finished_runs()
            .with_only_columns(runs.c.run_key, run_events.c.event_no)
            .order_by(run_events.c.recorded_at, runs.c.run_key)
        )
        with self._engine.begin() as connection:
            return {row.run_key: row.event_no for row in connection.execute(statement)}

    def finished_row(self, run_key: str) -> dict[str, Any] | None:
        """
        Return the row of a finished run as it is stored; None if :meth:`finished_versions` leaves it out now.

        :return: all columns, ``event_no``: the number of its last event, and ``changed_at``: the time of that event
        """
        with self._engine.begin() as connection:
            found = connection.execute(_finished_runs().where(runs.c.run_key == run_key)).mappings()
            row = found.one_or_none()
        return dict(row) if row else None

    def _runs(self, statement: sa.Select[Any]) -> list[StoredRun]:
        with self._engine.begin() as connection:
            return [stored_run(row) for row in connection.execute(statement).mappings()]


def _finished_runs() -> sa.Select[Any]:
    """Return the query for finished runs with their last event, without those whose IDs are partly replaced."""
    numbers = run_events.alias("numbers")
    last_no = (
        sa.select(sa.func.max(numbers.c.event_no))
        .where(numbers.c.run_key == runs.c.run_key)
        .correlate(runs)
        .scalar_subquery()
    )
    is_last = sa.and_(run_events.c.run_key == runs.c.run_key, run_events.c.event_no == last_no)
    # Retention deletes the plan along with the IDs, batch by batch.
    has_plan = sa.exists().where(links.c.run_key == runs.c.run_key)
    is_half_replaced = sa.and_(runs.c.pseudonymized_at.is_not(None), has_plan)
    return (
        sa.select(runs, run_events.c.event_no, run_events.c.recorded_at.label("changed_at"))
        .select_from(runs.join(run_events, is_last))
        .where(runs.c.finished_at.is_not(None), sa.not_(is_half_replaced))
    )


def is_visible(visible: Collection[DagAndJob] | None) -> sa.ColumnElement[bool]:
    """Return the condition that a run belongs to one of these Dags and jobs; None for all."""
    if visible is None:
        return sa.true()
    pairs = [sa.and_(runs.c.dag_id == dag_id, runs.c.job == job) for dag_id, job in sorted(visible)]
    return sa.or_(sa.false(), *pairs)


def _matches(wanted: RunFilter) -> sa.ColumnElement[bool]:
    conditions: list[sa.ColumnElement[bool]] = [sa.true()]
    for name in ("job", "mode", "operation"):
        if (value := getattr(wanted, name)) is not None:
            conditions.append(runs.c[name] == value)
    if wanted.ending is not None:
        conditions.append(_ends_as(wanted.ending))
    if wanted.since is not None:
        conditions.append(runs.c.started_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(runs.c.started_at < wanted.until)
    if wanted.search is not None:
        # Runs are few beside links, and are read by start time until a page is full.
        searched = (runs.c.job, runs.c.dag_run_id, runs.c.run_key)
        conditions.append(sa.or_(*(column.icontains(wanted.search, autoescape=True) for column in searched)))
    return sa.and_(*conditions)


def _ends_as(ending: str) -> sa.ColumnElement[bool]:
    """Return the condition that a run has this :attr:`StoredRun.ending`."""
    if ending in {RunStatus.PLANNED, WAITING_FOR_APPROVAL}:
        asked = sa.func.coalesce(runs.c.approval, "") == ASKED
        planned = runs.c.status == RunStatus.PLANNED
        return sa.and_(planned, asked if ending == WAITING_FOR_APPROVAL else sa.not_(asked))
    if ending not in {RunStatus.SUCCEEDED, SUCCEEDED_NEEDS_ATTENTION}:
        return runs.c.status == ending
    attention = sa.or_(
        sa.func.coalesce(runs.c.detail, "") != "",
        _links_of(Outcome.REJECTED, *PRESUMED_OUTCOMES, Outcome.INVALID) > 0,
        2 * _links_of(*NOT_FOUND_OUTCOMES) > sa.func.coalesce(runs.c.planned, 0),
    )
    succeeded = runs.c.status == RunStatus.SUCCEEDED
    return sa.and_(succeeded, attention if ending == SUCCEEDED_NEEDS_ATTENTION else sa.not_(attention))


def _links_of(*outcomes: Outcome) -> sa.ColumnElement[int]:
    """Return the number of links of a run with one of these outcomes."""
    first, *others = (sa.func.coalesce(runs.c[outcome], 0) for outcome in outcomes)
    return sum(others, first)


def _claimed_chunks(run_key: str) -> sa.Select[tuple[int, int, int]]:
    """Select links, API credits and pending links of each chunk that a try has claimed."""
    # Sendable links of a chunk have consecutive numbers.
    pending = (
        sa.select(sa.func.count())
        .select_from(links)
        .where(
            links.c.run_key == chunks.c.run_key,
            links.c.outcome.is_(None),
            links.c.seq.between(chunks.c.first_seq, chunks.c.first_seq + chunks.c.links - 1),
        )
        .correlate(chunks)
        .scalar_subquery()
    )
    return sa.select(chunks.c.links, chunks.c.credits, pending.label("pending")).where(
        chunks.c.run_key == run_key, chunks.c.claim_no > 0
    )


def _links_by_other_outcome(run_key: str, expected: Outcome) -> sa.Select[tuple[str, int]]:
    """
    Select the number of links of each outcome except the expected one.

    Most links have the expected outcome or none yet: counting either would read the whole run.
    """
    counted = [outcome.value for outcome in Outcome if outcome is not expected]
    return (
        sa.select(links.c.outcome, sa.func.count())
        .where(links.c.run_key == run_key, links.c.outcome.in_(counted))
        .group_by(links.c.outcome)
    )


def _last_messages(
    run_key: str, outcome: Outcome
) -> sa.Select[tuple[str | None, str | None, str | None, int]]:
    """Select the messages in the last audit rows of the first links with an outcome."""
    first = (
        sa.select(links.c.seq)
        .where(links.c.run_key == run_key, links.c.outcome == outcome.value)
        .order_by(links.c.seq)
        .limit(REASON_SAMPLE)
        .subquery("first")
    )
    later = audit.alias("later")
    superseded = sa.exists().where(
        later.c.run_key == audit.c.run_key,
        later.c.seq == audit.c.seq,
        sa.or_(
            later.c.claim_no > audit.c.claim_no,
            sa.and_(later.c.claim_no == audit.c.claim_no, later.c.event_id > audit.c.event_id),
        ),
    )
    message = (audit.c.zoho_code, audit.c.zoho_message, audit.c.detail)
    return (
        sa.select(*message, sa.func.count().label("links"))
        .select_from(first)
        .join(audit, sa.and_(audit.c.run_key == run_key, audit.c.seq == first.c.seq))
        .where(~superseded)
        .group_by(*message)
    )
