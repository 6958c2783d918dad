from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pendulum
import pytest
from airflow.timetables.interval import CronDataIntervalTimetable

from zoho_crm.cli.schedule import last_window, next_windows

if TYPE_CHECKING:
    from zoho_crm.core.job import Job

CHANGES = {
    "Europe/Berlin": (datetime(2026, 3, 28, 20, tzinfo=UTC), datetime(2026, 10, 24, 20, tzinfo=UTC)),
    "America/New_York": (datetime(2026, 3, 8, 2, tzinfo=UTC), datetime(2026, 11, 1, 1, tzinfo=UTC)),
    "Australia/Lord_Howe": (datetime(2026, 4, 4, 10, tzinfo=UTC), datetime(2026, 10, 3, 10, tzinfo=UTC)),
    "UTC": (datetime(2026, 12, 31, 20, tzinfo=UTC),),
}
CRONS = ("0 2 * * *", "30 2 * * *", "0 * * * *", "*/15 * * * *", "0 */2 * * *", "5 3 * * 1", "30 1 1 * *")


def make_job(cron: str | None, zone: str = "UTC", start: datetime = datetime(2020, 1, 1, tzinfo=UTC)) -> Job:
    return cast("Job", SimpleNamespace(cron=cron, timezone=zone, start=start))


def airflows(cron: str, zone: str, start: datetime, now: datetime) -> list[tuple[float, float]]:
    """The windows that Airflow's own timetable gives."""
    timetable = CronDataIntervalTimetable(cron, timezone=cast("Any", zone))
    begin = max(
        timetable._align_to_prev(pendulum.instance(now)), timetable._align_to_next(pendulum.instance(start))
    )
    windows = []
    for _ in range(3):
        end = timetable._get_next(begin)
        windows.append((begin.timestamp(), end.timestamp()))
        begin = end
    return windows


@pytest.mark.parametrize("zone", CHANGES)
@pytest.mark.parametrize("cron", CRONS)
def test_windows_are_airflows_over_daylight_saving_changes(cron: str, zone: str) -> None:
    dice = random.Random(cron + zone)  # noqa: S311 - the same moments in every run
    for change in CHANGES[zone]:
        for _ in range(8):
            now = change + timedelta(minutes=dice.randrange(0, 600))
            for start in (datetime(2020, 1, 1, tzinfo=UTC), now + timedelta(minutes=dice.randrange(-90, 90))):
                got = next_windows(make_job(cron, zone, start), now)
                assert [(a.timestamp(), b.timestamp()) for a, b in got] == airflows(cron, zone, start, now)
                assert {moment.utcoffset() for window in got for moment in window} == {timedelta(0)}


def test_a_moment_that_is_a_tick_begins_the_next_window() -> None:
    now = datetime(2026, 11, 23, 2, tzinfo=UTC)
    assert next_windows(make_job("0 2 * * *"), now, 1) == [(now, now + timedelta(days=1))]


def test_a_job_without_a_cron_expression_has_no_windows() -> None:
    assert next_windows(make_job(None), datetime(2026, 11, 23, tzinfo=UTC)) == []


def test_the_sql_is_tried_with_the_last_complete_window() -> None:
    now = datetime(2026, 11, 23, 1, 30, tzinfo=UTC)
    assert last_window(make_job("0 2 * * *"), now) == (
        datetime(2026, 11, 21, 2, tzinfo=UTC),
        datetime(2026, 11, 22, 2, tzinfo=UTC),
    )
    assert last_window(make_job(None), now) == (now - timedelta(days=1), now)
