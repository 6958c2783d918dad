from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoho_crm.core.response import ResponseItem, json_object, parse_response_item, parse_response_items

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
def test_reads_the_one_entry_wherever_it_stands(content: Any, code: str) -> None:
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
def test_reads_no_entry_where_there_is_not_just_one(content: Any) -> None:
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
def test_reads_nothing_from_what_is_no_clear_answer(raw: bytes) -> None:
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
def test_an_entry_is_a_success_an_error_or_neither(changes: Any, success: bool, error: bool) -> None:
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
def test_tells_errors_about_the_relation_from_those_about_a_link(changes: Any, expected: bool) -> None:
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
