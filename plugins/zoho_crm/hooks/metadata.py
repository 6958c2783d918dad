"""Types of Zoho's metadata on modules, fields, related lists and the organization: the parts that are used."""

from __future__ import annotations

from typing import Any, TypedDict, cast

from zoho_crm.errors import ZohoResponseError


class ModuleMeta(TypedDict, total=False):
    """A module. Source: ``GET /settings/modules``."""

    api_name: str
    plural_label: str
    api_supported: bool


class ExternalMeta(TypedDict, total=False):
    """What makes a field external."""

    type: str
    show: bool


class FieldMeta(TypedDict, total=False):
    """
    A field. ``external`` is set for external fields, null or absent for all others.

    Source: https://www.zoho.com/crm/developer/docs/api/v7/field-meta.html
    """

    api_name: str
    data_type: str
    external: ExternalMeta | None


class RelatedListMeta(TypedDict, total=False):
    """
    A related list. ``href`` is null where the API cannot read it, ``module`` is null for grouped lists.

    Source: https://www.zoho.com/crm/developer/docs/api/v7/related-list-meta.html
    """

    api_name: str
    href: str | None
    module: dict[str, Any] | None
    status: str
    type: str


class LicenseMeta(TypedDict, total=False):
    """What the organization has paid for."""

    paid: bool
    paid_type: str
    trial_type: str


class Org(TypedDict, total=False):
    """
    The organization. ``type`` is production, sandbox, developer or bigin.

    Source: https://www.zoho.com/crm/developer/docs/api/v7/get-org-data.html
    """

    id: str
    zgid: str
    company_name: str
    type: str
    license_details: LicenseMeta


def edition_of(org: Org) -> str:
    """Return the name of the edition, or ``unknown``."""
    details = org.get("license_details") or {}
    return str(details.get("paid_type") or details.get("trial_type") or "unknown")


def org_in(rows: list[dict[str, Any]]) -> Org:
    """
    Return the organization of a response.

    :param rows: the list ``org`` of the response
    :raises ZohoResponseError: it does not describe exactly one organization with an ID
    """
    if len(rows) != 1 or not isinstance(rows[0].get("zgid") or rows[0].get("id"), str):
        raise ZohoResponseError("Zoho's response does not describe exactly one organization")
    return cast("Org", rows[0])


def org_id_of(org: Org) -> str:
    """Return the ID of an organization as Zoho's pages show it."""
    return org.get("zgid") or org["id"]
