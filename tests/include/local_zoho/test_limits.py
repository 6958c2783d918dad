from __future__ import annotations

import socket
import time
from typing import Any

import pytest

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


def test_no_retry_after_unless_asked_for(zoho: Any, client: Any) -> None:
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
