"""
Queries about links, for the pages and the CLI: pages and streams of a run's links, audit rows, history of a link.

A run may have a million links, so pages are found through keys and indexes. A plan is sorted by external id, the valid
links before the invalid ones, so that a binary search finds an id; outcomes and related ids have an index. Links come
in the order of the plan, or by related id where a search matches too many links to sort them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.core.links import Relation, pair_key
from zoho_crm.ledger.engine import reading_for_people
from zoho_crm.ledger.tables import audit, latest, links, runs

if TYPE_CHECKING:
    from collections.abc import Collection, Generator, Iterator, Sequence
    from datetime import datetime

    from zoho_crm.core.models import StoredRun
    from zoho_crm.ledger.run_queries import DagAndJob

PENDING = "pending"
"""Value of :attr:`LinkFilter.outcome` for links without an outcome."""

STREAM_LINKS = 2_000
_FETCH_ROWS = 1_000
FEW = 20_000
"""Number of links that can be read and sorted for one page."""
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
    Filter for links of a run; None matches every link.

    :param outcome: an outcome, or :data:`PENDING`
    :param external_id: prefix of the external id
    :param related_external_id: prefix of the related external id
    """

    outcome: str | None = None
    external_id: str | None = None
    related_external_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkRow:
    """A link of a plan with its last audit row; without one, the fields from ``finished_at`` on are None."""

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
"""Names of the fields of :class:`LinkRow`, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkEvent:
    """
    One audit row of a link, with facts about its run. Times are aware and in UTC.

    :param reason: reason of the run, if one was given
    :param environment: environment of the run (``production``, ``sandbox``, ``developer``, ``local``), if stored
    """

    event_id: str
    run_key: str
    finished_at: datetime
    sent_at: datetime | None
    duration_ms: int | None
    job: str
    dag_id: str
    dag_run_id: str
    task_id: str
    map_index: int
    try_number: int
    run_type: str
    triggered_by: str | None
    operation: str
    dry_run: bool
    outcome: str
    attempts: int
    http_status: int | None
    zoho_code: str | None
    zoho_message: str | None
    zoho_record_id: str | None
    detail: str | None
    snapshot: str | None
    data_center: str
    org_id: str | None
    api_version: str
    strategy: str
    module: str
    external_field: str
    related_list: str
    related_module: str
    related_external_field: str
    external_id: str
    related_external_id: str
    reason: str | None
    approved_by: str | None
    environment: str | None
    pseudonymized_at: datetime | None


_FROM_RUN = ("reason", "approved_by", "environment", "pseudonymized_at")


class LinkQueries:
    """
    Read-only queries about links.

    :param engine: engine of the audit database
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = reading_for_people(engine)

    def page(self, run: StoredRun, wanted: LinkFilter, *, after: int = -1, limit: int = 50) -> list[LinkRow]:
        """
        Return a page of a run's links, in an order that is the same for all pages of a filter.

        A pseudonymized run has no plan any more, and so no links here.

        :param after: ``seq`` of the last link of the previous page
        """
        with self._engine.begin() as connection:
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
                statement = statement.where(search.seq > after)
            order = (search.related, links.c.seq) if search.by_related else (search.seq,)
            found = connection.execute(statement.order_by(*order).limit(limit)).mappings().all()
            return _with_events(connection, run.run_key, found)

    def stream(self, run: StoredRun, outcome: str | None = None) -> Iterator[LinkRow]:
        """Yield the links of a run in the order of the plan, each batch read in a short transaction."""
        after = -1
        wanted = LinkFilter(outcome=outcome)
        while page := self.page(run, wanted, after=after, limit=STREAM_LINKS):
            yield from page
            after = page[-1].seq

    def audit_rows(self, run_key: str, *, only_latest: bool) -> Generator[dict[str, Any]]:
        """
        Stream the audit rows of a run in the order of its plan, oldest first for each link.

        :param only_latest: only the last row of each link
        """
        source = latest if only_latest else audit
        statement = (
            sa.select(*(source.c[column.name] for column in audit.c))
            .where(source.c.run_key == run_key)
            .order_by(source.c.seq, source.c.claim_no, source.c.event_id)
        )
        options = {"stream_results": True, "yield_per": _FETCH_ROWS}
        with self._engine.connect().execution_options(**options) as connection:
            for row in connection.execute(statement).mappings():
                yield dict(row)

    def pair_keys(self, external_id: str, related_external_id: str) -> list[str]:
        """Return the keys that a pair of ids has, one for each relation that has runs."""
        statement = sa.select(*(runs.c[field.name] for field in fields(Relation))).distinct()
        with self._engine.begin() as connection:
            relations = [Relation(**row) for row in connection.execute(statement).mappings()]
        return sorted(pair_key(relation, external_id, related_external_id) for relation in relations)

    def history(
        self, keys: Collection[str], *, visible: Collection[DagAndJob] | None, limit: int | None = None
    ) -> list[LinkEvent]:
        """
        Return the audit rows of a link over all runs, newest first.

        :param keys: pair keys of the link
        :param visible: only rows of these Dags and jobs; None for all
        """
        columns = [(runs if field.name in _FROM_RUN else audit).c[field.name] for field in fields(LinkEvent)]
        statement = (
            sa.select(*columns)
            .select_from(audit)
            .outerjoin(runs, runs.c.run_key == audit.c.run_key)
            .where(audit.c.pair_key.in_(keys))
            .order_by(audit.c.event_id.desc())
            .limit(limit)
        )
        if visible is not None:
            pairs = [sa.and_(audit.c.dag_id == dag_id, audit.c.job == job) for dag_id, job in sorted(visible)]
            statement = statement.where(sa.or_(sa.false(), *pairs))
        with self._engine.begin() as connection:
            return [LinkEvent(**row) for row in connection.execute(statement).mappings()]

    def invalid_reasons(self, run_key: str) -> dict[str, int]:
        """Return the number of invalid links of a plan by reason, the most frequent first."""
        count = sa.func.count().label("links")
        statement = (
            sa.select(links.c.invalid_reason, count)
            .where(links.c.run_key == run_key, links.c.invalid_reason.is_not(None))
            .group_by(links.c.invalid_reason)
            .order_by(count.desc(), links.c.invalid_reason)
        )
        with self._engine.begin() as connection:
            return {row.invalid_reason: row.links for row in connection.execute(statement)}


@dataclass(frozen=True, slots=True)
class _Search:
    """
    The query plan of a filter.

    An expression without an index, such as ``seq + 0``, keeps the database from choosing an index that would read many
    links to return few.

    :param by_related: whether to order by related id instead of by plan
    :param seq: ``seq``, for comparing and ordering
    :param related: the related id, for the same
    """

    conditions: list[sa.ColumnElement[bool]]
    by_related: bool = False
    seq: sa.ColumnElement[int] = links.c.seq
    related: sa.ColumnElement[str] = links.c.related_external_id


def _search(connection: sa.Connection, run: StoredRun, wanted: LinkFilter) -> _Search | None:
    """Return how to find the links of a filter; None if no link can match."""
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
        pending = wanted.outcome == PENDING
        outcome = links.c.outcome.is_(None) if pending else links.c.outcome == wanted.outcome
    prefix = wanted.related_external_id
    if not prefix:
        return _Search([*conditions, *([outcome] if outcome is not None else [])])
    begins = _begins(links.c.related_external_id, prefix)
    if _few(connection, run.run_key, begins):
        rest = [outcome] if outcome is not None else []
        return _Search([*conditions, *rest, begins], seq=links.c.seq + 0)
    if not few and outcome is not None:
        few = _few(connection, run.run_key, outcome)
    if few:
        # The plan or the outcome leaves few links to sort by related id.
        unindexed = links.c.related_external_id.concat("")
        rest = [outcome] if outcome is not None else []
        return _Search([*conditions, *rest, _begins(unindexed, prefix)], by_related=True, related=unindexed)
    hidden = [] if outcome is None else [_unindexed(wanted.outcome)]
    return _Search([*conditions, *hidden, begins], by_related=True)


def _begins(column: sa.ColumnElement[str], prefix: str) -> sa.ColumnElement[bool]:
    return column.between(prefix, prefix + _LAST_CHARACTER)


def _unindexed(outcome: str | None) -> sa.ColumnElement[bool]:
    if outcome == PENDING:
        return sa.func.coalesce(links.c.outcome, "") == ""
    return links.c.outcome.concat("") == outcome


def _few(connection: sa.Connection, run_key: str, condition: sa.ColumnElement[bool]) -> bool:
    """Return whether a condition matches at most :data:`FEW` links of a run."""
    some = sa.select(sa.literal(1)).where(links.c.run_key == run_key, condition).limit(FEW + 1).subquery()
    return (connection.scalar(sa.select(sa.func.count()).select_from(some)) or 0) <= FEW


def _related_of(connection: sa.Connection, run_key: str, seq: int) -> str:
    """Return the related id of a link; "" if there is no such link."""
    statement = sa.select(links.c.related_external_id).where(links.c.run_key == run_key, links.c.seq == seq)
    return connection.scalar(statement) or ""


def _ranges(connection: sa.Connection, run: StoredRun, prefix: str) -> list[tuple[int, int]]:
    """Return the half-open ranges of ``seq`` whose external ids start with a prefix."""
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
    """Return the first ``seq`` of a range from which a condition holds, by binary search; else the range's end."""
    statement = sa.select(links.c.external_id, links.c.chunk_no).where(
        links.c.run_key == run_key, links.c.seq == sa.bindparam("middle")
    )
    while low < high:
        middle = (low + high) // 2
        row = connection.execute(statement, {"middle": middle}).one_or_none()
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
