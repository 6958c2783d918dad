from __future__ import annotations

from typing import Any

import pytest

LINKED = {("c-1", "d-1"), ("c-1", "d-2"), ("c-1", "d-3")}


def error(code: str, message: str, details: dict[str, Any]) -> dict[str, Any]:
    return {"code": code, "details": details, "message": message, "status": "error"}


def wrong(field: str) -> dict[str, Any]:
    return error("INVALID_DATA", "invalid data", {"api_name": field})


def removed(record_id: str | None) -> dict[str, Any]:
    return {
        "code": "SUCCESS",
        "details": {"id": record_id},
        "message": "relation removed",
        "status": "success",
    }


def ids(zoho: Any, *keys: str) -> list[str]:
    return [zoho.state.crm.find("Deals", key) for key in keys]


@pytest.mark.parametrize("version", ["v7", "v8"])
def test_removes_one_link_by_external_ids_and_keeps_both_records(
    zoho: Any, client: Any, both: str, version: str
) -> None:
    response = client("DELETE", f"/crm/{version}/Contacts/c-1/Deals/d-1", both)

    assert (response.status, response.json) == (200, {"data": [removed(ids(zoho, "d-1")[0])]})
    assert zoho.state.links("Contacts", "Deals") == LINKED - {("c-1", "d-1")}
    assert (zoho.state.crm.count("Contacts"), zoho.state.crm.count("Deals")) == (2, 4)
    assert list(zoho.state.journal.harms) == []


@pytest.mark.parametrize(
    ("module", "related_list", "external"),
    [
        ("Deals", "Contacts", "Contacts.External_Contact_ID, Deals.External_Deal_ID"),
        ("Deals", "Contact_Roles", "Deals.External_Deal_ID,Contacts.External_Contact_ID"),
    ],
)
def test_link_is_the_same_from_either_side(
    zoho: Any, client: Any, module: str, related_list: str, external: str
) -> None:
    response = client.crm("DELETE", f"/{module}/d-1/{related_list}/c-1", external)

    assert response.status == 200
    assert not zoho.state.linked("Contacts", "c-1", "Deals", "d-1")


def test_module_without_an_entry_is_addressed_by_record_id(zoho: Any, client: Any) -> None:
    contact, (deal,) = zoho.state.crm.find("Contacts", "c-1"), ids(zoho, "d-1")

    assert client.crm("DELETE", f"/Contacts/c-1/Deals/{deal}", "Contacts.External_Contact_ID").status == 200
    assert client.crm("DELETE", f"/Contacts/{contact}/Deals/d-2", "Deals.External_Deal_ID").status == 200
    assert client.crm("DELETE", f"/Contacts/{contact}/Deals/{ids(zoho, 'd-3')[0]}").status == 200
    assert zoho.state.links("Contacts", "Deals") == set()


def test_numeric_external_value_hits_the_record_with_that_id_when_the_header_is_missing(
    zoho: Any, client: Any
) -> None:
    other = zoho.state.add_record("Deals", {"External_Deal_ID": "other"}, record_id="583472934")
    zoho.state.add_record("Deals", {"External_Deal_ID": "583472934"})
    zoho.state.crm.links_of(zoho.state.crm.modules["Contacts"].related_lists["Deals"]).add(
        zoho.state.crm.find("Contacts", "c-1"), other, {}, inverse=False
    )

    response = client.crm("DELETE", "/Contacts/c-1/Deals/583472934", "Contacts.External_Contact_ID")

    assert response.json == {"data": [removed("583472934")]}


INVALID_LIST = error(
    "INVALID_DATA", "The relation name given seems to be invalid", {"resource_path_index": 2}
)
INVALID_URL = error("INVALID_URL_PATTERN", "Please check if the URL trying to access is a correct one", {})
INVALID_PARENT = error("INVALID_DATA", "the related id given seems to be invalid", {"resource_path_index": 1})
INVALID_MODULE = error(
    "INVALID_MODULE", "The module name given seems to be invalid", {"resource_path_index": 0}
)
NOT_SUPPORTED = error("NOT_SUPPORTED", "The module is not supported", {"resource_path_index": 2})
NO_IDS = error("MANDATORY_NOT_FOUND", "One of the expected parameter is missing", {"param_name": "ids"})


@pytest.mark.parametrize(
    ("path", "status", "body"),
    [
        pytest.param("/Nothing/c-1/Deals/d-1", 400, INVALID_MODULE, id="module"),
        pytest.param("/Contacts/c-1/Nothing/d-1", 400, INVALID_LIST, id="related list"),
        pytest.param("/Contacts/no/Nothing/d-1", 400, INVALID_LIST, id="related list before parent"),
        pytest.param("/Contacts/c-1/Emails/x", 400, INVALID_LIST, id="no href"),
        pytest.param("/Contacts/c-1/Cases/x", 400, INVALID_LIST, id="hidden list"),
        pytest.param("/Contacts/no/Deals/no", 400, wrong("External_Contact_ID"), id="parent before related"),
        pytest.param("/Contacts/c-1/Deals/no", 400, wrong("External_Deal_ID"), id="related"),
        pytest.param("/Accounts/x/Contacts/y", 400, NOT_SUPPORTED, id="lookup list"),
        pytest.param("/Contacts//Deals/d-1", 404, INVALID_URL, id="empty segment"),
        pytest.param("/Contacts/c-1/Deals/d-1/more", 404, INVALID_URL, id="too long"),
        pytest.param("/Contacts/c-1/Deals/", 400, NO_IDS, id="no related value"),
    ],
)
def test_refuses(zoho: Any, client: Any, both: str, path: str, status: int, body: Any) -> None:
    response = client.crm("DELETE", path, both)

    assert (response.status, response.json) == (status, body)
    assert zoho.state.links("Contacts", "Deals") == LINKED


def test_unknown_record_id_of_the_parent_is_refused_by_position(client: Any) -> None:
    response = client.crm("DELETE", "/Contacts/1/Deals/1")

    assert (response.status, response.json) == (400, INVALID_PARENT)


def test_wrong_external_id_can_be_an_entry_of_data(zoho: Any, client: Any, both: str) -> None:
    zoho.state.configure(shape_wrong_external_id="R")

    response = client.crm("DELETE", "/Contacts/no/Deals/d-1", both)

    assert response.json == {
        "data": [error("INVALID_DATA", "invalid data", {"api_name": "External_Contact_ID"})]
    }


def test_unsupported_method_is_400(client: Any, both: str) -> None:
    response = client.crm("PATCH", "/Contacts/c-1/Deals/d-1", both)

    message = "The http request method type is not a valid one"
    assert (response.status, response.json) == (400, error("INVALID_REQUEST_METHOD", message, {}))


@pytest.mark.parametrize(
    ("manner", "code", "top_level", "has_details"),
    [
        ("documented", "INVALID_DATA", False, True),
        ("relation_not_found", "INVALID_DATA", False, True),
        ("mandatory_not_found", "MANDATORY_NOT_FOUND", True, True),
        ("ambiguous", "INVALID_DATA", True, False),
    ],
)
def test_already_unlinked(
    zoho: Any, client: Any, both: str, manner: str, code: str, top_level: bool, has_details: bool
) -> None:
    zoho.state.configure(already_unlinked=manner)

    response = client.crm("DELETE", "/Contacts/c-1/Deals/d-9", both)

    details = {"id": ids(zoho, "d-9")[0]} if has_details else {}
    entry = error(code, "relation not found" if has_details else "invalid data", details)
    assert (response.status, response.json) == (400, entry if top_level else {"data": [entry]})


def test_contact_role_that_is_gone_is_mandatory_not_found(zoho: Any, client: Any, both: str) -> None:
    response = client.crm("DELETE", "/Deals/d-9/Contact_Roles/c-1", both)

    details = {"id": zoho.state.crm.find("Contacts", "c-1")}
    assert (response.status, response.json) == (
        400,
        error("MANDATORY_NOT_FOUND", "relation not found", details),
    )


def test_locked_record_keeps_its_links(zoho: Any, client: Any, both: str) -> None:
    zoho.state.lock("Contacts", "c-1")

    response = client.crm("DELETE", "/Contacts/c-1/Deals/d-1", both)

    assert (response.status, response.json["data"][0]["code"]) == (400, "RECORD_LOCKED")
    assert zoho.state.linked("Contacts", "c-1", "Deals", "d-1")


def test_success_can_name_the_external_id_and_say_record_deleted(zoho: Any, client: Any, both: str) -> None:
    zoho.state.configure(success_with_external_id=True, success_message="record deleted")

    response = client.crm("DELETE", "/Contacts/c-1/Deals/d-1", both)

    details = {"External_Deal_ID": "d-1", "id": ids(zoho, "d-1")[0]}
    assert response.json["data"] == [
        {"code": "SUCCESS", "details": details, "message": "record deleted", "status": "success"}
    ]


@pytest.mark.parametrize("separator", [",", "%2C"])
def test_plural_response_keeps_the_order_of_the_request(
    zoho: Any, client: Any, both: str, separator: str
) -> None:
    response = client.crm(
        "DELETE", f"/Contacts/c-1/Deals?ids={separator.join(['d-3', 'd-9', 'no', 'd-1'])}", both
    )

    third, ninth, first = ids(zoho, "d-3", "d-9", "d-1")
    assert (response.status, response.json["data"]) == (
        207,
        [
            removed(third),
            error("INVALID_DATA", "relation not found", {"id": ninth}),
            error("INVALID_DATA", "invalid data", {"api_name": "External_Deal_ID"}),
            removed(first),
        ],
    )
    assert zoho.state.links("Contacts", "Deals") == {("c-1", "d-2")}


def test_plural_by_record_ids(zoho: Any, client: Any) -> None:
    wanted = ids(zoho, "d-1", "d-2")

    response = client.crm(
        "DELETE", f"/Contacts/c-1/Deals?ids={','.join(wanted)}", "Contacts.External_Contact_ID"
    )

    assert (response.status, response.json) == (200, {"data": [removed(one) for one in wanted]})


def test_plural_is_400_when_every_id_fails(zoho: Any, client: Any, both: str) -> None:
    response = client.crm("DELETE", "/Contacts/c-2/Deals?ids=d-1,d-2", both)

    entries = [error("INVALID_DATA", "relation not found", {"id": one}) for one in ids(zoho, "d-1", "d-2")]
    assert (response.status, response.json) == (400, {"data": entries})


def test_partial_status_can_be_200(zoho: Any, client: Any, both: str) -> None:
    zoho.state.configure(partial_status=200)

    assert client.crm("DELETE", "/Contacts/c-1/Deals?ids=d-1,no", both).status == 200


@pytest.mark.parametrize("values", [["d"] * 101, ["x" * 101] * 20], ids=["too many", "too long"])
def test_plural_refuses_too_many_ids(client: Any, both: str, values: list[str]) -> None:
    response = client.crm("DELETE", f"/Contacts/c-1/Deals?ids={','.join(values)}", both)

    assert (response.status, response.json["code"]) == (400, "LIMIT_EXCEEDED")
    assert response.json["details"] == {"limit": "100", "param_name": "ids"}


@pytest.mark.parametrize("allowed", [True, False], ids=["no entry", "switched off"])
def test_plural_refuses_external_values_where_record_ids_are_required(
    zoho: Any, client: Any, both: str, allowed: bool
) -> None:
    zoho.state.configure(plural_external_ids=allowed)

    response = client.crm(
        "DELETE", "/Contacts/c-1/Deals?ids=d-1", "Contacts.External_Contact_ID" if allowed else both
    )

    assert (response.status, response.json["code"]) == (400, "UNABLE_TO_PARSE_DATA_TYPE")
    assert [harm.kind for harm in zoho.state.journal.harms] == ["unqualified_value"]
    assert zoho.state.links("Contacts", "Deals") == LINKED


@pytest.mark.parametrize("value", ["a/b", "a?b", "a#b", "a%b", "a b", "é", "a;b", "a+b", "..x", "%2F"])
def test_quoted_value_stays_a_value(zoho: Any, client: Any, both: str, value: str) -> None:
    zoho.state.link("Contacts", "c-1", "Deals", value)
    quoted = "".join(f"%{byte:02X}" for byte in value.encode())

    assert client.crm("DELETE", f"/Contacts/c-1/Deals/{quoted}", both).status == 200
    assert not zoho.state.linked("Contacts", "c-1", "Deals", value)


def test_encoded_slash_can_be_refused_by_the_gateway(zoho: Any, client: Any, both: str) -> None:
    zoho.state.link("Contacts", "c-1", "Deals", "a/b")
    zoho.state.configure(encoded_slash="reject")

    response = client.crm("DELETE", "/Contacts/c-1/Deals/a%2fb", both)

    assert (response.status, response.json["code"]) == (404, "INVALID_URL_PATTERN")
