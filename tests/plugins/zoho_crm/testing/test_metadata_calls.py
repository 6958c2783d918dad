from __future__ import annotations

from typing import Any

import pytest


def test_fields_mark_external_ones(client: Any) -> None:
    fields = client.crm("GET", "/settings/fields?module=Contacts").json["fields"]

    external = {one["api_name"]: one["external"] for one in fields}
    assert external["External_Contact_ID"] == {"show": True, "type": "org"}
    assert external["Last_Name"] is None


def test_related_lists_show_what_preflight_needs(client: Any) -> None:
    lists = client.crm("GET", "/settings/related_lists?module=Contacts").json["related_lists"]

    known = {one["api_name"]: one for one in lists}
    assert known["Deals"]["href"] == "Contacts/{ENTITYID}/Deals"
    assert known["Deals"]["module"]["api_name"] == "Deals"
    assert known["Emails"]["href"] is None
    assert known["Cases"]["status"] == "user_hidden"
    assert (known["Open_Activities"]["module"], known["Open_Activities"]["type"]) == (None, "grouped")
    assert known["Courses"]["linkingmodule"] == "Contacts_X_Courses"


@pytest.mark.parametrize(
    ("module", "related_list", "related_module"),
    [
        ("Campaigns", "Leads", "Leads"),
        ("Campaigns", "Contacts", "Contacts"),
        ("Leads", "Campaigns", "Campaigns"),
        ("Contacts", "Campaigns", "Campaigns"),
        ("Deals", "Contact_Roles", "Contacts"),
        ("Products", "Price_Books", "Price_Books"),
        ("Price_Books", "Products", "Products"),
        ("Appointments__s", "Services__s", "Services__s"),
    ],
)
def test_has_the_documented_relations(
    client: Any, module: str, related_list: str, related_module: str
) -> None:
    lists = client.crm("GET", f"/settings/related_lists?module={module}").json["related_lists"]

    (module_of_list,) = [one["module"] for one in lists if one["api_name"] == related_list]
    assert module_of_list["api_name"] == related_module


def test_modules(client: Any) -> None:
    modules = {one["api_name"]: one for one in client.crm("GET", "/settings/modules").json["modules"]}

    assert {"Leads", "Contacts", "Deals", "Price_Books", "Services__s"} <= set(modules)
    assert modules["Emails"]["api_supported"] is False
    assert client.crm("GET", "/settings/modules/Contacts").json == {"modules": [modules["Contacts"]]}


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/settings/modules/Nothing", 400, "INVALID_MODULE"),
        ("/settings/fields?module=Nothing", 400, "INVALID_MODULE"),
        ("/settings/fields", 400, "REQUIRED_PARAM_MISSING"),
        ("/settings/nothing", 404, "INVALID_URL_PATTERN"),
    ],
)
def test_refuses_bad_metadata_calls(client: Any, path: str, status: int, code: str) -> None:
    response = client.crm("GET", path)

    assert (response.status, response.json["code"]) == (status, code)


def test_module_without_lists_is_204(client: Any) -> None:
    assert client.crm("GET", "/settings/related_lists?module=Notes").status == 204


@pytest.mark.parametrize("environment", ["production", "sandbox"])
def test_org_shows_edition_and_environment(zoho: Any, client: Any, environment: str) -> None:
    zoho.state.configure(environment=environment, edition="standard")

    (org,) = client.crm("GET", "/org").json["org"]

    assert (org["type"], org["license_details"]["paid_type"], org["zgid"]) == (
        environment,
        "standard",
        "700000001",
    )


def test_current_user(client: Any) -> None:
    assert (
        client.crm("GET", "/users?type=CurrentUser").json["users"][0]["email"] == "admin@local-zoho.invalid"
    )


def test_other_versions_are_not_supported(client: Any) -> None:
    response = client("GET", "/crm/v6/org")

    assert (response.status, response.json["code"]) == (400, "API_NOT_SUPPORTED")
    assert response.json["details"] == {"supported_version": "v7, v8"}
