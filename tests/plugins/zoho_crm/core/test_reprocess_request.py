"""The forms of the Dags on past runs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES, Outcome
from zoho_crm.core.reprocess_request import (
    RelinkRequest,
    RetryRequest,
    parse_relink_request,
    parse_retry_request,
)
from zoho_crm.core.run_request import RunRequest, parse_run_request
from zoho_crm.errors import ZohoConfigError

NOW = datetime(2026, 11, 23, tzinfo=UTC)
WEEK = (datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 8, tzinfo=UTC))
WINDOW = {"window_start": "2026-11-01", "window_end": "2026-11-08T00:00:00Z"}
COLUMNS = ("seq", "zoho_code")


def read(params: dict[str, Any]) -> RunRequest:
    return parse_run_request(params, run_type="manual", run_after=NOW, data_interval=None)


def redrive(**params: Any) -> RetryRequest:
    return parse_retry_request(params, read(params))


def relink(**params: Any) -> RelinkRequest:
    return parse_relink_request(params, read(params), COLUMNS)


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
def test_redrive_form(params: dict[str, Any], expected: RetryRequest) -> None:
    assert redrive(**params) == expected


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
def test_a_wrong_field_of_redrive_is_named(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ZohoConfigError, match=f"^{says}"):
        redrive(**params)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        pytest.param({"run": "r1"}, RelinkRequest("r1"), id="all of a run"),
        pytest.param(
            {"run": "r1", "links": [["a", "b"]]}, RelinkRequest("r1", links=[("a", "b")]), id="some links"
        ),
        pytest.param(
            {"run": "r1", "where": "seq = 1"}, RelinkRequest("r1", where="(seq = 1)"), id="a condition"
        ),
    ],
)
def test_relink_form(params: dict[str, Any], expected: RelinkRequest) -> None:
    assert relink(**params) == expected


@pytest.mark.parametrize(
    ("params", "says"),
    [
        pytest.param({}, "run: missing", id="no run"),
        pytest.param({"run": " "}, "run: missing", id="a blank run"),
        pytest.param({"run": "r1", "links": []}, "links: the list is empty", id="no links"),
        pytest.param({"run": "r1", "where": "reason = 'x'"}, "where: reason is no column", id="no column"),
        pytest.param(
            {"run": "r1", "where": "seq = 1", "links": [["a", "b"]]}, "where: give links or", id="both"
        ),
        pytest.param({"run": "r1", "where": ["seq = 1"]}, "where: must be text", id="a list"),
    ],
)
def test_a_wrong_field_of_relink_is_named(params: dict[str, Any], says: str) -> None:
    with pytest.raises(ZohoConfigError, match=f"^{says}"):
        relink(**params)
