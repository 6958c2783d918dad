"""What a link has of its own, such as ``Contact_Role``: as it is kept, and as it is given back."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoho_crm.core.links import is_api_name
from zoho_crm.core.response import json_object
from zoho_crm.errors import UnsafeRequestError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoho_crm.core.links import Relation

NO_ATTRIBUTES = "{}"
"""What is kept of a link that was not there, or that had nothing of its own."""


def snapshot_of(record: Mapping[str, Any], fields: Sequence[str]) -> str:
    """
    Return what is kept of a link: a JSON object of these fields, as Zoho gave them.

    :param record: the related record as a reading call showed it
    :return: with its keys in order; fields that Zoho did not give, or gave as null, are left out
    """
    kept = {name: record[name] for name in fields if record.get(name) is not None}
    return json.dumps(kept, sort_keys=True, separators=(",", ":"))


def sendable_attributes(snapshot: str | None, relation: Relation) -> dict[str, Any]:
    """
    Return what is given back to a link that is put back.

    A value that is an object with an ``id``, as Zoho gives lookups, goes back as that id. Ids, external fields and
    what has no API name are never sent: they would say something of the record.

    :param snapshot: what was kept of the link; None and ``{}`` if there is nothing
    :raises UnsafeRequestError: it is no JSON object
    """
    if snapshot is None:
        return {}
    kept = json_object(snapshot.encode("utf-8", "surrogatepass"))
    if kept is None:
        raise UnsafeRequestError("The attributes kept of this link cannot be read. Nothing was sent.")
    of_the_records = {"id", relation.external_field.lower(), relation.related_external_field.lower()}
    return {
        name: _as_sent(value)
        for name, value in kept.items()
        if value is not None and is_api_name(name) and name.lower() not in of_the_records
    }


def _as_sent(value: Any) -> Any:
    return value["id"] if isinstance(value, Mapping) and "id" in value else value
