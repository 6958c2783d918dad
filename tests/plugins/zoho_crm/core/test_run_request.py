from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest

from zoho_crm.core.run_request import BEGINNING, AssetEvent, RunRequest, parse_run_request, run_key
from zoho_crm.errors import ZohoConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence


from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES, Outcome
from zoho_crm.core.run_request import (
    RetryRequest,
    parse_retry_request,
)

DUE = datetime(2026, 11, 23, 2, tzinfo=UTC)
DAY = (datetime(2026, 11, 22, 2, tzinfo=UTC), DUE)


def ask(
    params: dict[str, Any] | None = None,
    run_type: str = "manual",
    interval: tuple[datetime, datetime] | None = None,
    events: Sequence[AssetEvent] = (),
    fields: Collection[str] | None = None,
    automatic: str = "dry_run",
    lookback: timedelta = timedelta(0),
) -> RunRequest:
    return parse_run_request(
        params or {},
        run_type=run_type,
        run_after=DUE,
        data_interval=interval,
        automatic=automatic,
        lookback=lookback,
        asset_events=events,
        fields=fields,
    )


@pytest.mark.parametrize("automatic", ["dry_run", "apply"])
@pytest.mark.parametrize("mode", [None, "", "auto"])
@pytest.mark.parametrize("run_type", ["manual", "operator_triggered", "something_new"])
def test_a_run_that_a_person_starts_is_dry_whatever_the_job_says(
    mode: str | None, run_type: str, automatic: str
) -> None:
    assert ask({"mode": mode}, run_type, automatic=automatic).mode == "dry_run"


@pytest.mark.parametrize("automatic", ["dry_run", "apply"])
@pytest.mark.parametrize("run_type", ["scheduled", "backfill", "asset_triggered", "asset_materialization"])
def test_an_automatic_run_does_what_the_job_says(run_type: str, automatic: str) -> None:
    assert ask({"mode": "auto"}, run_type, automatic=automatic).mode == automatic


@pytest.mark.parametrize("automatic", ["dry_run", "apply"])
@pytest.mark.parametrize("run_type", ["manual", "scheduled", "backfill", "asset_triggered"])
@pytest.mark.parametrize("mode", ["dry_run", "apply"])
def test_an_explicit_mode_overrides_the_job(mode: str, run_type: str, automatic: str) -> None:
    assert ask({"mode": mode}, run_type, automatic=automatic).mode == mode


@pytest.mark.parametrize("run_type", ["scheduled", "backfill", "asset_triggered"])
def test_automatic_runs_are_dry_by_default(run_type: str) -> None:
    request = parse_run_request({}, run_type=run_type, run_after=DUE, data_interval=DAY)
    assert request.mode == "dry_run"


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
def test_a_scheduled_window_is_the_data_interval(run_type: str) -> None:
    request = ask({}, run_type, DAY)
    assert (request.window_start, request.window_end) == DAY


HOURS = timedelta(hours=6)
EXPLICIT = {"window_start": "2026-11-20T00:00:00Z", "window_end": "2026-11-21T00:00:00Z"}
SAME_AS_INTERVAL = {"window_start": DAY[0].isoformat(), "window_end": DAY[1].isoformat()}


@pytest.mark.parametrize("run_type", ["scheduled", "backfill"])
def test_the_sql_of_a_data_interval_reads_from_the_lookback_before_it(run_type: str) -> None:
    request = ask({}, run_type, DAY, lookback=HOURS)
    assert (request.window_start, request.window_end) == DAY
    assert request.source_start == DAY[0] - HOURS


@pytest.mark.parametrize(
    ("params", "run_type", "interval"),
    [
        (EXPLICIT, "manual", None),
        (EXPLICIT, "backfill", DAY),
        (SAME_AS_INTERVAL, "scheduled", DAY),
        ({}, "manual", DAY),
        ({}, "asset_triggered", None),
    ],
)
def test_other_windows_are_read_as_they_are(
    params: dict[str, str], run_type: str, interval: tuple[datetime, datetime] | None
) -> None:
    request = ask(params, run_type, interval, lookback=HOURS)
    assert request.source_start == request.window_start


def test_without_a_lookback_the_sql_reads_the_window() -> None:
    assert ask({}, "scheduled", DAY).source_start == DAY[0]


@pytest.mark.parametrize(
    ("run_type", "interval"),
    [
        ("manual", DAY),
        ("manual", None),
        ("asset_triggered", None),
        ("scheduled", None),
        ("scheduled", (DUE, DUE)),
    ],
)
def test_a_run_without_a_window_takes_all_pending_links(
    run_type: str, interval: tuple[datetime, datetime] | None
) -> None:
    request = ask({}, run_type, interval)
    assert (request.window_start, request.window_end) == (BEGINNING, DUE)


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z", (1, 0, 2, 0)),
        ("2026-11-01T00:00:00+02:00", "2026-11-02T00:00:00+02:00", (31, 22, 1, 22)),
        ("2026-11-01", "2026-11-02", (1, 0, 2, 0)),
        (" 2026-11-01T00:00:00Z ", "2026-11-02T00:00", (1, 0, 2, 0)),
    ],
)
def test_a_window_of_the_form_is_read_as_utc(
    start: str, end: str, expected: tuple[int, int, int, int]
) -> None:
    request = ask({"window_start": start, "window_end": end}, "scheduled", DAY)
    read = (request.window_start, request.window_end)
    assert (read[0].day, read[0].hour, read[1].day, read[1].hour) == expected
    assert [instant.utcoffset() for instant in read] == [timedelta(0), timedelta(0)]
    assert {type(instant) for instant in read} == {datetime}


def test_a_window_over_a_change_of_the_clocks_has_its_real_length() -> None:
    request = ask({"window_start": "2026-10-25T00:00:00+02:00", "window_end": "2026-10-26T00:00:00+01:00"})
    assert request.window_end - request.window_start == timedelta(hours=25)


def test_an_interval_in_another_zone_is_the_same_instant() -> None:
    zone = timezone(timedelta(hours=5))
    request = ask({}, "scheduled", (DAY[0].astimezone(zone), DAY[1].astimezone(zone)))
    assert (request.window_start, request.window_end) == DAY
    assert request.window_start.tzinfo is UTC


FAULTS = {
    "mode": ({"mode": "purge"}, "mode: 'purge' is none of auto, dry_run, apply"),
    "mode as a list": ({"mode": ["apply"]}, "mode: ['apply'] is none of auto, dry_run, apply"),
    "start alone": (
        {"window_start": "2026-11-01"},
        "window_end: missing; give both ends of the window, or neither",
    ),
    "end alone": (
        {"window_end": "2026-11-01"},
        "window_start: missing; give both ends of the window, or neither",
    ),
    "no time": (
        {"window_start": "garbage", "window_end": "2026-11-01"},
        "window_start: 'garbage' is not a time; write it like 2026-11-22T00:00:00+00:00",
    ),
    "an hour only": (
        {"window_start": "10:00", "window_end": "2026-11-01"},
        "window_start: '10:00' is not a time; write it like 2026-11-22T00:00:00+00:00",
    ),
    "an interval": (
        {"window_start": "2026-11-01/2026-11-02", "window_end": "2026-11-03"},
        "window_start: '2026-11-01/2026-11-02' is not a time; write it like 2026-11-22T00:00:00+00:00",
    ),
    "no such day": (
        {"window_start": "2026-02-30", "window_end": "2026-11-03"},
        "window_start: '2026-02-30' is not a time; write it like 2026-11-22T00:00:00+00:00",
    ),
    "a time before all time": (
        {"window_start": "0001-01-01T00:00:00+05:00", "window_end": "2026-11-03"},
        "window_start: '0001-01-01T00:00:00+05:00' is not a time; write it like 2026-11-22T00:00:00+00:00",
    ),
    "a number": ({"window_start": 5, "window_end": 6}, "window_start: must be text"),
    "empty window": (
        {"window_start": "2026-11-01", "window_end": "2026-11-01"},
        "window_end: must lie after window_start",
    ),
    "limit": ({"max_links": -1, "reason": "x"}, "max_links: must be a whole number, 0 or more"),
    "limit as text": ({"max_links": "5", "reason": "x"}, "max_links: must be a whole number, 0 or more"),
    "limit as truth": ({"max_links": True, "reason": "x"}, "max_links: must be a whole number, 0 or more"),
    "limit without a reason": ({"max_links": 5}, "reason: say why, when max_links overrides the job's limit"),
    "blank reason": (
        {"max_links": 5, "reason": "  "},
        "reason: say why, when max_links overrides the job's limit",
    ),
    "limit with a fraction": (
        {"max_links": 5.0, "reason": "x"},
        "max_links: must be a whole number, 0 or more",
    ),
    "reason as a number": ({"reason": 5}, "reason: must be text"),
    "a long reason": ({"reason": "x" * 1001}, "reason: 1001 characters; no more than 1000 are kept"),
    "verify as text": ({"verify": "yes"}, "verify: must be true or false"),
    "verify as a number": ({"verify": 1}, "verify: must be true or false"),
    "verify with apply": (
        {"verify": True, "mode": "apply"},
        "verify: is for a dry run only, and this run would remove links",
    ),
    "links of another type": ({"links": 5}, "links: not a list of links"),
    "links with a stray": (
        {"links": [["a", "b"], ["a"]]},
        "links[1]: neither a pair nor an object with external_id and related_external_id",
    ),
    "links as one word": (
        {"links": "c-1"},
        "links: line 1: 1 column where two are needed: an id and a related id, with a comma, a semicolon or a tab "
        "between them",
    ),
}


@pytest.mark.parametrize(("params", "says"), FAULTS.values(), ids=list(FAULTS))
def test_a_wrong_field_is_named(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ZohoConfigError) as error:
        ask(params)
    assert str(error.value) == says


def test_an_empty_list_does_not_mean_all_links_of_the_sql() -> None:
    with pytest.raises(ZohoConfigError, match=r"links: the list is empty"):
        ask({"links": []})


def test_pasted_links_are_read() -> None:
    assert ask({"links": "c-1;d-1\nc-2;d-2"}).links == [("c-1", "d-1"), ("c-2", "d-2")]
    assert ask({"links": " "}).links is None


@pytest.mark.parametrize(
    ("params", "run_type", "expected"),
    [
        ({}, "manual", False),
        ({"verify": None}, "manual", False),
        ({"verify": ""}, "manual", False),
        ({"verify": False, "mode": "apply"}, "manual", False),
        ({"verify": True}, "manual", True),
        ({"verify": True, "mode": "dry_run"}, "scheduled", True),
    ],
)
def test_a_dry_run_may_verify(params: dict[str, Any], run_type: str, expected: bool) -> None:
    assert ask(params, run_type).verify is expected


def test_verify_is_refused_where_auto_means_apply() -> None:
    form = {"verify": True, "mode": "auto"}
    assert ask(form, "backfill", DAY).verify
    with pytest.raises(ZohoConfigError, match=r"^verify: is for a dry run only"):
        ask(form, "backfill", DAY, automatic="apply")


def test_an_unknown_field_is_refused() -> None:
    fields = ["mode", "window_start", "window_end"]
    assert ask({"mode": "apply"}, fields=fields).mode == "apply"
    with pytest.raises(ZohoConfigError) as error:
        ask({"mode": "apply", "window_begin": "2026-11-01"}, fields=fields)
    assert str(error.value) == (
        "window_begin: is not a field of the form; its fields are mode, window_start, window_end"
    )


def updated(hour: int, extra: dict[str, Any] | None = None, asset: str = "links_to_remove") -> AssetEvent:
    return AssetEvent(asset, datetime(2026, 11, 22, hour, tzinfo=timezone(timedelta(hours=1))), extra or {})


def window(start: str, end: str) -> dict[str, Any]:
    return {"window_start": start, "window_end": end, "rows": 17}


DAY_20, DAY_21, DAY_22 = (datetime(2026, 11, day, tzinfo=UTC) for day in (20, 21, 22))


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param([updated(5, window("2026-11-20", "2026-11-21"))], (DAY_20, DAY_21), id="one window"),
        pytest.param(
            [
                updated(6, window("2026-11-21T00:00:00Z", "2026-11-22T01:00:00+01:00"), "other"),
                updated(5, window("2026-11-20", "2026-11-20T12:00:00")),
            ],
            (DAY_20, DAY_22),
            id="the hull of several",
        ),
        pytest.param([updated(5)], (BEGINNING, DAY_22.replace(hour=4)), id="no window"),
        pytest.param(
            [updated(7), updated(9), updated(5)],
            (BEGINNING, DAY_22.replace(hour=8)),
            id="no window, up to the newest",
        ),
        pytest.param(
            [updated(5, window("2026-11-20", "2026-11-21")), updated(3)],
            (BEGINNING, DAY_22.replace(hour=2)),
            id="one with and one without",
        ),
        pytest.param(
            [updated(3, {"window_start": None, "window_end": ""})],
            (BEGINNING, DAY_22.replace(hour=2)),
            id="an empty window",
        ),
    ],
)
def test_the_window_of_a_run_started_by_assets_is_that_of_their_updates(
    events: list[AssetEvent], expected: tuple[datetime, datetime]
) -> None:
    request = ask({}, "asset_triggered", events=events)
    assert (request.window_start, request.window_end) == expected
    assert request.window_end.tzinfo is UTC


def test_the_window_of_the_form_goes_before_that_of_an_asset() -> None:
    request = ask(
        {"window_start": "2026-11-20", "window_end": "2026-11-21"},
        "asset_triggered",
        events=[updated(5, window("2026-11-01", "2026-11-02"))],
    )
    assert (request.window_start, request.window_end) == (DAY_20, DAY_21)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        ({"window_start": "2026-11-20"}, "window_end: missing; give both ends of the window, or neither"),
        (
            window("garbage", "2026-11-21"),
            "window_start: 'garbage' is not a time; write it like 2026-11-22T00:00:00+00:00",
        ),
        (window("2026-11-21", "2026-11-20"), "window_end: must lie after window_start"),
        ({"window_start": 5, "window_end": 6}, "window_start: must be text"),
    ],
)
def test_a_wrong_window_of_an_asset_names_it(extra: dict[str, Any], says: str) -> None:
    with pytest.raises(ZohoConfigError) as error:
        ask({}, "asset_triggered", events=[updated(5), updated(5, extra, "crm/links")])
    assert str(error.value) == f"asset 'crm/links', {says}"


def test_a_limit_with_a_reason_is_taken() -> None:
    request = ask({"max_links": 0, "reason": " cleaning up "})
    assert (request.max_links, request.reason) == (0, "cleaning up")


def test_run_keys_are_distinct_and_stay_the_same() -> None:
    assert run_key("job", "dag", "run") == run_key("job", "dag", "run")
    assert run_key("job", "dag", "run").startswith("job:")
    assert (
        len({run_key("job", *parts) for parts in (("a", "bc"), ("ab", "c"), ("abc",), ("a", "b", "c"))}) == 4
    )


NOW = datetime(2026, 11, 23, tzinfo=UTC)
WEEK = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 8, tzinfo=UTC))
WINDOW = {"window_start": "2026-11-01", "window_end": "2026-11-08T00:00:00Z"}


def read(params: dict[str, Any]) -> RunRequest:
    return parse_run_request(params, run_type="manual", run_after=NOW, data_interval=None)


def parse_retry(**params: Any) -> RetryRequest:
    return parse_retry_request(params, read(params))


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        pytest.param({"run": " r1 "}, RetryRequest("r1", None, RETRYABLE_OUTCOMES), id="a run"),
        pytest.param(WINDOW, RetryRequest(None, WEEK, RETRYABLE_OUTCOMES), id="a window"),
        pytest.param({"run": "", **WINDOW}, RetryRequest(None, WEEK, RETRYABLE_OUTCOMES), id="an empty run"),
        pytest.param(
            {"run": "r1", "outcomes": ["unknown"]},
            RetryRequest("r1", None, frozenset({Outcome.UNKNOWN})),
            id="one outcome",
        ),
        pytest.param(
            {"run": "r1", "outcomes": "failed, not_attempted"},
            RetryRequest("r1", None, frozenset({Outcome.FAILED, Outcome.NOT_ATTEMPTED})),
            id="outcomes as text",
        ),
    ],
)
def test_parses_the_form_of_a_retry(params: dict[str, Any], expected: RetryRequest) -> None:
    assert parse_retry(**params) == expected


@pytest.mark.parametrize(
    ("params", "says"),
    [
        pytest.param({}, "run: missing", id="neither"),
        pytest.param({"run": "r1", **WINDOW}, "run: give a run, or the window", id="both"),
        pytest.param({"run": 7}, "run: must be text", id="a number"),
        pytest.param({"window_start": "2026-11-01"}, "window_end: missing", id="half a window"),
        pytest.param({"run": "r1", "outcomes": []}, "outcomes: choose one", id="no outcome"),
        pytest.param({"run": "r1", "outcomes": 3}, "outcomes: choose one", id="outcomes of another type"),
        pytest.param({"run": "r1", "outcomes": ["removed"]}, "outcomes: 'removed' cannot", id="a final one"),
        pytest.param({"run": "r1", "outcomes": [["failed"]]}, "outcomes: ", id="a nested list"),
        pytest.param(
            {"run": "r1", "outcomes": ["would_remove"]}, "outcomes: 'would_remove' cannot", id="a dry run's"
        ),
    ],
)
def test_a_wrong_field_of_a_retry_is_named(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ZohoConfigError, match=f"^{says}"):
        parse_retry(**params)
