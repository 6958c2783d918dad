from __future__ import annotations

import json
from typing import Any

import pytest

ROLE = {"name": "Decision Maker", "id": "4876876000000006873"}
CONTACT = "Contacts.External_Contact_ID"


def put(client: Any, both: str, path: str = "/Contacts/c-2/Deals", **row: Any) -> Any:
    return client.crm("PUT", path, both, body=json.dumps({"data": [row]}))


def harms(zoho: Any) -> list[tuple[str, str]]:
    return [(harm.kind, harm.detail) for harm in zoho.state.journal.harms]


@pytest.mark.parametrize("related", ["/d-9", ""], ids=["one", "many"])
def test_put_links_with_attributes(zoho: Any, client: Any, both: str, related: str) -> None:
    row = {"Contact_Role": ROLE["id"]} | ({} if related else {"External_Deal_ID": "d-9"})

    response = client.crm("PUT", f"/Contacts/c-2/Deals{related}", both, body=json.dumps({"data": [row]}))

    deal = zoho.state.crm.find("Deals", "d-9")
    details = {"External_Deal_ID": "d-9", "id": deal}
    assert response.json["data"] == [
        {"code": "SUCCESS", "details": details, "message": "relation added", "status": "success"}
    ]
    role = client.crm("GET", "/Deals/d-9/Contact_Roles/c-2?fields=Contact_Role", both)
    assert role.json["data"][0]["Contact_Role"] == ROLE


def test_put_again_changes_the_attributes_of_the_link(zoho: Any, client: Any, both: str) -> None:
    zoho.state.link("Contacts", "c-2", "Deals", "d-9", {"Contact_Role": ROLE, "Note": "stays"})

    response = put(client, both, External_Deal_ID="d-9", Contact_Role="4876876000000006875")

    assert (response.status, response.json["data"][0]["message"]) == (200, "relation updated")
    shown = client.crm("GET", "/Contacts/c-2/Deals/d-9?fields=Contact_Role,Note", both).json["data"][0]
    assert (shown["Contact_Role"]["name"], shown["Note"]) == ("Purchasing", "stays")


def test_attributes_go_with_the_link(zoho: Any, client: Any, both: str) -> None:
    put(client, both, External_Deal_ID="d-9", Contact_Role=ROLE["id"])
    client.crm("DELETE", "/Contacts/c-2/Deals/d-9", both)
    put(client, both, External_Deal_ID="d-9")

    shown = client.crm("GET", "/Contacts/c-2/Deals/d-9?fields=Contact_Role", both).json["data"][0]
    assert shown["Contact_Role"] is None


@pytest.mark.parametrize(
    "given", ["Decision Maker", ROLE["id"], ROLE, {"id": "7", "name": "Buyer"}, "A new one"]
)
def test_a_role_of_a_seed_is_shown_as_an_object_and_can_be_put_by_its_id(
    zoho: Any, client: Any, both: str, given: Any
) -> None:
    zoho.state.link("Contacts", "c-2", "Deals", "d-9", {"Contact_Role": given})
    (before,) = [one for one in zoho.state.crm.to_json() if one["external_id"] == "c-2"]
    role = before["attributes"]["Contact_Role"]
    assert set(role) == {"id", "name"}
    zoho.state.unlink("Contacts", "c-2", "Deals", "d-9")

    assert put(client, both, External_Deal_ID="d-9", Contact_Role=role["id"]).status == 200

    assert before in zoho.state.crm.to_json()


@pytest.mark.parametrize(
    ("path", "row", "code", "details"),
    [
        (
            "/Contacts/no/Deals",
            {"External_Deal_ID": "d-9"},
            "INVALID_DATA",
            {"api_name": "External_Contact_ID"},
        ),
        ("/Contacts/c-2/Deals", {"External_Deal_ID": "no"}, "INVALID_DATA", {"api_name": "External_Deal_ID"}),
        ("/Contacts/c-2/Deals", {}, "MANDATORY_NOT_FOUND", {"api_name": "External_Deal_ID"}),
        (
            "/Contacts/c-2/Deals",
            {"External_Deal_ID": ""},
            "MANDATORY_NOT_FOUND",
            {"api_name": "External_Deal_ID"},
        ),
        (
            "/Contacts/c-2/Deals",
            {"External_Deal_ID": "d-9", "Contact_Role": "no"},
            "INVALID_DATA",
            {"api_name": "Contact_Role"},
        ),
    ],
    ids=["parent", "related", "no-id", "empty-id", "role"],
)
def test_invalid_put_is_refused_and_links_nothing(
    zoho: Any, client: Any, both: str, path: str, row: dict[str, Any], code: str, details: dict[str, str]
) -> None:
    before = zoho.state.crm.to_json()

    response = put(client, both, path, **row)

    entry = response.json["data"][0] if "data" in response.json else response.json
    assert (response.status, entry["code"], entry["details"]) == (400, code, details)
    assert zoho.state.crm.to_json() == before


def test_a_locked_record_cannot_be_linked(zoho: Any, client: Any, both: str) -> None:
    zoho.state.lock("Deals", "d-9")

    assert put(client, both, External_Deal_ID="d-9").json["data"][0]["code"] == "RECORD_LOCKED"
    assert not zoho.state.linked("Contacts", "c-2", "Deals", "d-9")


def test_put_needs_a_scope_that_writes(zoho: Any, client: Any, both: str) -> None:
    client.token = zoho.state.issue_token(
        ["ZohoCRM.modules.contacts.READ", "ZohoCRM.modules.contacts.DELETE"]
    )

    assert put(client, both, External_Deal_ID="d-9").json["code"] == "OAUTH_SCOPE_MISMATCH"


@pytest.mark.parametrize("when", ["before", "after"])
def test_faults_hit_put_by_the_id_in_its_body(zoho: Any, client: Any, both: str, when: str) -> None:
    zoho.state.faults.add(do="status", status=502, when=when, match={"method": "PUT", "external_id": "d-9"})

    assert put(client, both, External_Deal_ID="d-1").status == 200
    assert put(client, both, External_Deal_ID="d-9").status == 502
    assert zoho.state.linked("Contacts", "c-2", "Deals", "d-9") is (when == "after")


def test_a_fault_before_a_put_corrupts_its_response(zoho: Any, client: Any, both: str) -> None:
    zoho.state.faults.add(do="truncate", match={"method": "PUT"})

    assert put(client, both, External_Deal_ID="d-9").text.startswith('{"data":[{"code":"SUCCESS"')
    assert not zoho.state.linked("Contacts", "c-2", "Deals", "d-9")


@pytest.mark.parametrize(
    ("path", "row"),
    [("/Contacts/c-1", {}), ("/Contacts/c-1/Deals/..", {}), ("/Contacts", {"External_Contact_ID": "c-1"})],
    ids=["one", "dots", "many"],
)
def test_a_put_on_a_record_changes_it_and_is_harm(
    zoho: Any, client: Any, path: str, row: dict[str, Any]
) -> None:
    contact = zoho.state.crm.find("Contacts", "c-1")

    response = put(client, CONTACT, path, Last_Name="Other", **row)

    assert response.json["data"][0]["message"] == "record updated"
    record = zoho.state.crm.record("Contacts", contact)
    assert (record["Last_Name"], record["External_Contact_ID"]) == ("Other", "c-1")
    assert harms(zoho) == [("record_update", contact)]


def test_putting_links_is_no_harm(zoho: Any, client: Any, both: str) -> None:
    put(client, both, External_Deal_ID="d-9", Contact_Role=ROLE["id"])

    assert harms(zoho) == []


@pytest.mark.parametrize("body", ["", "[]", '{"data": []}', '{"data": [1]}'])
def test_put_without_rows_is_invalid(client: Any, both: str, body: str) -> None:
    response = client.crm("PUT", "/Contacts/c-1/Deals", both, body=body)

    assert (response.status, response.json["code"]) == (400, "INVALID_DATA")
