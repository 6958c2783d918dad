from __future__ import annotations

import dataclasses
import itertools
import json
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from requests.structures import CaseInsensitiveDict

from zoho_crm.core.links import Relation
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.response import (
    Lookup,
    ResponseKind,
    classify_response,
    judge_lookup,
)
from zoho_crm.core.verdict import (
    GONE_AND_NOT_SEEN_LINKED,
    GONE_WITH_ITS_RECORD,
    SEEN_LINKED_THEN_GONE,
    Action,
    StopReason,
    Verdict,
    judge,
    judge_no_answer,
    judge_unclear_lookup,
)

RELATION = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
SAME_FIELD = Relation("Contacts", "External_ID", "Deals", "Deals", "External_ID")
ID = "111111000000094040"
HTML = b"<html><head><title>502 Bad Gateway</title></head></html>"
SUCCESS = {
    "code": "SUCCESS",
    "details": {"id": ID},
    "message": "relation removed",
    "status": "success",
}
RELATED_ID = "the related id given seems to be invalid"
RELATION_NAME = "The relation name given seems to be invalid"


def entry(code: str, message: str = "a message", details: Any = None) -> dict[str, Any]:
    return {
        "code": code,
        "details": {} if details is None else details,
        "message": message,
        "status": "error",
    }


def body(answer: Any) -> bytes:
    return json.dumps(answer).encode()


def data(*entries: Any) -> bytes:
    return body({"data": list(entries)})


def ask(
    status: int,
    answer: bytes,
    *,
    headers: dict[str, str] | None = None,
    relation: Relation = RELATION,
    ambiguous_before: bool = False,
    seen_linked: bool = False,
) -> Verdict:
    response = classify_response(status, headers or {}, answer)
    return judge(response, relation=relation, ambiguous_before=ambiguous_before, seen_linked=seen_linked)


def short(verdict: Verdict) -> str:
    return f"{verdict.action}:{verdict.stop_reason or verdict.outcome}"


# What is put as top-level error (T) and as the one entry of data[] (R), with each status of the table.
SHAPES = {"T": body, "R": data}
STATUSES = (200, 202, 207, 400, 403, 404)

ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "relation not found": (entry("INVALID_DATA", "relation not found", {"id": ID}), "settle:already_absent"),
    "relation not found, in capitals": (
        entry("INVALID_DATA", "Relation Not Found."),
        "settle:already_absent",
    ),
    "relation not found, role": (entry("MANDATORY_NOT_FOUND", "relation not found"), "settle:already_absent"),
    "contact role not deleted": (entry("INVALID_DATA", "contact role not deleted"), "settle:already_absent"),
    "relation not found under another code": (
        entry("NOT_ALLOWED", "relation not found"),
        "settle:rejected",
    ),
    "parent's field as a key": (
        entry("INVALID_DATA", "invalid data", {"External_Contact_ID": "c-1"}),
        "settle:parent_not_found",
    ),
    "parent's field as api_name": (
        entry("INVALID_DATA", "invalid data", {"api_name": "External_Contact_ID"}),
        "settle:parent_not_found",
    ),
    "related field as a key": (
        entry("INVALID_DATA", "invalid data", {"External_Deal_ID": "d-1", "id": ID}),
        "settle:related_not_found",
    ),
    "related field as api_name": (
        entry("INVALID_DATA", "invalid data", {"api_name": "External_Deal_ID", "value": "d-1"}),
        "settle:related_not_found",
    ),
    "parent's field and the parent's place": (
        entry("INVALID_DATA", RELATED_ID, {"api_name": "External_Contact_ID", "resource_path_index": 1}),
        "settle:parent_not_found",
    ),
    "both fields": (
        entry("INVALID_DATA", "invalid data", {"External_Contact_ID": "c", "External_Deal_ID": "d"}),
        "verify:failed",
    ),
    "one field as a key, the other as api_name": (
        entry("INVALID_DATA", "invalid data", {"External_Contact_ID": "c", "api_name": "External_Deal_ID"}),
        "verify:failed",
    ),
    "another field": (entry("INVALID_DATA", "invalid data", {"api_name": "Last_Name"}), "verify:failed"),
    "field in small letters": (
        entry("INVALID_DATA", "invalid data", {"api_name": "external_deal_id"}),
        "verify:failed",
    ),
    "field as a value": (entry("INVALID_DATA", "bad", {"value": "External_Deal_ID"}), "verify:failed"),
    "field in the message alone": (entry("INVALID_DATA", "External_Deal_ID is wrong"), "verify:failed"),
    "api_name is no text": (
        entry("INVALID_DATA", "bad", {"api_name": ["External_Deal_ID"]}),
        "verify:failed",
    ),
    "api_name is missing": (entry("INVALID_DATA", "bad", {"api_name": None}), "verify:failed"),
    "details is a list": (entry("INVALID_DATA", "bad", ["External_Deal_ID"]), "verify:failed"),
    "details is text": (entry("INVALID_DATA", "bad", "External_Deal_ID"), "verify:failed"),
    "details is true": (entry("INVALID_DATA", "bad", True), "verify:failed"),
    "unknown record": (entry("INVALID_DATA", "The record does not exist"), "verify:failed"),
    "unknown id": (entry("INVALID_DATA", "the id given seems to be invalid"), "verify:failed"),
    "place 0, module": (entry("INVALID_DATA", "bad", {"resource_path_index": 0}), "stop:refused"),
    "place 1, parent": (entry("INVALID_DATA", RELATED_ID, {"resource_path_index": 1}), "verify:failed"),
    "place 2, list": (entry("INVALID_DATA", "bad", {"resource_path_index": 2}), "stop:refused"),
    "place 3, related": (entry("INVALID_DATA", RELATED_ID, {"resource_path_index": 3}), "verify:failed"),
    "list, by message": (entry("INVALID_DATA", RELATION_NAME), "stop:refused"),
    "list, by message in capitals": (entry("INVALID_DATA", RELATION_NAME.upper()), "stop:refused"),
    "list, by message and place": (
        entry("INVALID_DATA", RELATION_NAME, {"resource_path_index": 2}),
        "stop:refused",
    ),
    "list, though a field is named": (
        entry("INVALID_DATA", "bad", {"resource_path_index": 2, "api_name": "External_Deal_ID"}),
        "stop:refused",
    ),
    "place is true": (entry("INVALID_DATA", "bad", {"resource_path_index": True}), "verify:failed"),
    "place is false": (entry("INVALID_DATA", "bad", {"resource_path_index": False}), "verify:failed"),
    "place is text": (entry("INVALID_DATA", "bad", {"resource_path_index": "0"}), "verify:failed"),
    "place is a list": (entry("INVALID_DATA", "bad", {"resource_path_index": []}), "verify:failed"),
    "place is a fraction": (entry("INVALID_DATA", "bad", {"resource_path_index": 2.0}), "verify:failed"),
    "place is null": (entry("INVALID_DATA", "bad", {"resource_path_index": None}), "verify:failed"),
    "place is negative": (entry("INVALID_DATA", "bad", {"resource_path_index": -2}), "verify:failed"),
    "ids missing": (
        entry("MANDATORY_NOT_FOUND", "One of the expected parameter is missing", {"param_name": "ids"}),
        "stop:refused",
    ),
    **{
        code: (entry(code), "settle:rejected")
        for code in (
            "ALREADY_USED",
            "AMBIGUITY_DURING_PROCESSING",
            "BAD_REQUEST",
            "CANNOT_BE_UPDATED",
            "DUPLICATE_DATA",
            "EXPECTED_FIELD_MISSING",
            "INVALID_URL_PATTERN",
            "LIMIT_EXCEEDED",
            "LIMIT_REACHED",
            "MANDATORY_NOT_FOUND",
            "MULTIPLE_OR_MULTI_ERRORS",
            "NOT_ALLOWED",
            "NOT_APPROVED",
            "RECORD_LOCKED",
            "UNABLE_TO_PARSE_DATA_TYPE",
        )
    },
    **{
        code: (entry(code), "stop:refused")
        for code in (
            "API_NOT_SUPPORTED",
            "AUTHORIZATION_FAILED",
            "INVALID_HOST",
            "INVALID_MODULE",
            "INVALID_REQUEST_METHOD",
            "NOT_SUPPORTED",
            "NO_PERMISSION",
            "OAUTH_SCOPE_MISMATCH",
        )
    },
    "INTERNAL_ERROR": (entry("INTERNAL_ERROR"), "verify:unknown"),
    "INTERNAL_SERVER_ERROR": (entry("INTERNAL_SERVER_ERROR"), "verify:unknown"),
    "unknown code": (entry("NEVER_HEARD_OF"), "verify:unknown"),
    "code in small letters": (entry("record_locked"), "verify:unknown"),
    "code as a number": ({**entry(""), "code": 7}, "verify:unknown"),
    "code without a status": ({"code": "RECORD_LOCKED"}, "settle:rejected"),
    "text as code beside an error": ({**entry("RECORD_LOCKED"), "error": "NO_PERMISSION"}, "settle:rejected"),
    "status is no text": ({**entry("RECORD_LOCKED"), "status": 1}, "settle:rejected"),
    "status in capitals": ({**entry("RECORD_LOCKED"), "status": "ERROR"}, "settle:rejected"),
    "message is no text": ({**entry("INVALID_DATA"), "message": ["relation not found"]}, "verify:failed"),
    "error code and status success": ({**entry("INVALID_DATA"), "status": "success"}, "verify:unknown"),
    "code SUCCESS and status error": ({**entry("SUCCESS"), "status": "error"}, "verify:unknown"),
    "code SUCCESS and no status": ({"code": "SUCCESS"}, "verify:unknown"),
    "status success and no code": ({"status": "success", "message": "relation removed"}, "verify:unknown"),
    "success in small letters": ({"code": "success", "status": "success"}, "verify:unknown"),
    "success in capitals": ({"code": "SUCCESS", "status": "SUCCESS"}, "verify:unknown"),
    "nothing": ({}, "verify:unknown"),
    "message alone": ({"message": "relation removed"}, "verify:unknown"),
    "status error alone": ({"status": "error", "message": "relation not found"}, "verify:unknown"),
    "code is null": ({**entry(""), "code": None}, "verify:unknown"),
    "code is true": ({**entry(""), "code": True}, "verify:unknown"),
    "code is a fraction": ({**entry(""), "code": 1.5}, "verify:unknown"),
    "code is a list": ({**entry(""), "code": ["RECORD_LOCKED"]}, "verify:unknown"),
    "code is an object": ({**entry(""), "code": {"code": "RECORD_LOCKED"}}, "verify:unknown"),
}


@pytest.mark.parametrize(("error", "expected"), ERRORS.values(), ids=list(ERRORS))
def test_an_error_means_the_same_in_both_shapes_and_with_any_status(
    error: dict[str, Any], expected: str
) -> None:
    for (shape, make), status in itertools.product(SHAPES.items(), STATUSES):
        verdict = ask(status, make(error))
        assert (shape, status, short(verdict)) == (shape, status, expected)
        assert verdict.http_status == status
        assert verdict.ambiguous is (expected == "verify:unknown")


@pytest.mark.parametrize(("error", "expected"), ERRORS.values(), ids=list(ERRORS))
def test_only_a_link_that_is_gone_is_judged_otherwise_after_an_ambiguous_try(
    error: dict[str, Any], expected: str
) -> None:
    for make in SHAPES.values():
        verdict = ask(400, make(error), ambiguous_before=True)
        seen = ask(400, make(error), ambiguous_before=True, seen_linked=True)
        if expected == "settle:already_absent":
            assert (short(verdict), verdict.detail) == ("settle:presumed_removed", GONE_AND_NOT_SEEN_LINKED)
            assert (short(seen), seen.detail) == ("settle:removed", SEEN_LINKED_THEN_GONE)
        elif expected in {"settle:parent_not_found", "settle:related_not_found"}:
            # The record is gone now; an earlier request may have removed the link while it existed.
            which = expected.removeprefix("settle:").removesuffix("_not_found")
            assert short(verdict) == short(seen) == "settle:presumed_removed"
            assert verdict.detail == seen.detail == f"the {which} external ID {GONE_WITH_ITS_RECORD}"
        else:
            assert verdict == seen == ask(400, make(error))
        # Its first request found it gone, whatever this run had seen.
        assert ask(400, make(error), seen_linked=True) == ask(400, make(error))


@pytest.mark.parametrize(
    ("trace_id", "detail"),
    [
        ("0af7-65.x:1_2", "Zoho's trace_id is 0af7-65.x:1_2"),
        ("x" * 101, None),
        ("two\nlines", None),
        (7, None),
        (None, None),
    ],
)
@pytest.mark.parametrize("message", ["Many requests fired in concurrent", "for the past 24 hours"])
def test_a_throttled_response_names_its_trace(message: str, trace_id: object, detail: str | None) -> None:
    verdict = ask(429, body(entry("TOO_MANY_REQUESTS", message, {"trace_id": trace_id})))
    assert verdict.detail == detail


WHOLE: dict[str, tuple[int, bytes, Verdict]] = {
    "success": (
        200,
        data(SUCCESS),
        Verdict(
            Action.SETTLE, 200, False, Outcome.REMOVED, None, "SUCCESS", "relation removed", ID, None, None
        ),
    ),
    "already absent": (
        400,
        data(entry("INVALID_DATA", "relation not found", {"id": ID})),
        Verdict(
            Action.SETTLE,
            400,
            False,
            Outcome.ALREADY_ABSENT,
            None,
            "INVALID_DATA",
            "relation not found",
            ID,
            None,
            None,
        ),
    ),
    "unknown code": (
        400,
        data(entry("NEW", "what?")),
        Verdict(
            Action.VERIFY,
            400,
            True,
            Outcome.UNKNOWN,
            None,
            "NEW",
            "what?",
            None,
            "a code that is not in Zoho's documentation",
            7.0,
        ),
    ),
    "no clear id": (
        404,
        body(entry("INVALID_DATA", "The record does not exist")),
        Verdict(
            Action.VERIFY,
            404,
            False,
            Outcome.FAILED,
            None,
            "INVALID_DATA",
            "The record does not exist",
            None,
            "Zoho does not say which id is wrong",
            7.0,
        ),
    ),
    "permission": (
        403,
        body(entry("NO_PERMISSION", "no", {"permissions": ["Crm_Implied_View_Leads"], "id": ID})),
        Verdict(
            Action.STOP,
            403,
            False,
            Outcome.FAILED,
            StopReason.REFUSED,
            "NO_PERMISSION",
            "no",
            None,
            None,
            None,
        ),
    ),
    "token": (
        401,
        body(entry("INVALID_TOKEN", "invalid oauth token")),
        Verdict(
            Action.REFRESH,
            401,
            False,
            Outcome.FAILED,
            None,
            "INVALID_TOKEN",
            "invalid oauth token",
            None,
            None,
            None,
        ),
    ),
    "token, unreadable": (401, HTML, Verdict(Action.REFRESH, 401, False, Outcome.FAILED)),
    "concurrency": (
        429,
        body(entry("TOO_MANY_REQUESTS", "Many requests fired in concurrent than the allowed limit.")),
        Verdict(
            Action.LATER,
            429,
            False,
            Outcome.FAILED,
            None,
            "TOO_MANY_REQUESTS",
            "Many requests fired in concurrent than the allowed limit.",
            None,
            None,
            7.0,
        ),
    ),
    "too many, unreadable": (
        429,
        b"",
        Verdict(Action.LATER, 429, False, Outcome.FAILED, None, "TOO_MANY_REQUESTS", None, None, None, 7.0),
    ),
    "credits, older form": (
        429,
        body(
            {
                "code": 429,
                "error": "TOO_MANY_REQUESTS",
                "error_info": "Many requests fired than the allowed limit for the past 24 hours.",
                "details": [],
            }
        ),
        Verdict(
            Action.STOP,
            429,
            False,
            Outcome.NOT_ATTEMPTED,
            StopReason.CREDITS,
            "TOO_MANY_REQUESTS",
            "Many requests fired than the allowed limit for the past 24 hours.",
            None,
            None,
            7.0,
        ),
    ),
    "credits, unreadable": (
        429,
        b"<p>API credit limit reached</p>",
        Verdict(
            Action.STOP, 429, False, Outcome.NOT_ATTEMPTED, StopReason.CREDITS, None, None, None, None, 7.0
        ),
    ),
    "server error": (
        500,
        body(entry("INTERNAL_ERROR", "oops")),
        Verdict(
            Action.VERIFY,
            500,
            True,
            Outcome.UNKNOWN,
            None,
            "INTERNAL_ERROR",
            "oops",
            None,
            "status 500 does not show whether it was applied",
            7.0,
        ),
    ),
    "internal error without the status": (
        400,
        body(entry("INTERNAL_ERROR", "oops")),
        Verdict(
            Action.VERIFY,
            400,
            True,
            Outcome.UNKNOWN,
            None,
            "INTERNAL_ERROR",
            "oops",
            None,
            "an internal error does not show whether it was applied",
            7.0,
        ),
    ),
    "gateway": (
        502,
        HTML,
        Verdict(
            Action.VERIFY,
            502,
            True,
            Outcome.UNKNOWN,
            None,
            None,
            None,
            None,
            "status 502 does not show whether it was applied",
            7.0,
        ),
    ),
    "unreadable": (
        200,
        HTML,
        Verdict(
            Action.VERIFY, 200, True, Outcome.UNKNOWN, None, None, None, None, "unreadable response", 7.0
        ),
    ),
    "success and an error status": (
        400,
        data(SUCCESS),
        Verdict(
            Action.VERIFY,
            400,
            True,
            Outcome.UNKNOWN,
            None,
            "SUCCESS",
            "relation removed",
            None,
            "success and an error status at once",
            7.0,
        ),
    ),
    "neither": (
        200,
        data({"message": "hello"}),
        Verdict(
            Action.VERIFY,
            200,
            True,
            Outcome.UNKNOWN,
            None,
            "",
            "hello",
            None,
            "neither success nor an error",
            7.0,
        ),
    ),
}


@pytest.mark.parametrize(("status", "answer", "expected"), WHOLE.values(), ids=list(WHOLE))
def test_a_verdict_carries_all_an_auditor_needs(status: int, answer: bytes, expected: Verdict) -> None:
    assert ask(status, answer, headers={"Retry-After": "7"}) == expected


def test_a_link_gone_after_an_ambiguous_try_says_how_it_is_known() -> None:
    answer = data(entry("INVALID_DATA", "relation not found", {"id": ID}))
    assert ask(400, answer, ambiguous_before=True) == Verdict(
        Action.SETTLE,
        http_status=400,
        outcome=Outcome.PRESUMED_REMOVED,
        code="INVALID_DATA",
        message="relation not found",
        record_id=ID,
        detail="gone; this run did not see it linked, so it may have been gone before",
    )


@pytest.mark.parametrize("ambiguous_before", [False, True])
@pytest.mark.parametrize(
    ("status", "answer"),
    [
        pytest.param(200, SUCCESS, id="as documented"),
        pytest.param(200, {**SUCCESS, "message": "record deleted"}, id="another message"),
        pytest.param(200, {**SUCCESS, "message": "relation not found"}, id="the message of an error"),
        pytest.param(200, {"code": "SUCCESS", "status": "success"}, id="no message, no details"),
        pytest.param(200, {**SUCCESS, "details": {"External_Deal_ID": "d", "id": ID}}, id="named field"),
        pytest.param(200, {**SUCCESS, "details": None}, id="details null"),
        pytest.param(201, SUCCESS, id="201"),
        pytest.param(202, SUCCESS, id="202"),
        pytest.param(207, SUCCESS, id="207"),
        pytest.param(299, SUCCESS, id="299"),
    ],
)
def test_a_success_in_data_is_a_removal(status: int, answer: dict[str, Any], ambiguous_before: bool) -> None:
    verdict = ask(status, data(answer), ambiguous_before=ambiguous_before)
    assert (short(verdict), verdict.detail, verdict.ambiguous) == ("settle:removed", None, False)


@pytest.mark.parametrize(
    ("given_id", "record_id"),
    [
        pytest.param(ID, ID, id="text"),
        pytest.param(int(ID), ID, id="number"),
        pytest.param(True, None, id="true"),
        pytest.param(1.5, None, id="fraction"),
        pytest.param(None, None, id="null"),
        pytest.param([ID], None, id="list"),
    ],
)
def test_record_id_is_kept_as_text(given_id: object, record_id: str | None) -> None:
    assert ask(200, data({**SUCCESS, "details": {"id": given_id}})).record_id == record_id


def test_code_and_message_are_kept_whole() -> None:
    verdict = ask(400, data(entry("A\x00B", "a\r\n\ud800" + "x" * 300)))
    assert (verdict.code, verdict.message) == ("A\x00B", "a\r\n\ud800" + "x" * 300)


def test_numeric_code_is_kept_as_text() -> None:
    assert ask(400, body({"code": 4820, "message": "m"})).code == "4820"
    assert ask(400, body({"code": 4820, "error": "RECORD_LOCKED", "error_info": "m"})).code == "RECORD_LOCKED"
    assert ask(400, body({"code": None, "error": "RECORD_LOCKED", "error_info": "m"})).message == "m"


UNREADABLE = {
    "empty": b"",
    "blank": b" \n",
    "HTML": HTML,
    "text": b"OK",
    "invalid UTF-8": b'{"data":[{"code":"SUCCESS","status":"success","message":"\xff\xfe"}]}',
    "invalid UTF-8 alone": b"\xff\xfe\x00",
    "cut off": data(SUCCESS)[:-1],
    "trailing garbage": data(SUCCESS) + b"x",
    "two documents": data(SUCCESS) + data(SUCCESS),
    "deep lists": b"[" * 100_000,
    "deep lists, closed": b"[" * 100_000 + b"]" * 100_000,
    "deep objects": b'{"data":' * 100_000,
    "deep details": b'{"data":[{"code":"SUCCESS","status":"success","details":' + b"[" * 100_000,
    "huge number": b'{"data":[{"code":"SUCCESS","status":"success","details":{"id":' + b"1" * 5000 + b"}}]}",
    "null": b"null",
    "true": b"true",
    "number": b"200",
    "string": b'"SUCCESS"',
    "list": body([SUCCESS]),
    "empty list": b"[]",
    "success at the top level": body(SUCCESS),
    "data null": body({"data": None}),
    "data true": body({"data": True}),
    "data text": body({"data": "SUCCESS"}),
    "data object": body({"data": SUCCESS}),
    "data empty": data(),
    "data with null": data(None),
    "data with text": data("SUCCESS"),
    "data with a list": data([SUCCESS]),
    "data with two": data(SUCCESS, SUCCESS),
    "data with success and error": data(SUCCESS, entry("INVALID_DATA")),
    "data with error and success": data(entry("INVALID_DATA"), SUCCESS),
    "data with two gone": data(*[entry("INVALID_DATA", "relation not found")] * 2),
    "data with success and null": data(SUCCESS, None),
    "data null beside an error": body({**entry("RECORD_LOCKED"), "data": None}),
    "success beside an error": body({**entry("RECORD_LOCKED"), "data": [SUCCESS]}),
    "success beside a code": body({"code": "RECORD_LOCKED", "data": [SUCCESS]}),
    "success beside status error": body({"status": "error", "data": [SUCCESS]}),
    "error beside an error": body({**entry("RECORD_LOCKED"), "data": [entry("INVALID_DATA")]}),
    "code twice": b'{"data":[{"code":"INVALID_DATA","code":"SUCCESS","status":"success"}]}',
    "data twice": b'{"data":[{"code":"INVALID_DATA","status":"error"}],' + data(SUCCESS)[1:],
}


@pytest.mark.parametrize("answer", UNREADABLE.values(), ids=list(UNREADABLE))
def test_what_cannot_be_read_is_neither_success_nor_failure(answer: bytes) -> None:
    for status, ambiguous_before in itertools.product((*STATUSES, 204), (False, True)):
        assert ask(status, answer, ambiguous_before=ambiguous_before) == Verdict(
            Action.VERIFY, status, ambiguous=True, outcome=Outcome.UNKNOWN, detail="unreadable response"
        )


@pytest.mark.parametrize("answer", UNREADABLE.values(), ids=list(UNREADABLE))
def test_a_401_that_cannot_be_read_asks_for_another_token(answer: bytes) -> None:
    assert ask(401, answer) == Verdict(Action.REFRESH, 401, outcome=Outcome.FAILED)


@pytest.mark.parametrize(
    "top", [{"code": "SUCCESS", "status": "success"}, {"info": {"count": 1}}, {"status": 1}]
)
def test_a_top_level_that_does_not_contradict_leaves_data_to_decide(top: dict[str, Any]) -> None:
    assert short(ask(200, body({**top, "data": [SUCCESS]}))) == "settle:removed"


@pytest.mark.parametrize(
    "status",
    [-1, 0, 100, 101, 199, 300, 301, 302, 304, 307, 308, 399, 500, 501, 502, 503, 504, 599, 600, 999],
)
@pytest.mark.parametrize("ambiguous_before", [False, True])
def test_an_unclear_status_is_verified_for_any_body(status: int, ambiguous_before: bool) -> None:
    for answer in (
        data(SUCCESS),
        data(entry("INVALID_DATA", "relation not found")),
        data(entry("RECORD_LOCKED")),
        body(entry("NO_PERMISSION")),
        body(entry("INVALID_DATA", "bad", {"api_name": "External_Deal_ID"})),
        b"too many requests in the past 24 hours",
        HTML,
        b"",
    ):
        verdict = ask(status, answer, ambiguous_before=ambiguous_before)
        assert (short(verdict), verdict.ambiguous) == ("verify:unknown", True)
        assert verdict.detail == f"status {status} does not show whether it was applied"


@pytest.mark.parametrize(
    ("record_id", "expected"),
    [(ID, "settle:removed"), (None, "settle:removed"), ("7", "verify:unknown")],
    ids=["the known record", "no known record", "another record"],
)
def test_a_success_for_another_record_than_the_known_one_is_verified(
    record_id: str | None, expected: str
) -> None:
    response = classify_response(200, {}, data(SUCCESS))
    verdict = judge(response, relation=RELATION, ambiguous_before=False, record_id=record_id)
    assert short(verdict) == expected


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409, 413, 415, 428, 430, 499])
def test_a_success_with_an_error_status_is_verified(status: int) -> None:
    verdict = ask(status, data(SUCCESS))
    assert (short(verdict), verdict.detail) == ("verify:unknown", "success and an error status at once")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(body(entry("INVALID_TOKEN")), "refresh:failed", id="token"),
        pytest.param(data(entry("INVALID_TOKEN")), "refresh:failed", id="token in data"),
        pytest.param(body(entry("AUTHENTICATION_FAILURE")), "refresh:failed", id="no usable token"),
        pytest.param(body(entry("INVALID_OAUTHTOKEN")), "refresh:failed", id="older code"),
        pytest.param(body(entry("RECORD_LOCKED")), "refresh:failed", id="a code about the link"),
        pytest.param(body(entry("INTERNAL_ERROR")), "refresh:failed", id="internal error"),
        pytest.param(body({"error": "invalid_token"}), "refresh:failed", id="form of OAuth"),
        pytest.param(body({}), "refresh:failed", id="nothing"),
        pytest.param(body(entry("OAUTH_SCOPE_MISMATCH")), "stop:refused", id="scope"),
        pytest.param(body(entry("NO_PERMISSION")), "stop:refused", id="permission"),
        pytest.param(body(entry("AUTHORIZATION_FAILED")), "stop:refused", id="privilege"),
    ],
)
def test_401_asks_for_another_token_unless_scope_or_permission_is_missing(
    answer: bytes, expected: str
) -> None:
    assert short(ask(401, answer)) == expected


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        pytest.param(
            body(entry("TOO_MANY_REQUESTS", "in concurrent than allowed")), "later:failed", id="concurrency"
        ),
        pytest.param(body(entry("TOO_MANY_REQUESTS", "")), "later:failed", id="no wording"),
        pytest.param(data(SUCCESS), "later:failed", id="success"),
        pytest.param(data(entry("INVALID_DATA", "relation not found")), "later:failed", id="gone"),
        pytest.param(HTML, "later:failed", id="HTML"),
        pytest.param(b"", "later:failed", id="empty"),
        pytest.param(b"[" * 100_000, "later:failed", id="deep"),
        pytest.param(b"\xff\xfe", "later:failed", id="invalid UTF-8"),
        pytest.param(b" " * 4096 + b"24 hours", "later:failed", id="beyond what is read"),
        pytest.param(b" " * 4089 + b"24 hour", "stop:credits", id="at the end of what is read"),
        pytest.param(b"\xff past 24 HOURS", "stop:credits", id="24 hours"),
        pytest.param(body({"message": "24hour limit"}), "stop:credits", id="24hour"),
        pytest.param(body(entry("X", "No API Credits left")), "stop:credits", id="credits"),
        pytest.param(body(entry("DAILY_LIMIT", "")), "stop:credits", id="daily"),
    ],
)
def test_429_is_tried_later_unless_the_day_is_used_up(answer: bytes, expected: str) -> None:
    for ambiguous_before in (False, True):
        verdict = ask(429, answer, ambiguous_before=ambiguous_before)
        assert (short(verdict), verdict.ambiguous) == (expected, False)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    "details",
    [{"api_name": "External_ID"}, {"External_ID": "x"}, {"External_ID": "x", "api_name": "External_ID"}],
)
def test_a_field_name_of_both_modules_does_not_identify_an_id(details: dict[str, Any], shape: str) -> None:
    verdict = ask(400, SHAPES[shape](entry("INVALID_DATA", "bad", details)), relation=SAME_FIELD)
    assert short(verdict) == "verify:failed"


def test_a_verdict_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ask(400, b"").outcome = Outcome.REMOVED  # type: ignore[misc]


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        pytest.param(401, body(entry("INVALID_TOKEN")), True, id="token"),
        pytest.param(401, body(entry("AUTHENTICATION_FAILURE")), True, id="no usable token"),
        pytest.param(401, body(entry("INVALID_OAUTHTOKEN")), True, id="older code"),
        pytest.param(401, body({"error": "invalid_token"}), True, id="form of OAuth"),
        pytest.param(401, HTML, True, id="HTML"),
        pytest.param(401, b"", True, id="empty"),
        pytest.param(401, body(entry("OAUTH_SCOPE_MISMATCH")), False, id="scope"),
        pytest.param(401, data(entry("NO_PERMISSION")), False, id="permission"),
        pytest.param(401, data(SUCCESS), False, id="success"),
        pytest.param(400, body(entry("INVALID_TOKEN")), False, id="400"),
        pytest.param(403, body(entry("INVALID_TOKEN")), False, id="403"),
        pytest.param(200, b"", False, id="200"),
    ],
)
def test_a_token_is_rejected_by_a_401_that_another_token_may_cure(
    status: int, answer: bytes, expected: bool
) -> None:
    kind = classify_response(status, {}, answer).kind
    assert (kind is ResponseKind.TOKEN_REJECTED) is expected


@pytest.mark.parametrize(
    "code",
    [
        "API_NOT_SUPPORTED",
        "AUTHORIZATION_FAILED",
        "INVALID_HOST",
        "INVALID_MODULE",
        "INVALID_REQUEST_METHOD",
        "NOT_SUPPORTED",
        "NO_PERMISSION",
        "OAUTH_SCOPE_MISMATCH",
    ],
)
def test_what_stops_a_run_is_no_rejected_token(code: str) -> None:
    assert short(ask(401, body(entry(code)))) == "stop:refused"
    assert classify_response(401, {}, body(entry(code))).kind is ResponseKind.RUN_REFUSED


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        pytest.param(
            True, Verdict(Action.VERIFY, None, True, Outcome.UNKNOWN, detail="read timed out"), id="sent"
        ),
        pytest.param(
            False, Verdict(Action.LATER, None, False, Outcome.FAILED, detail="read timed out"), id="not sent"
        ),
    ],
)
def test_a_request_without_an_response_is_verified_only_when_it_was_sent(
    sent: bool, expected: Verdict
) -> None:
    assert judge_no_answer(sent=sent, why="read timed out") == expected


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        pytest.param("", None, id="empty"),
        pytest.param("  ", None, id="blank"),
        pytest.param("0", 0.0, id="zero"),
        pytest.param("30", 30.0, id="seconds"),
        pytest.param(" 1.5 ", 1.5, id="fraction"),
        pytest.param("-5", 0.0, id="negative"),
        pytest.param("inf", None, id="inf"),
        pytest.param("-inf", None, id="negative inf"),
        pytest.param("nan", None, id="nan"),
        pytest.param("1e999", None, id="more than a float holds"),
        pytest.param("soon", None, id="text"),
        pytest.param("30 seconds", None, id="unit"),
        pytest.param("9" * 5000, None, id="5000 digits"),
        pytest.param("Wed, 21 Oct 2015 07:28:00 GMT", 0.0, id="past date"),
        pytest.param("Wed, 21 Oct 2015 07:28:00", None, id="date without a zone"),
        pytest.param("Wed, 99 Oct 2015 07:28:00 GMT", None, id="no such day"),
        pytest.param("Wed, 21 Oct 99999999999 07:28:00 GMT", None, id="year beyond all integers"),
        pytest.param("Wed, 21 Oct 2015 07:28:00 +999999999999", None, id="zone beyond a day"),
    ],
)
def test_retry_after_is_seconds_or_nothing(value: str, seconds: float | None) -> None:
    assert classify_response(503, {"Retry-After": value}, b"").retry_after_s == seconds


def test_retry_after_may_be_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    seconds = classify_response(503, {"Retry-After": later}, b"").retry_after_s
    assert seconds is not None
    assert 60 < seconds <= 90


@pytest.mark.parametrize("kind", [CaseInsensitiveDict, CIMultiDict])
def test_headers_are_found_in_any_case(kind: Any) -> None:
    headers = kind({"retry-after": "3", "x-api-credits-remaining": "12"})
    response = classify_response(200, headers, b"")
    assert (response.retry_after_s, response.credits_left) == (3.0, 12)
    assert ask(503, b"", headers=headers).retry_after_s == 3.0


def test_headers_may_be_missing() -> None:
    response = classify_response(200, {}, b"")
    assert (response.retry_after_s, response.credits_left) == (None, None)


@pytest.mark.parametrize(
    ("value", "remaining"),
    [
        pytest.param("0", 0, id="zero"),
        pytest.param("2500", 2500, id="some"),
        pytest.param("9" * 18, 10**18 - 1, id="18 digits"),
        pytest.param("9" * 19, None, id="19 digits"),
        pytest.param("9" * 5000, None, id="5000 digits"),
        pytest.param("", None, id="empty"),
        pytest.param("-1", None, id="negative"),
        pytest.param("+1", None, id="plus"),
        pytest.param("1.5", None, id="fraction"),
        pytest.param("1_000", None, id="underscore"),
        pytest.param("1,000", None, id="comma"),
        pytest.param(" 1", None, id="blank"),
        pytest.param("many", None, id="text"),
        pytest.param("\u0661", None, id="arabic digit"),
        pytest.param("\u00b2", None, id="superscript"),
    ],
)
def test_credits_remaining_is_a_count_or_nothing(value: str, remaining: int | None) -> None:
    assert classify_response(200, {"X-API-CREDITS-REMAINING": value}, b"").credits_left == remaining


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        pytest.param(200, data({"id": ID}), Lookup.FOUND, id="found"),
        pytest.param(200, body({"data": [{"id": ID}, {"id": "2"}], "info": {}}), Lookup.FOUND, id="two"),
        pytest.param(200, data(), Lookup.UNCLEAR, id="none with 200"),
        pytest.param(200, data(None), Lookup.UNCLEAR, id="null"),
        pytest.param(200, data("id"), Lookup.UNCLEAR, id="text"),
        pytest.param(200, data(entry("INVALID_DATA", "x", {"id": ID})), Lookup.UNCLEAR, id="error with 200"),
        pytest.param(200, data({"id": ID}, entry("X")), Lookup.UNCLEAR, id="record and error"),
        pytest.param(200, body({"data": {"id": ID}}), Lookup.UNCLEAR, id="object"),
        pytest.param(200, body({"data": None}), Lookup.UNCLEAR, id="data null"),
        pytest.param(200, body({"id": ID}), Lookup.UNCLEAR, id="no data"),
        pytest.param(200, body(entry("INVALID_DATA")), Lookup.UNCLEAR, id="top-level error with 200"),
        pytest.param(200, body([{"id": ID}]), Lookup.UNCLEAR, id="list"),
        pytest.param(200, HTML, Lookup.UNCLEAR, id="HTML"),
        pytest.param(200, b"", Lookup.UNCLEAR, id="empty"),
        pytest.param(200, b"[" * 100_000, Lookup.UNCLEAR, id="deep"),
        pytest.param(204, b"", Lookup.MISSING, id="no content"),
        pytest.param(204, data({"id": ID}), Lookup.MISSING, id="no content with a body"),
        pytest.param(400, body(entry("INVALID_DATA", RELATED_ID)), Lookup.WRONG_ID, id="wrong id"),
        pytest.param(400, data(entry("INVALID_DATA", RELATED_ID)), Lookup.WRONG_ID, id="wrong id in data"),
        pytest.param(
            400,
            body(entry("INVALID_DATA", RELATED_ID, {"resource_path_index": 1})),
            Lookup.WRONG_ID,
            id="wrong id, place 1",
        ),
        pytest.param(
            404, body(entry("INVALID_DATA", "The record does not exist")), Lookup.WRONG_ID, id="404"
        ),
        pytest.param(400, body(entry("INVALID_DATA", RELATION_NAME)), Lookup.UNCLEAR, id="list, by message"),
        pytest.param(
            400,
            body(entry("INVALID_DATA", "x", {"resource_path_index": 2})),
            Lookup.UNCLEAR,
            id="list, by place",
        ),
        pytest.param(
            400,
            body(entry("INVALID_DATA", "x", {"resource_path_index": 0})),
            Lookup.UNCLEAR,
            id="module, by place",
        ),
        pytest.param(400, body(entry("REQUIRED_PARAM_MISSING")), Lookup.UNCLEAR, id="another code"),
        pytest.param(
            400, data(entry("INVALID_DATA"), entry("INVALID_DATA")), Lookup.UNCLEAR, id="two errors"
        ),
        pytest.param(400, data({"id": ID}), Lookup.UNCLEAR, id="found with 400"),
        pytest.param(400, HTML, Lookup.UNCLEAR, id="HTML with 400"),
        pytest.param(404, body(entry("INVALID_URL_PATTERN")), Lookup.UNCLEAR, id="404 with another code"),
        pytest.param(404, HTML, Lookup.UNCLEAR, id="HTML with 404"),
        pytest.param(401, body(entry("INVALID_DATA")), Lookup.UNCLEAR, id="401"),
        pytest.param(403, body(entry("INVALID_DATA")), Lookup.UNCLEAR, id="403"),
        pytest.param(429, b"", Lookup.UNCLEAR, id="429"),
        pytest.param(500, data({"id": ID}), Lookup.UNCLEAR, id="500"),
        pytest.param(304, b"", Lookup.UNCLEAR, id="304"),
        pytest.param(302, data({"id": ID}), Lookup.UNCLEAR, id="302"),
        pytest.param(206, data({"id": ID}), Lookup.UNCLEAR, id="206"),
    ],
)
def test_lookup_believes_only_a_clear_response(status: int, answer: bytes, expected: Lookup) -> None:
    assert judge_lookup(status, answer) is expected


WORDS = st.sampled_from(
    [
        "SUCCESS",
        "success",
        "error",
        "INVALID_DATA",
        "MANDATORY_NOT_FOUND",
        "RECORD_LOCKED",
        "NO_PERMISSION",
        "INTERNAL_ERROR",
        "TOO_MANY_REQUESTS",
        "NEW_CODE",
        "relation not found",
        "contact role not deleted",
        "relation removed",
        RELATION_NAME,
        "External_Contact_ID",
        "External_Deal_ID",
        "past 24 hours",
        "",
    ]
)
SCALARS = st.one_of(
    WORDS, st.none(), st.booleans(), st.integers(-3, 500), st.floats(), st.text(st.characters(), max_size=5)
)
KEYS = st.sampled_from(
    [
        *("code", "status", "message", "details", "data", "error", "error_info", "id", "api_name"),
        *("resource_path_index", "External_Contact_ID", "External_Deal_ID"),
    ]
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)
ENTRIES = st.fixed_dictionaries(
    {},
    optional={
        "code": SCALARS,
        "status": SCALARS,
        "message": SCALARS,
        "details": st.dictionaries(KEYS, SCALARS, max_size=3) | SCALARS,
        "error": SCALARS,
    },
)
CLEAR_SUCCESS = st.just({"code": "SUCCESS", "status": "success", "details": {}})
CLEAR_GONE = st.just({"code": "INVALID_DATA", "status": "error", "message": "relation not found"})
ONE = ENTRIES | CLEAR_SUCCESS | CLEAR_GONE
BODIES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([HTML, b"", b"[" * 3000, b'{"data":' * 3000, b'{"code":' + b"9" * 5000 + b"}"]),
    JSON.map(body),
    ONE.map(body),
    ONE.map(data),
    st.lists(ONE | st.none(), max_size=3).map(lambda entries: data(*entries)),
)
HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "X-API-CREDITS-REMAINING", "Content-Type"]),
    st.one_of(st.text(max_size=10), st.integers().map(str), st.floats().map(str), st.datetimes().map(str)),
)
ANY_STATUS = st.one_of(
    st.sampled_from([200, 201, 204, 207, 302, 400, 401, 403, 404, 429, 500, 503]), st.integers(-1, 1000)
)


def _says_success(answer: bytes) -> bool:
    """Whether there is exactly one entry in data[], and it says success; written apart from the code under test."""
    try:
        parsed = json.loads(answer)
        (one,) = parsed["data"]
        return isinstance(parsed["data"], list) and (one["code"], one["status"]) == ("SUCCESS", "success")
    except (ValueError, RecursionError, TypeError, KeyError, LookupError):
        return False


def _says_gone(answer: bytes) -> bool:
    try:
        parsed = json.loads(answer)
        (one,) = parsed.get("data", [parsed])
        return one["code"] in {"INVALID_DATA", "MANDATORY_NOT_FOUND"} and any(
            words in one["message"].lower() for words in ("relation not found", "contact role not deleted")
        )
    except (ValueError, RecursionError, TypeError, KeyError, LookupError, AttributeError):
        return False


@settings(max_examples=150, deadline=None)
@given(ANY_STATUS, HEADERS, BODIES, st.booleans(), st.sampled_from([RELATION, SAME_FIELD]))
@example(200, {}, data(SUCCESS), False, RELATION)
@example(400, {}, data(SUCCESS), True, RELATION)
@example(400, {}, body(entry("INVALID_DATA", "relation not found")), True, RELATION)
@example(500, {}, body(entry("INVALID_DATA", "relation not found")), True, RELATION)
@example(401, {"Retry-After": "Wed, 21 Oct 99999999999 07:28:00 GMT"}, b"", False, RELATION)
@example(500, {}, b'{"code": "TOO_MANY_REQUESTS"}', False, RELATION)
@example(401, {}, b'{"code": "TOO_MANY_REQUESTS"}', False, RELATION)
@example(403, {}, b'{"code": "TOO_MANY_REQUESTS"}', True, RELATION)
def test_no_response_at_all_is_misjudged(
    status: int, headers: dict[str, str], answer: bytes, ambiguous_before: bool, relation: Relation
) -> None:
    response = classify_response(status, headers, answer)
    verdict = judge(response, relation=relation, ambiguous_before=ambiguous_before)

    assert verdict.http_status == status
    assert verdict.outcome is not None
    assert verdict.outcome in {
        Outcome.REMOVED,
        Outcome.PRESUMED_REMOVED,
        Outcome.ALREADY_ABSENT,
        Outcome.PARENT_NOT_FOUND,
        Outcome.RELATED_NOT_FOUND,
        Outcome.REJECTED,
        Outcome.FAILED,
        Outcome.UNKNOWN,
        Outcome.NOT_ATTEMPTED,
    }
    assert (verdict.outcome is Outcome.NOT_ATTEMPTED) == (verdict.stop_reason is StopReason.CREDITS)
    # Only what settles a link is final, and a run stops for a reason or not at all.
    assert verdict.action is Action.SETTLE or not verdict.outcome.is_final
    assert (verdict.stop_reason is not None) == (verdict.action is Action.STOP)
    # What may have been applied is verified, and nothing else claims to be unknown.
    assert verdict.ambiguous == (verdict.outcome is Outcome.UNKNOWN)
    assert not verdict.ambiguous or verdict.action is Action.VERIFY

    if verdict.outcome is Outcome.REMOVED:
        assert 200 <= status < 300
        assert _says_success(answer)
    if verdict.outcome is Outcome.PRESUMED_REMOVED:
        assert ambiguous_before
        assert _says_gone(answer)
    if verdict.outcome is Outcome.ALREADY_ABSENT:
        assert not ambiguous_before
        assert _says_gone(answer)
    if not 200 <= status < 300 and not 400 <= status < 500:
        assert verdict.action is Action.VERIFY
    if not answer:
        assert verdict.action is not Action.SETTLE
    for text in (verdict.code, verdict.message, verdict.record_id, verdict.detail):
        assert text is None or type(text) is str
    assert verdict.retry_after_s is None or 0 <= verdict.retry_after_s < float("inf")
    assert (response.credits_left or 0) >= 0


@settings(max_examples=150, deadline=None)
@given(ANY_STATUS, BODIES)
def test_no_lookup_finds_more_than_the_response_says(status: int, answer: bytes) -> None:
    found = judge_lookup(status, answer)
    if found is Lookup.FOUND:
        assert status == 200
        assert all("id" in one for one in json.loads(answer)["data"])
    if found is Lookup.MISSING:
        assert status == 204
    if found is Lookup.WRONG_ID:
        assert status in {400, 404}
        assert b"INVALID_DATA" in answer


@pytest.mark.parametrize(
    ("status", "answer", "action", "reason", "outcome"),
    [
        pytest.param(
            429, body(entry("TOO_MANY_REQUESTS", "concurrent")), Action.LATER, None, Outcome.FAILED, id="load"
        ),
        pytest.param(
            429,
            body(entry("TOO_MANY_REQUESTS", "past 24 hours")),
            Action.STOP,
            StopReason.CREDITS,
            Outcome.NOT_ATTEMPTED,
            id="credits",
        ),
        pytest.param(
            401,
            body(entry("OAUTH_SCOPE_MISMATCH")),
            Action.STOP,
            StopReason.REFUSED,
            Outcome.FAILED,
            id="scope",
        ),
        pytest.param(
            403,
            body(entry("NO_PERMISSION")),
            Action.STOP,
            StopReason.REFUSED,
            Outcome.FAILED,
            id="permission",
        ),
        pytest.param(
            400,
            body(entry("INVALID_DATA", details={"resource_path_index": 2})),
            Action.STOP,
            StopReason.REFUSED,
            Outcome.FAILED,
            id="list",
        ),
        pytest.param(
            401, body(entry("INVALID_TOKEN")), Action.STOP, StopReason.REFUSED, Outcome.FAILED, id="token"
        ),
        pytest.param(401, b"", Action.STOP, StopReason.REFUSED, Outcome.FAILED, id="token-unreadable"),
        pytest.param(400, body(entry("INVALID_DATA")), Action.VERIFY, None, Outcome.FAILED, id="invalid"),
        pytest.param(404, body(entry("RECORD_LOCKED")), Action.VERIFY, None, Outcome.FAILED, id="link-code"),
        pytest.param(500, b"", Action.VERIFY, None, Outcome.FAILED, id="500"),
        pytest.param(302, b"", Action.VERIFY, None, Outcome.FAILED, id="redirect"),
        pytest.param(200, b"<html>", Action.VERIFY, None, Outcome.FAILED, id="html"),
        pytest.param(200, body({"data": []}), Action.VERIFY, None, Outcome.FAILED, id="no-record"),
    ],
)
def test_says_what_to_do_after_an_unclear_lookup(
    status: int, answer: bytes, action: Action, reason: StopReason | None, outcome: Outcome
) -> None:
    verdict = judge_unclear_lookup(classify_response(status, {}, answer))
    assert (verdict.action, verdict.stop_reason, verdict.outcome) == (action, reason, outcome)
    # A GET applies nothing: it never makes a link ambiguous.
    assert (verdict.ambiguous, verdict.http_status) == (False, status)
