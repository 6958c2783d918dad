"""Read Zoho's record ids: those of external ids, and those that are linked to a parent."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoho_crm.core.request import LIST_ROWS, find_records, id_lists, list_linked
from zoho_crm.core.response import json_object
from zoho_crm.errors import ZohoError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from zoho_crm.hooks.presence import LinkClient
    from zoho_crm.hooks.zoho_response import ZohoResponse

MAX_PAGES = 10
"""Zoho gives 2,000 rows by page number; further rows need page tokens."""

_RECORD_ID = re.compile(r"[0-9]{1,20}")


@dataclass(frozen=True, slots=True)
class LinkedRecords:
    """
    What Zoho lists of the records linked to a parent.

    :param ids: record ids of the related records that are linked
    :param is_whole: whether a record that is not in ``ids`` is not linked
    """

    ids: frozenset[str]
    is_whole: bool


async def fetch_record_ids(
    client: LinkClient, module: str, external_field: str, external_ids: Iterable[str]
) -> dict[str, str]:
    """Return record ids by external id, compared exactly, without those that are unclear."""
    found: dict[str, str] = {}
    for ids in id_lists(external_ids):
        try:
            response = await client.send(find_records(client.api_version, module, external_field, ids))
        except ZohoError:
            continue
        found |= _parse_record_ids(response, external_field, set(ids))
    # Two external ids of one record could not be distinguished in a response.
    times = Counter(found.values())
    return {external: record for external, record in found.items() if times[record] == 1}


async def fetch_linked_records(client: LinkClient, parent_id: str, wanted: Collection[str]) -> LinkedRecords:
    """
    Read the records linked to a parent, until all wanted ones are found.

    The list counts as whole only if it has a single page: where links are removed between two pages, as by a request
    that Zoho applies late, later rows move up, and one of them is on neither page.

    :param parent_id: Zoho's record id of the parent
    :param wanted: record ids that may be linked; no more pages are read than there are wanted records
    """
    found: set[str] = set()
    for page in range(1, min(MAX_PAGES, len(wanted)) + 1):
        try:
            response = await client.send(list_linked(client.api_version, client.relation, parent_id, page))
        except ZohoError:
            break
        rows, has_more = _parse_page(response)
        found |= rows
        if has_more is False:
            return LinkedRecords(frozenset(found), is_whole=page == 1)
        if has_more is None or found >= set(wanted):
            break
    return LinkedRecords(frozenset(found), is_whole=False)


def _parse_page(response: ZohoResponse) -> tuple[set[str], bool | None]:
    """Return the record ids of a page, and whether more pages follow; None if that is unclear."""
    if response.status == 204:
        return set(), False
    content = json_object(response.body) if response.status == 200 else None
    rows: Any = content.get("data") if content is not None else None
    info: Any = content.get("info") if content is not None else None
    ids = (
        [row.get("id") if isinstance(row, dict) else None for row in rows]
        if isinstance(rows, list)
        else [None]
    )
    if not all(isinstance(one, str) and _RECORD_ID.fullmatch(one) for one in ids):
        return set(), None
    has_more = info.get("more_records") if isinstance(info, dict) else None
    # A page with fewer rows than it may have is the last one; whatever contradicts that is unclear.
    is_clear = isinstance(has_more, bool) and bool(ids) and has_more <= (len(ids) == LIST_ROWS)
    return {str(one) for one in ids}, has_more if is_clear else None


def _parse_record_ids(response: ZohoResponse, external_field: str, wanted: set[str]) -> dict[str, str]:
    content = json_object(response.body) if response.status == 200 else None
    rows = content.get("data") if content is not None else None
    found: defaultdict[str, set[str]] = defaultdict(set)
    for row in rows if isinstance(rows, list) else []:
        if not isinstance(row, dict):
            continue
        external, record = row.get(external_field), row.get("id")
        if isinstance(external, str) and external in wanted:
            found[external].add(record if isinstance(record, str) and _RECORD_ID.fullmatch(record) else "")
    # Which record Zoho would take for the external id of two records is not known: it decides by the external id.
    return {
        external: one for external, records in found.items() if len(records) == 1 for one in records if one
    }
