from __future__ import annotations

from typing import Any

import pytest

CONTACT = "Contacts.External_Contact_ID"


def harms(zoho: Any) -> list[tuple[str, str]]:
    return [(harm.kind, harm.detail) for harm in zoho.state.journal.harms]


@pytest.mark.parametrize("dots", ["..", "%2E%2E", "%2e.", "../"])
def test_dot_segment_turns_a_delink_into_a_record_delete(
    zoho: Any, client: Any, both: str, dots: str
) -> None:
    contact = zoho.state.crm.find("Contacts", "c-1")

    response = client.crm("DELETE", f"/Contacts/c-1/Deals/{dots}", both)

    assert response.json["data"][0]["message"] == "record deleted"
    assert response.json["data"][0]["details"] == {"External_Contact_ID": "c-1", "id": contact}
    assert zoho.state.crm.find("Contacts", "c-1") is None
    assert zoho.state.links("Contacts", "Deals") == set()
    assert harms(zoho) == [("record_delete", contact)]


def test_dots_as_parent_delete_a_record_of_the_list(zoho: Any, client: Any, both: str) -> None:
    deal = zoho.state.crm.find("Deals", "d-1")

    client.crm("DELETE", "/Contacts/../Deals/d-1", both)

    assert harms(zoho) == [("record_delete", deal)]


def test_plural_record_delete_is_logged_with_every_id(zoho: Any, client: Any) -> None:
    gone = [zoho.state.crm.find("Contacts", key) for key in ("c-1", "c-2")]

    response = client.crm("DELETE", "/Contacts?ids=c-1,c-2,no", CONTACT)

    assert (response.status, [one["status"] for one in response.json["data"]]) == (
        207,
        ["success", "success", "error"],
    )
    assert harms(zoho) == [("record_delete", ",".join(gone))]


def test_deleting_a_deleted_record_is_an_error(zoho: Any, client: Any) -> None:
    response = client.crm("DELETE", "/Contacts/4876876000000000001")

    assert response.status == 400
    assert response.json["data"] == [
        {
            "code": "INVALID_DATA",
            "details": {"id": "4876876000000000001"},
            "message": "record not deleted",
            "status": "error",
        }
    ]


@pytest.mark.parametrize("owned", ["Notes", "Attachments"])
def test_children_really_go(zoho: Any, client: Any, owned: str) -> None:
    zoho.state.link("Contacts", "c-1", owned, "child")
    child = zoho.state.crm.records(owned)[0]["id"]

    response = client.crm("DELETE", f"/Contacts/c-1/{owned}/{child}", CONTACT)

    assert response.json["data"][0]["message"] == "record deleted"
    assert zoho.state.crm.count(owned) == 0
    assert harms(zoho) == [("child_delete", child)]


def test_locking_information_unlocks(zoho: Any, client: Any) -> None:
    zoho.state.lock("Contacts", "c-1")
    zoho.state.link("Contacts", "c-1", "Locking_Information__s", "lock")
    lock = zoho.state.crm.records("Locking_Information__s")[0]["id"]

    client.crm("DELETE", f"/Contacts/c-1/Locking_Information__s/{lock}", CONTACT)

    assert zoho.state.crm.locked == set()
    assert harms(zoho) == [("child_delete", lock)]


@pytest.mark.parametrize(
    ("external", "index", "values"),
    [(None, 1, ["c-1"]), (CONTACT, 3, ["d-1"])],
    ids=["parent", "related"],
)
def test_value_the_header_does_not_explain_is_harm(
    zoho: Any, client: Any, external: str | None, index: int, values: list[str]
) -> None:
    response = client.crm("DELETE", "/Contacts/c-1/Deals/d-1", external)

    assert (response.status, response.json["details"]) == (400, {"resource_path_index": index})
    assert harms(zoho) == [("unqualified_value", value) for value in values]


def test_secrets_in_a_query_are_harm(zoho: Any, client: Any) -> None:
    client.crm("GET", "/org?access_token=x")
    client("POST", "/oauth/v2/token?grant_type=refresh_token&client_secret=x&refresh_token=y")

    assert sorted(harms(zoho)) == [
        ("secret_in_query", "access_token"),
        ("secret_in_query", "client_secret"),
        ("secret_in_query", "refresh_token"),
    ]
