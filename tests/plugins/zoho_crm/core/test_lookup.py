from __future__ import annotations

import json
from typing import Any

import pytest

from zoho_crm.core.lookup import found_record, judge_unclear
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.verdict import Action, StopReason


def body(answer: Any) -> bytes:
    return json.dumps(answer).encode()


def error(code: str, message: str = "a message", **details: Any) -> bytes:
    return body({"code": code, "details": details, "message": message, "status": "error"})


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
def test_reads_the_one_record(answer: Any, record: Any) -> None:
    assert found_record(body(answer)) == record


@pytest.mark.parametrize(
    ("status", "answer", "action", "reason", "outcome"),
    [
        pytest.param(
            429, error("TOO_MANY_REQUESTS", "concurrent"), Action.LATER, None, Outcome.FAILED, id="load"
        ),
        pytest.param(
            429,
            error("TOO_MANY_REQUESTS", "past 24 hours"),
            Action.STOP,
            StopReason.CREDITS,
            Outcome.NOT_ATTEMPTED,
            id="credits",
        ),
        pytest.param(
            401,
            error("OAUTH_SCOPE_MISMATCH"),
            Action.STOP,
            StopReason.REFUSED,
            Outcome.FAILED,
            id="scope",
        ),
        pytest.param(
            403, error("NO_PERMISSION"), Action.STOP, StopReason.REFUSED, Outcome.FAILED, id="permission"
        ),
        pytest.param(
            400,
            error("INVALID_DATA", resource_path_index=2),
            Action.STOP,
            StopReason.REFUSED,
            Outcome.FAILED,
            id="list",
        ),
        pytest.param(
            401, error("INVALID_TOKEN"), Action.STOP, StopReason.REFUSED, Outcome.FAILED, id="token"
        ),
        pytest.param(401, b"", Action.STOP, StopReason.REFUSED, Outcome.FAILED, id="token-unreadable"),
        pytest.param(400, error("INVALID_DATA"), Action.VERIFY, None, Outcome.FAILED, id="invalid"),
        pytest.param(404, error("RECORD_LOCKED"), Action.VERIFY, None, Outcome.FAILED, id="link-code"),
        pytest.param(500, b"", Action.VERIFY, None, Outcome.FAILED, id="500"),
        pytest.param(302, b"", Action.VERIFY, None, Outcome.FAILED, id="redirect"),
        pytest.param(200, b"<html>", Action.VERIFY, None, Outcome.FAILED, id="html"),
        pytest.param(200, body({"data": []}), Action.VERIFY, None, Outcome.FAILED, id="no-record"),
    ],
)
def test_says_what_to_do_about_an_unclear_answer(
    status: int, answer: bytes, action: Action, reason: StopReason | None, outcome: Outcome
) -> None:
    verdict = judge_unclear(status, {}, answer)
    assert (verdict.action, verdict.stop_reason, verdict.outcome) == (action, reason, outcome)
    # A reading call applies nothing: it never makes a link ambiguous.
    assert (verdict.ambiguous, verdict.http_status) == (False, status)
