"""What stands in the way of a relation or a connection, told before the first link is touched."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from zoho_crm.core.models import DELINK, RELINK
from zoho_crm.core.response import PERMISSION_CODES
from zoho_crm.errors import ZohoAuthError, ZohoError, ZohoResponseError
from zoho_crm.hooks.metadata import FieldMeta, ModuleMeta, Org, RelatedListMeta, edition_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from zoho_crm.core.links import Relation
    from zoho_crm.hooks.connection import ZohoConnection

_SCOPES = {DELINK: ("READ", "DELETE"), RELINK: ("READ", "UPDATE")}
_SETTINGS = ("modules", "fields", "related_lists")


class Metadata(Protocol):
    """Where the facts come from: the hook."""

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
        """Return the organisation."""

    def granted_scopes(self) -> frozenset[str]:
        """Return the granted scopes, none if they are not known."""


def check_relation(zoho: Metadata, relation: Relation, operation: str = DELINK) -> list[str]:
    """
    Return what stands in the way of taking links of this relation out, one sentence each; none if nothing does.

    Costs up to five API credits. A fact that Zoho refuses to tell is a sentence too.

    :param operation: ``delink``, or ``relink`` to put links back
    :raises ZohoError: Zoho cannot be asked just now, or there is no access token to be had
    """
    faults = missing_scopes(zoho.granted_scopes(), relation, operation)
    faults += _told(lambda: _environment_faults(zoho))
    modules = _told(lambda: _module_faults(zoho, relation))
    if modules:
        return faults + modules
    faults += _told(lambda: _field_faults(zoho, relation))
    return faults + _told(lambda: _list_faults(zoho.get_related_lists(relation.module), relation))


def missing_scopes(granted: frozenset[str], relation: Relation, operation: str = DELINK) -> list[str]:
    """
    Return the scopes that the refresh token lacks; nothing can be said where they are not known.

    Reading and deleting is needed on both modules; to put links back, reading and updating. ``ALL`` covers them all,
    ``WRITE`` covers updating, and a scope for all modules covers each.

    :param operation: ``delink`` or ``relink``

    Source: https://www.zoho.com/crm/developer/docs/api/v7/delete-related-records-ext.html and
    update-related-records-ext.html
    """
    if not granted:
        return []
    has = {scope.lower() for scope in granted}
    missing = []
    for module in _modules_of(relation):
        for right in _SCOPES[operation]:
            stems = ("zohocrm.modules", f"zohocrm.modules.{module.lower()}")
            if not _covered(has, stems, right):
                missing.append(f"ZohoCRM.modules.{module.lower()}.{right}")
    for setting in _SETTINGS:
        if not _covered(has, ("zohocrm.settings", f"zohocrm.settings.{setting}"), "READ"):
            missing.append(f"ZohoCRM.settings.{setting}.READ")
    if not missing:
        return []
    return [f"The refresh token lacks the scope {', '.join(missing)}: make a new one that has it."]


def environment_fault(connection: ZohoConnection, org: Org) -> str | None:
    """Return what is wrong if the organisation is of another environment than the connection says."""
    kind = str(org.get("type") or "").lower()
    if not kind or kind == connection.environment:
        return None
    return (
        f"Connection {connection.conn_id!r} says {connection.environment}, but Zoho says that the organisation is "
        f"of type {kind}: correct environment, or use a refresh token made for {connection.environment}."
    )


def describe_connection(connection: ZohoConnection, org: Org, scopes: frozenset[str]) -> tuple[bool, str]:
    """Return whether the connection leads where it says, and what it leads to."""
    if fault := environment_fault(connection, org):
        return False, fault
    name, number = org.get("company_name") or "unnamed", org.get("zgid") or org.get("id") or "unknown"
    return True, (
        f"Connected to {name} (org {number}, edition {edition_of(org)}), "
        f"{connection.environment} environment, data center {connection.data_center}"
        f"{' (local Zoho)' if connection.is_local else ''}; "
        f"granted scopes: {', '.join(sorted(scopes)) or 'not told by Zoho'}"
    )


def _told(check: Callable[[], list[str]]) -> list[str]:
    """Run a check. That Zoho refuses to tell is a finding as well; that it cannot tell just now is not."""
    try:
        return check()
    except ZohoError as exc:
        refused = isinstance(exc, ZohoAuthError) and exc.code in PERMISSION_CODES
        wrong = isinstance(exc, ZohoResponseError) and (exc.http_status or 0) in range(200, 429)
        if not refused and not wrong:
            raise
        return [f"Zoho does not tell what has to be checked: {exc}."]


def _environment_faults(zoho: Metadata) -> list[str]:
    fault = environment_fault(zoho.connection, zoho.get_org())
    return [fault] if fault else []


def _module_faults(zoho: Metadata, relation: Relation) -> list[str]:
    known = {row.get("api_name", ""): row for row in zoho.get_modules()}
    faults = [_unknown_name("module", name, known) for name in _modules_of(relation) if name not in known]
    return faults + [
        f"The module {name!r} is not supported by the API."
        for name in _modules_of(relation)
        if name in known and known[name].get("api_supported") is False
    ]


def _modules_of(relation: Relation) -> list[str]:
    return list(dict.fromkeys((relation.module, relation.related_module)))


def _covered(has: set[str], stems: Iterable[str], right: str) -> bool:
    words = {"all", right.lower()} | ({"write"} if right == "UPDATE" else set())
    return any(f"{stem}.{word}" in has for stem in stems for word in words)


def _unknown_name(what: str, name: str, known: Iterable[str]) -> str:
    close = [other for other in known if other.lower() == name.lower()]
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"There is no {what} {name!r}{hint}{'' if hint else '.'}"


def _field_faults(zoho: Metadata, relation: Relation) -> list[str]:
    faults = []
    for module, name in dict.fromkeys(
        (
            (relation.module, relation.external_field),
            (relation.related_module, relation.related_external_field),
        )
    ):
        fields = {row.get("api_name", ""): row for row in zoho.get_fields(module)}
        if name not in fields:
            faults.append(_unknown_name(f"field in module {module!r} with the name", name, fields))
        elif not (fields[name].get("external") or {}).get("type"):
            faults.append(
                f"The field {module}.{name} is not an external field: mark it as one in Zoho's setup."
            )
    return faults


def _list_faults(lists: list[RelatedListMeta], relation: Relation) -> list[str]:
    name = relation.related_list
    found = next((row for row in lists if row.get("api_name") == name), None)
    where = f"related list {name!r} of module {relation.module!r}"
    if found is None:
        names = [row.get("api_name", "") for row in lists]
        return [_unknown_name(f"related list of module {relation.module!r} with the name", name, names)]
    faults = []
    if not found.get("href"):
        faults.append(f"The {where} cannot be reached by the API (its href is null).")
    if (status := found.get("status")) != "visible":
        faults.append(f"The {where} is not visible but {status}: show it in the module's layout.")
    module = (found.get("module") or {}).get("api_name")
    if module != relation.related_module:
        faults.append(f"The {where} holds records of {module!r}, not of {relation.related_module!r}.")
    return faults
