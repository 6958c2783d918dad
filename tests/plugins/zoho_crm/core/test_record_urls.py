from __future__ import annotations

import pytest

from zoho_crm.core.record_urls import record_address
from zoho_crm.hooks.connection import API_DOMAINS

DEAL = {
    "environment": "production",
    "data_center": "us",
    "org_id": "700000001",
    "module": "Deals",
    "record_id": "4150868000000225013",
}


@pytest.mark.parametrize(
    ("changes", "address"),
    [
        ({}, "https://crm.zoho.com/crm/org700000001/tab/Potentials/4150868000000225013"),
        (
            {"data_center": "ca"},
            "https://crm.zohocloud.ca/crm/org700000001/tab/Potentials/4150868000000225013",
        ),
        ({"module": "Leads"}, "https://crm.zoho.com/crm/org700000001/tab/Leads/4150868000000225013"),
        ({"record_id": "../1?x"}, "https://crm.zoho.com/crm/org700000001/tab/Potentials/..%2F1%3Fx"),
        ({"org_id": "7/1"}, "https://crm.zoho.com/crm/org7%2F1/tab/Potentials/4150868000000225013"),
        ({"module": "Projects"}, None),
        ({"environment": "sandbox"}, None),
        ({"environment": "local"}, None),
        ({"environment": None}, None),
        ({"data_center": ""}, None),
        ({"org_id": None}, None),
        ({"record_id": None}, None),
    ],
    ids=lambda value: str(value)[:40],
)
def test_address_is_told_where_it_is_known(changes: dict[str, str | None], address: str | None) -> None:
    assert record_address(**(DEAL | changes)) == address  # type: ignore[arg-type]


@pytest.mark.parametrize("data_center", API_DOMAINS)
def test_every_data_center_has_pages(data_center: str) -> None:
    address = record_address(**(DEAL | {"data_center": data_center}))  # type: ignore[arg-type]

    assert address is not None
    assert address.startswith("https://crm.zoho")
