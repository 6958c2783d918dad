"""The calls on related lists: reading links, linking, and delinking."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoho_crm.testing.local_zoho.crm import CONTACT_ROLE
from zoho_crm.testing.local_zoho.record_calls import (
    PARENT_INDEX,
    RELATED_INDEX,
    details_of,
    external_field,
    find_list,
    find_module,
    find_record,
    is_record_id,
    page_of,
    read_ids,
    read_rows,
    require_record,
    select_fields,
)
from zoho_crm.testing.local_zoho.wire import (
    INVALID_PARENT,
    RELATION_NOT_FOUND,
    Item,
    Reply,
    data_reply,
    error_item,
    invalid_method,
    json_reply,
    missing_param,
    no_content,
    refuse,
    success_item,
    unparsable_ids,
    wrong_external_id,
)

if TYPE_CHECKING:
    from zoho_crm.testing.local_zoho.crm import Links
    from zoho_crm.testing.local_zoho.seed import Module, RelatedList
    from zoho_crm.testing.local_zoho.state import LocalState
    from zoho_crm.testing.local_zoho.wire import Call


@dataclass(frozen=True, slots=True)
class Place:
    """The front of a path: a module, one of its lists, and the list's own module and links."""

    module: Module
    listed: RelatedList
    related: Module
    links: Links


def handle_related_list_call(state: LocalState, call: Call, path: list[str]) -> Reply:
    """
    Respond to ``/{module}/{parent}/{list}`` and ``/{module}/{parent}/{list}/{related}``, by GET, PUT and DELETE.

    The checks come in this order: module, relation name, parameters, parent, related record, link.

    :param path: the segments after the version.
    :raises RefusedError: with the error response.
    """
    handlers = {"GET": _get, "PUT": _put, "DELETE": _delete}
    handler = handlers.get(call.method)
    if handler is None:
        raise invalid_method()
    verb = {"GET": "related_read", "PUT": "link", "DELETE": "delink"}[call.method]
    call.kind = verb if len(path) > 3 else f"{verb}_many"
    module = find_module(state, path[0])
    listed, related = find_list(state, module, path[2])
    place = Place(module, listed, related, state.crm.links_of(listed))
    return handler(state, call, place, path[1], path[3] if len(path) > 3 else None)


def _get(state: LocalState, call: Call, place: Place, parent: str, related: str | None) -> Reply:
    """
    Return the rows of a list, or one of them.

    204: nothing related, or no such id (page "Get Related Records Using External ID"); but a wrong external id of
    the parent is 400 INVALID_DATA. ``fields`` is mandatory.
    """
    query = call.query
    fields = query.get("fields")
    if not fields:
        raise missing_param("fields")
    if external_field(state, call, place.module) is not None:
        parent_id: str | None = require_record(state, call, place.module, parent, PARENT_INDEX)
    else:
        parent_id = find_record(state, call, place.module, parent)
    linked = place.links.of(parent_id, inverse=place.listed.inverse) if parent_id else {}
    wanted: list[str | None] = list(linked)
    if related is not None:
        wanted = [find_record(state, call, place.related, related)]
    elif "ids" in query:
        wanted = [find_record(state, call, place.related, one) for one in read_ids(call)]
    rows = []
    for record_id in wanted:
        record = (
            state.crm.record(place.related.api_name, record_id) if record_id in linked and record_id else None
        )
        if record is not None:
            rows.append(select_fields({**record, **linked[record["id"]]}, fields))
    if related is None:
        return page_of(rows, query)
    return json_reply(200, {"data": rows}) if rows else no_content()


def _put(state: LocalState, call: Call, place: Place, parent: str, related: str | None) -> Reply:
    """
    Link records: ``{"data": [{"id" or external field: value, attributes...}]}``, one entry without id for one record.

    Responds "relation added", or "relation updated" where they were linked, with the id, and the external value when
    X-EXTERNAL names the field. A row that names no record is MANDATORY_NOT_FOUND, a wrong id INVALID_DATA.
    """
    rows = read_rows(call)
    parent_id = require_record(state, call, place.module, parent, PARENT_INDEX)
    if related is not None:
        related_id = require_record(state, call, place.related, related, RELATED_INDEX)
        entries = [_add(state, call, place, (parent_id, related_id), rows[0])]
    else:
        entries = [_add_listed(state, call, place, parent_id, row) for row in rows]
    return data_reply(entries, state.settings.partial_status)


def _add_listed(state: LocalState, call: Call, place: Place, parent_id: str, row: dict[str, Any]) -> Item:
    """Link the record that a row of the body names."""
    field = external_field(state, call, place.related)
    value = row.get(field or "id")
    if value in {None, ""}:
        return error_item("MANDATORY_NOT_FOUND", "required field not found", {"api_name": field or "id"})
    related_id = find_record(state, call, place.related, str(value))
    if related_id is None:
        missing = error_item("INVALID_DATA", INVALID_PARENT, {"id": value})
        return wrong_external_id(field) if field else missing
    return _add(state, call, place, (parent_id, related_id), row)


def _add(state: LocalState, call: Call, place: Place, ends: tuple[str, str], row: dict[str, Any]) -> Item:
    """Link two records, or change the attributes of their link, and describe what happened."""
    parent_id, related_id = ends
    if state.crm.locked.intersection(ends):
        return error_item("RECORD_LOCKED", "record is locked", {"id": related_id})
    field = external_field(state, call, place.related)
    attributes = {name: held for name, held in row.items() if name not in {"id", field}}
    if attributes.get(CONTACT_ROLE) is not None:
        attributes[CONTACT_ROLE] = state.crm.roles.find(attributes[CONTACT_ROLE])
        if attributes[CONTACT_ROLE] is None:
            return error_item("INVALID_DATA", "invalid data", {"api_name": CONTACT_ROLE})
    there = place.links.has(parent_id, related_id, inverse=place.listed.inverse)
    place.links.add(parent_id, related_id, attributes, inverse=place.listed.inverse)
    details = details_of(state, call, place.related, related_id, always=True)
    return success_item("relation updated" if there else "relation added", details)


def _delete(state: LocalState, call: Call, place: Place, parent: str, related: str | None) -> Reply:
    """
    Delink, one by path or up to 100 by ``ids``; both records stay.

    In a list of children (notes, attachments, locks) the child itself is deleted: that is harm.
    """
    if place.listed.owned:
        state.journal.harm(state.clock(), "child_delete", call, related or call.query.get("ids", ""))
    if not place.listed.delinkable:
        raise refuse(400, "NOT_SUPPORTED", "The module is not supported", {"resource_path_index": 2})
    if related is not None:
        parent_id = require_record(state, call, place.module, parent, PARENT_INDEX)
        related_id = require_record(state, call, place.related, related, RELATED_INDEX)
        entry = _remove(state, call, place, parent_id, related_id)
        if entry["status"] == "error" and _is_top_level(state, call, place, entry):
            return json_reply(400, entry)
        return data_reply([entry])
    values = read_ids(call)
    parent_id = require_record(state, call, place.module, parent, PARENT_INDEX)
    entries = [
        _remove_listed(state, call, place, parent_id, value)
        for value in _check_ids(state, call, place, values)
    ]
    return data_reply(entries, state.settings.partial_status)


def _check_ids(state: LocalState, call: Call, place: Place, values: list[str]) -> list[str]:
    """Refuse ``ids`` that should be record ids and are not: none of them is touched then."""
    by_external = (
        state.settings.plural_external_ids and external_field(state, call, place.related) is not None
    )
    strange = [] if by_external else [value for value in values if not is_record_id(value)]
    for value in strange:
        state.journal.harm(state.clock(), "unqualified_value", call, value)
    if strange:
        raise unparsable_ids()
    return values


def _remove_listed(state: LocalState, call: Call, place: Place, parent_id: str, value: str) -> Item:
    field = external_field(state, call, place.related) if state.settings.plural_external_ids else None
    if field is None:
        return _remove(state, call, place, parent_id, value)
    related_id = state.crm.external_id(place.related.api_name, field, value)
    return (
        wrong_external_id(field) if related_id is None else _remove(state, call, place, parent_id, related_id)
    )


def _remove(state: LocalState, call: Call, place: Place, parent_id: str, related_id: str) -> Item:
    """Remove one link, and describe what happened."""
    if (
        state.crm.locked.intersection((parent_id, related_id))
        and place.listed.api_name != "Locking_Information__s"
    ):
        return error_item("RECORD_LOCKED", "record is locked", {"id": related_id})
    details = details_of(state, call, place.related, related_id, always=False)
    if not place.links.remove(parent_id, related_id, inverse=place.listed.inverse):
        return _not_linked(state, call, place, related_id)
    if place.listed.owned:
        state.crm.delete_record(place.related.api_name, related_id)
        state.crm.locked.discard(parent_id if place.related.api_name == "Locking_Information__s" else "")
        return success_item("record deleted", details)
    return success_item(state.settings.success_message, details)


def _not_linked_manner(state: LocalState, call: Call, place: Place) -> str:
    """Choose the response for a link that is not there; the setting is for external ids, the rest is documented."""
    manner = state.settings.already_unlinked if call.externals else "documented"
    if manner == "documented":
        return "mandatory_not_found" if place.listed.api_name == "Contact_Roles" else "relation_not_found"
    return manner


def _not_linked(state: LocalState, call: Call, place: Place, related_id: str) -> Item:
    manner = _not_linked_manner(state, call, place)
    if manner == "ambiguous":
        return error_item("INVALID_DATA", "invalid data")
    code = "MANDATORY_NOT_FOUND" if manner == "mandatory_not_found" else "INVALID_DATA"
    return error_item(code, RELATION_NOT_FOUND, {"id": related_id})


def _is_top_level(state: LocalState, call: Call, place: Place, entry: Item) -> bool:
    return entry["code"] != "RECORD_LOCKED" and _not_linked_manner(state, call, place) != "relation_not_found"
