from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import requests
from airflow.models.connection import Connection
from airflow.providers.http.hooks.http import HttpHook
from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowRuntimeError

from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.request import ZohoRequest, delete_related, get_setting
from zoho_crm.core.verdict import Action
from zoho_crm.errors import (
    ZohoAuthError,
    ZohoConfigError,
    ZohoNotSentError,
    ZohoResponseError,
    ZohoUnansweredError,
)
from zoho_crm.hooks.zoho_crm import ZohoCRMHook

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoho_crm.core.links import Link, Relation

DELETE_LINE = "DELETE /crm/v7/Contacts/c-1/Deals/d-1 HTTP/1.1"
GET = ZohoRequest("GET", ("crm", "v7", "org"))


def error(code: str, message: str = "m", **details: Any) -> dict[str, Any]:
    return {"code": code, "details": details, "message": message, "status": "error"}


@pytest.fixture
def delete(relation: Relation, link: Link) -> ZohoRequest:
    return delete_related("v7", relation, link)


def test_airflow_finds_and_builds_it(connect: Callable[..., ZohoCRMHook]) -> None:
    connect()
    by_id = BaseHook.get_hook("zoho_crm_default")
    by_connection = BaseHook.get_connection("zoho_crm_default").get_hook(hook_params={"read_timeout_s": 5.0})
    assert type(by_id) is type(by_connection) is ZohoCRMHook
    assert isinstance(by_id, HttpHook)
    assert by_connection.read_timeout_s == 5.0


def test_building_it_sends_nothing(zoho: Any) -> None:
    ZohoCRMHook("not_defined")
    assert zoho.token_calls == []


def test_a_missing_connection_is_named() -> None:
    with pytest.raises((AirflowRuntimeError, Exception), match="not_defined"):
        _ = ZohoCRMHook("not_defined").connection


def test_sends_exactly_the_delink(zoho: Any, hook: ZohoCRMHook, relation: Relation, link: Link) -> None:
    verdict = hook.delete_related_record(relation, link)
    assert (verdict.action, verdict.outcome, verdict.record_id) == (Action.SETTLE, Outcome.REMOVED, "1")
    (seen,) = zoho.seen
    assert seen.line == DELETE_LINE
    assert dict(seen.headers) == {
        "Host": f"127.0.0.1:{zoho.port}",
        "User-Agent": "zoho-crm-delink/0.1.0",
        "Accept-Encoding": seen.header("Accept-Encoding"),
        "Accept": "*/*",
        "X-EXTERNAL": "Contacts.External_Contact_ID,Deals.External_Deal_ID",
        "Authorization": "Zoho-oauthtoken access-token-1",
        "Content-Length": "0",
    }
    assert seen.body == b""


def test_keeps_one_connection_and_one_token(zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest) -> None:
    for _ in range(3):
        hook.send(delete)
    assert len({seen.connection for seen in zoho.seen}) == 1
    assert len(zoho.token_calls) == 1


def test_says_how_it_went_and_with_which_token(zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest) -> None:
    zoho.script = [zoho.answer(200, b"x", {"X-Api-Credits-Remaining": "7"})]
    answer = hook.send(delete)
    assert (answer.status, answer.body, answer.token_used) == (200, b"x", "access-token-1")
    assert answer.headers.get("x-api-credits-remaining") == "7"
    assert answer.duration_s > 0
    assert "access-token" not in repr(answer)


def test_no_accepted_extra_reaches_a_request(
    zoho: Any, connect: Callable[..., ZohoCRMHook], delete: ZohoRequest
) -> None:
    hook = connect(
        {"data_center": "eu", "environment": "sandbox", "api_version": "v8", "max_concurrency": 17}
    )
    hook.send(delete)
    (seen,) = zoho.seen
    names = {name.lower() for name, _ in seen.headers}
    assert names == {
        "host",
        "user-agent",
        "accept-encoding",
        "accept",
        "x-external",
        "authorization",
        "content-length",
    }
    assert not any(text in value for text in ("77ab", "5f1c", "client-id") for _, value in seen.headers)


@pytest.mark.parametrize(
    "extra",
    [
        {"verify": False},
        {"verify_ssl": False},
        {"proxies": {"http": "http://127.0.0.1:1"}},
        {"proxy": "http://127.0.0.1:1"},
        {"cert": "/etc/passwd"},
        {"trust_env": True},
        {"allow_redirects": True},
        {"check_response": False},
        {"X-EXTERNAL": "Leads.Other"},
        {"Authorization": "Basic x"},
        {"Host": "evil.example"},
        {"api_domain": "https://evil.example"},
        {"timeout": 5},
        {"max_workers": 5},
    ],
    ids=lambda extra: next(iter(extra)),
)
def test_hostile_extras_send_nothing_at_all(
    zoho: Any, connect: Callable[..., ZohoCRMHook], delete: ZohoRequest, extra: dict[str, Any]
) -> None:
    with pytest.raises(ZohoConfigError, match="unknown extra"):
        connect(extra).send(delete)
    assert (zoho.seen, zoho.token_calls) == ([], [])


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_follows_no_redirect(
    zoho: Any, hook: ZohoCRMHook, relation: Relation, link: Link, status: int
) -> None:
    zoho.script = [zoho.answer(status, b"x" * 5000, {"Location": f"{zoho.url}/crm/v7/Contacts/c-1"})]
    verdict = hook.delete_related_record(relation, link)
    assert (verdict.action, verdict.ambiguous) == (Action.VERIFY, True)
    assert zoho.api_lines == [DELETE_LINE]


def test_a_refused_token_is_replaced_and_the_request_repeated_once(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest
) -> None:
    zoho.script = [zoho.bad_token()]
    assert hook.send(delete).status == 200
    assert [seen.header("Authorization") for seen in zoho.seen] == [
        "Zoho-oauthtoken access-token-1",
        "Zoho-oauthtoken access-token-2",
    ]
    assert zoho.api_lines == [DELETE_LINE] * 2


def test_a_third_rejection_is_returned(zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest) -> None:
    zoho.script = [zoho.bad_token()] * 3
    assert hook.send(delete).status == 401
    assert (len(zoho.seen), len(zoho.token_calls)) == (3, 3)


@pytest.mark.parametrize(
    "content",
    [
        error("OAUTH_SCOPE_MISMATCH"),
        error("NO_PERMISSION"),
        {"data": [{"code": "SUCCESS", "status": "success"}]},
    ],
    ids=["scope", "permission", "success"],
)
def test_a_401_about_something_else_costs_no_token(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest, content: dict[str, Any]
) -> None:
    zoho.script = [zoho.answer(401, content)]
    assert hook.send(delete).status == 401
    assert (len(zoho.seen), len(zoho.token_calls)) == (1, 1)


@pytest.mark.parametrize(
    ("answer", "raises"),
    [
        ("drop", ZohoUnansweredError),
        ("reset", ZohoUnansweredError),
        ("hang", ZohoUnansweredError),
        (b"HTTP/1.1 200 X\r\nContent-Length: 50\r\n\r\n{", ZohoUnansweredError),
        (b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab", ZohoUnansweredError),
        (b"HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc", ZohoUnansweredError),
        (b"HTTP/1.1 200 X\r\n\r\n" + b"x" * (1024 * 1024 + 1), ZohoUnansweredError),
        (b"nonsense\r\n\r\n", ZohoUnansweredError),
        (b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 503 X\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n", None),
        (b"HTTP/1.1 429 X\r\nContent-Length: 0\r\n\r\n", None),
    ],
    ids=[
        "drop",
        "reset",
        "hang",
        "cut",
        "cut-chunk",
        "bad-gzip",
        "too-long",
        "nonsense",
        "500",
        "503",
        "429",
    ],
)
def test_a_delete_is_sent_once_whatever_happens(
    zoho: Any,
    connect: Callable[..., ZohoCRMHook],
    delete: ZohoRequest,
    secrets: tuple[str, ...],
    answer: bytes | str,
    raises: type[Exception] | None,
) -> None:
    hook = connect(read_timeout_s=0.1)
    zoho.script = [answer]
    if raises is None:
        assert hook.send(delete).status >= 429
    else:
        with pytest.raises(raises) as caught:
            hook.send(delete)
        assert not any(secret in repr(caught.value) for secret in secrets)
        assert (caught.value.__cause__, caught.value.__context__) == (None, None)
        assert "nothing was sent" not in str(caught.value)
    assert zoho.api_lines == [DELETE_LINE]
    assert hook.slept == []


def test_a_delete_is_sent_once_when_a_kept_connection_drops(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest
) -> None:
    zoho.script = [zoho.removed(), "drop"]
    hook.send(delete)
    with pytest.raises(ZohoUnansweredError):
        hook.send(delete)
    first, second = zoho.seen
    assert first.connection == second.connection


def test_a_refused_connection_is_not_sent(zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest) -> None:
    hook.token_source.get()
    zoho.stop()
    with pytest.raises(ZohoNotSentError, match="nothing was sent"):
        hook.send(delete)


def test_a_read_is_tried_again_on_passing_trouble(zoho: Any, hook: ZohoCRMHook) -> None:
    zoho.script = [
        "drop",
        zoho.answer(503),
        zoho.answer(429, None, {"Retry-After": "7"}),
        zoho.answer(200, {}),
    ]
    assert hook.send(GET).status == 200
    assert len(zoho.seen) == 4
    assert len(hook.slept) == 3
    assert hook.slept[2] == 7


@pytest.mark.parametrize(
    ("answer", "status"), [(b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n", 503), ("drop", None)]
)
def test_a_read_is_given_up_after_four(zoho: Any, hook: ZohoCRMHook, answer: Any, status: int | None) -> None:
    zoho.default = answer
    if status is None:
        with pytest.raises(ZohoUnansweredError):
            hook.send(GET)
    else:
        assert hook.send(GET).status == status
    assert len(zoho.seen) == 4


def test_a_read_does_not_wait_for_an_hour(zoho: Any, hook: ZohoCRMHook) -> None:
    zoho.script = [zoho.answer(429, None, {"Retry-After": "3600"})]
    assert hook.send(GET).status == 429
    assert hook.slept == []


def test_takes_no_free_form_request(zoho: Any, hook: ZohoCRMHook) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: hook.run("crm/v7/Contacts/1", headers={"x": "y"}),
        lambda: hook.run_with_advanced_retry({}, "crm/v7/Contacts/1"),
        lambda: hook.run_and_check(requests.Session(), requests.PreparedRequest(), {}),
        lambda: hook.get_conn({"X-EXTERNAL": "x"}),
        lambda: hook.get_conn(extra_options={"verify": False}),
    ]
    for call in calls:
        with pytest.raises(ZohoConfigError, match="free-form"):
            call()
    assert (zoho.seen, zoho.token_calls) == ([], [])


def test_the_session_of_get_conn_carries_no_token(zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest) -> None:
    hook.send(delete)
    hook.get_conn().get(f"{zoho.url}/x", timeout=5)
    assert zoho.seen[1].header("Authorization") is None


def test_uses_no_netrc_keeps_no_cookie(
    zoho: Any,
    connect: Callable[..., ZohoCRMHook],
    delete: ZohoRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "netrc").write_text("machine localhost login a password b\n")
    # aiohttp keeps no cookie of an address without a name, in any configuration.
    zoho.url = f"http://localhost:{zoho.port}"
    hook = connect(host="localhost")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    zoho.script = [zoho.answer(200, {}, {"Set-Cookie": "a=b; Path=/"})]
    hook.send(delete)
    hook.send(delete)
    assert [seen.header("Cookie") for seen in zoho.seen] == [None, None]
    assert all(str(seen.header("Authorization")).startswith("Zoho-oauthtoken ") for seen in zoho.seen)
    assert zoho.token_calls[0].header("Authorization") is None


def test_nothing_secret_is_logged(
    zoho: Any,
    hook: ZohoCRMHook,
    delete: ZohoRequest,
    secrets: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    for name in ("urllib3", "requests", "aiohttp", "asyncio", "zoho_crm", "airflow"):
        caplog.set_level(logging.DEBUG, logger=name)
    zoho.script = [zoho.bad_token(), zoho.removed(), "drop"]
    hook.send(delete)
    with pytest.raises(ZohoUnansweredError):
        hook.send(delete)
    hook.test_connection()
    assert any(record.getMessage().startswith("Access token renewed") for record in caplog.records)
    for record in caplog.records:
        text = f"{record.getMessage()} {record.args} {record.exc_text} {record.__dict__}"
        assert not any(secret in text for secret in secrets), text


@pytest.mark.parametrize(
    ("answer", "linked"),
    [((200, {"data": [{"id": "1"}]}), True), ((204, None), False)],
    ids=["linked", "not-linked"],
)
def test_reads_one_link(
    zoho: Any, hook: ZohoCRMHook, relation: Relation, link: Link, answer: Any, linked: bool
) -> None:
    zoho.script = [zoho.answer(*answer)]
    assert hook.get_related_record(relation, link) is linked
    assert zoho.api_lines == ["GET /crm/v7/Contacts/c-1/Deals/d-1?fields=id HTTP/1.1"]
    assert zoho.seen[0].header("X-EXTERNAL") == relation.x_external


@pytest.mark.parametrize(
    ("answer", "exists"),
    [
        ((200, {"data": [{"id": "1"}]}), True),
        ((204, None), False),
        ((400, error("INVALID_DATA", "the id given seems to be invalid", resource_path_index=1)), False),
    ],
    ids=["there", "not-there", "unknown-id"],
)
def test_reads_one_record(zoho: Any, hook: ZohoCRMHook, answer: Any, exists: bool) -> None:
    zoho.script = [zoho.answer(*answer)]
    assert hook.record_exists("Contacts", "External_Contact_ID", "a/b") is exists
    assert zoho.api_lines == ["GET /crm/v7/Contacts/a%2Fb?fields=id HTTP/1.1"]
    assert zoho.seen[0].header("X-EXTERNAL") == "Contacts.External_Contact_ID"


@pytest.mark.parametrize(
    ("answer", "raises", "says"),
    [
        ((401, error("OAUTH_SCOPE_MISMATCH")), ZohoAuthError, "scope"),
        ((403, error("NO_PERMISSION")), ZohoAuthError, "profile"),
        ((400, error("AUTHORIZATION_FAILED")), ZohoAuthError, "profile"),
        ((400, error("INVALID_DATA", "wrong")), ZohoResponseError, "INVALID_DATA wrong"),
        ((404, error("INVALID_URL_PATTERN")), ZohoResponseError, "INVALID_URL_PATTERN"),
        (
            (429, {"code": 429, "error": "TOO_MANY_REQUESTS", "error_info": "24 hours"}),
            ZohoResponseError,
            "TOO_MANY_REQUESTS 24 hours; the org's API credits of 24 hours are used up",
        ),
        (
            (429, {**error("TOO_MANY_REQUESTS", "concurrent"), "details": {"retry_after": 99}}),
            ZohoResponseError,
            "concurrent; too many requests are in flight",
        ),
        (
            (403, error("TOO_MANY_REQUESTS", "concurrent")),
            ZohoResponseError,
            "concurrent; too many requests are in flight",
        ),
        ((403, b"<html>"), ZohoResponseError, "cannot be read"),
        ((500, b"<html>"), ZohoResponseError, "cannot be read"),
        ((302, None), ZohoResponseError, "redirect"),
        ((200, b"<html>"), ZohoResponseError, "cannot be read"),
        ((200, b"[]"), ZohoResponseError, "cannot be read"),
        ((200, {"data": []}), ZohoResponseError, "200"),
        ((200, {"data": [error("INTERNAL_ERROR")]}), ZohoResponseError, "INTERNAL_ERROR"),
        ((200, b"[" * 100_000), ZohoResponseError, "cannot be read"),
    ],
    ids=[
        "scope",
        "permission",
        "authorization",
        "data",
        "url",
        "credits",
        "overloaded",
        "overloaded-403",
        "403-html",
        "500",
        "302",
        "html",
        "list",
        "empty",
        "entry",
        "deep",
    ],
)
def test_an_unclear_response_is_an_error(
    zoho: Any,
    hook: ZohoCRMHook,
    relation: Relation,
    link: Link,
    answer: Any,
    raises: type[Exception],
    says: str,
) -> None:
    zoho.default = zoho.answer(*answer)
    with pytest.raises(raises, match=says) as caught:
        hook.get_related_record(relation, link)
    assert caught.value.http_status == answer[0]
    assert caught.value.path == "/crm/v7/Contacts/c-1/Deals/d-1"
    assert "c-1" not in str(caught.value)
    assert "d-1" not in str(caught.value)


def page(start: int, rows: int, **info: Any) -> dict[str, Any]:
    return {"data": [{"id": str(start + n)} for n in range(rows)], "info": info}


def test_pages_by_number_then_by_token(zoho: Any, hook: ZohoCRMHook, relation: Relation) -> None:
    zoho.script = [
        zoho.answer(200, page(200 * n, 200, more_records=True, next_page_token="t1" if n == 9 else None))
        for n in range(10)
    ]
    zoho.script += [
        zoho.answer(200, page(2000, 200, more_records=True, next_page_token="t2&")),
        zoho.answer(200, page(2200, 5, more_records=False)),
    ]
    rows = list(hook.get_related_records(relation, "a b", fields=("id", "Name")))
    assert [row["id"] for row in rows] == [str(n) for n in range(2205)]
    stem = "GET /crm/v7/Contacts/a%20b/Deals?fields=id%2CName&"
    assert zoho.api_lines == [
        *(f"{stem}page={n}&per_page=200 HTTP/1.1" for n in range(1, 11)),
        f"{stem}page_token=t1&per_page=200 HTTP/1.1",
        f"{stem}page_token=t2%26&per_page=200 HTTP/1.1",
    ]


def test_pages_are_asked_for_as_they_are_needed(zoho: Any, hook: ZohoCRMHook, relation: Relation) -> None:
    zoho.default = zoho.answer(200, page(0, 200, more_records=True))
    rows = hook.get_related_records(relation, "c-1")
    assert zoho.seen == []
    next(rows)
    assert len(zoho.seen) == 1


def test_nothing_related_is_no_rows(zoho: Any, hook: ZohoCRMHook, relation: Relation) -> None:
    zoho.script = [zoho.answer(204)]
    assert list(hook.get_related_records(relation, "c-1")) == []


@pytest.mark.parametrize("token", [None, "", 5, "same"])
def test_more_records_without_a_way_to_them_is_an_error(
    zoho: Any, hook: ZohoCRMHook, relation: Relation, token: Any
) -> None:
    zoho.default = zoho.answer(200, page(0, 1, more_records=True, next_page_token=token))
    with pytest.raises(ZohoResponseError, match="no page token"):
        list(hook.get_related_records(relation, "c-1"))
    assert len(zoho.seen) <= 11


@pytest.mark.parametrize(
    ("call", "line", "key"),
    [
        (lambda hook: hook.get_modules(), "GET /crm/v7/settings/modules HTTP/1.1", "modules"),
        (
            lambda hook: hook.get_fields("Deals"),
            "GET /crm/v7/settings/fields?module=Deals HTTP/1.1",
            "fields",
        ),
        (
            lambda hook: hook.get_related_lists("Deals"),
            "GET /crm/v7/settings/related_lists?module=Deals HTTP/1.1",
            "related_lists",
        ),
    ],
    ids=["modules", "fields", "related_lists"],
)
def test_reads_metadata(
    zoho: Any, hook: ZohoCRMHook, call: Callable[[ZohoCRMHook], Any], line: str, key: str
) -> None:
    long = "x" * (1024 * 1024)
    zoho.script = [
        zoho.answer(200, {key: [{"api_name": "A", "long": long}]}),
        zoho.answer(204),
        zoho.answer(200, {}),
    ]
    assert call(hook)[0]["api_name"] == "A"
    assert call(hook) == []
    with pytest.raises(ZohoResponseError, match=f"no list '{key}'"):
        call(hook)
    assert zoho.api_lines == [line] * 3
    assert zoho.seen[0].header("X-EXTERNAL") is None


def test_reads_the_organization_in_the_version_asked_for(
    zoho: Any, connect: Callable[..., ZohoCRMHook]
) -> None:
    zoho.script = [zoho.answer(200, {"org": [{"zgid": "77"}]}), zoho.answer(204)]
    hook = connect({"api_version": "v8"})
    assert hook.get_org() == {"zgid": "77"}
    with pytest.raises(ZohoResponseError):
        hook.get_org()
    assert zoho.api_lines == ["GET /crm/v8/org HTTP/1.1"] * 2


def test_returns_the_granted_scopes(zoho: Any, hook: ZohoCRMHook) -> None:
    assert hook.granted_scopes() == {"ZohoCRM.modules.ALL", "ZohoCRM.settings.ALL", "ZohoCRM.org.READ"}


ORG = {
    "company_name": "Acme",
    "zgid": "77",
    "type": "production",
    "license_details": {"paid_type": "enterprise", "paid": True},
}


def test_the_test_button_says_what_it_is_connected_to(
    zoho: Any, hook: ZohoCRMHook, variables: dict[str, str]
) -> None:
    zoho.script = [zoho.answer(200, {"org": [ORG]})]
    assert hook.test_connection() == (
        True,
        "Connected to Acme (org 77, edition enterprise), production environment, data center us (local Zoho); "
        "granted scopes: ZohoCRM.modules.ALL, ZohoCRM.org.READ, ZohoCRM.settings.ALL",
    )
    assert variables == {}


def test_the_test_button_uses_no_stored_token(
    zoho: Any, hook: ZohoCRMHook, variables: dict[str, str]
) -> None:
    hook.send(get_setting("v7", "org"))
    stored = dict(variables)
    zoho.script = [zoho.answer(200, {"org": [ORG]})]
    assert hook.test_connection()[0]
    assert zoho.seen[-1].header("Authorization") == "Zoho-oauthtoken access-token-2"
    assert variables == stored


@pytest.mark.parametrize(
    ("token_answer", "answer", "says"),
    [
        ((200, {"error": "invalid_code"}), None, "revoked or wrong, or belongs to another data center"),
        ((200, {"error": "invalid_client_secret"}), None, "client secret is wrong"),
        ((400, {"error": "invalid_client"}), None, "client id"),
        ((400, {"error": "Access Denied"}), None, "wait 600 s"),
        (None, (401, error("OAUTH_SCOPE_MISMATCH")), "generate a refresh token that includes the scope"),
        (None, (401, error("INVALID_TOKEN")), "INVALID_TOKEN"),
        (None, (400, error("INVALID_HOST")), "INVALID_HOST"),
        (None, (200, b"<html>"), "cannot be read"),
        (None, (200, {"org": []}), "does not describe exactly one organization"),
        (
            None,
            (200, {"org": [{**ORG, "type": "sandbox"}]}),
            "environment is production, but the organization is of type sandbox",
        ),
    ],
    ids=["code", "secret", "client", "throttled", "scope", "token", "host", "html", "none", "environment"],
)
def test_the_test_button_says_what_is_wrong(
    zoho: Any, hook: ZohoCRMHook, secrets: tuple[str, ...], token_answer: Any, answer: Any, says: str
) -> None:
    if token_answer is not None:
        zoho.token_script = [zoho.answer(*token_answer)]
    if answer is not None:
        zoho.default = zoho.answer(*answer)
    ok, message = hook.test_connection()
    assert not ok
    assert says in message
    assert not any(secret in message for secret in secrets)


def test_the_test_button_shows_when_zoho_cannot_be_reached(zoho: Any, hook: ZohoCRMHook) -> None:
    zoho.stop()
    ok, message = hook.test_connection()
    assert not ok
    assert "no connection" in message


def test_the_test_button_names_a_wrong_field(connect: Callable[..., ZohoCRMHook]) -> None:
    ok, message = connect({"data_center": "mars"}).test_connection()
    assert not ok
    assert "data_center: Input should be 'us'" in message


def test_the_test_button_never_raises(hook: ZohoCRMHook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_ZOHO_CRM_DEFAULT", '{"conn_type": "zoho_crm", "port": "client-secret-5f1c"}'
    )
    ok, message = hook.test_connection()
    assert not ok
    assert "5f1c" not in message


@pytest.mark.filterwarnings("ignore:ProvidersManager.hooks")
def test_airflows_own_test_finds_the_hook(zoho: Any, connect: Callable[..., ZohoCRMHook]) -> None:
    connect()
    zoho.script = [zoho.answer(200, {"org": [ORG]})]
    # The button calls the connection of the API server, which is not that of tasks.
    ok, message = Connection.get_connection_from_secrets("zoho_crm_default").test_connection()
    assert ok, message


def test_the_connection_can_be_a_uri(zoho: Any, monkeypatch: pytest.MonkeyPatch, delete: ZohoRequest) -> None:
    extra = json.dumps({"refresh_token": "r", "max_concurrency": "5"})
    monkeypatch.setenv(
        "AIRFLOW_CONN_ZOHO_CRM_DEFAULT",
        f"zoho-crm://id:secret@127.0.0.1:{zoho.port}/http?__extra__={requests.utils.quote(extra)}",
    )
    hook = ZohoCRMHook()
    assert hook.send(delete).status == 200
    assert hook.connection.max_concurrency == 5
