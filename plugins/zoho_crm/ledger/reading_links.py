"""
Links of a run as people look at them: searched, filtered, page by page, or all of them in a stream.

A run may have a million links. A page is found by keys alone: a plan is sorted by external id, the valid links before
the invalid ones, so that the place of an id is found by halving; outcomes and related ids have an index.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.tables import audit, links

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime

    from zoho_crm.ledger.runs import StoredRun

OPEN = "open"
"""Stands in :class:`LinkFilter` for links that have no outcome yet."""

STREAM_LINKS = 2_000
_LAST_CHARACTER = "\U0010ffff"
_OF_LINK = ("seq", "chunk_no", "pair_key", "external_id", "related_external_id", "state", "outcome", "fault")
_OF_EVENT = (
    "finished_at",
    "attempts",
    "try_number",
    "http_status",
    "zoho_code",
    "zoho_message",
    "zoho_record_id",
    "detail",
)


@dataclass(frozen=True, slots=True)
class LinkFilter:
    """
    Which links of a run are wanted; None: whichever.

    :param outcome: an outcome, or :data:`OPEN`
    :param external_id: how the external id begins
    :param related_external_id: the whole related external id
    """

    outcome: str | None = None
    external_id: str | None = None
    related_external_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRow:
    """A link of a plan with the last that happened to it; the fields from ``finished_at`` on are None before that."""

    seq: int
    chunk_no: int | None
    pair_key: str
    external_id: str
    related_external_id: str
    state: str
    outcome: str | None
    fault: str | None
    finished_at: datetime | None = None
    attempts: int | None = None
    try_number: int | None = None
    http_status: int | None = None
    zoho_code: str | None = None
    zoho_message: str | None = None
    zoho_record_id: str | None = None
    detail: str | None = None


LINK_FIELDS = (*_OF_LINK, *_OF_EVENT)
"""Names of :class:`LinkRow`, in their order."""


def page_of_links(
    engine: sa.Engine, run: StoredRun, wanted: LinkFilter, *, after: int = -1, limit: int = 50
) -> list[LinkRow]:
    """
    Return links in the order of the plan.

    A run whose ids were replaced by hashes has no plan any more, and so no links here.

    :param after: ``seq`` of the last link of the page before
    """
    with reading(engine).begin() as connection:
        conditions = _conditions(connection, run, wanted)
        if conditions is None:
            return []
        # Few links share a related id: an order that no index has makes a planner look for those first.
        place = links.c.seq + 0 if wanted.related_external_id else links.c.seq
        statement = (
            sa.select(*(links.c[name] for name in _OF_LINK))
            .where(links.c.run_key == run.run_key, place > after, *conditions)
            .order_by(place)
            .limit(limit)
        )
        found = connection.execute(statement).mappings().all()
        return _with_events(connection, run.run_key, found)


def stream_links(engine: sa.Engine, run: StoredRun, outcome: str | None = None) -> Iterator[LinkRow]:
    """Yield the links of a run in the order of the plan, each batch read in a short transaction of its own."""
    after = -1
    wanted = LinkFilter(outcome=outcome)
    while page := page_of_links(engine, run, wanted, after=after, limit=STREAM_LINKS):
        yield from page
        after = page[-1].seq


def _conditions(
    connection: sa.Connection, run: StoredRun, wanted: LinkFilter
) -> list[sa.ColumnElement[bool]] | None:
    """Return what the links must meet, None if there can be none."""
    conditions: list[sa.ColumnElement[bool]] = []
    if wanted.outcome == OPEN:
        conditions.append(links.c.outcome.is_(None))
    elif wanted.outcome:
        conditions.append(links.c.outcome == wanted.outcome)
    if wanted.related_external_id:
        conditions.append(links.c.related_external_id == wanted.related_external_id)
    if wanted.external_id:
        if run.planned is None:
            return None
        ranges = _ranges(connection, run, wanted.external_id)
        if not ranges:
            return None
        conditions.append(sa.or_(*(links.c.seq.between(first, end - 1) for first, end in ranges)))
    return conditions


def _ranges(connection: sa.Connection, run: StoredRun, prefix: str) -> list[tuple[int, int]]:
    """Return where the links lie whose external id begins so, each range without its end."""
    planned = run.planned or 0
    valid = _first(connection, run.run_key, 0, planned, lambda row: row.chunk_no is None)
    found = []
    for start, end in ((0, valid), (valid, planned)):
        first = _first(connection, run.run_key, start, end, lambda row: row.external_id >= prefix)
        last = _first(
            connection, run.run_key, first, end, lambda row: row.external_id > prefix + _LAST_CHARACTER
        )
        if first < last:
            found.append((first, last))
    return found


def _first(connection: sa.Connection, run_key: str, low: int, high: int, holds: Any) -> int:
    """Return the first place in a range at which something holds that goes on holding, or the range's end."""
    statement = sa.select(links.c.external_id, links.c.chunk_no).where(
        links.c.run_key == run_key, links.c.seq == sa.bindparam("place")
    )
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(statement, {"place": middle}).one_or_none()
        if row is None or holds(row):
            high = middle
        else:
            low = middle + 1
    return low


def _with_events(connection: sa.Connection, run_key: str, found: Sequence[Any]) -> list[LinkRow]:
    """Return the links, each with its last audit row."""
    if not found:
        return []
    first, last_seq = found[0]["seq"], found[-1]["seq"]
    without_gaps = last_seq - first + 1 == len(found)
    statement = (
        sa.select(audit.c.seq, *(audit.c[name] for name in _OF_EVENT))
        .where(
            audit.c.run_key == run_key,
            audit.c.seq.between(first, last_seq)
            if without_gaps
            else audit.c.seq.in_([row["seq"] for row in found]),
        )
        .order_by(audit.c.seq, audit.c.claim_no.desc(), audit.c.event_id.desc())
    )
    last: dict[int, Any] = {}
    for row in connection.execute(statement).mappings():
        last.setdefault(row["seq"], row)
    return [LinkRow(**{**row, **last.get(row["seq"], {})}) for row in found]
