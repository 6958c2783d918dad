from __future__ import annotations

import socket
import time
from typing import Any

import pytest

THROTTLED = {
    "error": "Access Denied",
    "error_description": "You have made too many requests continuously. Please try again after some time.",
}


def test_refresh_returns_a_working_token(zoho: Any, client: Any) -> None:
    response = client.oauth()

    token = response.json.pop("access_token")
    assert (response.status, {**response.json, "access_token": token}) == (
        200,
        {
            "access_token": token,
            "scope": "ZohoCRM.modules.ALL ZohoCRM.settings.ALL ZohoCRM.org.ALL ZohoCRM.users.ALL",
            "api_domain": zoho.url,
            "token_type": "Bearer",
            "expires_in": 3600,
        },
    )
    client.token = token
    assert client.crm("GET", "/org").status == 200


def test_api_domain_can_be_hostile(zoho: Any, client: Any) -> None:
    zoho.state.configure(api_domain="https://evil.example")

    assert client.oauth().json["api_domain"] == "https://evil.example"


def test_parameters_may_come_in_the_query(client: Any) -> None:
    query = "grant_type=refresh_token&client_id=local-client&client_secret=local-secret"
    query += "&refresh_token=local-refresh-token"

    assert "access_token" in client("POST", f"/oauth/v2/token?{query}").json


@pytest.mark.parametrize(
    ("form", "error"),
    [
        ({"refresh_token": "revoked"}, "invalid_code"),
        ({"client_id": "other"}, "invalid_client"),
        ({"client_secret": "other"}, "invalid_client_secret"),
        ({"grant_type": "client_credentials"}, "missing_org_info"),
    ],
)
def test_errors_arrive_with_http_200(client: Any, form: dict[str, str], error: str) -> None:
    response = client.oauth(**form)

    assert (response.status, response.json) == (200, {"error": error})


def test_client_credentials_grants_the_requested_scopes(client: Any) -> None:
    scope = "ZohoCRM.org.READ,ZohoCRM.modules.deals.READ"
    response = client.oauth(grant_type="client_credentials", soid="ZohoCRM.700000001", scope=scope)

    assert response.json["scope"] == "ZohoCRM.org.READ ZohoCRM.modules.deals.READ"


@pytest.mark.parametrize("status", [200, 400])
def test_eleventh_token_in_ten_minutes_is_denied(zoho: Any, client: Any, clock: Any, status: int) -> None:
    zoho.state.configure(token_throttle_status=status)
    for _ in range(10):
        assert "access_token" in client.oauth().json
    clock.now += 590

    denied = client.oauth()
    assert (denied.status, denied.json) == (status, THROTTLED)
    clock.now += 9
    assert client.oauth().json == THROTTLED
    clock.now += 179
    assert client.oauth().json == THROTTLED, "asking during the lock-out made it last longer"
    clock.now += 181
    assert "access_token" in client.oauth().json
    assert (zoho.state.tokens.issued, zoho.state.tokens.throttled) == (12, 3)


def test_sixteenth_token_revokes_the_oldest(zoho: Any, client: Any) -> None:
    zoho.state.configure(tokens_per_window=100)
    tokens = [client.oauth().json["access_token"] for _ in range(16)]

    statuses = []
    for client.token in tokens[:2]:
        statuses.append(client.crm("GET", "/org").status)
    assert statuses == [401, 200]


@pytest.mark.parametrize("end", ["expiry", "revocation"])
def test_token_that_is_over_is_invalid(zoho: Any, client: Any, clock: Any, end: str) -> None:
    if end == "expiry":
        clock.now += 3600
    else:
        zoho.state.tokens.revoke_all()

    response = client.crm("GET", "/org")

    body = {"code": "INVALID_TOKEN", "details": {}, "message": "invalid oauth token", "status": "error"}
    assert (response.status, response.json) == (401, body)


@pytest.mark.parametrize("header", [{}, {"Authorization": "Bearer x"}])
def test_no_usable_token_is_an_authentication_failure(client: Any, header: dict[str, str]) -> None:
    client.token = ""
    response = client.crm("GET", "/org", headers=header)

    body = {
        "code": "AUTHENTICATION_FAILURE",
        "details": {},
        "message": "Authentication failed",
        "status": "error",
    }
    assert (response.status, response.json) == (401, body)


@pytest.mark.parametrize(
    ("scopes", "method", "path", "allowed"),
    [
        (["ZohoCRM.modules.contacts.DELETE"], "DELETE", "/Contacts/c-1/Deals/d-1", True),
        (["ZohoCRM.modules.contacts.WRITE"], "DELETE", "/Contacts/c-1/Deals/d-1", True),
        (["ZohoCRM.modules.DELETE"], "DELETE", "/Contacts/c-1/Deals/d-1", True),
        (["ZohoCRM.modules.contacts.READ"], "DELETE", "/Contacts/c-1/Deals/d-1", False),
        (["ZohoCRM.modules.deals.ALL"], "DELETE", "/Contacts/c-1/Deals/d-1", False),
        (["ZohoCRM.modules.deals.DELETE"], "DELETE", "/Deals/d-1/Contact_Roles/c-1", False),
        (
            ["ZohoCRM.modules.deals.DELETE", "ZohoCRM.modules.contacts.DELETE"],
            "DELETE",
            "/Deals/d-1/Contact_Roles/c-1",
            True,
        ),
        (["ZohoCRM.settings.fields.READ"], "GET", "/settings/fields?module=Deals", True),
        (["ZohoCRM.settings.fields.READ"], "GET", "/settings/modules", False),
        (["ZohoCRM.org.READ"], "GET", "/org", True),
        (["ZohoCRM.org.READ"], "GET", "/users?type=CurrentUser", False),
        (["ZohoCRM.org.READ"], "DELETE", "/Nothing/c-1/Deals/d-1", False),
    ],
)
def test_scope_decides_first(
    zoho: Any, client: Any, both: str, scopes: list[str], method: str, path: str, allowed: bool
) -> None:
    client.token = zoho.state.issue_token(scopes)

    response = client.crm(method, path, both)

    assert (response.status == 200) is allowed
    if not allowed:
        message = "invalid oauth scope to access this URL"
        body = {"code": "OAUTH_SCOPE_MISMATCH", "details": {}, "message": message, "status": "error"}
        assert (response.status, response.json) == (401, body)


def test_responses_contain_the_expiry_of_the_token(client: Any) -> None:
    assert client.crm("GET", "/org").headers["x-accesstoken-reset"] == "2027-01-15T09:00:00+00:00"


CONCURRENT = {
    "code": "TOO_MANY_REQUESTS",
    "details": {},
    "message": "Many requests fired in concurrent than the allowed limit.",
    "status": "error",
}


def wait_for_in_flight(zoho: Any, count: int) -> None:
    deadline = time.monotonic() + 5
    while zoho.state.limits.in_flight != count:
        assert time.monotonic() < deadline, f"{zoho.state.limits.in_flight} requests in flight, not {count}"
        time.sleep(0.001)


def test_request_beyond_the_concurrency_limit_is_429(zoho: Any, client: Any) -> None:
    zoho.state.configure(concurrency_limit=1, retry_after_s=7)
    zoho.state.faults.add(do="hang", seconds=60)
    with socket.create_connection((zoho.host, zoho.port)) as hanging:
        hanging.sendall(b"GET /crm/v7/org HTTP/1.1\r\nHost: x\r\n\r\n")
        wait_for_in_flight(zoho, 1)
        refused = client.crm("GET", "/org")
    wait_for_in_flight(zoho, 0)

    assert (refused.status, refused.json, refused.headers["retry-after"]) == (429, CONCURRENT, "7")
    assert client.crm("GET", "/org").status == 200
    assert (zoho.state.limits.max_in_flight, zoho.state.limits.refused) == (2, 1)


@pytest.mark.parametrize(
    ("edition", "limit"),
    [("free", 5), ("standard", 10), ("professional", 15), ("enterprise", 20), ("ultimate", 25)],
)
def test_edition_decides_the_concurrency_limit(zoho: Any, edition: str, limit: int) -> None:
    zoho.state.configure(edition=edition)

    assert zoho.state.settings.max_in_flight == limit


def test_no_retry_after_unless_configured(zoho: Any, client: Any) -> None:
    zoho.state.configure(concurrency_limit=0)

    assert "retry-after" not in client.crm("GET", "/org").headers


def test_credits_show_from_half_and_run_out_for_24_hours(zoho: Any, client: Any, clock: Any) -> None:
    zoho.state.configure(credit_limit=4)

    shown = [client.crm("GET", "/org").headers.get("x-api-credits-remaining") for _ in range(4)]
    refused = client.crm("GET", "/org")

    assert shown == [None, "2", "1", "0"]
    assert (refused.status, refused.json["code"]) == (429, "TOO_MANY_REQUESTS")
    assert "24 hour" in refused.json["message"]
    clock.now += 86_400
    assert client.oauth().status == 200
    client.token = zoho.state.issue_token()
    assert client.crm("GET", "/org").status == 200


def test_daily_limit_can_have_the_legacy_body(zoho: Any, client: Any) -> None:
    zoho.state.configure(credit_limit=0, daily_body="legacy")

    assert client.crm("GET", "/org").json == {
        "code": 429,
        "error": "TOO_MANY_REQUESTS",
        "error_info": "Many requests fired than the allowed limit for the past 24 hours.",
        "details": [],
    }


def test_plural_call_costs_one_credit(zoho: Any, client: Any, both: str) -> None:
    client.crm("DELETE", "/Contacts/c-1/Deals?ids=d-1,d-2,d-3", both)

    assert zoho.state.limits.credits_used == 1
