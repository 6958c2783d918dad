"""Addresses of Zoho's own pages about records."""

from __future__ import annotations

from urllib.parse import quote

_HOSTS = {
    "us": "crm.zoho.com",
    "eu": "crm.zoho.eu",
    "in": "crm.zoho.in",
    "au": "crm.zoho.com.au",
    "cn": "crm.zoho.com.cn",
    "jp": "crm.zoho.jp",
    "ca": "crm.zohocloud.ca",
    "sa": "crm.zoho.sa",
    "uk": "crm.zoho.uk",
}
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


def record_address(
    *,
    environment: str | None,
    data_center: str,
    org_id: str | None,
    module: str,
    record_id: str | None,
) -> str | None:
    """
    Return the address of the page of a record; None where it is not known.

    It is known for Zoho's own modules in production. A module of an org's own is named ``CustomModule1`` and so on in
    addresses, and a sandbox by a name that its administrator has chosen: neither can be told from what the API says.

    :param environment: ``production``, ``sandbox``, ``developer`` or ``local``; None where nobody has kept it
    :param org_id: Zoho's id of the organisation
    :param module: API name of the record's module
    """
    host, tab = _HOSTS.get(data_center), _TABS.get(module)
    if environment != "production" or not host or not tab or not org_id or not record_id:
        return None
    return f"https://{host}/crm/org{quote(org_id, safe='')}/tab/{tab}/{quote(record_id, safe='')}"
