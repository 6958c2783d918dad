"""The calls on related lists: reading links, making them, and taking them away."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.local_zoho import answers, paging, targets
from include.local_zoho.records import read_rows
from include.local_zoho.roles import CONTACT_ROLE
from include.local_zoho.wire import Reply, json_reply

if TYPE_CHECKING:
    from include.local_zoho.catalogue import Module, RelatedList
    from include.local_zoho.links import Links
    from include.local_zoho.state import LocalState
    from include.local_zoho.wire import Call


@dataclass(frozen=True, slots=True)
class Place:
    """The front of a path: a module, one of its lists, and the list's own module and links."""

    module: Module
    listed: RelatedList
    related: Module
    links: Links


def answer(state: LocalState, call: Call, path: list[str]) -> Reply:
    """
    Answer ``/{module}/{parent}/{list}`` and ``/{module}/{parent}/{list}/{related}``, by GET, PUT and DELETE.

    The checks come in this order: module, relation name, parameters, parent, related record, link.

    :param path: the segments after the version.
    :raises RefusedError: with the error to answer.
    """
    handlers = {"GET": _get, "PUT": _put, "DELETE": _delete}
    handler = handlers.get(call.method)
    if handler is None:
        raise answers.invalid_method()
    verb = {"GET": "related_read", "PUT": "link", "DELETE": "delink"}[call.method]
    call.kind = verb if len(path) > 3 else f"{verb}_many"
    module = targets.module_of(state, path[0])
    listed, related = targets.list_of(state, module, path[2])
    place = Place(module, listed, related, state.crm.links_of(listed))
    return handler(state, call, place, path[1], path[3] if len(path) > 3 else None)


def _get(state: LocalState, call: Call, place: Place, parent: str, related: str | None) -> Reply:
    """
    Answer the rows of a list, or one of them.

    204: nothing related, or no such id (page "Get Related Records Using External ID"); but a wrong external id of
    the parent is 400 INVALID_DATA. ``fields`` is mandatory.
    """
    query = call.query
    fields = query.get("fields")
    if not fields:
        raise answers.missing_param("fields")
    if targets.external_field(state, call, place.module) is not None:
        parent_id: str | None = targets.need(state, call, place.module, parent, targets.PARENT_INDEX)
    else:
        parent_id = targets.find(state, call, place.module, parent)
    linked = place.links.of(parent_id, inverse=place.listed.inverse) if parent_id else {}
    wanted: list[str | None] = list(linked)
    if related is not None:
        wanted = [targets.find(state, call, place.related, related)]
    elif "ids" in query:
        wanted = [targets.find(state, call, place.related, one) for one in targets.read_ids(call)]
    rows = []
    for record_id in wanted:
        record = (
            state.crm.record(place.related.api_name, record_id) if record_id in linked and record_id else None
        )
        if record is not None:
            rows.append(paging.project({**record, **linked[record["id"]]}, fields))
    if related is None:
        return paging.page_of(rows, query)
    return json_reply(200, {"data": rows}) if rows else answers.no_content()


def _put(state: LocalState, call: Call, place: Place, parent: str, related: str | None) -> Reply:
    """
    Link records: ``{"data": [{"id" or external field: value, attributes...}]}``, one entry without id for one record.

    Answers "relation added", or "relation updated" where they were linked, with the id, and the external value when
    X-EXTERNAL names the field. A row that names no record is MANDATORY_NOT_FOUND, a wrong id INVALID_DATA.
    """
    rows = read_rows(call)
    parent_id = targets.need(state, call, place.module, parent, targets.PARENT_INDEX)
    if related is not None:
        related_id = targets.need(state, call, place.related, related, targets.RELATED_INDEX)
        entries = [_add(state, call, place, (parent_id, related_id), rows[0])]
    else:
        entries = [_add_listed(state, call, place, parent_id, row) for row in rows]
    return answers.listed(entries, state.settings.partial_status)


def _add_listed(
    state: LocalState, call: Call, place: Place, parent_id: str, row: dict[str, Any]
) -> answers.Entry:
    """Link the record that a row of the body names."""
    field = targets.external_field(state, call, place.related)
    value = row.get(field or "id")
    if value in {None, ""}:
        return answers.entry("MANDATORY_NOT_FOUND", "required field not found", {"api_name": field or "id"})
    related_id = targets.find(state, call, place.related, str(value))
    if related_id is None:
        missing = answers.entry("INVALID_DATA", answers.INVALID_PARENT, {"id": value})
        return answers.wrong_external_id(field) if field else missing
    return _add(state, call, place, (parent_id, related_id), row)


def _add(
    state: LocalState, call: Call, place: Place, ends: tuple[str, str], row: dict[str, Any]
) -> answers.Entry:
    """Link two records, or change the attributes of their link, and describe what happened."""
    parent_id, related_id = ends
    if state.crm.locked.intersection(ends):
        return answers.entry("RECORD_LOCKED", "record is locked", {"id": related_id})
    field = targets.external_field(state, call, place.related)
    attributes = {name: held for name, held in row.items() if name not in {"id", field}}
    if attributes.get(CONTACT_ROLE) is not None:
        attributes[CONTACT_ROLE] = state.crm.roles.find(attributes[CONTACT_ROLE])
        if attributes[CONTACT_ROLE] is None:
            return answers.entry("INVALID_DATA", "invalid data", {"api_name": CONTACT_ROLE})
    there = place.links.has(parent_id, related_id, inverse=place.listed.inverse)
    place.links.add(parent_id, related_id, attributes, inverse=place.listed.inverse)
    details = targets.details_of(state, call, place.related, related_id, always=True)
    return answers.success("relation updated" if there else "relation added", details)


def _delete(state: LocalState, call: Call, place: Place, parent: str, related: str | None) -> Reply:
    """
    Take links away, one by path or up to 100 by ``ids``; both records stay.

    In a list of children (notes, attachments, locks) the child itself is deleted: that is harm.
    """
    if place.listed.owned:
        state.journal.harm(state.clock(), "child_delete", call, related or call.query.get("ids", ""))
    if not place.listed.delinkable:
        raise answers.refuse(400, "NOT_SUPPORTED", "The module is not supported", {"resource_path_index": 2})
    if related is not None:
        parent_id = targets.need(state, call, place.module, parent, targets.PARENT_INDEX)
        related_id = targets.need(state, call, place.related, related, targets.RELATED_INDEX)
        entry = _remove(state, call, place, parent_id, related_id)
        if entry["status"] == "error" and _is_top_level(state, call, place, entry):
            return json_reply(400, entry)
        return answers.listed([entry])
    values = targets.read_ids(call)
    parent_id = targets.need(state, call, place.module, parent, targets.PARENT_INDEX)
    entries = [
        _remove_listed(state, call, place, parent_id, value)
        for value in _check_ids(state, call, place, values)
    ]
    return answers.listed(entries, state.settings.partial_status)


def _check_ids(state: LocalState, call: Call, place: Place, values: list[str]) -> list[str]:
    """Refuse ``ids`` that should be record ids and are not: none of them is touched then."""
    by_external = (
        state.settings.plural_external_ids and targets.external_field(state, call, place.related) is not None
    )
    strange = [] if by_external else [value for value in values if not targets.is_record_id(value)]
    for value in strange:
        state.journal.harm(state.clock(), "unqualified_value", call, value)
    if strange:
        raise answers.unparsable_ids()
    return values


def _remove_listed(state: LocalState, call: Call, place: Place, parent_id: str, value: str) -> answers.Entry:
    field = targets.external_field(state, call, place.related) if state.settings.plural_external_ids else None
    if field is None:
        return _remove(state, call, place, parent_id, value)
    related_id = state.crm.external_id(place.related.api_name, field, value)
    return (
        answers.wrong_external_id(field)
        if related_id is None
        else _remove(state, call, place, parent_id, related_id)
    )


def _remove(state: LocalState, call: Call, place: Place, parent_id: str, related_id: str) -> answers.Entry:
    """Remove one link, and describe what happened."""
    if (
        state.crm.locked.intersection((parent_id, related_id))
        and place.listed.api_name != "Locking_Information__s"
    ):
        return answers.entry("RECORD_LOCKED", "record is locked", {"id": related_id})
    details = targets.details_of(state, call, place.related, related_id, always=False)
    if not place.links.remove(parent_id, related_id, inverse=place.listed.inverse):
        return _not_linked(state, call, place, related_id)
    if place.listed.owned:
        state.crm.delete_record(place.related.api_name, related_id)
        state.crm.locked.discard(parent_id if place.related.api_name == "Locking_Information__s" else "")
        return answers.success("record deleted", details)
    return answers.success(state.settings.success_message, details)


def _not_linked_manner(state: LocalState, call: Call, place: Place) -> str:
    """Choose the answer for a link that is not there; the setting is for external ids, the rest is documented."""
    manner = state.settings.already_unlinked if call.externals else "documented"
    if manner == "documented":
        return "mandatory_not_found" if place.listed.api_name == "Contact_Roles" else "relation_not_found"
    return manner


def _not_linked(state: LocalState, call: Call, place: Place, related_id: str) -> answers.Entry:
    manner = _not_linked_manner(state, call, place)
    if manner == "ambiguous":
        return answers.entry("INVALID_DATA", "invalid data")
    code = "MANDATORY_NOT_FOUND" if manner == "mandatory_not_found" else "INVALID_DATA"
    return answers.entry(code, answers.RELATION_NOT_FOUND, {"id": related_id})


def _is_top_level(state: LocalState, call: Call, place: Place, entry: answers.Entry) -> bool:
    return entry["code"] != "RECORD_LOCKED" and _not_linked_manner(state, call, place) != "relation_not_found"
