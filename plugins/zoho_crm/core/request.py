"""Build the requests to Zoho CRM from quoted parts. They are compared again before they leave: ``request_guard``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from zoho_crm.core.links import Link, Relation, check_api_name, link_fault
from zoho_crm.errors import UnsafeRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

X_EXTERNAL = "X-EXTERNAL"

DELINK_SEGMENTS = 6
"""Parts of the path of a delink. A DELETE with four or five of them would delete a record, or remove many links."""

MAX_IDS = 100
"""Ids in one call, source: https://www.zoho.com/crm/developer/docs/api/v7/delink.html"""

MAX_IDS_LENGTH = 2_000
"""Characters in ``ids``, source: Zoho's OpenAPI files."""

LIST_ROWS = 200
"""Maximum rows of a page of a related list."""

RELINK_SEGMENTS = 5
"""Parts of the path of a relink. A PUT with three or four of them would change records."""

JSON_CONTENT = {"Content-Type": "application/json"}

_RECORD_ID = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True)
class ZohoRequest:
    """
    One request, before an HTTP library has prepared it.

    :param method: ``GET``, ``DELETE`` or ``PUT``
    :param segments: the parts of the path, unquoted: ``("crm", "v7", "Contacts", "a/b", ...)``
    :param x_external: value of the X-EXTERNAL header, or None for calls that name no external id
    :param query: query parameters in their order
    :param body: the body as it must go over the wire, JSON in ASCII; None for calls without one
    :raises UnsafeRequestError: a part of the path is empty or a dot segment, which quoting does not protect
    """

    method: str
    segments: tuple[str, ...]
    x_external: str | None = None
    query: tuple[tuple[str, str], ...] = field(default=())
    body: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not {"", ".", ".."}.isdisjoint(self.segments):
            raise UnsafeRequestError(
                "A part of this request's path is empty or a dot segment, which would change the address. "
                "Nothing was sent."
            )

    @cached_property
    def path(self) -> str:
        """The path as it must go over the wire: every part quoted but for ``A-Za-z0-9_.-~``."""
        return "/" + "/".join(quote(segment, safe="") for segment in self.segments)

    @cached_property
    def target(self) -> str:
        """Path and query as they must go over the wire."""
        return f"{self.path}?{urlencode(self.query, quote_via=quote, safe='')}" if self.query else self.path

    def touches_links_only(self, method: str) -> bool:
        """Whether, sent by DELETE or PUT, it changes links of a related list, and not a record."""
        if method == "PUT":
            return len(self.segments) == RELINK_SEGMENTS and not self.query and self.body is not None
        named_in_query = len(self.query) == 1 and self.query[0][0] == "ids" and bool(self.query[0][1])
        if len(self.segments) == DELINK_SEGMENTS:
            return not self.query
        return len(self.segments) == DELINK_SEGMENTS - 1 and named_in_query

    @cached_property
    def headers(self) -> dict[str, str]:
        """The headers that carry meaning; the Authorization header is the client's."""
        external = {X_EXTERNAL: self.x_external} if self.x_external is not None else {}
        return external if self.body is None else {**external, **JSON_CONTENT}


def delete_related(api_version: str, relation: Relation, link: Link) -> ZohoRequest:
    """
    Build the request that removes one link.

    Source: "Delete Related Records Using External ID",
    https://www.zoho.com/crm/developer/docs/api/v7/delete-related-records-ext.html

    :raises UnsafeRequestError: an id cannot be sent
    """
    return _related("DELETE", api_version, relation, link)


def put_related(
    api_version: str, relation: Relation, link: Link, attributes: Mapping[str, Any] | None = None
) -> ZohoRequest:
    """
    Build the request that links two records, or changes the attributes of their link.

    Source: "Update Related Records Using External ID",
    https://www.zoho.com/crm/developer/docs/api/v7/update-related-records-ext.html

    :param attributes: attributes of the link, e.g. ``{"Contact_Role": "4876876000000006873"}``; see
        :func:`zoho_crm.core.links.sendable_attributes`
    :raises UnsafeRequestError: an id cannot be sent, or an attribute has the name of an id
    """
    _refuse_unsendable(link)
    given = dict(attributes or {})
    if not given.keys().isdisjoint({"id", relation.external_field, relation.related_external_field}):
        raise UnsafeRequestError("An attribute of this link has the name of an id. Nothing was sent.")
    entry = {relation.related_external_field: link.related_external_id, **given}
    return ZohoRequest(
        "PUT",
        ("crm", api_version, relation.module, link.external_id, relation.related_list),
        relation.x_external,
        body=json.dumps({"data": [entry]}, separators=(",", ":")).encode("ascii"),
    )


def get_related(
    api_version: str, relation: Relation, link: Link, fields: Sequence[str] = ("id",)
) -> ZohoRequest:
    """
    Build the request that reads one link: 200 it exists, 204 it does not.

    Source: "Get Related Records Using External ID",
    https://www.zoho.com/crm/developer/docs/api/v7/get-related-records-ext.html

    :param fields: API names of the fields to return, attributes of the link among them
    :raises UnsafeRequestError: an id cannot be sent
    """
    names = ",".join(check_api_name("fields", one) for one in fields)
    return _related("GET", api_version, relation, link, query=(("fields", names),))


def list_related(
    api_version: str,
    relation: Relation,
    external_id: str,
    fields: Sequence[str],
    *,
    page: int = 1,
    page_token: str | None = None,
    per_page: int = 200,
) -> ZohoRequest:
    """
    Build the request that reads one page of the records linked to a parent.

    :param fields: API names of the fields to return; Zoho refuses a call without any
    :param page_token: Zoho's token for rows beyond 2,000; it replaces ``page``
    :raises UnsafeRequestError: the id cannot be sent
    """
    _refuse_unsendable(Link(external_id, external_id))
    position = ("page_token", page_token) if page_token is not None else ("page", str(page))
    return ZohoRequest(
        "GET",
        ("crm", api_version, relation.module, external_id, relation.related_list),
        relation.x_external,
        (("fields", ",".join(fields)), position, ("per_page", str(per_page))),
    )


def list_linked(api_version: str, relation: Relation, parent_record_id: str, page: int) -> ZohoRequest:
    """
    Build the request that reads one page of the record ids linked to a parent, by the parent's record id.

    Source: "Get Related Records", https://www.zoho.com/crm/developer/docs/api/v7/get-related-records.html

    :param page: from 1 to 10; rows beyond 2,000 need a page token
    :raises UnsafeRequestError: the id is not a record id
    """
    _refuse_other_than_record_ids(parent_record_id)
    return ZohoRequest(
        "GET",
        ("crm", api_version, relation.module, parent_record_id, relation.related_list),
        query=(("fields", "id"), ("page", str(page)), ("per_page", str(LIST_ROWS))),
    )


def get_record(api_version: str, module: str, external_field: str, external_id: str) -> ZohoRequest:
    """
    Build the request that reads whether a record exists: 200 it does, 204 it does not.

    :raises UnsafeRequestError: the id cannot be sent
    """
    _refuse_unsendable(Link(external_id, external_id))
    return ZohoRequest(
        "GET",
        ("crm", api_version, check_api_name("module", module), external_id),
        f"{module}.{check_api_name('external_field', external_field)}",
        (("fields", "id"),),
    )


def find_records(
    api_version: str, module: str, external_field: str, external_ids: Sequence[str]
) -> ZohoRequest:
    """
    Build the request that reads the record ids of up to 100 external ids: 200 those that exist, 204 none does.

    Source: "Get Records Using External ID", https://www.zoho.com/crm/developer/docs/api/v7/get-records-ext.html

    :raises UnsafeRequestError: an id cannot be sent, or holds a comma, which separates ids
    """
    for external_id in external_ids:
        _refuse_unsendable(Link(external_id, external_id))
    return ZohoRequest(
        "GET",
        ("crm", api_version, check_api_name("module", module)),
        f"{module}.{check_api_name('external_field', external_field)}",
        (("ids", _ids(external_ids)), ("fields", f"id,{external_field}")),
    )


def delete_related_many(
    api_version: str, relation: Relation, parent_record_id: str, related_record_ids: Sequence[str]
) -> ZohoRequest:
    """
    Build the request that removes up to 100 links of one parent, by Zoho's record ids.

    Source: "Delink Records", https://www.zoho.com/crm/developer/docs/api/v7/delink.html

    :raises UnsafeRequestError: an id is not a record id, or there are none or too many
    """
    _refuse_other_than_record_ids(parent_record_id, *related_record_ids)
    return ZohoRequest(
        "DELETE",
        ("crm", api_version, relation.module, parent_record_id, relation.related_list),
        query=(("ids", _ids(related_record_ids)),),
    )


def get_setting(api_version: str, *segments: str, query: tuple[tuple[str, str], ...] = ()) -> ZohoRequest:
    """Build a request for metadata or the organization, e.g. ``("settings", "fields")`` or ``("org",)``."""
    return ZohoRequest("GET", ("crm", api_version, *segments), query=query)


def id_lists(ids: Iterable[str]) -> Iterator[list[str]]:
    """Split distinct ids into lists that fit in one call: at most 100 ids and 2,000 characters."""
    current: list[str] = []
    length = 0
    for one in dict.fromkeys(ids):
        if current and (len(current) == MAX_IDS or length + 1 + len(one) > MAX_IDS_LENGTH):
            yield current
            current, length = [], 0
        length += len(one) + (1 if current else 0)
        current.append(one)
    if current:
        yield current


def _ids(ids: Sequence[str]) -> str:
    joined = ",".join(ids)
    if not ids or len(ids) > MAX_IDS or len(joined) > MAX_IDS_LENGTH or any("," in one for one in ids):
        raise UnsafeRequestError(
            f"One call takes 1 to {MAX_IDS} ids without commas, {MAX_IDS_LENGTH} characters in all. "
            "Nothing was sent."
        )
    return joined


def _related(
    method: str,
    api_version: str,
    relation: Relation,
    link: Link,
    query: tuple[tuple[str, str], ...] = (),
) -> ZohoRequest:
    _refuse_unsendable(link)
    segments = (
        "crm",
        api_version,
        relation.module,
        link.external_id,
        relation.related_list,
        link.related_external_id,
    )
    return ZohoRequest(method, segments, relation.x_external, query)


def _refuse_other_than_record_ids(*record_ids: str) -> None:
    if not all(map(_RECORD_ID.fullmatch, record_ids)):
        raise UnsafeRequestError("A record id of Zoho has up to 20 digits. Nothing was sent.")


def _refuse_unsendable(link: Link) -> None:
    if fault := link_fault(link.external_id, link.related_external_id):
        raise UnsafeRequestError(f"This id cannot be sent: {fault}. Nothing was sent.")
