"""From what a path or ``ids`` says to the record it means."""

from __future__ import annotations

from typing import TYPE_CHECKING

from include.local_zoho import answers

if TYPE_CHECKING:
    from include.local_zoho.catalogue import Module, RelatedList
    from include.local_zoho.state import LocalState
    from include.local_zoho.wire import Call

MAX_IDS = 100
MAX_IDS_LENGTH = 2000
PARENT_INDEX = 1
RELATED_INDEX = 3


def is_record_id(value: str) -> bool:
    """Say whether a value has the form of a record id."""
    return value.isascii() and value.isdigit()


def external_field(state: LocalState, call: Call, module: Module) -> str | None:
    """
    Find the external field that X-EXTERNAL names for a module; without one its records go by record id.

    :raises RefusedError: INVALID_DATA when the module has no such external field.
    """
    name = call.externals.get(module.api_name)
    if name is not None and not state.crm.is_external(module.api_name, name):
        raise answers.refuse_external_id(name, state.settings)
    return name


def find(state: LocalState, call: Call, module: Module, value: str) -> str | None:
    """
    Find the record a value means: an external value when X-EXTERNAL has an entry for the module, else a record id.

    A value that cannot be a record id and that the header does not explain is written down as harm: a numeric one
    would have met another record.
    """
    field = external_field(state, call, module)
    if field is not None:
        return state.crm.external_id(module.api_name, field, value)
    if not is_record_id(value):
        state.journal.harm(state.clock(), "unqualified_value", call, value)
    return value if state.crm.record(module.api_name, value) is not None else None


def need(state: LocalState, call: Call, module: Module, value: str, path_index: int) -> str:
    """
    Find the record a path value means.

    :param path_index: position in the path as ``resource_path_index`` counts it: 1 parent, 3 related record.
    :raises RefusedError: 400 INVALID_DATA; ``details`` name the external field, or the position for a record id.
    """
    found = find(state, call, module, value)
    if found is not None:
        return found
    field = call.externals.get(module.api_name)
    if field is not None:
        raise answers.refuse_external_id(field, state.settings)
    raise answers.refuse(400, "INVALID_DATA", answers.INVALID_PARENT, {"resource_path_index": path_index})


def read_ids(call: Call) -> list[str]:
    """
    Read the query parameter ``ids``: separated by commas, encoded or not; at most 100 and 2000 characters.

    :raises RefusedError: MANDATORY_NOT_FOUND or LIMIT_EXCEEDED.
    """
    raw = call.query.get("ids", "")
    if not raw:
        raise answers.missing_param("ids", "MANDATORY_NOT_FOUND")
    ids = raw.split(",")
    if len(ids) > MAX_IDS or len(raw) > MAX_IDS_LENGTH:
        raise answers.limit_exceeded("ids", MAX_IDS)
    return ids


def details_of(
    state: LocalState, call: Call, module: Module, record_id: str, *, always: bool
) -> dict[str, str]:
    """
    Make the ``details`` of a success: the record id, and the external value when the header names the field.

    :param always: False leaves the external value to the setting ``success_with_external_id``.
    """
    details = {"id": record_id}
    field = call.externals.get(module.api_name)
    record = state.crm.record(module.api_name, record_id)
    if field and record and field in record and (always or state.settings.success_with_external_id):
        details = {field: record[field], **details}
    return details


def module_of(state: LocalState, name: str) -> Module:
    """
    Find a module that the API serves.

    :raises RefusedError: 400 INVALID_MODULE.
    """
    module = state.crm.modules.get(name)
    if module is None or not module.api_supported:
        raise answers.invalid_module()
    return module


def list_of(state: LocalState, module: Module, name: str) -> tuple[RelatedList, Module]:
    """
    Find a related list that the API serves, and its module.

    :raises RefusedError: 400 INVALID_DATA (``resource_path_index`` 2), also when the list is hidden in the layout
        or has no ``href``.
    """
    listed = module.related_lists.get(name)
    if listed is None or not listed.href or listed.status != "visible" or listed.module is None:
        raise answers.refuse(400, "INVALID_DATA", answers.INVALID_RELATION, {"resource_path_index": 2})
    return listed, state.crm.modules[listed.module]
