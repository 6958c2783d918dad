from __future__ import annotations

from datetime import timedelta

import pytest

from zoho_crm.core.formatting import format_duration, format_percent, record_url, safe_csv_cell
from zoho_crm.data_centers import DATA_CENTERS

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
def test_returns_the_url_of_a_record_where_it_is_known(
    changes: dict[str, str | None], address: str | None
) -> None:
    assert record_url(**(DEAL | changes)) == address  # type: ignore[arg-type]


@pytest.mark.parametrize("data_center", DATA_CENTERS)
def test_every_data_center_has_pages(data_center: str) -> None:
    address = record_url(**(DEAL | {"data_center": data_center}))  # type: ignore[arg-type]

    assert address is not None
    assert address.startswith("https://crm.zoho")


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("c-1", "c-1"),
        (7, "7"),
        (None, ""),
        ("", ""),
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        (-1, "'-1"),
        ("@SUM(1)", "'@SUM(1)"),
        ("\t=1", "'\t=1"),
        ("\r=1", "'\r=1"),
        ("'=1", "''=1"),
        (" =1", "' =1"),
        ("\u00a0@SUM(1)", "'\u00a0@SUM(1)"),
        (' "=1', "' \"=1"),
        ("'a", "'a"),
        ("c;'=1", "c;''=1"),
        ("a=1", "a=1"),
        ("c;=1+1", "c;'=1+1"),
        ('c; "=1+1', "c; \"'=1+1"),
        (";-1", ";'-1"),
        ("c\t@SUM(1)", "c\t'@SUM(1)"),
        ("c\n=1", "c\n'=1"),
        ("c;d-1", "c;d-1"),
        ("\uff1d1+1", "'\uff1d1+1"),
        ("\uff0b1", "'\uff0b1"),
        ("c;\uff20SUM(1)", "c;'\uff20SUM(1)"),
    ],
)
def test_no_csv_cell_starts_a_formula(value: object, cell: str) -> None:
    assert safe_csv_cell(value) == cell


@pytest.mark.parametrize(
    ("duration", "words"),
    [
        (timedelta(0), "less than a minute"),
        (timedelta(seconds=59), "less than a minute"),
        (timedelta(minutes=1), "1 minute"),
        (timedelta(hours=24), "1 day"),
        (timedelta(minutes=90), "1 hour 30 minutes"),
        (timedelta(days=3, minutes=4), "3 days 4 minutes"),
        (timedelta(days=2, hours=3, minutes=4), "2 days 3 hours"),
    ],
)
def test_formats_a_duration(duration: timedelta, words: str) -> None:
    assert format_duration(duration) == words


@pytest.mark.parametrize(
    ("share", "text"), [(0.05, "5%"), (1.0, "100%"), (0.0025, "0.25%"), (1.5, "150%"), (0.0, "0%")]
)
def test_formats_a_share_in_percent(share: float, text: str) -> None:
    assert format_percent(share) == text
