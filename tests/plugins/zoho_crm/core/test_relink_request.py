"""The relink form and its filters."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from zoho_crm.core.relink_request import (
    RelinkFilter,
    RelinkRequest,
    parse_relink_filter,
    parse_relink_request,
)
from zoho_crm.core.run_request import parse_run_request
from zoho_crm.errors import ZohoConfigError

TEN = datetime(2026, 11, 22, 10, tzinfo=UTC)
ELEVEN = datetime(2026, 11, 22, 11, tzinfo=UTC)
EMPTY = dict.fromkeys(
    ("external_id_prefix", "related_external_id_prefix", "finished_from", "finished_to", "zoho_code"), ""
)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        pytest.param({}, {}, id="nothing"),
        pytest.param(EMPTY, {}, id="empty fields"),
        pytest.param(dict.fromkeys(EMPTY), {}, id="null fields"),
        pytest.param({"external_id_prefix": "c-1"}, {"external_id_prefix": "c-1"}, id="a prefix"),
        pytest.param({"external_id_prefix": "c-1 "}, {"external_id_prefix": "c-1 "}, id="a trailing space"),
        pytest.param(
            {"related_external_id_prefix": r"100%_\'; --"},
            {"related_external_id_prefix": r"100%_\'; --"},
            id="characters of SQL",
        ),
        pytest.param({"external_id_prefix": "ä" * 255}, {"external_id_prefix": "ä" * 255}, id="the longest"),
        pytest.param(
            {"finished_from": "2026-11-22T10:00"}, {"finished_from": TEN}, id="a time without a zone"
        ),
        pytest.param(
            {"finished_to": "2026-11-22T12:00:00+02:00"}, {"finished_to": TEN}, id="a time of another zone"
        ),
        pytest.param(
            {"finished_from": "2026-11-22T10:00:00Z", "finished_to": "2026-11-22T11:00:00Z"},
            {"finished_from": TEN, "finished_to": ELEVEN},
            id="both ends",
        ),
        pytest.param({"zoho_code": " SUCCESS "}, {"zoho_code": "SUCCESS"}, id="a code"),
    ],
)
def test_fields_are_parsed(params: dict[str, Any], expected: dict[str, Any]) -> None:
    assert parse_relink_filter(params) == RelinkFilter(**expected)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        pytest.param({"external_id_prefix": 7}, "external_id_prefix: must be text", id="a number"),
        pytest.param({"external_id_prefix": ["c"]}, "external_id_prefix: must be text", id="a list"),
        pytest.param(
            {"external_id_prefix": "c" * 256},
            "external_id_prefix: 256 characters; shorten it to at most 255",
            id="too long",
        ),
        pytest.param(
            {"related_external_id_prefix": " d"},
            "related_external_id_prefix: begins with a space, and no removed link's ID does; delete the space",
            id="a leading space",
        ),
        pytest.param(
            {"external_id_prefix": " "}, "external_id_prefix: begins with a space", id="only a space"
        ),
        pytest.param(
            {"external_id_prefix": "c\x00"},
            r"external_id_prefix: contains the control character U\+0000; delete it",
            id="NUL",
        ),
        pytest.param(
            {"related_external_id_prefix": "c\ud800"},
            r"related_external_id_prefix: contains the lone surrogate U\+D800; delete it",
            id="a surrogate",
        ),
        pytest.param(
            {"finished_from": "yesterday"}, "finished_from: 'yesterday' is not a time", id="no time"
        ),
        pytest.param(
            {"finished_to": "2026-11-31"}, "finished_to: '2026-11-31' is not a time", id="no such day"
        ),
        pytest.param({"finished_to": 5}, "finished_to: must be text", id="a time as a number"),
        pytest.param(
            {"finished_from": "2026-11-22", "finished_to": "2026-11-22"},
            "finished_to: must be later than finished_from",
            id="an empty range",
        ),
        pytest.param({"zoho_code": True}, "zoho_code: must be text", id="a code of another type"),
        pytest.param(
            {"zoho_code": "S" * 101}, "zoho_code: 101 characters; shorten it to at most 100", id="a long code"
        ),
        pytest.param({"zoho_code": "A\nB"}, "zoho_code: contains the control character", id="a line break"),
    ],
)
def test_wrong_field_is_named(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ZohoConfigError, match=f"^{message}"):
        parse_relink_filter(params)


def test_message_leaves_out_the_prefix() -> None:
    with pytest.raises(ZohoConfigError) as raised:
        parse_relink_filter({"external_id_prefix": "anna@example.com\x07"})
    assert "anna" not in str(raised.value)


def relink(**params: Any) -> RelinkRequest:
    request = parse_run_request(params, run_type="manual", run_after=TEN, data_interval=None)
    return parse_relink_request(params, request)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        pytest.param({"run": " r1 "}, RelinkRequest("r1"), id="all links of a run"),
        pytest.param(
            {"run": "r1", "links": [["a", "b"]]}, RelinkRequest("r1", links=[("a", "b")]), id="some links"
        ),
        pytest.param(
            {"run": "r1", "links": [["a", "b"]], "zoho_code": "SUCCESS"},
            RelinkRequest("r1", links=[("a", "b")], filter=RelinkFilter(zoho_code="SUCCESS")),
            id="links and a filter",
        ),
        pytest.param(
            {"run": "r1", "include_presumed": True},
            RelinkRequest("r1", include_presumed=True),
            id="presumed removals",
        ),
        pytest.param({"run": "r1", "include_presumed": False}, RelinkRequest("r1"), id="evident removals"),
    ],
)
def test_form_is_parsed(params: dict[str, Any], expected: RelinkRequest) -> None:
    assert relink(**params) == expected


@pytest.mark.parametrize(
    ("params", "message"),
    [
        pytest.param({}, "run: missing", id="no run"),
        pytest.param({"run": " "}, "run: missing", id="a blank run"),
        pytest.param({"run": "r1", "links": []}, "links: the list is empty", id="no links"),
        pytest.param(
            {"run": "r1", "include_presumed": "yes"},
            "include_presumed: must be true or false",
            id="a flag of another type",
        ),
        pytest.param(
            {"run": "r1", "finished_to": "soon"}, "finished_to: 'soon' is not a time", id="a filter"
        ),
    ],
)
def test_wrong_form_is_refused(params: dict[str, Any], message: str) -> None:
    with pytest.raises(ZohoConfigError, match=f"^{message}"):
        relink(**params)
