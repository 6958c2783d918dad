"""When a job's Dag runs: by a cron expression with data intervals, on updates of an asset, or manually."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from airflow.sdk import Asset
from croniter import croniter

from zoho_crm.airflow_compat import CronDataIntervalTimetable
from zoho_crm.core.job_files import JobFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoho_crm.airflow_compat import CoreCronTimetable, DataInterval
    from zoho_crm.core.job import Job

_HOUR = timedelta(hours=1)
_NEAR = 2 * _HOUR
_YEARS = 28
"""After so many years, each date falls on the same day of the week again."""


def schedule_of(job: Job) -> CronDataIntervalTimetable | list[Asset] | None:
    """
    Return what a Dag takes as its schedule.

    :raises JobFileError: Airflow cannot use the asset (some kinds of URI have special rules), or would skip a
        range of time when daylight saving time changes
    """
    if job.cron is not None:
        _check_changes_of_clocks(job, job.cron)
        # A cron expression alone would have intervals without length since Airflow 3.
        return CronDataIntervalTimetable(job.cron, timezone=job.timezone)
    if job.asset is None:
        return None
    asset, uri = job.asset.asset, job.asset.uri
    try:
        return [Asset(asset) if uri is None else Asset(asset, uri)]
    except ValueError as error:
        raise JobFileError(f"schedule: {error}") from None


def schedule_faults(job: Job) -> list[str]:
    """Return what :func:`schedule_of` refuses."""
    try:
        schedule_of(job)
    except JobFileError as error:
        return [str(error)]
    return []


def schedule_text(job: Job) -> str:
    """Return in Markdown when a job runs."""
    if job.cron is not None:
        return f"`{job.cron}` ({job.timezone})"
    if job.asset is not None:
        return f"whenever the asset `{job.asset.asset}` is updated"
    return "none: manual runs only"


def next_windows(job: Job, now: datetime, count: int = 3) -> list[tuple[datetime, datetime]]:
    """
    Return the windows of the next scheduled runs, in UTC; each run is due when its window ends.

    :param now: aware; the first window ends after it
    :return: empty for a job without a cron expression
    """
    if job.cron is None:
        return []
    import pendulum

    from zoho_crm.airflow_compat import CoreCronTimetable

    timetable = CoreCronTimetable(job.cron, job.timezone)
    last = timetable.infer_manual_data_interval(run_after=pendulum.instance(now))
    return [
        (interval.start.astimezone(UTC), interval.end.astimezone(UTC))
        for interval in islice(_intervals_after(timetable, last, job.start), count)
    ]


def first_window_inside_period(job: Job, now: datetime) -> tuple[datetime, datetime] | None:
    """
    Return the first window of a job whose ``start_date`` lies between two times of its schedule, in UTC.

    Rows that were marked earlier in that period belong to no window.

    :param now: aware
    :return: None for a job without a cron expression, or if the first window is over
    """
    if job.cron is None:
        return None
    from zoho_crm.airflow_compat import CoreCronTimetable

    first = next(_intervals_after(CoreCronTimetable(job.cron, job.timezone), None, job.start))
    if first.start == job.start or first.end <= now:
        return None
    return first.start.astimezone(UTC), first.end.astimezone(UTC)


def _check_changes_of_clocks(job: Job, cron: str) -> None:
    """
    Refuse a schedule that is due several times in an hour that a change of the clocks leaves out.

    Airflow 3.3 then finds other times forwards than backwards, and one interval begins after the one before it has
    ended: links marked in between would belong to no run. Schedules of every hour are counted in another way.
    """
    if croniter(cron).expanded[1] == ["*"]:
        return
    for change in _distinct_changes(job, cron):
        if any(end != start for end, start in _seams(job, cron, change)):
            raise JobFileError(
                f"schedule: {cron!r} leaves out a stretch of time when the clocks of "
                f"{job.timezone} change, near {change:%Y-%m-%d %H:%M} UTC; take other hours, or timezone: UTC"
            )


def _distinct_changes(job: Job, cron: str) -> Iterator[datetime]:
    """
    Yield the instants at which the clocks change, one of each kind.

    The kind is how the clocks change, at which time of the day, and whether the schedule is due on the days around:
    the date of the change moves from year to year, and a schedule may be due on some dates only.
    """
    zone = ZoneInfo(job.timezone)
    kinds = set()
    for change in _changes(job.timezone, job.start.date()):
        before, after = (change - _HOUR).astimezone(zone), change.astimezone(zone)
        days = [before.date() + timedelta(days=day) for day in (-1, 0, 1)]
        kind = (
            before.time(),
            before.utcoffset(),
            after.utcoffset(),
            *(_is_due_on(cron, day) for day in days),
        )
        if kind not in kinds:
            kinds.add(kind)
            yield change


def _is_due_on(cron: str, day: date) -> bool:
    midnight = datetime(day.year, day.month, day.day)
    due: datetime = croniter(cron, midnight - timedelta(seconds=1)).get_next(datetime)
    return due.date() == day


@cache
def _changes(timezone: str, start: date) -> list[datetime]:
    """Return the instants at which the clocks change in the years after a date, to the hour."""
    zone = ZoneInfo(timezone)
    midnight = datetime(start.year, start.month, start.day, tzinfo=UTC)
    changes = []
    offset = midnight.astimezone(zone).utcoffset()
    for day in range(_YEARS * 366):
        first = midnight + timedelta(days=day)
        if (first + 24 * _HOUR).astimezone(zone).utcoffset() == offset:
            continue
        hours = (first + hour * _HOUR for hour in range(1, 25))
        changes.append(next(hour for hour in hours if hour.astimezone(zone).utcoffset() != offset))
        offset = (first + 24 * _HOUR).astimezone(zone).utcoffset()
    return changes


def _seams(job: Job, cron: str, change: datetime) -> Iterator[tuple[datetime, datetime]]:
    """Yield where each data interval ends and where the next begins, for those around a change of the clocks."""
    import pendulum

    from zoho_crm.airflow_compat import CoreCronTimetable

    timetable = CoreCronTimetable(cron, job.timezone)
    # Where the scheduler would be by then: the last interval that is over.
    last = timetable.infer_manual_data_interval(run_after=pendulum.instance(change - _NEAR))
    for interval in _intervals_after(timetable, last):
        yield last.end, interval.start
        if interval.end >= change + _NEAR:
            return
        last = interval


def _intervals_after(
    timetable: CoreCronTimetable, last: DataInterval | None, earliest: datetime | None = None
) -> Iterator[DataInterval]:
    """
    Yield the data intervals that Airflow would schedule after one of them, without end.

    :param last: None: from the first on
    :param earliest: start date of the Dag, aware
    """
    import pendulum

    from zoho_crm.airflow_compat import TimeRestriction

    restriction = TimeRestriction(pendulum.instance(earliest) if earliest else None, None, catchup=True)
    while True:
        found = timetable.next_dagrun_info(last_automated_data_interval=last, restriction=restriction)
        if found is None or found.data_interval is None:
            return
        last = found.data_interval
        yield last
