"""Calls on records, and what they share with the calls on related lists: targets and pages."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from zoho_crm.testing.local_zoho.wire import (
    INVALID_PARENT,
    INVALID_RELATION,
    Item,
    Reply,
    data_reply,
    error_item,
    invalid_method,
    invalid_module,
    json_reply,
    limit_exceeded,
    missing_param,
    no_content,
    refuse,
    refuse_external_id,
    success_item,
    wrong_external_id,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zoho_crm.testing.local_zoho.seed import Module, RelatedList
    from zoho_crm.testing.local_zoho.state import LocalState
    from zoho_crm.testing.local_zoho.wire import Call


MAX_PER_PAGE = 200
MAX_WITHOUT_TOKEN = 2000
TOKEN_PREFIX = "offset-"  # noqa: S105  # a page token, no secret


def page_of(rows: Sequence[Mapping[str, Any]], query: Mapping[str, str]) -> Reply:
    """
    Return one page of rows: ``{"data": [...], "info": {...}}``, or 204 when it is empty.

    ``per_page`` is 200 by default and at most; rows beyond 2000 need the ``page_token`` of the page before, which
    excludes ``page`` (page "Get Related Records").

    :raises RefusedError: 400 for a bad number, or a page too far.
    """
    per_page = _number(query, "per_page", MAX_PER_PAGE)
    if per_page > MAX_PER_PAGE:
        raise limit_exceeded("per_page", MAX_PER_PAGE)
    token = query.get("page_token")
    if token is None:
        start = (_number(query, "page", 1) - 1) * per_page
        if start + per_page > MAX_WITHOUT_TOKEN:
            raise limit_exceeded("page", MAX_WITHOUT_TOKEN)
    elif "page" in query or not token.removeprefix(TOKEN_PREFIX).isdigit():
        raise refuse(400, "INVALID_DATA", "invalid data", {"param_name": "page_token"})
    else:
        start = int(token.removeprefix(TOKEN_PREFIX))
    shown = rows[start : start + per_page]
    if not shown:
        return no_content()
    more = start + per_page < len(rows)
    info = {
        "per_page": per_page,
        "count": len(shown),
        "page": start // per_page + 1,
        "more_records": more,
        "next_page_token": f"{TOKEN_PREFIX}{start + per_page}" if more else None,
        "page_token_expiry": None,
    }
    return json_reply(200, {"data": list(shown), "info": info})


def select_fields(record: Mapping[str, Any], fields: str | None) -> dict[str, Any]:
    """
    Return the fields asked for; ``id`` always, a field without a value as null.

    :param fields: names separated by commas, None for all.
    """
    if fields is None:
        return dict(record)
    return {**{name: record.get(name) for name in fields.split(",") if name}, "id": record["id"]}


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    raw = query.get(name, str(default))
    if not raw.isascii() or not raw.isdigit() or int(raw) < 1:
        raise refuse(400, "INVALID_DATA", "invalid data", {"param_name": name})
    return int(raw)


MAX_IDS = 100
MAX_IDS_LENGTH = 2000
PARENT_INDEX = 1
RELATED_INDEX = 3


def is_record_id(value: str) -> bool:
    """Return whether a value has the form of a record id."""
    return value.isascii() and value.isdigit()


def external_field(state: LocalState, call: Call, module: Module) -> str | None:
    """
    Find the external field that X-EXTERNAL names for a module; without one its records go by record id.

    :raises RefusedError: INVALID_DATA when the module has no such external field.
    """
    name = call.externals.get(module.api_name)
    if name is not None and not state.crm.is_external(module.api_name, name):
        raise refuse_external_id(name, state.settings)
    return name


def find_record(state: LocalState, call: Call, module: Module, value: str) -> str | None:
    """
    Find the record a value means: an external value when X-EXTERNAL has an entry for the module, else a record id.

    A value that cannot be a record id and that the header does not explain is recorded as harm: a numeric one
    would have met another record.
    """
    field = external_field(state, call, module)
    if field is not None:
        return state.crm.external_id(module.api_name, field, value)
    if not is_record_id(value):
        state.journal.harm(state.clock(), "unqualified_value", call, value)
    return value if state.crm.record(module.api_name, value) is not None else None


def require_record(state: LocalState, call: Call, module: Module, value: str, path_index: int) -> str:
    """
    Find the record a path value means.

    :param path_index: position in the path as ``resource_path_index`` counts it: 1 parent, 3 related record.
    :raises RefusedError: 400 INVALID_DATA; ``details`` name the external field, or the position for a record id.
    """
    found = find_record(state, call, module, value)
    if found is not None:
        return found
    field = call.externals.get(module.api_name)
    if field is not None:
        raise refuse_external_id(field, state.settings)
    raise refuse(400, "INVALID_DATA", INVALID_PARENT, {"resource_path_index": path_index})


def read_ids(call: Call) -> list[str]:
    """
    Read the query parameter ``ids``: separated by commas, encoded or not; at most 100 and 2000 characters.

    :raises RefusedError: MANDATORY_NOT_FOUND or LIMIT_EXCEEDED.
    """
    raw = call.query.get("ids", "")
    if not raw:
        raise missing_param("ids", "MANDATORY_NOT_FOUND")
    ids = raw.split(",")
    if len(ids) > MAX_IDS or len(raw) > MAX_IDS_LENGTH:
        raise limit_exceeded("ids", MAX_IDS)
    return ids


def details_of(
    state: LocalState, call: Call, module: Module, record_id: str, *, always: bool
) -> dict[str, str]:
    """
    Build the ``details`` of a success: the record id, and the external value when the header names the field.

    :param always: False leaves the external value to the setting ``success_with_external_id``.
    """
    details = {"id": record_id}
    field = call.externals.get(module.api_name)
    record = state.crm.record(module.api_name, record_id)
    if field and record and field in record and (always or state.settings.success_with_external_id):
        details = {field: record[field], **details}
    return details


def find_module(state: LocalState, name: str) -> Module:
    """
    Find a module that the API serves.

    :raises RefusedError: 400 INVALID_MODULE.
    """
    module = state.crm.modules.get(name)
    if module is None or not module.api_supported:
        raise invalid_module()
    return module


def find_list(state: LocalState, module: Module, name: str) -> tuple[RelatedList, Module]:
    """
    Find a related list that the API serves, and its module.

    :raises RefusedError: 400 INVALID_DATA (``resource_path_index`` 2), also when the list is hidden in the layout
        or has no ``href``.
    """
    listed = module.related_lists.get(name)
    if listed is None or not listed.href or listed.status != "visible" or listed.module is None:
        raise refuse(400, "INVALID_DATA", INVALID_RELATION, {"resource_path_index": 2})
    return listed, state.crm.modules[listed.module]


def handle_record_call(state: LocalState, call: Call, path: list[str]) -> Reply:
    """
    Respond to ``/{module}`` and ``/{module}/{record}``, by GET, PUT and DELETE.

    :param path: the segments after the version.
    :raises RefusedError: with the error response.
    """
    many = len(path) == 1
    if call.method == "GET":
        call.kind = "record_read"
        module = find_module(state, path[0])
        return _get_many(state, call, module) if many else _get_one(state, call, module, path[1])
    if call.method == "DELETE":
        call.kind = "record_delete"
        module = find_module(state, path[0])
        values = read_ids(call) if many else [path[1]]
        return _delete(state, call, module, values)
    if call.method == "PUT":
        call.kind = "record_update"
        return _update(state, call, find_module(state, path[0]), None if many else path[1])
    raise invalid_method()


def read_rows(call: Call) -> list[dict[str, Any]]:
    """
    Read the body ``{"data": [{...}]}``.

    :raises RefusedError: INVALID_DATA when there is no row.
    """
    try:
        rows = json.loads(call.body)["data"]
    except (ValueError, KeyError, TypeError):
        rows = None
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise refuse(
            400, "INVALID_DATA", "invalid data", {"api_name": "data", "expected_data_type": "jsonarray"}
        )
    return rows


def _get_one(state: LocalState, call: Call, module: Module, value: str) -> Reply:
    """Return the record with 200, or 204 when there is none (page "Get Records Using External ID")."""
    record_id = find_record(state, call, module, value)
    record = state.crm.record(module.api_name, record_id) if record_id else None
    if record is None:
        return no_content()
    return json_reply(200, {"data": [select_fields(record, call.query.get("fields"))]})


def _get_many(state: LocalState, call: Call, module: Module) -> Reply:
    """Return a page of records, or those of ``ids``: external values when X-EXTERNAL names the module."""
    query = call.query
    if "ids" in query:
        found = [find_record(state, call, module, value) for value in read_ids(call)]
        records = [state.crm.record(module.api_name, one) for one in dict.fromkeys(found) if one]
    else:
        records = [*state.crm.records(module.api_name)]
    return page_of([select_fields(one, query.get("fields")) for one in records if one], query)


def _delete(state: LocalState, call: Call, module: Module, values: list[str]) -> Reply:
    """Delete records, their links with them. This is harm: nothing in this project should ever do it."""
    entries: list[Item] = []
    gone: list[str] = []
    for value in values:
        record_id = find_record(state, call, module, value)
        if record_id is None:
            field = call.externals.get(module.api_name)
            missing = error_item("INVALID_DATA", "record not deleted", {"id": value})
            entries.append(wrong_external_id(field) if field else missing)
            continue
        details = details_of(state, call, module, record_id, always=True)
        state.crm.delete_record(module.api_name, record_id)
        gone.append(record_id)
        entries.append(success_item("record deleted", details))
    state.journal.harm(state.clock(), "record_delete", call, ",".join(gone))
    return data_reply(entries, state.settings.partial_status)


def _update(state: LocalState, call: Call, module: Module, value: str | None) -> Reply:
    """Change records. This is harm as well: what was meant was a link, or should not have been sent."""
    entries: list[Item] = []
    changed: list[str] = []
    for row in read_rows(call):
        field = call.externals.get(module.api_name)
        named = value if value is not None else str(row.get(field or "id", ""))
        record_id = find_record(state, call, module, named)
        if record_id is None:
            missing = error_item("INVALID_DATA", "the id given seems to be invalid", {"id": named})
            entries.append(wrong_external_id(field) if field else missing)
            continue
        # External fields keep their values: one cannot be changed by way of itself (page "Update Records").
        values = {name: one for name, one in row.items() if not state.crm.is_external(module.api_name, name)}
        (state.crm.record(module.api_name, record_id) or {}).update({**values, "id": record_id})
        changed.append(record_id)
        details = details_of(state, call, module, record_id, always=True)
        entries.append(success_item("record updated", details))
    state.journal.harm(state.clock(), "record_update", call, ",".join(changed))
    return data_reply(entries, state.settings.partial_status)
