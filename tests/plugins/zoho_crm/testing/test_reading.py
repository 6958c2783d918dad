from __future__ import annotations

from typing import Any

import pytest


def test_one_related_record_is_200_linked_204_not_linked_400_parent_unknown(
    zoho: Any, client: Any, both: str
) -> None:
    linked = client.crm("GET", "/Contacts/c-1/Deals/d-1?fields=id,External_Deal_ID", both)

    deal = zoho.state.crm.find("Deals", "d-1")
    assert (linked.status, linked.json) == (200, {"data": [{"External_Deal_ID": "d-1", "id": deal}]})
    for path in ("/Contacts/c-1/Deals/d-9", "/Contacts/c-1/Deals/no"):
        response = client.crm("GET", f"{path}?fields=id", both)
        assert (response.status, response.text) == (204, "")
        assert "content-type" not in response.headers
    assert client.crm("GET", "/Contacts/no/Deals/d-1?fields=id", both).json["details"] == {
        "api_name": "External_Contact_ID"
    }


@pytest.mark.parametrize("path", ["/Contacts/c-1/Deals", "/Contacts/c-1/Deals/d-1"])
def test_fields_are_mandatory(client: Any, both: str, path: str) -> None:
    response = client.crm("GET", path, both)

    assert (response.status, response.json["code"], response.json["details"]) == (
        400, "REQUIRED_PARAM_MISSING", {"param_name": "fields"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("query", "shown", "more"),
    [
        ("", ["d-1", "d-2", "d-3"], False),
        ("&per_page=2", ["d-1", "d-2"], True),
        ("&per_page=2&page=2", ["d-3"], False),
        ("&per_page=2&page_token=offset-2", ["d-3"], False),
        ("&ids=d-3,d-9", ["d-3"], False),
    ],
)
def test_related_list_comes_in_pages(
    client: Any, both: str, query: str, shown: list[str], more: bool
) -> None:
    response = client.crm("GET", f"/Contacts/c-1/Deals?fields=External_Deal_ID{query}", both)

    assert [row["External_Deal_ID"] for row in response.json["data"]] == shown
    assert response.json["info"]["more_records"] is more
    assert (response.json["info"]["next_page_token"] is not None) is more


@pytest.mark.parametrize(
    "path",
    ["/Contacts/c-2/Deals?fields=id", "/Contacts/1/Deals?fields=id", "/Contacts/c-1/Deals?fields=id&page=9"],
)
def test_nothing_to_show_is_204(client: Any, both: str, path: str) -> None:
    assert client.crm("GET", path, None if "/1/" in path else both).status == 204


@pytest.mark.parametrize("query", ["per_page=201", "page=11", "page=0", "page_token=offset-2&page=1"])
def test_bad_page_is_400(client: Any, both: str, query: str) -> None:
    assert client.crm("GET", f"/Contacts/c-1/Deals?fields=id&{query}", both).status == 400


def test_records_resolve_external_ids_in_bulk(zoho: Any, client: Any) -> None:
    response = client.crm(
        "GET", "/Deals?ids=d-2,no,d-1&fields=id,External_Deal_ID", "Deals.External_Deal_ID"
    )  # fmt: skip

    assert [(row["External_Deal_ID"], row["id"]) for row in response.json["data"]] == [
        ("d-2", zoho.state.crm.find("Deals", "d-2")),
        ("d-1", zoho.state.crm.find("Deals", "d-1")),
    ]


@pytest.mark.parametrize(
    ("path", "status"),
    [("/Deals/d-1?fields=id", 200), ("/Deals/no?fields=id", 204), ("/Deals?ids=no", 204), ("/Deals", 200)],
)
def test_reads_records(client: Any, path: str, status: int) -> None:
    assert client.crm("GET", path, "Deals.External_Deal_ID").status == status


def test_external_values_compare_exactly(client: Any) -> None:
    assert client.crm("GET", "/Deals/D-1?fields=id", "Deals.External_Deal_ID").status == 204


def test_header_with_a_field_that_is_not_external_is_refused(client: Any) -> None:
    response = client.crm("GET", "/Deals/d-1", "Deals.Deal_Name")

    assert (response.status, response.json["details"]) == (400, {"api_name": "Deal_Name"})
