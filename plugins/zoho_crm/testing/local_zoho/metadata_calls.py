"""Calls on metadata: modules, fields, related lists, the org and its user."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from zlib import crc32

from zoho_crm.testing.local_zoho.record_calls import find_module
from zoho_crm.testing.local_zoho.wire import (
    Reply,
    invalid_method,
    invalid_module,
    invalid_url,
    json_reply,
    missing_param,
    no_content,
)

if TYPE_CHECKING:
    from zoho_crm.testing.local_zoho.seed import Field, Module, RelatedList
    from zoho_crm.testing.local_zoho.state import LocalState
    from zoho_crm.testing.local_zoho.wire import Call


def handle_metadata_call(state: LocalState, call: Call, path: list[str]) -> Reply:
    """
    Respond to the calls below ``/settings``, and to ``/org`` and ``/users``.

    :param path: the segments after the version.
    :raises RefusedError: with the error response.
    """
    call.kind = "metadata"
    if call.method != "GET":
        raise invalid_method()
    if path == ["org"]:
        return json_reply(200, {"org": [_org(state)]})
    if path == ["users"]:
        return _users(state)
    if path[:2] == ["settings", "modules"] and len(path) <= 3:
        if len(path) == 3:
            return json_reply(200, {"modules": [_module(_any_module(state, path[2]))]})
        return json_reply(200, {"modules": [_module(one) for one in state.crm.modules.values()]})
    if path == ["settings", "fields"]:
        module = _requested_module(state, call)
        return json_reply(200, {"fields": [_field(module, one) for one in module.fields.values()]})
    if path == ["settings", "related_lists"]:
        module = _requested_module(state, call)
        lists = [_related_list(module, one) for one in module.related_lists.values()]
        return json_reply(200, {"related_lists": lists}) if lists else no_content()
    return invalid_url()


def _requested_module(state: LocalState, call: Call) -> Module:
    name = call.query.get("module")
    if not name:
        raise missing_param("module")
    return find_module(state, name)


def _any_module(state: LocalState, name: str) -> Module:
    if name not in state.crm.modules:
        raise invalid_module()
    return state.crm.modules[name]


def _id(*names: str) -> str:
    """Build a metadata id that stays the same over restarts."""
    return str(4_876_876_000_000_000_000 + crc32("/".join(names).encode()) % 1_000_000_000)


def _module(module: Module) -> dict[str, Any]:
    label = module.api_name.removesuffix("__s").replace("_", " ")
    return {
        "id": _id(module.api_name),
        "api_name": module.api_name,
        "module_name": module.api_name,
        "singular_label": label.removesuffix("s"),
        "plural_label": label,
        "generated_type": module.generated_type,
        "api_supported": module.api_supported,
        "status": "visible",
        "visible": True,
        "viewable": True,
        "creatable": True,
        "editable": True,
        "deletable": True,
        "show_as_tab": module.api_supported,
        "modified_time": None,
        "parent_module": {},
    }


def _field(module: Module, field: Field) -> dict[str, Any]:
    """Describe a field; only an external one has an object in ``external``."""
    return {
        "id": _id(module.api_name, field.api_name),
        "api_name": field.api_name,
        "field_label": field.api_name.replace("_", " "),
        "display_label": field.api_name.replace("_", " "),
        "data_type": field.data_type,
        "json_type": "string",
        "length": 255,
        "custom_field": field.external is not None,
        "system_mandatory": False,
        "read_only": field.api_name == "id",
        "visible": True,
        "external": {"show": True, "type": field.external} if field.external else None,
        "unique": {},
    }


def _related_list(module: Module, listed: RelatedList) -> dict[str, Any]:
    """Describe a list as the page "Related List Metadata" does: ``module`` and ``href`` may be null."""
    related = {"api_name": listed.module, "id": _id(listed.module)} if listed.module else None
    return {
        "id": _id(module.api_name, "list", listed.api_name),
        "api_name": listed.api_name,
        "name": listed.api_name,
        "display_label": listed.api_name.replace("_", " "),
        "sequence_number": str(list(module.related_lists).index(listed.api_name) + 1),
        "module": related,
        "href": f"{module.api_name}/{{ENTITYID}}/{listed.api_name}" if listed.href else None,
        "type": listed.type,
        "connectedmodule": listed.connectedmodule,
        "linkingmodule": listed.linkingmodule,
        "status": listed.status,
        "action": None,
        "visible": listed.status == "visible",
    }


def _org(state: LocalState) -> dict[str, Any]:
    edition = state.settings.edition
    license_details = {
        "paid": edition != "free",
        "paid_type": edition,
        "trial_type": None,
        "trial_expiry": None,
        "paid_expiry": None,
        "users_license_purchased": 10,
    }
    return {**state.org, "type": state.settings.environment, "license_details": license_details}


def _users(state: LocalState) -> Reply:
    user = {
        "id": _id("user"),
        "full_name": "Local Admin",
        "first_name": "Local",
        "last_name": "Admin",
        "email": state.org["primary_email"],
        "status": "active",
        "confirm": True,
        "zuid": "700000002",
        "role": {"name": "CEO", "id": _id("role")},
        "profile": {"name": "Administrator", "id": _id("profile")},
    }
    return json_reply(
        200, {"users": [user], "info": {"per_page": 200, "count": 1, "page": 1, "more_records": False}}
    )
