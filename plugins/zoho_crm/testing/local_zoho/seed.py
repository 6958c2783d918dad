"""The initial content of a local CRM: metadata, clients, records and links."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from zoho_crm.testing.local_zoho.crm import Crm

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Field:
    """
    One field of a module.

    :param external: ``user`` or ``org`` for an external field, None for any other.
    """

    api_name: str
    data_type: str = "text"
    external: str | None = None


@dataclass(frozen=True, slots=True)
class RelatedList:
    """
    One related list of a module.

    :param module: api name of the related module, None for a grouped list. It need not equal the list's name.
    :param relation: name of the relation; lists that share it show the same links.
    :param inverse: whether the list's own module is the right side of the relation.
    :param href: False gives ``href: null`` in the metadata: not callable by API.
    :param status: visible, user_hidden or scheduled_for_deletion.
    :param owned: children live only under their parent, so a DELETE here really deletes them.
    :param delinkable: False refuses DELETE with NOT_SUPPORTED (no document says that lookup lists allow it).
    """

    api_name: str
    module: str | None = None
    relation: str | None = None
    inverse: bool = False
    href: bool = True
    type: str = "default"
    status: str = "visible"
    linkingmodule: str | None = None
    connectedmodule: str | None = None
    owned: bool = False
    delinkable: bool = True


@dataclass(frozen=True, slots=True)
class Module:
    """One module with its fields and related lists by api name."""

    api_name: str
    fields: dict[str, Field] = field(default_factory=dict)
    related_lists: dict[str, RelatedList] = field(default_factory=dict)
    generated_type: str = "default"
    api_supported: bool = True

    @property
    def external_field(self) -> str | None:
        """Return the first external field."""
        return next((one.api_name for one in self.fields.values() if one.external), None)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """
        Read a module from a seed.

        :param data: ``{"api_name": ..., "fields": [{...}], "related_lists": [{...}]}`` with the names of
            :class:`Field` and :class:`RelatedList`.
        :raises TypeError: for an unknown name.
        """
        rest = {**data}
        known_fields = [Field(**one) for one in rest.pop("fields", ())]
        lists = [RelatedList(**one) for one in rest.pop("related_lists", ())]
        return cls(
            fields={one.api_name: one for one in known_fields},
            related_lists={one.api_name: one for one in lists},
            **rest,
        )


EXTERNAL_FIELDS = {
    "Leads": "External_Lead_ID",
    "Contacts": "External_Contact_ID",
    "Deals": "External_Deal_ID",
    "Accounts": "External_Account_ID",
    "Products": "External_Product_ID",
    "Campaigns": "External_Campaign_ID",
    "Price_Books": "External_Price_Book_ID",
    "Appointments__s": "External_Appointment_ID",
    "Services__s": "External_Service_ID",
}

NAME_FIELDS = {
    "Leads": "Last_Name",
    "Contacts": "Last_Name",
    "Deals": "Deal_Name",
    "Products": "Product_Name",
}

OWNED_MODULES = ("Notes", "Attachments", "Locking_Information__s")

# Left module, its list, right module, its lists: the relations the delink pages name.
RELATIONS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("Contacts", "Deals", "Deals", ("Contacts", "Contact_Roles")),
    ("Campaigns", "Leads", "Leads", ("Campaigns",)),
    ("Campaigns", "Contacts", "Contacts", ("Campaigns",)),
    ("Products", "Leads", "Leads", ("Products",)),
    ("Products", "Accounts", "Accounts", ("Products",)),
    ("Products", "Contacts", "Contacts", ("Products",)),
    ("Products", "Deals", "Deals", ("Products",)),
    ("Products", "Price_Books", "Price_Books", ("Products",)),
    ("Appointments__s", "Services__s", "Services__s", ("Appointments__s",)),
)

# Lists that a preflight must distinguish from the usual ones.
SPECIAL_LISTS: dict[str, tuple[dict[str, Any], ...]] = {
    "Contacts": (
        {"api_name": "Emails", "module": "Emails", "href": False},
        {"api_name": "Cases", "module": "Cases", "relation": "Contacts_Cases", "status": "user_hidden"},
        {"api_name": "Open_Activities", "type": "grouped", "href": False},
        {"api_name": "Courses", "module": "Courses", "relation": "Contacts_X_Courses", "type": "multiselectlookup",
         "linkingmodule": "Contacts_X_Courses", "connectedmodule": "Courses"},
    ),
    "Accounts": ({"api_name": "Contacts", "module": "Contacts", "relation": "Accounts_Contacts", "delinkable": False},),
}  # fmt: skip


def default_modules() -> list[dict[str, Any]]:
    """Describe the modules of a new org, in the form of a seed's ``modules``."""
    modules = {
        name: _module(name) for name in (*EXTERNAL_FIELDS, *OWNED_MODULES, "Cases", "Emails", "Courses")
    }
    modules["Emails"]["api_supported"] = False
    modules["Courses"]["generated_type"] = "custom"
    for left, left_list, right, right_lists in RELATIONS:
        relation = f"{left}_{right}"
        modules[left]["related_lists"].append({"api_name": left_list, "module": right, "relation": relation})
        modules[right]["related_lists"] += [
            {"api_name": name, "module": left, "relation": relation, "inverse": True} for name in right_lists
        ]
    for name in ("Leads", "Contacts", "Deals", "Accounts", "Products", "Campaigns"):
        modules[name]["related_lists"] += [
            {"api_name": owned, "module": owned, "relation": f"{name}_{owned}", "owned": True}
            for owned in OWNED_MODULES
        ]
    for name, lists in SPECIAL_LISTS.items():
        modules[name]["related_lists"] += [dict(one) for one in lists]
    return list(modules.values())


def _module(name: str) -> dict[str, Any]:
    fields: list[dict[str, Any]] = [
        {"api_name": "id", "data_type": "bigint"},
        {"api_name": NAME_FIELDS.get(name, "Name")},
        {"api_name": "Modified_Time", "data_type": "datetime"},
    ]
    if name in EXTERNAL_FIELDS:
        fields.append({"api_name": EXTERNAL_FIELDS[name], "external": "org"})
    return {"api_name": name, "fields": fields, "related_lists": []}


Seed = dict[str, Any]
KNOWN_KEYS = frozenset({"modules", "org", "oauth", "records", "links", "settings"})

DEFAULT_ORG = {
    "id": "4876876000000020005",
    "zgid": "700000001",
    "company_name": "Local Zoho (an imitation)",
    "domain_name": "org700000001",
    "country_code": "NL",
    "time_zone": "Europe/Amsterdam",
    "primary_email": "admin@local-zoho.invalid",
}


def default_seed() -> Seed:
    """
    Describe a new org without records: the usual modules and lists, one client, one refresh token.

    Shape, every key optional when a seed is read::

        {"modules": [{"api_name", "fields": [{"api_name", "data_type", "external"}], "related_lists": [{...}]}],
         "org": {"zgid", "company_name", "domain_name", ...},
         "oauth": {"client_id", "client_secret", "refresh_tokens": [...]},
         "records": {"Contacts": [{"External_Contact_ID": "c-1", "id"?: "4876..."}]},
         "links": [{"module", "related_list", "pairs": [["c-1", "d-1"]], "attributes"?: {...}}],
         "settings": {"latency_s": 0.05}}

    Modules of a seed are added to the default ones and replace those of the same name; ``pairs`` hold keys
    (external values, or record ids) and add the records that do not exist.
    """
    return {
        "modules": default_modules(),
        "org": dict(DEFAULT_ORG),
        "oauth": {
            "client_id": "local-client",
            "client_secret": "local-secret",
            "refresh_tokens": ["local-refresh-token"],
        },
        "records": {},
        "links": [],
        "settings": {},
    }


def default_connection(host: str, port: int, **extra: Any) -> dict[str, Any]:
    """
    Return the Airflow connection to a CRM with the credentials of the default seed.

    :param extra: more of the connection's extra fields
    """
    oauth = default_seed()["oauth"]
    return {
        "conn_type": "zoho_crm",
        "schema": "http",
        "host": host,
        "port": port,
        "login": oauth["client_id"],
        "password": oauth["client_secret"],
        "extra": {"refresh_token": oauth["refresh_tokens"][0], **extra},
    }


def read_seed(seed: Mapping[str, Any] | Path | str | None) -> Seed:
    """
    Complete a seed with the defaults.

    :param seed: a seed, or the path of its JSON file, or None for the default one.
    :raises ValueError: for an unknown key.
    """
    given: Mapping[str, Any] = (
        json.loads(Path(seed).read_text()) if isinstance(seed, Path | str) else seed or {}
    )
    unknown = sorted(set(given) - KNOWN_KEYS)
    if unknown:
        msg = f"unknown keys in the seed: {', '.join(unknown)}"
        raise ValueError(msg)
    base = default_seed()
    modules = {one["api_name"]: one for one in (*base["modules"], *given.get("modules", ()))}
    merged = {key: {**base[key], **given.get(key, {})} for key in ("org", "oauth", "records", "settings")}
    return {**merged, "modules": list(modules.values()), "links": list(given.get("links", ()))}


def build_crm(seed: Seed) -> Crm:
    """Build the CRM of a complete seed."""
    crm = Crm(Module.from_json(one) for one in seed["modules"])
    fill_crm(crm, seed)
    return crm


def fill_crm(crm: Crm, seed: Mapping[str, Any]) -> None:
    """Add the records and links of a seed to a CRM."""
    for module, records in seed.get("records", {}).items():
        for record in records:
            crm.add_record(module, record, record_id=str(record["id"]) if "id" in record else None)
    for group in seed.get("links", ()):
        for key, related_key in group["pairs"]:
            crm.link(group["module"], key, group["related_list"], related_key, group.get("attributes"))
