"""Where a local CRM begins: its metadata, its clients, its records and links."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from include.local_zoho.catalogue import Module, default_modules
from include.local_zoho.crm import Crm

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    """Make the CRM of a complete seed."""
    crm = Crm(Module.from_json(one) for one in seed["modules"])
    fill(crm, seed)
    return crm


def fill(crm: Crm, seed: Mapping[str, Any]) -> None:
    """Add the records and links of a seed to a CRM."""
    for module, records in seed.get("records", {}).items():
        for record in records:
            crm.add_record(module, record, record_id=str(record["id"]) if "id" in record else None)
    for group in seed.get("links", ()):
        for key, related_key in group["pairs"]:
            crm.link(group["module"], key, group["related_list"], related_key, group.get("attributes"))
