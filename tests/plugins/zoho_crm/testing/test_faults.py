from __future__ import annotations

import http.client
import json
from typing import Any

import pytest

PATH = "/Contacts/c-1/Deals/d-1"


def linked(zoho: Any) -> bool:
    return bool(zoho.state.linked("Contacts", "c-1", "Deals", "d-1"))


@pytest.mark.parametrize(("when", "still_linked"), [("before", True), ("after", False)])
@pytest.mark.parametrize("do", ["status", "html", "redirect", "truncate"])
def test_corrupted_responses(
    zoho: Any, client: Any, both: str, do: str, when: str, still_linked: bool
) -> None:
    zoho.state.faults.add(do=do, when=when)

    response = client.crm("DELETE", PATH, both)

    assert linked(zoho) is still_linked
    expected = {"status": 500, "html": 502, "redirect": 302, "truncate": 200}
    assert response.status == expected[do]
    if do == "truncate":
        with pytest.raises(json.JSONDecodeError):
            _ = response.json


@pytest.mark.parametrize(("when", "still_linked"), [("before", True), ("after", False)])
@pytest.mark.parametrize(
    ("do", "error"),
    [
        ("reset", ConnectionResetError),
        ("hang", ConnectionResetError),
        ("close_mid_body", http.client.IncompleteRead),
    ],
)
def test_broken_connections(
    zoho: Any, client: Any, both: str, do: str, error: type[Exception], when: str, still_linked: bool
) -> None:
    zoho.state.faults.add(do=do, when=when, seconds=0.01)

    with pytest.raises(error):
        client.crm("DELETE", PATH, both)

    assert linked(zoho) is still_linked
    assert zoho.state.journal.requests[-1].status == (200 if do == "close_mid_body" else 0)
    assert client.crm("GET", "/org").status == 200


def test_delay_keeps_the_response(zoho: Any, client: Any, both: str) -> None:
    zoho.state.faults.add(do="delay", seconds=0.01)

    assert client.crm("DELETE", PATH, both).json["data"][0]["code"] == "SUCCESS"


def test_status_sends_headers_and_raw_body(zoho: Any, client: Any) -> None:
    zoho.state.faults.add(do="status", status=503, headers={"Retry-After": "3"}, body="not json")

    response = client.crm("GET", "/org")

    assert (response.status, response.headers["retry-after"], response.text) == (503, "3", "not json")


@pytest.mark.parametrize(
    ("match", "statuses"),
    [
        ({}, [500, 200, 200, 200]),
        ({"nth": 3}, [200, 200, 500, 200]),
        ({"path": "d-3$"}, [200, 200, 500, 200]),
        ({"method": "GET"}, [200, 200, 200, 500]),
        ({"external_id": "d-2"}, [200, 500, 200, 200]),
        ({"path": "/oauth/"}, [200, 200, 200, 200]),
    ],
)
def test_rule_matches(zoho: Any, client: Any, both: str, match: dict[str, Any], statuses: list[int]) -> None:
    zoho.state.faults.add(do="status", match=match)

    seen = [
        client.crm("DELETE", f"/Contacts/c-1/Deals/{deal}", both).status for deal in ("d-1", "d-2", "d-3")
    ]

    assert [*seen, client.crm("GET", "/org").status] == statuses


def test_rule_finds_an_id_among_ids(zoho: Any, client: Any, both: str) -> None:
    zoho.state.faults.add(do="status", match={"external_id": "d-2"})

    assert client.crm("DELETE", "/Contacts/c-1/Deals?ids=d-1,d-2", both).status == 500


def test_rules_apply_in_order_and_as_often_as_they_say(zoho: Any, client: Any) -> None:
    zoho.state.faults.add(do="status", status=503, times=2)
    zoho.state.faults.add(do="html", status=504, times=None)

    assert [client.crm("GET", "/org").status for _ in range(4)] == [503, 503, 504, 504]


def test_token_calls_can_fail_too(zoho: Any, client: Any) -> None:
    zoho.state.faults.add(do="status", status=503, match={"path": "^/oauth/v2/token$"})

    assert [client.oauth().status, client.oauth().status] == [503, 200]


@pytest.mark.parametrize(
    "rule", [{"do": "explode"}, {"do": "reset", "when": "later"}, {"do": "reset", "match": {"path": "("}}]
)
def test_bad_rule_is_refused(zoho: Any, rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="fault"):
        zoho.state.faults.add(**rule)
