from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pendulum
import pytest

from tests.support.operators import DAG_ID, RUN_ID, context, make_job
from zoho_crm.core.models import Origin
from zoho_crm.core.run_request import BEGINNING, AssetEvent
from zoho_crm.errors import ZohoConfigError
from zoho_crm.operators.job_operator import (
    asset_events_of,
    data_interval_of,
    origin_of,
    request_of,
    run_type_of,
)

AMSTERDAM = pendulum.datetime(2026, 11, 22, 2, tz="Europe/Amsterdam")


class RunType(str, Enum):  # noqa: UP042 - as Airflow's own, whose text is not its value
    SCHEDULED = "scheduled"

    def __str__(self) -> str:
        return "anything"


def test_shows_where_a_task_runs() -> None:
    made = context("delink", map_index=3, try_number=2, interval=(AMSTERDAM.subtract(days=1), AMSTERDAM))
    made["dag_run"].logical_date = AMSTERDAM
    end = datetime(2026, 11, 22, 1, tzinfo=UTC)
    assert origin_of(made) == Origin(
        dag_id=DAG_ID,
        dag_run_id=RUN_ID,
        run_type="manual",
        task_id="delink",
        logical_date=end,
        data_interval_start=end - timedelta(days=1),
        data_interval_end=end,
        triggered_by="ada",
        map_index=3,
        try_number=2,
    )


def test_a_run_without_date_interval_user_or_map_index_has_none() -> None:
    made = context("plan", map_index=None)
    made["dag_run"] = SimpleNamespace(run_type="manual")
    origin = origin_of(made)
    assert (origin.logical_date, origin.data_interval_start, origin.data_interval_end) == (None, None, None)
    assert (origin.triggered_by, origin.map_index) == (None, -1)


@pytest.mark.parametrize("kind", [RunType.SCHEDULED, "scheduled"], ids=["enum", "text"])
def test_the_kind_of_a_run_is_plain_text(kind: Any) -> None:
    made = context(run_type=kind)
    assert run_type_of(made) == "scheduled"
    assert type(run_type_of(made)) is str


@pytest.mark.parametrize(
    "instant",
    [
        AMSTERDAM,
        datetime(2026, 11, 22, 6, 30, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        datetime(2026, 11, 22, 1, tzinfo=UTC),
    ],
    ids=["pendulum", "offset", "utc"],
)
def test_times_are_plain_and_in_utc(instant: datetime) -> None:
    interval = data_interval_of(context(interval=(instant, instant)))
    assert interval == (datetime(2026, 11, 22, 1, tzinfo=UTC),) * 2
    assert {type(one) for one in interval or ()} == {datetime}
    assert {one.tzinfo for one in interval or ()} == {UTC}


@pytest.mark.parametrize("missing", ["data_interval_start", "data_interval_end"])
def test_half_an_interval_is_none(missing: str) -> None:
    made = context(interval=(AMSTERDAM, AMSTERDAM))
    made[missing] = None
    assert data_interval_of(made) is None
    del made[missing]
    assert data_interval_of(made) is None


def update_of(name: str, extra: dict[str, Any], at: datetime) -> SimpleNamespace:
    return SimpleNamespace(asset=SimpleNamespace(name=name, uri=name), extra=extra, timestamp=at)


def test_updates_of_assets_are_those_that_started_the_run() -> None:
    made = context(run_type="asset_triggered")
    assert asset_events_of(made) == []
    at = datetime(2026, 11, 22, 1, tzinfo=UTC)
    extra = {"window_start": "2026-11-20", "window_end": "2026-11-21"}
    made["triggering_asset_events"] = {
        "one": [update_of("one", extra, at), update_of("one", {}, at)],
        "two": [update_of("two", {}, at)],
    }
    assert asset_events_of(made) == [
        AssetEvent("one", at, extra),
        AssetEvent("one", at, {}),
        AssetEvent("two", at, {}),
    ]
    assert (request_of(made).window_start, request_of(made).window_end) == (BEGINNING, at)


def test_a_request_is_read_from_form_interval_and_kind_of_run() -> None:
    interval = (datetime(2026, 11, 21, 2, tzinfo=UTC), datetime(2026, 11, 22, 2, tzinfo=UTC))
    scheduled = context(run_type="scheduled", interval=interval, params={"reason": "tidy"})
    request = request_of(scheduled, make_job(automatic="apply"))
    assert (request.window_start, request.window_end) == interval
    assert (request.mode, request.reason) == ("apply", "tidy")
    assert request_of(scheduled, make_job()).mode == "dry_run"


def test_the_fields_of_the_form_are_those_of_the_dag() -> None:
    made = context(params={"mode": "apply", "window_begin": "2026-11-01"})
    made["dag"] = SimpleNamespace(params={"mode": "auto", "reason": None})
    with pytest.raises(
        ZohoConfigError, match=r"^window_begin: is not a field of the form; its fields are mode, reason$"
    ):
        request_of(made)
