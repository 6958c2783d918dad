from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoho_crm.core.response import (
    ResponseItem,
    ResponseKind,
    classify_response,
    found_record,
    json_object,
    parse_response_item,
    parse_response_items,
)

GOOD = {"code": "SUCCESS", "details": {"id": "7"}, "message": "relation removed", "status": "success"}
BAD = {"code": "INVALID_DATA", "details": {"id": "8"}, "message": "relation not found", "status": "error"}


def body(content: Any) -> bytes:
    return json.dumps(content).encode()


def entry(**changes: Any) -> ResponseItem:
    found = parse_response_item(body({"data": [{**GOOD, **changes}]}))
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("content", "code"),
    [
        pytest.param({"data": [GOOD]}, "SUCCESS", id="success-in-data"),
        pytest.param({"data": [BAD]}, "INVALID_DATA", id="error-in-data"),
        pytest.param(BAD, "INVALID_DATA", id="error-at-the-top"),
        pytest.param(
            {**BAD, "code": 429, "error": "TOO_MANY_REQUESTS"}, "TOO_MANY_REQUESTS", id="older-form"
        ),
        pytest.param({**BAD, "code": 429}, "429", id="code-is-a-number"),
        pytest.param({"code": None, "status": "error"}, "", id="no-code"),
        pytest.param({**BAD, "code": True}, "", id="code-is-a-boolean"),
        pytest.param({}, "", id="empty-object"),
    ],
)
def test_reads_the_item_wherever_it_is(content: Any, code: str) -> None:
    found = parse_response_item(body(content))
    assert found is not None
    assert found.code == code


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(GOOD, id="success-at-the-top"),
        pytest.param({"data": []}, id="no-entry"),
        pytest.param({"data": [GOOD, GOOD]}, id="two-entries"),
        pytest.param({"data": [GOOD], **BAD}, id="success-and-error-at-once"),
        pytest.param({"data": [GOOD], "status": "error"}, id="error-status-beside-data"),
        pytest.param({"data": GOOD}, id="data-is-an-object"),
        pytest.param({"data": ["SUCCESS"]}, id="entry-is-text"),
        pytest.param({"data": None}, id="data-is-null"),
        pytest.param([GOOD], id="list-at-the-top"),
        pytest.param("SUCCESS", id="text"),
        pytest.param(None, id="null"),
    ],
)
def test_reads_no_item_where_there_is_not_just_one(content: Any) -> None:
    assert parse_response_item(body(content)) is None


@pytest.mark.parametrize(
    ("content", "codes"),
    [
        pytest.param({"data": [GOOD, BAD]}, ["SUCCESS", "INVALID_DATA"], id="mixed"),
        pytest.param({"data": [GOOD]}, ["SUCCESS"], id="one"),
        pytest.param({"data": [{}]}, [""], id="empty-entry"),
        pytest.param({"data": []}, None, id="none"),
        pytest.param({"data": [GOOD, 1]}, None, id="one-is-no-object"),
        pytest.param({"data": {"0": GOOD}}, None, id="data-is-an-object"),
        pytest.param({"data": [GOOD], **BAD}, None, id="an-error-for-the-whole"),
        pytest.param({"data": [GOOD], "status": "error"}, None, id="error-status-for-the-whole"),
        pytest.param(BAD, None, id="top-level-error"),
        pytest.param([GOOD], None, id="list"),
    ],
)
def test_reads_the_entries_of_several_links(content: Any, codes: list[str] | None) -> None:
    found = parse_response_items(body(content))
    assert (None if found is None else [one.code for one in found]) == codes


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html>",
        body({"data": [GOOD]})[:-9],
        b'{"data": [], "data": [{"code": "SUCCESS", "status": "success"}]}',
        b'{"data": [{"status": "error", "status": "success", "code": "SUCCESS"}]}',
        b"[" * 100_000,
        b"\xff\xfe\x00",
        b"9" * 5_000,
    ],
    ids=["empty", "html", "cut", "data-twice", "status-twice", "deep", "bytes", "huge-number"],
)
def test_reads_nothing_from_what_is_no_clear_response(raw: bytes) -> None:
    assert json_object(raw) is None
    assert parse_response_item(raw) is None
    assert parse_response_items(raw) is None


@pytest.mark.parametrize(
    ("changes", "success", "error"),
    [
        pytest.param({}, True, False, id="success"),
        pytest.param({"message": "record deleted"}, True, False, id="message-does-not-count"),
        pytest.param({"status": "Success"}, False, False, id="status-in-another-case"),
        pytest.param({"code": "success"}, False, False, id="code-in-another-case"),
        pytest.param({"status": "error"}, False, False, id="contradiction"),
        pytest.param({"code": "INVALID_DATA"}, False, False, id="the-other-contradiction"),
        pytest.param({"code": "INVALID_DATA", "status": "error"}, False, True, id="error"),
        pytest.param({"code": "INVALID_DATA", "status": None}, False, True, id="error-without-status"),
        pytest.param({"code": "", "status": "error"}, False, False, id="error-without-code"),
        pytest.param({"code": ["SUCCESS"]}, False, False, id="code-is-a-list"),
    ],
)
def test_an_item_is_a_success_an_error_or_neither(changes: Any, success: bool, error: bool) -> None:
    found = entry(**changes)
    assert (found.says_success, found.says_error) == (success, error)


@pytest.mark.parametrize(
    ("details", "record_id", "path_index"),
    [
        pytest.param({"id": "7"}, "7", None, id="text"),
        pytest.param({"id": 4876876000000100001}, "4876876000000100001", None, id="number"),
        pytest.param({"id": True}, None, None, id="boolean"),
        pytest.param({"id": None}, None, None, id="null"),
        pytest.param({}, None, None, id="none"),
        pytest.param([], None, None, id="older-form"),
        pytest.param("7", None, None, id="text-for-details"),
        pytest.param({"resource_path_index": 1}, None, 1, id="index"),
        pytest.param({"resource_path_index": True}, None, None, id="index-is-a-boolean"),
        pytest.param({"resource_path_index": "1"}, None, None, id="index-is-text"),
    ],
)
def test_reads_details_that_may_be_anything(
    details: Any, record_id: str | None, path_index: int | None
) -> None:
    found = entry(details=details)
    assert (found.record_id, found.path_index) == (record_id, path_index)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"details": {"resource_path_index": 0}}, True, id="module"),
        pytest.param({"details": {"resource_path_index": 1}}, False, id="parent"),
        pytest.param({"details": {"resource_path_index": 2}}, True, id="list"),
        pytest.param({"message": "The Relation Name given seems to be invalid"}, True, id="message"),
        pytest.param({}, False, id="neither"),
    ],
)
def test_distinguishes_errors_about_the_relation_and_about_a_link(changes: Any, expected: bool) -> None:
    assert entry(**changes).is_about_the_relation is expected


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["data", "code", "status", "message", "details", "id"]), inner)
    ),
    max_leaves=12,
)


@given(json_values)
def test_reads_any_json_without_an_error(content: Any) -> None:
    for found in [parse_response_item(body(content)), *(parse_response_items(body(content)) or [])]:
        if found is not None:
            assert not (found.says_success and found.says_error)
            assert found.record_id is None or isinstance(found.record_id, str)
            assert isinstance(found.is_about_the_relation, bool)


@pytest.mark.parametrize(
    ("answer", "record"),
    [
        pytest.param({"data": [{"id": "1", "A": 2}]}, {"id": "1", "A": 2}, id="one"),
        pytest.param({"data": [{"id": "1"}, {"id": "2"}]}, None, id="two"),
        pytest.param({"data": []}, None, id="none"),
        pytest.param({"data": [{"code": "INVALID_DATA"}]}, None, id="an-error"),
        pytest.param({}, None, id="no-data"),
        pytest.param([], None, id="no-object"),
    ],
)
def test_returns_the_one_record(answer: Any, record: Any) -> None:
    assert found_record(body(answer)) == record


def error(code: str, message: str = "a message", **details: Any) -> bytes:
    return body({"code": code, "details": details, "message": message, "status": "error"})


@pytest.mark.parametrize(
    ("status", "headers", "content", "kind"),
    [
        pytest.param(200, {}, body({"data": [GOOD]}), ResponseKind.OK, id="success"),
        pytest.param(200, {}, b"<html>", ResponseKind.OK, id="2xx without JSON"),
        pytest.param(204, {}, b"", ResponseKind.OK, id="204"),
        pytest.param(200, {}, body({"data": [BAD]}), ResponseKind.ERROR, id="error with 200"),
        pytest.param(400, {}, body({"data": [BAD]}), ResponseKind.ERROR, id="error with 400"),
        pytest.param(400, {}, body({"data": [GOOD]}), ResponseKind.ERROR, id="success with 400"),
        pytest.param(404, {}, b"<html>", ResponseKind.ERROR, id="4xx without JSON"),
        pytest.param(403, {}, error("NO_PERMISSION"), ResponseKind.RUN_REFUSED, id="permission"),
        pytest.param(401, {}, error("OAUTH_SCOPE_MISMATCH"), ResponseKind.RUN_REFUSED, id="scope"),
        pytest.param(200, {}, error("INVALID_MODULE"), ResponseKind.RUN_REFUSED, id="module with 200"),
        pytest.param(
            400, {}, error("INVALID_DATA", resource_path_index=2), ResponseKind.RUN_REFUSED, id="related list"
        ),
        pytest.param(
            400, {}, error("RECORD_LOCKED", resource_path_index=2), ResponseKind.ERROR, id="locked record"
        ),
        pytest.param(401, {}, error("INVALID_TOKEN"), ResponseKind.TOKEN_REJECTED, id="token"),
        pytest.param(401, {}, b"", ResponseKind.TOKEN_REJECTED, id="empty 401"),
        pytest.param(401, {}, error("INVALID_DATA"), ResponseKind.ERROR, id="401 about an id"),
        pytest.param(401, {}, body({"data": [GOOD]}), ResponseKind.ERROR, id="401 with a success"),
        pytest.param(429, {}, b"", ResponseKind.OVERLOADED, id="empty 429"),
        pytest.param(429, {}, error("X", "past 24 hours"), ResponseKind.OUT_OF_CREDITS, id="24 hours"),
        pytest.param(
            429,
            {"X-API-CREDITS-REMAINING": "5"},
            error("X", "past 24 hours"),
            ResponseKind.OVERLOADED,
            id="24 hours, but credits left",
        ),
        pytest.param(
            429, {"X-API-CREDITS-REMAINING": "0"}, b"", ResponseKind.OUT_OF_CREDITS, id="no credits left"
        ),
        pytest.param(400, {}, error("TOO_MANY_REQUESTS"), ResponseKind.OVERLOADED, id="400 overloaded"),
        pytest.param(
            403, {}, error("TOO_MANY_REQUESTS", "24 hours"), ResponseKind.OUT_OF_CREDITS, id="403 credits"
        ),
        pytest.param(404, {}, error("TOO_MANY_REQUESTS"), ResponseKind.ERROR, id="404 too many"),
        pytest.param(500, {}, body({"data": [GOOD]}), ResponseKind.SERVER_ERROR, id="success with 500"),
        pytest.param(503, {}, b"", ResponseKind.SERVER_ERROR, id="503"),
        pytest.param(302, {}, body({"data": [GOOD]}), ResponseKind.UNEXPECTED, id="redirect"),
        pytest.param(103, {}, b"", ResponseKind.UNEXPECTED, id="103"),
    ],
)
def test_classifies_a_response(
    status: int, headers: dict[str, str], content: bytes, kind: ResponseKind
) -> None:
    response = classify_response(status, headers, content)
    assert (response.status, response.kind) == (status, kind)
    assert response.item == parse_response_item(content)
    throttled = kind in {ResponseKind.OVERLOADED, ResponseKind.OUT_OF_CREDITS}
    assert response.is_throttled is throttled
    assert response.costs_credits is (not throttled and kind is not ResponseKind.TOKEN_REJECTED)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param(7, 7.0, id="number"),
        pytest.param(0.5, 0.5, id="fraction"),
        pytest.param("12", 12.0, id="text"),
        pytest.param(86_400, 300.0, id="capped"),
        pytest.param(10**400, None, id="beyond-floats"),
        pytest.param("inf", 300.0, id="infinity"),
        pytest.param("nan", None, id="nan"),
        pytest.param(-1, None, id="negative"),
        pytest.param("soon", None, id="words"),
        pytest.param(True, None, id="boolean"),
        pytest.param(None, None, id="null"),
        pytest.param([7], None, id="list"),
    ],
)
def test_an_overloaded_response_may_ask_to_wait_in_its_body(value: Any, seconds: float | None) -> None:
    response = classify_response(429, {}, error("TOO_MANY_REQUESTS", retry_after=value))
    assert response.retry_after_s == seconds


def test_the_header_retry_after_goes_before_the_body() -> None:
    content = error("TOO_MANY_REQUESTS", retry_after=7)
    assert classify_response(429, {"Retry-After": "3"}, content).retry_after_s == 3.0
    # The body is read for overload alone.
    assert classify_response(400, {}, error("INVALID_DATA", retry_after=7)).retry_after_s is None
