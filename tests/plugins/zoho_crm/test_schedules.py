"""When jobs run: Airflow's own timetable, over changes of the clocks, must leave no gap and no overlap."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any

import pendulum
import pytest
from airflow.timetables.base import TimeRestriction
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from tests.support.operators import context, make_job
from tests.support.releases import LEAVES_GAPS, core_timetable
from zoho_crm.airflow_compat import CronDataIntervalTimetable
from zoho_crm.core.job_files import JobFileError
from zoho_crm.operators.job_operator import request_of
from zoho_crm.schedules import first_window_inside_period, next_windows, schedule_of, schedule_text

if TYPE_CHECKING:
    from collections.abc import Iterator

Window = tuple[datetime, datetime]

HOUR = timedelta(hours=1)
BERLIN_SPRING = datetime(2026, 3, 29, 1, tzinfo=UTC)
BERLIN_AUTUMN = datetime(2026, 10, 25, 1, tzinfo=UTC)
NEW_YORK_SPRING = datetime(2026, 3, 8, 7, tzinfo=UTC)
NEW_YORK_AUTUMN = datetime(2026, 11, 1, 6, tzinfo=UTC)
CHANGES = {
    "Berlin in spring": ("Europe/Berlin", BERLIN_SPRING),
    "Berlin in autumn": ("Europe/Berlin", BERLIN_AUTUMN),
    "New York in spring": ("America/New_York", NEW_YORK_SPRING),
    "New York in autumn": ("America/New_York", NEW_YORK_AUTUMN),
}
CRONS = [
    "0 * * * *",
    "30 * * * *",
    "*/15 * * * *",
    "0 0 * * *",
    "0 1 * * *",
    "30 1 * * *",
    "0 2 * * *",
    "30 2 * * *",
    "0 3 * * *",
    "15 1-3 * * *",
    "0 */2 * * *",
]


def windows(cron: str, timezone: str, since: datetime) -> Iterator[Window]:
    """The windows of the runs that Airflow's scheduler would start, one after the other, from an instant on."""
    schedule: Any = schedule_of(make_job(schedule=cron, timezone=timezone, start_date="2026-01-01"))
    return walk(core_timetable(schedule), since)


def walk(timetable: Any, since: datetime) -> Iterator[Window]:
    restriction = TimeRestriction(earliest=pendulum.instance(since), latest=None, catchup=True)
    last = None
    while True:
        found = timetable.next_dagrun_info(last_automated_data_interval=last, restriction=restriction)
        last = found.data_interval
        request = request_of(context("plan", run_type="scheduled", interval=(last.start, last.end)))
        assert found.run_after == request.window_end, "due when its window ends"
        yield request.window_start, request.window_end


def around(cron: str, timezone: str, change: datetime) -> list[Window]:
    """The windows from two days before a change of the clocks until a day after it."""
    found = []
    for window in windows(cron, timezone, change - timedelta(days=2)):
        found.append(window)
        if window[0] > change + timedelta(days=1):
            return found
    raise AssertionError("the windows end")


@pytest.mark.parametrize("cron", CRONS)
@pytest.mark.parametrize(("timezone", "change"), CHANGES.values(), ids=list(CHANGES))
def test_windows_tile_the_time_over_a_change_of_the_clocks(
    cron: str, timezone: str, change: datetime
) -> None:
    found = around(cron, timezone, change)
    assert all(start < end for start, end in found)
    assert all(before[1] == after[0] for before, after in pairwise(found))
    assert found[0][0] < change < found[-1][0]
    assert {instant.utcoffset() for window in found for instant in window} == {timedelta(0)}


@pytest.mark.parametrize(
    ("timezone", "change", "hours"),
    [
        ("Europe/Berlin", BERLIN_SPRING, 23),
        ("Europe/Berlin", BERLIN_AUTUMN, 25),
        ("America/New_York", NEW_YORK_SPRING, 23),
        ("America/New_York", NEW_YORK_AUTUMN, 25),
        ("UTC", BERLIN_SPRING, 24),
        ("UTC", BERLIN_AUTUMN, 24),
    ],
)
def test_the_day_of_the_change_is_an_hour_shorter_or_longer(
    timezone: str, change: datetime, hours: int
) -> None:
    (day,) = [end - start for start, end in around("0 0 * * *", timezone, change) if start <= change < end]
    assert day == hours * HOUR


@pytest.mark.parametrize(("timezone", "change"), CHANGES.values(), ids=list(CHANGES))
def test_each_hour_has_one_window_also_that_which_the_clocks_repeat(timezone: str, change: datetime) -> None:
    found = around("0 * * * *", timezone, change)
    assert {end - start for start, end in found} == {HOUR}
    assert change in {start for start, _ in found}


def test_the_daily_windows_of_berlin_are_these() -> None:
    local = [
        f"{start:%d %H:%M} {end:%d %H:%M}"
        for start, end in around("30 2 * * *", "Europe/Berlin", BERLIN_SPRING)
    ]
    # 02:30 is not there on the 29th: the clocks go from 02:00 to 03:00, and the run is due at 03:30.
    assert local == [
        "27 01:30 28 01:30",
        "28 01:30 29 01:30",
        "29 01:30 30 00:30",
        "30 00:30 31 00:30",
        "31 00:30 01 00:30",
    ]


needs_gaps = pytest.mark.skipif(not LEAVES_GAPS, reason="Airflow 3.4 and later leave no gap")


@needs_gaps
@pytest.mark.parametrize("cron", ["*/20 2 * * *", "0,30 1-3 * * *", "15,45 1-4 * * *"])
@pytest.mark.parametrize("timezone", ["Europe/Berlin", "America/New_York"])
def test_a_schedule_that_airflow_leaves_a_gap_in_is_refused(cron: str, timezone: str) -> None:
    with pytest.raises(
        JobFileError, match=r"leaves out a stretch of time when the clocks of .* change, near 2027-03-"
    ):
        schedule_of(make_job(schedule=cron, timezone=timezone))
    # Whether the check is still needed: an Airflow without the gap fails here.
    timetable: Any = core_timetable(CronDataIntervalTimetable(cron, timezone=timezone))
    change = NEW_YORK_SPRING if timezone == "America/New_York" else BERLIN_SPRING
    found = walk(timetable, change - timedelta(days=2))
    assert any(before[1] < after[0] for before, after in pairwise(islice(found, 60)))


@pytest.mark.skipif(LEAVES_GAPS, reason="Airflow before 3.4 leaves gaps")
def test_a_schedule_without_a_gap_is_accepted_when_it_is_due_on_a_change_of_the_clocks() -> None:
    found = list(islice(windows("*/20 2 * * *", "Europe/Berlin", BERLIN_SPRING - timedelta(days=2)), 12))
    assert all(before[1] == after[0] for before, after in pairwise(found))


@needs_gaps
@pytest.mark.parametrize(
    ("cron", "near"),
    [("*/20 2 27-28 3 *", "2027-03-28"), ("*/20 2 26 3 *", "2028-03-26"), ("*/20 2 31 3 *", "2030-03-31")],
)
def test_a_schedule_that_is_due_on_a_change_of_the_clocks_in_a_later_year_is_refused(
    cron: str, near: str
) -> None:
    with pytest.raises(JobFileError, match=f"near {near} 01:00 UTC"):
        schedule_of(make_job(schedule=cron, timezone="Europe/Berlin", start_date="2026-04-01"))


def test_a_schedule_that_is_never_due_on_a_change_of_the_clocks_can_be_used() -> None:
    schedule_of(make_job(schedule="*/20 2 20-24 3 *", timezone="Europe/Berlin", start_date="2026-04-01"))


def test_a_schedule_of_many_times_a_night_is_checked_quickly() -> None:
    started = time.process_time()
    schedule_of(make_job(schedule="0 0-23/2 * * *", timezone="Africa/Casablanca"))
    assert time.process_time() - started < 1.0


def test_a_schedule_of_every_minute_is_checked_quickly() -> None:
    started = time.process_time()
    schedule_of(make_job(schedule="* * * * *", timezone="Europe/Berlin"))
    assert time.process_time() - started < 0.5


ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "Africa/Casablanca",
    "UTC",
]


@settings(max_examples=20, deadline=None)
@given(
    minute=st.sampled_from(["*", "0", "7", "30", "59", "*/10", "0,30"]),
    hour=st.sampled_from(["*", "0", "1", "2", "3", "23", "*/2", "*/6", "1-3", "1,2", "2,3"]),
    timezone=st.sampled_from(ZONES),
    change=st.sampled_from([change for _, change in CHANGES.values()]),
    before=st.integers(0, 40 * 60),
)
def test_windows_of_any_schedule_that_is_taken_tile_the_time(
    minute: str, hour: str, timezone: str, change: datetime, before: int
) -> None:
    cron = f"{minute} {hour} * * *"
    try:
        schedule_of(make_job(schedule=cron, timezone=timezone, start_date="2026-01-01"))
    except JobFileError:
        reject()
    found = list(islice(windows(cron, timezone, change - timedelta(minutes=before)), 40))
    assert all(start < end for start, end in found)
    assert all(before[1] == after[0] for before, after in pairwise(found))


def test_a_schedule_is_a_timetable_with_intervals_in_the_zone_of_the_job() -> None:
    schedule = schedule_of(make_job(schedule="0 2 * * *", timezone="Europe/Berlin"))
    assert isinstance(schedule, CronDataIntervalTimetable)
    stored = core_timetable(schedule).serialize()
    assert (stored["expression"], stored["timezone"]) == ("0 2 * * *", "Europe/Berlin")


def test_a_job_without_a_schedule_has_none() -> None:
    assert schedule_of(make_job()) is None
    assert schedule_text(make_job()) == "none: manual runs only"


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"asset": "links_to_remove"}, ("links_to_remove", "links_to_remove")),
        ({"asset": "links", "uri": "s3://bucket/links"}, ("links", "s3://bucket/links")),
    ],
)
def test_an_asset_goes_by_its_name_and_uri(schedule: dict[str, str], expected: tuple[str, str]) -> None:
    assets: Any = schedule_of(make_job(schedule=schedule))
    assert [(asset.name, asset.uri) for asset in assets] == [expected]


def test_a_uri_that_its_provider_refuses_is_reported_with_the_field() -> None:
    job = make_job(schedule={"asset": "links", "uri": "postgres://warehouse/crm"})
    with pytest.raises(JobFileError, match=r"^schedule: "):
        schedule_of(job)


@pytest.mark.parametrize("cron", ["0 2 * * *", "30 2 * * *", "0 * * * *"])
@pytest.mark.parametrize(("timezone", "change"), CHANGES.values(), ids=list(CHANGES))
def test_next_windows_are_those_that_airflow_schedules(cron: str, timezone: str, change: datetime) -> None:
    job = make_job(schedule=cron, timezone=timezone, start_date="2026-01-01")
    now = change - 20 * HOUR
    scheduled = [window for window in around(cron, timezone, change) if window[1] > now]
    assert next_windows(job, now, 2) == scheduled[:2]


def test_next_windows_begin_at_the_start_date_of_the_job() -> None:
    job = make_job(schedule="0 2 * * *", start_date="2026-11-24")
    assert next_windows(job, datetime(2026, 11, 20, 12, tzinfo=UTC), 1) == [
        (datetime(2026, 11, 24, 2, tzinfo=UTC), datetime(2026, 11, 25, 2, tzinfo=UTC))
    ]


def test_window_that_begins_now_is_the_next_one() -> None:
    now = datetime(2026, 11, 23, 2, tzinfo=UTC)
    job = make_job(schedule="0 2 * * *", start_date="2026-01-01")
    assert next_windows(job, now, 1) == [(now, now + timedelta(days=1))]


@pytest.mark.parametrize(
    ("start_date", "first"),
    [
        pytest.param("2026-11-23", (23, 24), id="earlier in the first period"),
        pytest.param("2026-11-22", None, id="the first window is over"),
        pytest.param("2026-11-30T12:00", (1, 2), id="in the future"),
        pytest.param("2026-11-23T02:00", None, id="at a time of the schedule"),
    ],
)
def test_first_window_may_begin_after_the_start_date(start_date: str, first: tuple[int, int] | None) -> None:
    job = make_job(schedule="0 2 * * *", start_date=start_date)
    found = first_window_inside_period(job, datetime(2026, 11, 23, 12, tzinfo=UTC))
    assert (found and (found[0].day, found[1].day)) == first


def test_job_without_cron_expression_has_no_first_window() -> None:
    assert first_window_inside_period(make_job(), datetime(2026, 11, 23, tzinfo=UTC)) is None


def test_job_without_cron_expression_has_no_next_windows() -> None:
    assert next_windows(make_job(), datetime(2026, 11, 23, tzinfo=UTC)) == []
