"""How values are shown to people: durations, shares, CSV cells and addresses of Zoho's pages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from zoho_crm.data_centers import DATA_CENTERS

if TYPE_CHECKING:
    from datetime import timedelta

_FORMULA = "[=+\\-@\uff1d\uff0b\uff0d\uff20]"
"""First character of a formula; the last four are the full-width forms of the first four."""

_AT_START = re.compile(f"'*(?:[\\s\"]*{_FORMULA}|[\t\r])")
_IN_CELL = re.compile(f"([;\t\r\n][\\s\"]*)(?='*{_FORMULA})")
"""A formula behind a character at which some spreadsheets split a cell."""

_GUARDED_AT_START = re.compile(f"'({_AT_START.pattern})")
_GUARDED_IN_CELL = re.compile(f"([;\t\r\n][\\s\"]*)'(?='*{_FORMULA})")

_TABS = {
    "Accounts": "Accounts",
    "Campaigns": "Campaigns",
    "Cases": "Cases",
    "Contacts": "Contacts",
    "Deals": "Potentials",
    "Invoices": "Invoices",
    "Leads": "Leads",
    "Price_Books": "PriceBooks",
    "Products": "Products",
    "Purchase_Orders": "PurchaseOrders",
    "Quotes": "Quotes",
    "Sales_Orders": "SalesOrders",
    "Solutions": "Solutions",
    "Vendors": "Vendors",
}
"""Zoho's name of a module in the addresses of its pages, by the module's API name."""


def format_duration(duration: timedelta) -> str:
    """Return a duration in words, to its two largest units: ``3 days 4 hours``."""
    minutes = int(duration.total_seconds()) // 60
    parts = ((minutes // 1440, "day"), (minutes // 60 % 24, "hour"), (minutes % 60, "minute"))
    words = [format_count(count, unit) for count, unit in parts if count]
    return " ".join(words[:2]) or "less than a minute"


def format_count(count: int, noun: str) -> str:
    """Return a number of things: ``1 link``, ``2 links``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def format_percent(share: float) -> str:
    """Return a share in percent: ``5%``, ``0.25%``."""
    return f"{share * 100:.2f}".rstrip("0").rstrip(".") + "%"


def safe_csv_cell(value: object) -> str:
    """
    Return a value as a CSV cell that no spreadsheet reads as a formula, by an apostrophe before each possible formula.

    Ids come from other systems, and a formula would run with the rights of the person who opens the file. In many
    countries spreadsheets split at semicolons, so that ``c;=1+1`` holds a formula as well.

    Apostrophes before a possible formula get one more, so that :func:`text_of_csv_cell` returns the exact text.

    :param value: None becomes an empty cell
    """
    text = "" if value is None else str(value)
    start = _AT_START.match(text)
    if start is None:
        return _IN_CELL.sub(r"\1'", text)
    return f"'{start[0]}" + _IN_CELL.sub(r"\1'", text[start.end() :])


def text_of_csv_cell(cell: str) -> str:
    """Return the text of a cell that :func:`safe_csv_cell` wrote: without the apostrophes that it added."""
    start = _GUARDED_AT_START.match(cell)
    if start is None:
        return _GUARDED_IN_CELL.sub(r"\1", cell)
    return start[1] + _GUARDED_IN_CELL.sub(r"\1", cell[start.end() :])


def record_url(
    *,
    environment: str | None,
    data_center: str,
    org_id: str | None,
    module: str,
    record_id: str | None,
) -> str | None:
    """
    Return the address of Zoho's page about a record; None where it is not known.

    It is known for Zoho's own modules in production. In addresses, an org's custom modules are named ``CustomModule1``
    and so on, and a sandbox has a name chosen by its administrator: the API reports neither.

    :param environment: ``production``, ``sandbox``, ``developer`` or ``local``; None where it was not stored
    :param org_id: Zoho's id of the organization
    :param module: API name of the record's module
    """
    hosts, tab = DATA_CENTERS.get(data_center), _TABS.get(module)
    if environment != "production" or not hosts or not tab or not org_id or not record_id:
        return None
    return f"https://{hosts.crm}/crm/org{quote(org_id, safe='')}/tab/{tab}/{quote(record_id, safe='')}"
