"""The first page: runs of all jobs, and a chart of links by outcome per day."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import HTMLResponse

from zoho_crm.core.models import DELINK, ENDINGS, RELINK
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger.run_queries import RunFilter, RunPosition
from zoho_crm.schedules import next_windows, schedule_text
from zoho_crm.ui.audit_databases import AuditDatabases, DatabasesDep
from zoho_crm.ui.auth import SIGNED_IN, Reader, ReaderDep
from zoho_crm.ui.dag_run_endings import with_endings
from zoho_crm.ui.job_trend import BAR_HEIGHT, TREND_RUNS, JobTrend, job_trend
from zoho_crm.ui.query_params import day_param, position_param
from zoho_crm.ui.rendering import OUTCOME_COLUMNS, page

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoho_crm.core.job import Job
    from zoho_crm.core.models import StoredRun

router = APIRouter(dependencies=[Depends(SIGNED_IN)])

PAGE_RUNS = 50
CHART_DAYS = (7, 30, 90)
_USUAL_COLUMNS = ("Removed", "Failed")


@router.get("/", response_class=HTMLResponse)
def overview(
    request: Request,
    reader: ReaderDep,
    databases: DatabasesDep,
    job: str = "",
    search: Annotated[str, Query(max_length=250)] = "",
    status: str = "",
    mode: str = "",
    operation: str = "",
    since: str = "",
    until: str = "",
    days: Literal["7", "30", "90"] = "30",
    after: str = "",
) -> HTMLResponse:
    """Show the runs that the user may read, newest first."""
    wanted = RunFilter(
        job=job or None,
        ending=status or None,
        mode=mode or None,
        operation=operation or None,
        since=day_param(since, "since"),
        until=day_param(until, "until", end=True),
        search=search.strip() or None,
    )
    params = {
        "job": job,
        "search": search.strip(),
        "status": status,
        "mode": mode,
        "operation": operation,
        "since": since,
        "until": until,
        "days": days,
    }
    # One run more than the page shows: is there a next page?
    found = _page_of_runs(databases, reader, wanted, position_param(after), limit=PAGE_RUNS + 1)
    shown = found[:PAGE_RUNS]
    last = RunPosition.of(shown[-1]) if len(found) > PAGE_RUNS else None
    jobs = {job.name: job for job in databases.jobs_of(reader)}
    of_job = RunFilter(job=wanted.job, operation=wanted.operation, since=_first_moment(int(days)))
    return page(
        request,
        "overview.html",
        runs=shown,
        params=params,
        next_page=_query(params, after=str(last)) if last else None,
        first_page=_query(params) if after else None,
        periods=[(each, _query(params, days=str(each))) for each in CHART_DAYS],
        chart=links_chart(databases, reader, of_job, int(days)),
        jobs=jobs,
        shown_job=jobs.get(job),
        schedule=schedule_text(jobs[job]) if job in jobs else None,
        next_due=_next_due(jobs[job]) if job in jobs else None,
        last_run=_last_run(databases, reader, job) if job in jobs else None,
        trend=_trend(databases, reader, job) if job in jobs else None,
        trend_runs=TREND_RUNS,
        bar_height=BAR_HEIGHT,
        statuses=ENDINGS,
        operations=[DELINK, RELINK],
        problems=databases.problems(),
        has_jobs=bool(databases.jobs()),
        looked_in=databases.looked_in,
        filtered=wanted != RunFilter(),
        of_new_job=job in jobs and wanted == RunFilter(job=job),
        columns=_columns(shown),
        counts={run.run_key: _counts(run) for run in shown},
    )


def _columns(runs: list[StoredRun]) -> list[str]:
    """Return the columns that the runs need: *Removed*, *Failed*, and those in which one of them has links."""
    counted = [_counts(run) for run in runs]
    return [
        column
        for column in OUTCOME_COLUMNS
        if column in _USUAL_COLUMNS or any(counts[column] for counts in counted)
    ]


def _counts(run: StoredRun) -> dict[str, int | None]:
    """Return the number of links in each column; None before the run has counted them."""
    counts: dict[str, int | None] = {}
    for column, outcomes in OUTCOME_COLUMNS.items():
        known = [count for outcome in outcomes if (count := getattr(run, outcome)) is not None]
        counts[column] = sum(known) if known else None
    return counts


@dataclass(frozen=True, slots=True)
class LinksChart:
    """
    Links by outcome per day, including days without links.

    :param outcomes: outcomes with at least one link
    """

    days: list[date]
    outcomes: list[Outcome]
    counts: list[list[int]]
    """For each outcome, one number per day."""

    def as_json(self) -> str:
        """Return the data of the chart for the script."""
        series = [
            {"outcome": outcome.value, "counts": counts}
            for outcome, counts in zip(self.outcomes, self.counts, strict=True)
        ]
        return json.dumps({"days": [day.isoformat() for day in self.days], "series": series})


def links_chart(databases: AuditDatabases, reader: Reader, wanted: RunFilter, days: int) -> LinksChart:
    """Return the chart of the last days, over the runs that the user may read."""
    shown = _last_days(days)
    by_day: dict[date, Counter[Outcome]] = {day: Counter() for day in shown}
    for database in databases.readable():
        visible = reader.visible(database.runs.dags_and_jobs())
        for day, counted in database.runs.outcomes_by_day(wanted, visible=visible).items():
            if day in by_day:
                by_day[day] += counted
    outcomes = [outcome for outcome in Outcome if any(by_day[day][outcome] for day in shown)]
    return LinksChart(shown, outcomes, [[by_day[day][outcome] for day in shown] for outcome in outcomes])


def _page_of_runs(
    databases: AuditDatabases, reader: Reader, wanted: RunFilter, after: RunPosition | None, *, limit: int
) -> list[StoredRun]:
    """Return the newest runs that match a filter, from all audit databases."""
    found: list[StoredRun] = []
    for database in databases.readable():
        visible = reader.visible(database.runs.dags_and_jobs())
        page_of_database = database.runs.page(wanted, visible=visible, after=after, limit=limit)
        found += with_endings(page_of_database, database.runs.get)
    return sorted(found, key=RunPosition.of, reverse=True)[:limit]


def _last_run(databases: AuditDatabases, reader: Reader, job: str) -> StoredRun | None:
    """Return the newest run of a job, whatever the filters are."""
    return next(iter(_page_of_runs(databases, reader, RunFilter(job=job), None, limit=1)), None)


def _trend(databases: AuditDatabases, reader: Reader, job: str) -> JobTrend:
    """Return the trend of a job over its last runs that removed links, whatever the filters are."""
    applied = RunFilter(job=job, mode="apply", operation=DELINK)
    return job_trend(_page_of_runs(databases, reader, applied, None, limit=TREND_RUNS))


def _next_due(job: Job) -> datetime | None:
    """Return when the next scheduled run of a job is due; None without a cron expression."""
    windows = next_windows(job, datetime.now(UTC), count=1)
    return windows[0][1] if windows else None


def _query(params: Mapping[str, str], **changes: str) -> str:
    values: dict[str, Any] = {name: value for name, value in (dict(params) | changes).items() if value}
    return f"?{urlencode(values)}"


def _first_moment(days: int) -> datetime:
    """Return the start of the first of the last days, in UTC."""
    first = _last_days(days)[0]
    return datetime(first.year, first.month, first.day, tzinfo=UTC)


def _last_days(days: int) -> list[date]:
    today = datetime.now(UTC).date()
    return [today - timedelta(days=days - 1 - number) for number in range(days)]
