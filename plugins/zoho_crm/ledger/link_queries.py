"""
Links of a run as people look at them: searched, filtered, page by page, or all of them in a stream.

A run may have a million links. A page is found by keys alone: a plan is sorted by external id, the valid links before
the invalid ones, so that the place of an id is found by halving; outcomes and related ids have an index. Links come in
the order of the plan, or by their related id where so many are searched for by it that they cannot be sorted anew.
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
FEW = 20_000
"""Links that can be read and sorted for one page."""
_LAST_CHARACTER = "\U0010ffff"
_OF_LINK = (
    "seq",
    "chunk_no",
    "pair_key",
    "external_id",
    "related_external_id",
    "state",
    "outcome",
    "invalid_reason",
)
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
    :param related_external_id: how the related external id begins
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
    invalid_reason: str | None
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
    Return links, in an order that is the same for all pages of a filter.

    A run whose ids were replaced by hashes has no plan any more, and so no links here.

    :param after: ``seq`` of the last link of the page before
    """
    with reading(engine).begin() as connection:
        search = _search(connection, run, wanted)
        if search is None:
            return []
        statement = sa.select(*(links.c[name] for name in _OF_LINK)).where(
            links.c.run_key == run.run_key, *search.conditions
        )
        if search.by_related and after >= 0:
            related = _related_of(connection, run.run_key, after)
            statement = statement.where(
                search.related >= related, sa.or_(search.related > related, links.c.seq + 0 > after)
            )
        elif not search.by_related:
            statement = statement.where(search.place > after)
        order = (search.related, links.c.seq) if search.by_related else (search.place,)
        found = connection.execute(statement.order_by(*order).limit(limit)).mappings().all()
        return _with_events(connection, run.run_key, found)


def stream_links(engine: sa.Engine, run: StoredRun, outcome: str | None = None) -> Iterator[LinkRow]:
    """Yield the links of a run in the order of the plan, each batch read in a short transaction of its own."""
    after = -1
    wanted = LinkFilter(outcome=outcome)
    while page := page_of_links(engine, run, wanted, after=after, limit=STREAM_LINKS):
        yield from page
        after = page[-1].seq


@dataclass(frozen=True, slots=True)
class _Search:
    """
    How the links of a filter are found.

    An expression that no index holds, such as ``seq + 0``, keeps a planner from an index that would lead through many
    links to few.

    :param by_related: whether they come in the order of their related ids, and not in that of the plan
    :param place: ``seq``, for comparing and ordering
    :param related: the related id, for the same
    """

    conditions: list[sa.ColumnElement[bool]]
    by_related: bool = False
    place: sa.ColumnElement[int] = links.c.seq
    related: sa.ColumnElement[str] = links.c.related_external_id


def _search(connection: sa.Connection, run: StoredRun, wanted: LinkFilter) -> _Search | None:
    """Return how to find the links, None if there can be none."""
    conditions: list[sa.ColumnElement[bool]] = []
    few = False
    if wanted.external_id:
        ranges = _ranges(connection, run, wanted.external_id) if run.planned is not None else []
        if not ranges:
            return None
        conditions.append(sa.or_(*(links.c.seq.between(first, end - 1) for first, end in ranges)))
        few = sum(end - first for first, end in ranges) <= FEW
    outcome: sa.ColumnElement[bool] | None = None
    if wanted.outcome:
        is_open = wanted.outcome == OPEN
        outcome = links.c.outcome.is_(None) if is_open else links.c.outcome == wanted.outcome
    prefix = wanted.related_external_id
    if not prefix:
        return _Search([*conditions, *([outcome] if outcome is not None else [])])
    begins = _begins(links.c.related_external_id, prefix)
    if _few(connection, run.run_key, begins):
        rest = [outcome] if outcome is not None else []
        return _Search([*conditions, *rest, begins], place=links.c.seq + 0)
    if not few and outcome is not None:
        few = _few(connection, run.run_key, outcome)
    if few:
        # Through the plan or the outcomes: few links are left to be sorted by their related ids.
        unindexed = links.c.related_external_id.concat("")
        rest = [outcome] if outcome is not None else []
        return _Search([*conditions, *rest, _begins(unindexed, prefix)], by_related=True, related=unindexed)
    hidden = [] if outcome is None else [_unindexed(wanted.outcome)]
    return _Search([*conditions, *hidden, begins], by_related=True)


def _begins(column: sa.ColumnElement[str], prefix: str) -> sa.ColumnElement[bool]:
    return column.between(prefix, prefix + _LAST_CHARACTER)


def _unindexed(outcome: str | None) -> sa.ColumnElement[bool]:
    if outcome == OPEN:
        return sa.func.coalesce(links.c.outcome, "") == ""
    return links.c.outcome.concat("") == outcome


def _few(connection: sa.Connection, run_key: str, condition: sa.ColumnElement[bool]) -> bool:
    """Tell whether a condition leaves no more than :data:`FEW` links of a run."""
    some = sa.select(sa.literal(1)).where(links.c.run_key == run_key, condition).limit(FEW + 1).subquery()
    return (connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0) <= FEW


def _related_of(connection: sa.Connection, run_key: str, seq: int) -> str:
    """Return the related id of a link; "" if there is none in its place."""
    statement = sa.select(links.c.related_external_id).where(links.c.run_key == run_key, links.c.seq == seq)
    return connection.scalar(statement) or ""


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
    seqs = [row["seq"] for row in found]
    without_gaps = max(seqs) - min(seqs) + 1 == len(seqs)
    statement = (
        sa.select(audit.c.seq, *(audit.c[name] for name in _OF_EVENT))
        .where(
            audit.c.run_key == run_key,
            audit.c.seq.between(min(seqs), max(seqs)) if without_gaps else audit.c.seq.in_(seqs),
        )
        .order_by(audit.c.seq, audit.c.claim_no.desc(), audit.c.event_id.desc())
    )
    last: dict[int, Any] = {}
    for row in connection.execute(statement).mappings():
        last.setdefault(row["seq"], row)
    return [LinkRow(**{**row, **last.get(row["seq"], {})}) for row in found]
