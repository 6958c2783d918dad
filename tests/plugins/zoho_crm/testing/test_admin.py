from __future__ import annotations

from typing import Any

import pytest


def test_state_shows_links_counts_and_harm(zoho: Any, client: Any, both: str) -> None:
    client.crm("DELETE", "/Contacts/c-1/Deals?ids=d-2,d-3", both)
    client.crm("DELETE", "/Deals/d-9", both)

    state = client.admin("GET", "/state").json

    assert state["links"] == [
        {
            "module": "Contacts",
            "external_id": "c-1",
            "related_list": "Deals",
            "related_external_id": "d-1",
            "attributes": {},
        }
    ]
    assert (state["records"]["Contacts"], state["records"]["Deals"]) == (2, 3)
    assert [harm["kind"] for harm in state["harm"]] == ["record_delete"]
    assert state["requests"] == {
        "total": 2, "by_kind": {"delink_many": 1, "record_delete": 1}, "by_status": {"200": 2},
    }  # fmt: skip
    assert (state["credits_used"], state["max_in_flight"], state["too_many_requests"]) == (2, 1, 0)
    assert (state["tokens_issued"], state["tokens_throttled"]) == (1, 0)
    assert "links" not in client.admin("GET", "/state?include_links=false").json


def test_request_log_keeps_the_path_as_sent(client: Any, both: str, clock: Any) -> None:
    client.crm("DELETE", "/Contacts/c%2D1/Deals/a%2Fb?x=%20y", both)
    client.crm("GET", "/org")

    log = client.admin("GET", "/requests?limit=1").json

    assert log["total"] == 2
    assert log["requests"] == [
        {
            "time": clock.now,
            "method": "DELETE",
            "path": "/crm/v7/Contacts/c%2D1/Deals/a%2Fb",
            "query": "x=%20y",
            "external": both,
            "status": 400,
            "kind": "delink",
        }
    ]
    assert client.admin("GET", "/requests?offset=1").json["requests"][0]["path"] == "/crm/v7/org"


def test_seed_adds_records_and_links(zoho: Any, client: Any) -> None:
    seed = {
        "records": {"Leads": [{"External_Lead_ID": "l-1"}]},
        "links": [
            {"module": "Campaigns", "related_list": "Leads", "pairs": [["k-1", "l-1"], ["k-1", "l-2"]]}
        ],
    }

    response = client.admin("POST", "/seed", seed)

    assert (response.json["records"]["Leads"], response.json["records"]["Contacts"]) == (2, 2)
    assert zoho.state.links("Leads", "Campaigns") == {("l-1", "k-1"), ("l-2", "k-1")}


@pytest.mark.parametrize("seed", [{"records": {"Nothing": [{}]}}, {"links": [{"module": "Contacts"}]}])
def test_bad_seed_is_400(client: Any, seed: dict[str, Any]) -> None:
    assert client.admin("POST", "/seed", seed).status == 400


def test_faults_are_replaced_and_dropped(zoho: Any, client: Any) -> None:
    assert client.admin("POST", "/faults", [{"do": "html", "times": None}]).json == {"rules": 1}
    assert client.crm("GET", "/org").status == 502
    assert client.admin("DELETE", "/faults").json == {"rules": 0}
    assert client.crm("GET", "/org").status == 200
    assert client.admin("POST", "/faults", {"do": "explode"}).status == 400


def test_config_changes_settings(zoho: Any, client: Any) -> None:
    assert (
        client.admin("POST", "/config", {"encoded_slash": "reject", "latency_s": 0}).json["encoded_slash"]
        == "reject"
    )
    assert zoho.state.settings.encoded_slash == "reject"
    for bad in ({"nothing": 1}, {"encoded_slash": "maybe"}):
        assert client.admin("POST", "/config", bad).status == 400


def test_reset_begins_again(zoho: Any, client: Any) -> None:
    zoho.state.configure(edition="free")

    client.admin("POST", "/reset")

    assert zoho.state.settings.edition == "enterprise"
    assert (zoho.state.crm.count("Contacts"), len(zoho.state.journal.requests)) == (0, 0)


def test_revoke_invalidates_tokens(client: Any) -> None:
    client.admin("POST", "/revoke")

    assert client.crm("GET", "/org").status == 401


def test_has_no_pages_of_its_own(client: Any) -> None:
    for path in ("/docs", "/openapi.json", "/_local/docs", "/_local/openapi.json"):
        assert client("GET", path).status == 404
