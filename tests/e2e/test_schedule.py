"""A daily job: its scheduled run, and a backfill of the days before."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from include.stack import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.airflow_world import CrmSnapshot, Pair, World

pytest_plugins = ["tests.support.airflow_world"]

DAILY = "zoho_delink__daily"
DAY = timedelta(days=1)
MOMENT = timedelta(microseconds=1)
NOON = timedelta(hours=12)


@dataclass(frozen=True)
class Scheduled:
    dag_run: dict[str, Any]
    before: CrmSnapshot
    after: CrmSnapshot


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


@pytest.fixture(scope="module")
def marked(world: World) -> dict[int, list[Pair]]:
    """Mark links on each of the last days, the edges of the days included, and return them by day; -1 is the last."""
    by_day: dict[int, list[Pair]] = {}
    rows = []
    for day in range(-5, 1):
        starts = world.day_ends + day * DAY
        moments = [
            starts,
            *(starts + NOON - n * timedelta(minutes=1) for n in range(8)),
            starts + DAY - MOMENT,
        ]
        pairs = [(f"w{-day}-{n}", f"x-{n}") for n in range(len(moments))]
        by_day[day] = pairs
        rows += zip(pairs, moments, strict=True)
    world.mark("daily", rows)
    return by_day


@pytest.fixture(scope="module", autouse=True)
def _switched_off_at_the_end(world: World) -> Iterator[None]:
    yield
    world.runs.switch_off(DAILY)


@pytest.fixture(scope="module")
def scheduled(world: World, marked: dict[int, list[Pair]]) -> Scheduled:
    """Return the run that the schedule starts when it is switched on."""
    before = world.snapshot()
    world.runs.switch_on(DAILY)
    world.runs.until(lambda: bool(_runs(world, "scheduled")), "a scheduled run")
    (dag_run,) = _runs(world, "scheduled")
    world.runs.finish(DAILY, dag_run["dag_run_id"])
    return Scheduled(dag_run, before, world.snapshot())


def test_scheduled_run_removes_the_links_of_its_interval_and_no_other(
    world: World, marked: dict[int, list[Pair]], scheduled: Scheduled
):
    window = (world.day_ends - DAY, world.day_ends)
    assert _interval(scheduled.dag_run) == window
    run = world.check_run(
        DAILY,
        scheduled.dag_run["dag_run_id"],
        dict.fromkeys(marked[-1], "removed"),
        since=scheduled.before,
        until=scheduled.after,
    )
    assert (run["mode"], run["status"], run["run_type"]) == ("apply", "succeeded", "scheduled")
    assert (run["window_start"], run["window_end"]) == window
    assert (run["data_interval_start"], run["data_interval_end"]) == window
    assert run["triggered_by"] is None


@pytest.mark.systems
@pytest.mark.usefixtures("scheduled")
def test_backfill_runs_each_day_separately_one_after_the_other(world: World, marked: dict[int, list[Pair]]):
    before = world.snapshot()
    days = (-4, -3, -2)

    world.airflow.api(
        "POST",
        "/api/v2/backfills",
        {
            "dag_id": DAILY,
            "from_date": (world.day_ends + days[0] * DAY).isoformat(),
            "to_date": (world.day_ends + days[-1] * DAY).isoformat(),
            "max_active_runs": 1,
        },
    )
    dag_runs = sorted(_runs(world, "backfill"), key=_interval)
    assert [_interval(dag_run)[0] for dag_run in dag_runs] == [world.day_ends + day * DAY for day in days]
    for dag_run in dag_runs:
        world.runs.finish(DAILY, dag_run["dag_run_id"])

    ended = None
    everything: dict[Pair, str] = {}
    for day, dag_run in zip(days, dag_runs, strict=True):
        run = world.audit.run(DAILY, dag_run["dag_run_id"])
        assert (run["mode"], run["status"], run["run_type"]) == ("apply", "succeeded", "backfill")
        assert (run["window_start"], run["window_end"]) == _interval(dag_run)
        assert ended is None or ended < run["started_at"], "two days at a time"
        ended = run["finished_at"]
        latest = {
            (row["external_id"], row["related_external_id"]): row["outcome"]
            for row in world.audit.latest(run["run_key"])
        }
        assert latest == dict.fromkeys(marked[day], "removed")
        everything |= latest
    world.check_crm(everything, since=before)
    histories = world.audit.rows(
        "SELECT external_id, related_external_id, count(*) AS events FROM zoho_delink_audit WHERE job = 'daily' "
        "AND run_type = 'backfill' GROUP BY external_id, related_external_id"
    )
    assert {(row["external_id"], row["related_external_id"]): row["events"] for row in histories} == (
        dict.fromkeys(everything, 1)
    )


@pytest.mark.systems
@pytest.mark.usefixtures("scheduled")
def test_mode_in_the_configuration_of_a_backfill_overrides_the_job(world: World):
    before = world.snapshot()
    day = (world.day_ends - 5 * DAY).isoformat()
    body = {"dag_id": DAILY, "from_date": day, "to_date": day, "dag_run_conf": {"mode": "dry_run"}}
    world.runs.until(lambda: _starts(world, body), "the end of the backfill before")
    (dag_run,) = (each for each in _runs(world, "backfill") if each["conf"])
    world.runs.finish(DAILY, dag_run["dag_run_id"])
    run = world.audit.run(DAILY, dag_run["dag_run_id"])
    assert (run["mode"], run["run_type"], run["would_remove"]) == ("dry_run", "backfill", 10)
    assert world.delinks(before) == []


def _starts(world: World, backfill: dict[str, Any]) -> bool:
    """Start a backfill, unless another one of the Dag is still running."""
    try:
        world.airflow.api("POST", "/api/v2/backfills", backfill)
    except ApiError as error:
        if "already a running backfill" not in str(error):
            raise
        return False
    return True


def _runs(world: World, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.runs.get(DAILY, "/dagRuns", run_type=kind)["dag_runs"]
    return found


def _interval(dag_run: dict[str, Any]) -> tuple[datetime, datetime]:
    start, end = (datetime.fromisoformat(dag_run[f"data_interval_{edge}"]) for edge in ("start", "end"))
    return start, end
