"""Backfills of one week, forwards, backwards and repeated, beside scheduled runs and a manual run."""

from __future__ import annotations

from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from include.stack import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.airflow_world import CrmSnapshot, Pair, World

pytestmark = pytest.mark.systems

pytest_plugins = ["tests.support.airflow_world"]

WEEK = "zoho_delink__week"
WEEK_COPY = "zoho_delink__week_copy"  # another job with the same links
DAY = timedelta(days=1)
MOMENT = timedelta(microseconds=1)
DAYS = range(-7, 0)  # start of each day, in days before the end of the last complete one


@dataclass(frozen=True)
class Week:
    """The links of a week by day, those just outside it, and the CRM before the first run."""

    by_day: dict[int, list[Pair]]
    outside: list[Pair]
    before: CrmSnapshot


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


@pytest.fixture(scope="module")
def week(world: World) -> Week:
    rows, by_day = [], {}
    for day in DAYS:
        starts = world.day_ends + day * DAY
        moments = [
            starts,
            starts + MOMENT,
            *(starts + n * timedelta(hours=5) for n in (1, 2)),
            starts + DAY - MOMENT,
        ]
        by_day[day] = [(f"y{-day}-{n}", f"z-{n}") for n in range(len(moments))]
        rows += zip(by_day[day], moments, strict=True)
    outside = [("y-before", "z-0"), ("y-after", "z-0")]
    edges = [world.day_ends + DAYS[0] * DAY - MOMENT, world.day_ends]
    world.mark("week", [*rows, *zip(outside, edges, strict=True)])
    return Week(by_day, outside, world.snapshot())


@pytest.fixture(scope="module", autouse=True)
def _switched_off_at_the_end(world: World) -> Iterator[None]:
    yield
    for dag_id in (WEEK, WEEK_COPY):
        world.runs.switch_off(dag_id)


def test_overlapping_runs_remove_each_link_exactly_once(world: World, week: Week):
    first, end = world.day_ends + DAYS[0] * DAY, world.day_ends
    for dag_id in (WEEK, WEEK_COPY):  # the schedule of each starts a run of the last day
        world.runs.switch_on(dag_id)
        world.runs.until(lambda dag_id=dag_id: bool(_runs(world, dag_id)), f"the scheduled run of {dag_id}")
    forwards = _backfill(world, WEEK, DAYS[0], DAYS[-1])
    _backfill(world, WEEK_COPY, DAYS[0], DAYS[-1], run_backwards=True)
    with pytest.raises(ApiError, match="There is already a running backfill"):
        _backfill(world, WEEK, DAYS[0], DAYS[-1])
    manual = world.airflow.trigger(
        WEEK, {"mode": "apply", "window_start": first.isoformat(), "window_end": end.isoformat()}
    )
    _finish_all(world)

    links = [pair for day in DAYS for pair in week.by_day[day]]
    world.check_crm(dict.fromkeys(links, "removed"), since=week.before)
    rows = _audit(world)
    assert Counter(row["run_type"] for row in _run_rows(world)) == {
        "scheduled": 2,
        "backfill": 12,
        "manual": 1,
    }
    _check_hihistories(rows, links, holders=3)
    planned = {
        (row["dag_id"], row["dag_run_id"], (row["external_id"], row["related_external_id"])) for row in rows
    }
    assert {pair for _, run_id, pair in planned if run_id == manual} == set(links)
    assert not {pair for _, _, pair in planned} & set(week.outside)

    again = range(-5, -2)
    sent = world.snapshot()
    # All runs have ended; once Airflow notices, within half a minute, nothing is left to cancel.
    with suppress(ApiError):
        world.airflow.api("PUT", f"/api/v2/backfills/{forwards}/cancel")
    _backfill(world, WEEK, again[0], again[-1], reprocess_behavior="completed")
    _finish_all(world)
    tries = {
        dag_run["dag_run_id"]: max(
            task["try_number"] for task in world.runs.tasks(WEEK, dag_run["dag_run_id"])
        )
        for dag_run in _runs(world, WEEK)
        if dag_run["run_type"] == "backfill"
    }
    assert Counter(tries.values()) == {2: len(again), 1: len(DAYS) - 1 - len(again)}, (
        "three days ran once more"
    )
    assert world.delinks(sent) == []
    assert _audit(world) == rows
    assert world.snapshot().links == sent.links


def _check_hihistories(rows: list[dict[str, Any]], links: list[Pair], *, holders: int) -> None:
    """Check that one run removed each link, and that all others report it as already absent."""
    histories: dict[Pair, Counter[str]] = defaultdict(Counter)
    for row in rows:
        histories[row["external_id"], row["related_external_id"]][row["outcome"]] += 1
    assert histories == {pair: Counter(removed=1, already_absent=holders - 1) for pair in links}
    # No run has two outcomes for a link.
    assert len({(row["run_key"], row["pair_key"]) for row in rows}) == len(rows)


def _backfill(world: World, dag_id: str, first: int, last: int, **options: object) -> int:
    body = {
        "dag_id": dag_id,
        "from_date": (world.day_ends + first * DAY).isoformat(),
        "to_date": (world.day_ends + last * DAY).isoformat(),
        "max_active_runs": 4,
        **options,
    }
    backfill_id: int = world.airflow.api("POST", "/api/v2/backfills", body)["id"]
    return backfill_id


def _finish_all(world: World) -> None:
    for dag_id in (WEEK, WEEK_COPY):
        for dag_run in _runs(world, dag_id):
            world.runs.finish(dag_id, dag_run["dag_run_id"])


def _runs(world: World, dag_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = world.runs.get(dag_id, "/dagRuns", limit=50)["dag_runs"]
    return found


def _run_rows(world: World) -> list[dict[str, Any]]:
    return world.audit.rows("SELECT * FROM zoho_delink_run WHERE job IN ('week', 'week_copy')")


def _audit(world: World) -> list[dict[str, Any]]:
    return world.audit.rows(
        "SELECT * FROM zoho_delink_audit WHERE job IN ('week', 'week_copy') ORDER BY event_id"
    )
