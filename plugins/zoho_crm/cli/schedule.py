"""When a job is due next, and for which windows. Airflow's own timetable says the same, but takes seconds to import."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pendulum
from croniter import croniter

if TYPE_CHECKING:
    from zoho_crm.core.job import Job

Window = tuple[datetime, datetime]


def current_time() -> datetime:
    """Return the time that commands go by, in UTC."""
    return datetime.now(UTC)


def next_windows(job: Job, now: datetime, count: int = 3) -> list[Window]:
    """
    Return the windows of the next scheduled runs, in UTC; each run is due when its window ends.

    :param now: aware; the first window ends after it
    :return: none for a job without a cron expression
    """
    if job.cron is None:
        return []
    ticks = _Ticks(job.cron, job.timezone)
    start = max(ticks.at_or_before(now), ticks.at_or_after(job.start))
    windows = []
    for _ in range(count):
        end = ticks.after(start)
        windows.append((start, end))
        start = end
    return windows


def last_window(job: Job, now: datetime) -> Window:
    """Return a window to try the job's SQL with: the last complete one, or the day up to now."""
    if job.cron is None:
        return now.astimezone(UTC) - timedelta(days=1), now.astimezone(UTC)
    ticks = _Ticks(job.cron, job.timezone)
    end = ticks.at_or_before(now)
    return ticks.before(end), end


class _Ticks:
    """
    The ticks of a cron expression in a time zone, as moments in UTC.

    Two rules over a change to or from daylight-saving time are Airflow's: a time that is not there is taken for the one
    after the gap, one that is there twice for the second; and ticks of every hour count hours that really pass.
    """

    def __init__(self, cron: str, zone: str) -> None:
        self._cron = cron
        self._zone = pendulum.timezone(zone)
        self._every_hour = croniter(cron).expanded[1] == ["*"]

    def after(self, moment: datetime) -> datetime:
        """Return the first tick after a moment."""
        local = self._local(moment)
        tick: datetime = croniter(self._cron, local).get_next(datetime)
        return moment + (tick - local) if self._every_hour else self._utc(tick)

    def before(self, moment: datetime) -> datetime:
        """Return the last tick before a moment."""
        local = self._local(moment)
        tick: datetime = croniter(self._cron, local).get_prev(datetime)
        return moment - (local - tick) if self._every_hour else self._utc(tick)

    def at_or_after(self, moment: datetime) -> datetime:
        """Return the moment if it is a tick, else the first one after it."""
        tick = self.after(moment.astimezone(UTC))
        return moment.astimezone(UTC) if self.before(tick) == moment else tick

    def at_or_before(self, moment: datetime) -> datetime:
        """Return the moment if it is a tick, else the last one before it."""
        tick = self.before(moment.astimezone(UTC))
        return moment.astimezone(UTC) if self.after(tick) == moment else tick

    def _local(self, moment: datetime) -> datetime:
        return moment.astimezone(self._zone).replace(tzinfo=None)

    def _utc(self, local: datetime) -> datetime:
        aware = self._zone.convert(local.replace(fold=1))
        return datetime.fromtimestamp(aware.timestamp(), UTC)
