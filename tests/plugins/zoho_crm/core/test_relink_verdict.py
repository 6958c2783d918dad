from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoho_crm.core.links import Link, Relation
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.relink_verdict import judge_linked, judge_relink
from zoho_crm.core.response import classify_response
from zoho_crm.core.verdict import Action, StopReason, Verdict

RELATION = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
SAME_FIELD = Relation("Contacts", "External_ID", "Deals", "Deals", "External_ID")
LINK = Link("c-1", "d-1")
SUCCESS = {
    "code": "SUCCESS",
    "details": {"External_Deal_ID": "d-1", "id": "77"},
    "message": "relation added",
    "status": "success",
}
HTML = b"<html>Bad Gateway</html>"


def entry(code: str, message: str = "a message", details: Any = None) -> dict[str, Any]:
    return {"code": code, "details": details or {}, "message": message, "status": "error"}


def body(answer: Any) -> bytes:
    return json.dumps(answer).encode()


def data(*entries: Any) -> bytes:
    return body({"data": list(entries)})


def ask(
    status: int, answer: bytes, headers: dict[str, str] | None = None, relation: Relation = RELATION
) -> Verdict:
    response = classify_response(status, headers or {}, answer)
    return judge_relink(response, relation=relation, link=LINK, attributes=("Contact_Role",))


def short(verdict: Verdict) -> str:
    return f"{verdict.action}:{verdict.stop_reason or verdict.outcome}"


@pytest.mark.parametrize("status", [200, 201, 202, 207])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"message": "relation updated"},
        {"message": "whatever"},
        {"details": {}},
        {"details": {"id": "77"}},
        {"details": None},
    ],
    ids=["added", "updated", "other-message", "no-details", "id-alone", "details-null"],
)
def test_a_success_in_data_is_relinked(status: int, changes: dict[str, Any]) -> None:
    verdict = ask(status, data({**SUCCESS, **changes}))
    assert short(verdict) == "settle:relinked"
    assert (verdict.http_status, verdict.code, verdict.ambiguous) == (status, "SUCCESS", False)
    assert verdict.record_id == ("77" if (changes.get("details", {"id": 1}) or {}).get("id") else None)


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        pytest.param(
            200, data({**SUCCESS, "details": {"External_Deal_ID": "d-2", "id": "7"}}), id="another-link"
        ),
        pytest.param(200, data({**SUCCESS, "details": {"External_Deal_ID": 1}}), id="another-type"),
        pytest.param(400, data(SUCCESS), id="success-and-an-error-status"),
        pytest.param(200, body(SUCCESS), id="success-outside-of-data"),
        pytest.param(200, data(SUCCESS, SUCCESS), id="two-entries"),
        pytest.param(200, data(), id="no-entry"),
        pytest.param(200, b"{}", id="no-data"),
        pytest.param(200, b"", id="empty"),
        pytest.param(204, b"", id="no-content"),
        pytest.param(200, HTML, id="html"),
        pytest.param(200, data(SUCCESS)[:-9], id="cut"),
        pytest.param(200, data({"message": "relation added"}), id="message-alone"),
        pytest.param(200, data({**SUCCESS, "code": "DUPLICATE_DATA"}), id="another-code"),
        pytest.param(302, data(SUCCESS), id="redirect"),
        pytest.param(500, data(SUCCESS), id="server-error"),
        pytest.param(502, HTML, id="bad-gateway"),
        pytest.param(100, b"", id="continue"),
    ],
)
def test_what_is_no_clear_success_is_verified(status: int, answer: bytes) -> None:
    verdict = ask(status, answer)
    assert short(verdict) == "verify:unknown"
    assert verdict.ambiguous


ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "parent's field as a key": (
        entry("INVALID_DATA", details={"External_Contact_ID": "c-1"}),
        "settle:parent_not_found",
    ),
    "parent's field as api_name": (
        entry("INVALID_DATA", details={"api_name": "External_Contact_ID"}),
        "settle:parent_not_found",
    ),
    "related field": (
        entry("INVALID_DATA", details={"api_name": "External_Deal_ID"}),
        "settle:related_not_found",
    ),
    "an attribute": (entry("INVALID_DATA", details={"api_name": "Contact_Role"}), "settle:rejected"),
    "an attribute that was not sent": (
        entry("INVALID_DATA", details={"api_name": "Last_Name"}),
        "verify:failed",
    ),
    "an attribute and an id": (
        entry("INVALID_DATA", details={"api_name": "Contact_Role", "External_Deal_ID": "d"}),
        "settle:related_not_found",
    ),
    "both ids": (
        entry("INVALID_DATA", details={"External_Contact_ID": "c", "External_Deal_ID": "d"}),
        "verify:failed",
    ),
    "no field": (entry("INVALID_DATA"), "verify:failed"),
    "relation not found": (entry("INVALID_DATA", "relation not found"), "verify:failed"),
    "the list": (
        entry("INVALID_DATA", details={"resource_path_index": 2, "api_name": "Contact_Role"}),
        "stop:refused",
    ),
    "the module": (entry("INVALID_DATA", details={"resource_path_index": 0}), "stop:refused"),
    "the related id is missing": (
        entry("MANDATORY_NOT_FOUND", details={"api_name": "External_Deal_ID"}),
        "stop:refused",
    ),
    "id is missing": (entry("MANDATORY_NOT_FOUND", details={"api_name": "id"}), "stop:refused"),
    "data is missing": (entry("MANDATORY_NOT_FOUND", details={"api_name": "data"}), "stop:refused"),
    "something is missing": (entry("MANDATORY_NOT_FOUND"), "stop:refused"),
    "another field is missing": (
        entry("MANDATORY_NOT_FOUND", details={"api_name": "Contact_Role"}),
        "settle:rejected",
    ),
    **{
        code: (entry(code), "settle:rejected")
        for code in (
            "ALREADY_USED",
            "AMBIGUITY_DURING_PROCESSING",
            "CANNOT_BE_UPDATED",
            "DUPLICATE_DATA",
            "EXPECTED_FIELD_MISSING",
            "LIMIT_EXCEEDED",
            "LIMIT_REACHED",
            "MULTIPLE_OR_MULTI_ERRORS",
            "NOT_ALLOWED",
            "RECORD_LOCKED",
        )
    },
    **{
        code: (entry(code), "stop:refused")
        for code in ("OAUTH_SCOPE_MISMATCH", "NO_PERMISSION", "AUTHORIZATION_FAILED", "INVALID_MODULE")
    },
    "INTERNAL_ERROR": (entry("INTERNAL_ERROR"), "verify:unknown"),
    "unknown code": (entry("NEVER_HEARD_OF"), "verify:unknown"),
}


@pytest.mark.parametrize(("error", "expected"), ERRORS.values(), ids=list(ERRORS))
def test_an_error_means_the_same_in_both_shapes_and_with_any_status(
    error: dict[str, Any], expected: str
) -> None:
    for make, status in itertools.product((body, data), (200, 207, 400, 403, 404)):
        verdict = ask(status, make(error))
        assert (status, short(verdict)) == (status, expected)
        assert verdict.ambiguous is (expected == "verify:unknown")


def test_ids_of_the_same_field_are_not_distinguished() -> None:
    wrong = data(entry("INVALID_DATA", details={"api_name": "External_ID"}))
    assert short(ask(400, wrong, relation=SAME_FIELD)) == "verify:failed"


@pytest.mark.parametrize(
    ("status", "answer", "action", "reason", "outcome"),
    [
        pytest.param(401, body(entry("INVALID_TOKEN")), Action.REFRESH, None, Outcome.FAILED, id="token"),
        pytest.param(401, HTML, Action.REFRESH, None, Outcome.FAILED, id="token-unreadable"),
        pytest.param(
            401,
            body(entry("OAUTH_SCOPE_MISMATCH")),
            Action.STOP,
            StopReason.REFUSED,
            Outcome.FAILED,
            id="scope",
        ),
        pytest.param(
            429, body(entry("TOO_MANY_REQUESTS", "concurrent")), Action.LATER, None, Outcome.FAILED, id="load"
        ),
        pytest.param(
            429,
            body(entry("TOO_MANY_REQUESTS", "for the 24 hour period")),
            Action.STOP,
            StopReason.CREDITS,
            Outcome.NOT_ATTEMPTED,
            id="credits",
        ),
    ],
)
def test_token_load_and_credits_are_as_for_a_delink(
    status: int, answer: bytes, action: Action, reason: StopReason | None, outcome: Outcome
) -> None:
    verdict = ask(status, answer, {"Retry-After": "7"})
    assert (verdict.action, verdict.stop_reason, verdict.outcome) == (action, reason, outcome)
    assert not verdict.ambiguous
    assert verdict.retry_after_s == (7.0 if status == 429 else None)


@pytest.mark.parametrize(
    ("ambiguous", "seen_gone", "outcome", "detail"),
    [
        (False, False, "already_linked", "exists already"),
        (False, True, "already_linked", "exists already"),
        (
            True,
            True,
            "relinked",
            "this run saw it not linked; linked after a request that may have been applied",
        ),
        (
            True,
            False,
            "presumed_relinked",
            "linked; this run did not see it not linked, so it may have been linked before",
        ),
    ],
)
def test_an_existing_link_is_relinked_only_with_evidence(
    ambiguous: bool, seen_gone: bool, outcome: str, detail: str
) -> None:
    assert judge_linked(ambiguous=ambiguous, seen_gone=seen_gone) == (outcome, detail)


@given(
    status=st.integers(100, 599),
    content=st.one_of(
        st.binary(max_size=60),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=9)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=2),
                st.dictionaries(
                    st.sampled_from(["data", "code", "status", "message", "details", "api_name", "id"]), inner
                ),
            ),
            max_leaves=9,
        ).map(body),
    ),
)
def test_nothing_but_an_unmistakable_success_is_relinked(status: int, content: bytes) -> None:
    verdict = ask(status, content)
    assert verdict.outcome is not None
    if verdict.outcome is Outcome.RELINKED:
        (one,) = json.loads(content)["data"]
        assert (one["status"], one["code"], status < 300) == ("success", "SUCCESS", True)
