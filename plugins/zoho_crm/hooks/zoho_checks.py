"""Check relation and connection against Zoho's metadata, before the first link is sent."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from zoho_crm.core.models import DELINK, RELINK
from zoho_crm.errors import ZohoAuthError, ZohoResponseError
from zoho_crm.hooks.metadata import FieldMeta, ModuleMeta, Org, RelatedListMeta, edition_of
from zoho_crm.hooks.zoho_response import is_final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zoho_crm.core.links import Relation
    from zoho_crm.hooks.connection import ZohoConnection

_RIGHTS = {DELINK: ("READ", "DELETE"), RELINK: ("READ", "UPDATE")}
_SETTINGS = ("modules", "fields", "related_lists")
_SCOPE_NAMES = frozenset(
    {
        "accounts",
        "appointments",
        "calls",
        "campaigns",
        "cases",
        "contacts",
        "deals",
        "events",
        "invoices",
        "leads",
        "pricebooks",
        "products",
        "purchaseorders",
        "quotes",
        "salesorders",
        "services",
        "solutions",
        "tasks",
        "vendors",
    }
)
"""
Names of Zoho's own modules in OAuth scopes; any other module is ``custom``.

Source: https://www.zoho.com/crm/developer/docs/api/v7/scopes.html
"""


class Metadata(Protocol):
    """Source of the metadata: the hook."""

    @property
    def connection(self) -> ZohoConnection:
        """The connection in use."""

    def get_modules(self) -> list[ModuleMeta]:
        """Return all modules."""

    def get_fields(self, module: str) -> list[FieldMeta]:
        """Return the fields of a module."""

    def get_related_lists(self, module: str) -> list[RelatedListMeta]:
        """Return the related lists of a module."""

    def get_org(self) -> Org:
        """Return the organization."""

    def granted_scopes(self) -> frozenset[str]:
        """Return the granted scopes, empty if they are not known."""


def check_relation(
    zoho: Metadata, relation: Relation, operation: str = DELINK, *, allow_user_fields: bool = False
) -> list[str]:
    """
    Return the errors that keep links of this relation from being removed or restored, one sentence each.

    Costs up to five API credits. Metadata that Zoho refuses to return is an error too.

    :param operation: ``delink`` or ``relink``
    :param allow_user_fields: allow external fields whose values belong to one Zoho user
    :raises ZohoError: Zoho cannot be reached now, or there is no access token
    """
    errors = missing_scopes(zoho.granted_scopes(), relation, operation)
    errors += _errors_of(lambda: _environment_errors(zoho))
    modules = _errors_of(lambda: _module_errors(zoho, relation))
    if modules:
        return errors + modules
    errors += _errors_of(lambda: _field_errors(zoho, relation, allow_user_fields))
    return errors + _errors_of(lambda: _list_errors(zoho.get_related_lists(relation.module), relation))


def missing_scopes(granted: frozenset[str], relation: Relation, operation: str = DELINK) -> list[str]:
    """
    Return an error that names the scopes that the refresh token lacks; nothing where its scopes are not known.

    ``ALL`` covers every right, ``WRITE`` covers UPDATE, and a scope for all modules or settings covers each. Modules
    may be named as in Zoho's pages on v7 (``pricebooks``) or on v8 (``Price_Books``).

    :param operation: ``delink`` or ``relink``
    """
    has = {_plain(scope) for scope in granted}
    missing = [scope for scope in needed_scopes(relation, operation) if not _is_covered(_plain(scope), has)]
    if not granted or not missing:
        return []
    return [
        f"The refresh token lacks the scope {', '.join(missing)}: generate a refresh token that includes it."
    ]


def needed_scopes(relation: Relation, operation: str = DELINK) -> list[str]:
    """
    Return the smallest scopes for a relation: both modules, the metadata that is checked, and the organization.

    READ and DELETE are needed on both modules; for a relink, READ and UPDATE.

    Source: https://www.zoho.com/crm/developer/docs/api/v7/delete-related-records-ext.html and
    update-related-records-ext.html

    :param operation: ``delink`` or ``relink``
    """
    names = dict.fromkeys(scope_name(module) for module in _modules_of(relation))
    return [
        *(f"ZohoCRM.modules.{name}.{right}" for name in names for right in _RIGHTS[operation]),
        *(f"ZohoCRM.settings.{setting}.READ" for setting in _SETTINGS),
        "ZohoCRM.org.READ",
    ]


def scope_name(module: str) -> str:
    """Return the name of a module in OAuth scopes: ``pricebooks`` for ``Price_Books``, ``custom`` for a custom one."""
    name = module.lower().removesuffix("__s").replace("_", "")
    return name if name in _SCOPE_NAMES else "custom"


def environment_fault(connection: ZohoConnection, org: Org) -> str | None:
    """Return an error if the organization is of another environment than the connection says, else None."""
    kind = str(org.get("type") or "").lower()
    if not kind or kind == connection.environment:
        return None
    return (
        f"Connection {connection.conn_id!r}: environment is {connection.environment}, but the organization is of "
        f"type {kind}; correct environment, or use a refresh token generated for {connection.environment}."
    )


def describe_connection(connection: ZohoConnection, org: Org, scopes: frozenset[str]) -> tuple[bool, str]:
    """Return whether the connection leads to the environment it names, and a description of the organization."""
    if fault := environment_fault(connection, org):
        return False, fault
    name, number = org.get("company_name") or "unnamed", org.get("zgid") or org.get("id") or "unknown"
    return True, (
        f"Connected to {name} (org {number}, edition {edition_of(org)}), "
        f"{connection.environment} environment, data center {connection.data_center}"
        f"{' (local Zoho)' if connection.is_local else ''}; "
        f"granted scopes: {', '.join(sorted(scopes)) or 'not reported by Zoho'}"
    )


def _errors_of(check: Callable[[], list[str]]) -> list[str]:
    """Run a check. Metadata that Zoho refuses to return is an error; what may pass by itself is raised."""
    try:
        return check()
    except (ZohoAuthError, ZohoResponseError) as exc:
        if not is_final(exc):
            raise
        return [f"Zoho refuses to return the metadata for this check: {exc}."]


def _environment_errors(zoho: Metadata) -> list[str]:
    fault = environment_fault(zoho.connection, zoho.get_org())
    return [fault] if fault else []


def _module_errors(zoho: Metadata, relation: Relation) -> list[str]:
    known = {row.get("api_name", ""): row for row in zoho.get_modules()}
    errors = [_unknown_name("Module", name, known) for name in _modules_of(relation) if name not in known]
    return errors + [
        f"Module {name!r} is not supported by Zoho's API: use another module."
        for name in _modules_of(relation)
        if name in known and known[name].get("api_supported") is False
    ]


def _modules_of(relation: Relation) -> list[str]:
    return list(dict.fromkeys((relation.module, relation.related_module)))


def _plain(scope: str) -> str:
    """Return a scope in lower case, with one spelling for ``Price_Books`` and ``pricebooks``, and so on."""
    return re.sub(r"__s(?=\.)", "", scope.lower()).replace("_", "")


def _is_covered(scope: str, has: set[str]) -> bool:
    """Whether a scope is granted: by itself, by a right that includes it, or for all modules or settings."""
    service, group, *name, right = scope.split(".")
    stems = {f"{service}.{group}", ".".join([service, group, *name])}
    rights = {"all", right} | ({"write"} if right == "update" else set())
    return any(f"{stem}.{one}" in has for stem in stems for one in rights)


def _unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    close = [other for other in known if other.lower() == name.lower()]
    hint = f"did you mean {close[0]!r}?" if close else "use an API name from Zoho's setup."
    return f"{what} {name!r} does not exist: {hint}"


def _field_errors(zoho: Metadata, relation: Relation, allow_user_fields: bool) -> list[str]:
    errors = []
    fields_of = {
        module: {row.get("api_name", ""): row for row in zoho.get_fields(module)}
        for module in _modules_of(relation)
    }
    for module, name, other in dict.fromkeys(
        (
            (relation.module, relation.external_field, relation.related_module),
            (relation.related_module, relation.related_external_field, relation.module),
        )
    ):
        fields = fields_of[module]
        if name not in fields and name in fields_of[other]:
            errors.append(
                f"Module {module!r} has no field {name!r}, but {other!r} has: are external_field and "
                "related_external_field, or module and related_list, swapped?"
            )
            continue
        if name not in fields:
            errors.append(_unknown_name(f"Module {module!r}: field", name, fields))
            continue
        kind = (fields[name].get("external") or {}).get("type")
        if not kind:
            errors.append(
                f"Field {module}.{name} is not an external field: mark it as external in Zoho's setup."
            )
        elif kind == "user" and not allow_user_fields:
            errors.append(
                f"Field {module}.{name} is a user-based external field: each value belongs to one Zoho user, and "
                "the token of another user finds another record or none. Use an organization-based external field, "
                "or set allow_user_external_field: true in the job file if the refresh token is that user's."
            )
    return errors


def _list_errors(lists: list[RelatedListMeta], relation: Relation) -> list[str]:
    name = relation.related_list
    found = next((row for row in lists if row.get("api_name") == name), None)
    where = f"Module {relation.module!r}: related list"
    if found is None:
        return [_unknown_name(where, name, [row.get("api_name", "") for row in lists])]
    where += f" {name!r}"
    errors = []
    if not found.get("href"):
        errors.append(f"{where} is not available in Zoho's API (its href is null): use another related list.")
    if (status := found.get("status")) != "visible":
        errors.append(f"{where} has status {status}, not visible: show it in the module's layout.")
    module = (found.get("module") or {}).get("api_name")
    # Zoho documents which records a documented list holds, but not what its metadata says, such as for Contact_Roles.
    if module != relation.related_module and not relation.is_documented:
        errors.append(
            f"{where} holds records of {module!r}, not of {relation.related_module!r}: correct related_module."
        )
    return errors
