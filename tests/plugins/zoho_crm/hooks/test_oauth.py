from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import pytest

from zoho_crm.errors import (
    ZohoAuthError,
    ZohoConfigError,
    ZohoNotSentError,
    ZohoResponseError,
    ZohoTokenThrottledError,
)
from zoho_crm.hooks.connection import ZohoConnection
from zoho_crm.hooks.network import Network
from zoho_crm.hooks.oauth import Token, fetch_token

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

ACCESS_DENIED = {
    "error": "Access Denied",
    "error_description": "You have made too many requests continuously. Please try again after some time.",
}


@pytest.fixture
def connection(zoho: Any) -> ZohoConnection:
    return ZohoConnection(
        conn_id="zoho_x",
        client_id="client-id",
        client_secret="client-secret-5f1c",
        refresh_token="refresh-token-77ab",
        local_url=zoho.url,
    )


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def fetch(connection: ZohoConnection, slept: list[float]) -> Callable[[], Token]:
    return lambda: fetch_token(
        connection,
        Network.from_environment(connection),
        timeout_s=(2.0, 0.5),
        clock=lambda: 1000.0,
        sleep=slept.append,
    )


def test_sends_secrets_in_the_form_body_only(zoho: Any, fetch: Callable[[], Token]) -> None:
    token = fetch()
    assert token == Token(
        "access-token-1", zoho.url, "ZohoCRM.modules.ALL ZohoCRM.settings.ALL ZohoCRM.org.READ", 4600.0
    )
    (call,) = zoho.token_calls
    assert call.line == "POST /oauth/v2/token HTTP/1.1"
    assert parse_qs(call.body.decode(), strict_parsing=True) == {
        "grant_type": ["refresh_token"],
        "client_id": ["client-id"],
        "client_secret": ["client-secret-5f1c"],
        "refresh_token": ["refresh-token-77ab"],
    }
    assert call.header("Content-Type") == "application/x-www-form-urlencoded"
    assert call.header("Authorization") is None
    assert not any("77ab" in value or "5f1c" in value for _, value in call.headers)


@pytest.mark.parametrize(
    ("changes", "expires_at"),
    [
        ({}, 4600.0),
        ({"expires_in": 600}, 1600.0),
        ({"expires_in": "600"}, 1600.0),
        ({"expires_in": 3600000, "expires_in_sec": 1800}, 2800.0),
        ({"expires_in": 3600000}, 4600.0),
        ({"expires_in": None}, 4600.0),
        ({"expires_in": -1}, 4600.0),
        ({"expires_in": "soon"}, 4600.0),
    ],
    ids=["seconds", "shorter", "text", "legacy", "milliseconds", "null", "negative", "words"],
)
def test_reads_the_lifetime(
    zoho: Any, fetch: Callable[[], Token], changes: dict[str, Any], expires_at: float
) -> None:
    zoho.token_script = [zoho.token(**changes)]
    assert fetch().expires_at == expires_at


@pytest.mark.parametrize("domain", [None, ""], ids=["null", "empty"])
def test_takes_the_tables_host_when_zoho_names_none(
    zoho: Any, fetch: Callable[[], Token], domain: Any
) -> None:
    zoho.token_script = [zoho.token(api_domain=domain)]
    assert fetch().api_domain == zoho.url


@pytest.mark.parametrize("domain", ["https://www.zohoapis.com", "https://evil.example", 5, ["x"]])
def test_refuses_a_token_for_elsewhere(zoho: Any, fetch: Callable[[], Token], domain: Any) -> None:
    zoho.token_script = [zoho.token(api_domain=domain)]
    with pytest.raises(ZohoConfigError):
        fetch()
    assert len(zoho.token_calls) == 1


@pytest.mark.parametrize(
    "value",
    ["", "with blank", "two\r\nlines", "ünïcode", 5, None],
    ids=["empty", "blank", "lines", "letters", "number", "null"],
)
def test_refuses_what_cannot_be_a_token(zoho: Any, fetch: Callable[[], Token], value: Any) -> None:
    zoho.token_script = [zoho.token(access_token=value)] * 4
    with pytest.raises(ZohoResponseError):
        fetch()


@pytest.mark.parametrize("status", [200, 400, 401])
@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("invalid_code", "refresh token is revoked or wrong, or belongs to another data center"),
        ("invalid_client", "check login"),
        ("invalid_client_secret", "check password"),
        ("something_new", "something_new"),
    ],
)
def test_refused_credentials_are_not_tried_again(
    zoho: Any, fetch: Callable[[], Token], slept: list[float], status: int, error: str, says: str
) -> None:
    zoho.token_script = [zoho.answer(status, {"error": error})]
    with pytest.raises(ZohoAuthError, match=says) as caught:
        fetch()
    assert not isinstance(caught.value, ZohoTokenThrottledError)
    assert (len(zoho.token_calls), slept) == (1, [])


@pytest.mark.parametrize(
    ("status", "content"),
    [
        (200, ACCESS_DENIED),
        (400, ACCESS_DENIED),
        (400, {"error": "access_denied"}),
        (429, None),
        (200, {"error": "x", "error_description": "Too many requests"}),
    ],
    ids=["status-200", "status-400", "underscore", "status-429", "words"],
)
def test_a_throttle_is_not_hammered(
    zoho: Any, fetch: Callable[[], Token], slept: list[float], status: int, content: Any
) -> None:
    zoho.token_script = [zoho.answer(status, content)]
    with pytest.raises(ZohoTokenThrottledError) as caught:
        fetch()
    assert caught.value.retry_after_s == 600
    assert (len(zoho.token_calls), slept) == (1, [])


@pytest.mark.parametrize(
    ("answers", "error"),
    [
        (["drop"], ZohoNotSentError),
        (["reset"], ZohoNotSentError),
        (["hang"], ZohoNotSentError),
        ([b"HTTP/1.1 200 X\r\nContent-Length: 999\r\n\r\n{"], ZohoNotSentError),
        ([b"HTTP/1.1 500 X\r\nContent-Length: 0\r\n\r\n"], ZohoResponseError),
        ([b'HTTP/1.1 503 X\r\nContent-Length: 19\r\n\r\n{"error":"general"}'], ZohoResponseError),
        ([b"HTTP/1.1 200 X\r\nContent-Length: 6\r\n\r\n<html>"], ZohoResponseError),
        ([b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\n[]"], ZohoResponseError),
        ([b"HTTP/1.1 200 X\r\nContent-Length: 70000\r\n\r\n" + b"x" * 70000], ZohoResponseError),
    ],
    ids=["drop", "reset", "hang", "truncated", "500", "503-json", "html", "list", "huge"],
)
def test_a_temporary_failure_is_retried_then_raised(
    zoho: Any,
    fetch: Callable[[], Token],
    slept: list[float],
    answers: list[bytes | str],
    error: type[Exception],
) -> None:
    zoho.token_script = answers * 4
    with pytest.raises(error) as caught:
        fetch()
    assert (len(zoho.token_calls), len(slept)) == (4, 3)
    assert slept == sorted(slept)
    assert "5f1c" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


@pytest.mark.parametrize(("fetch_s", "tries"), [(60.0, 4), (0.5, 1)], ids=["tries-used-up", "time-used-up"])
def test_a_response_that_does_not_end_is_given_up(
    zoho: Any, connection: ZohoConnection, monkeypatch: pytest.MonkeyPatch, fetch_s: float, tries: int
) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 ")
        while not zoho.stopping.wait(0.02):
            connection.sendall(b"H")

    monkeypatch.setattr("zoho_crm.hooks.oauth.FETCH_S", fetch_s)
    zoho.token_script = [drip] * 4
    started = time.monotonic()
    with pytest.raises(ZohoNotSentError, match=r"without a complete response within 0\.3 s"):
        fetch_token(
            connection, Network.from_environment(connection), timeout_s=(0.2, 0.1), sleep=lambda _: None
        )
    # The server would go on for ever; a busy machine may take seconds.
    assert time.monotonic() - started < 30
    assert len(zoho.token_calls) == tries


def test_passing_trouble_ends_well(zoho: Any, fetch: Callable[[], Token]) -> None:
    zoho.token_script = ["drop", zoho.answer(503)]
    assert fetch().access_token == "access-token-3"


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_follows_no_redirect(zoho: Any, fetch: Callable[[], Token], status: int) -> None:
    zoho.token_script = [zoho.answer(status, None, {"Location": f"{zoho.url}/crm/v7/x"})] * 4
    with pytest.raises(ZohoResponseError, match="redirect"):
        fetch()
    assert (len(zoho.token_calls), zoho.seen) == (4, [])


@pytest.mark.parametrize(
    ("status", "error"), [(400, "server_error"), (200, "temporarily_unavailable"), (408, "timeout")]
)
def test_an_error_of_the_accounts_server_is_no_refusal(
    zoho: Any, fetch: Callable[[], Token], status: int, error: str
) -> None:
    zoho.token_script = [zoho.answer(status, {"error": error})]
    assert fetch().access_token == "access-token-2"


def test_a_refused_connection_is_not_sent(zoho: Any, fetch: Callable[[], Token], slept: list[float]) -> None:
    zoho.stop()
    with pytest.raises(ZohoNotSentError):
        fetch()
    assert len(slept) == 3


@pytest.mark.parametrize(
    ("scope", "scopes"),
    [
        ("", set()),
        ("A.READ", {"A.READ"}),
        ("A.READ B.ALL", {"A.READ", "B.ALL"}),
        ("A.READ,B.ALL", {"A.READ", "B.ALL"}),
    ],
)
def test_splits_scopes(scope: str, scopes: set[str]) -> None:
    assert Token("t", "https://x", scope, 0.0).scopes == scopes


def test_a_token_does_not_show_itself() -> None:
    assert "visible" not in repr(Token("visible", "https://x", "", 0.0))
