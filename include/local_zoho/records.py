"""The calls on records themselves: reading them, and really changing or deleting them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from include.local_zoho import answers, paging, targets
from include.local_zoho.wire import Reply, json_reply

if TYPE_CHECKING:
    from include.local_zoho.catalogue import Module
    from include.local_zoho.state import LocalState
    from include.local_zoho.wire import Call


def answer(state: LocalState, call: Call, path: list[str]) -> Reply:
    """
    Answer ``/{module}`` and ``/{module}/{record}``, by GET, PUT and DELETE.

    :param path: the segments after the version.
    :raises RefusedError: with the error to answer.
    """
    many = len(path) == 1
    if call.method == "GET":
        call.kind = "record_read"
        module = targets.module_of(state, path[0])
        return _get_many(state, call, module) if many else _get_one(state, call, module, path[1])
    if call.method == "DELETE":
        call.kind = "record_delete"
        module = targets.module_of(state, path[0])
        values = targets.read_ids(call) if many else [path[1]]
        return _delete(state, call, module, values)
    if call.method == "PUT":
        call.kind = "record_update"
        return _update(state, call, targets.module_of(state, path[0]), None if many else path[1])
    raise answers.invalid_method()


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
        raise answers.refuse(
            400, "INVALID_DATA", "invalid data", {"api_name": "data", "expected_data_type": "jsonarray"}
        )
    return rows


def _get_one(state: LocalState, call: Call, module: Module, value: str) -> Reply:
    """Answer 200 with the record, or 204 when there is none (page "Get Records Using External ID")."""
    record_id = targets.find(state, call, module, value)
    record = state.crm.record(module.api_name, record_id) if record_id else None
    if record is None:
        return answers.no_content()
    return json_reply(200, {"data": [paging.project(record, call.query.get("fields"))]})


def _get_many(state: LocalState, call: Call, module: Module) -> Reply:
    """Answer a page of records, or those of ``ids``: external values when X-EXTERNAL names the module."""
    query = call.query
    if "ids" in query:
        found = [targets.find(state, call, module, value) for value in targets.read_ids(call)]
        records = [state.crm.record(module.api_name, one) for one in dict.fromkeys(found) if one]
    else:
        records = [*state.crm.records(module.api_name)]
    return paging.page_of([paging.project(one, query.get("fields")) for one in records if one], query)


def _delete(state: LocalState, call: Call, module: Module, values: list[str]) -> Reply:
    """Delete records, their links with them. This is harm: nothing in this project should ever do it."""
    entries: list[answers.Entry] = []
    gone: list[str] = []
    for value in values:
        record_id = targets.find(state, call, module, value)
        if record_id is None:
            field = call.externals.get(module.api_name)
            missing = answers.entry("INVALID_DATA", "record not deleted", {"id": value})
            entries.append(answers.wrong_external_id(field) if field else missing)
            continue
        details = targets.details_of(state, call, module, record_id, always=True)
        state.crm.delete_record(module.api_name, record_id)
        gone.append(record_id)
        entries.append(answers.success("record deleted", details))
    state.journal.harm(state.clock(), "record_delete", call, ",".join(gone))
    return answers.listed(entries, state.settings.partial_status)


def _update(state: LocalState, call: Call, module: Module, value: str | None) -> Reply:
    """Change records. This is harm as well: what was meant was a link, or should not have been sent."""
    entries: list[answers.Entry] = []
    changed: list[str] = []
    for row in read_rows(call):
        field = call.externals.get(module.api_name)
        named = value if value is not None else str(row.get(field or "id", ""))
        record_id = targets.find(state, call, module, named)
        if record_id is None:
            missing = answers.entry("INVALID_DATA", "the id given seems to be invalid", {"id": named})
            entries.append(answers.wrong_external_id(field) if field else missing)
            continue
        # External fields keep their values: one cannot be changed by way of itself (page "Update Records").
        values = {name: one for name, one in row.items() if not state.crm.is_external(module.api_name, name)}
        (state.crm.record(module.api_name, record_id) or {}).update({**values, "id": record_id})
        changed.append(record_id)
        details = targets.details_of(state, call, module, record_id, always=True)
        entries.append(answers.success("record updated", details))
    state.journal.harm(state.clock(), "record_update", call, ",".join(changed))
    return answers.listed(entries, state.settings.partial_status)
