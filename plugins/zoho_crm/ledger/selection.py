"""
Links of past runs that a new run may take up, by what happened to each of them last.

Only runs that applied count: what a dry run wrote changed nothing. A run is read a page at a time, each page in a short
transaction of its own, so that the new plan can be written meanwhile, in every database.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.core.links import Link
from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES, LinkState, Outcome
from zoho_crm.core.relink_request import RelinkFilter
from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.tables import audit, links

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from zoho_crm.core.models import StoredRun

PAGE_LINKS = 500
"""Links in one ``IN``, and in one short transaction."""

_OPEN = links.c.state != LinkState.SETTLED.value
_TELLS_PRESENCE = (Outcome.REMOVED.value, Outcome.RELINKED.value, Outcome.ALREADY_LINKED.value)


class Since(StrEnum):
    """What became of a removed link after its removal, by the audit of all runs that applied."""

    STILL_REMOVED = "still_removed"
    PUT_BACK = "put_back"
    """A run has put it back, or found it linked."""
    REMOVED_AGAIN = "removed_again"
    """Another run has removed it since: that run's links are put back by naming that run."""


@dataclass(frozen=True, slots=True)
class UnfinishedLink:
    """
    A link that a run has left open.

    :param outcome: of its last audit row over all runs
    :param operation: of the run that row is of: ``delink``, or ``relink`` for a link that is to stay
    """

    link: Link
    outcome: Outcome
    operation: str


@dataclass(frozen=True, slots=True)
class RemovedLink:
    """A link that a run has removed, and what became of it."""

    link: Link
    since: Since


def last_outcomes(
    engine: sa.Engine, past: Sequence[StoredRun], org_id: str | None = None
) -> Iterator[UnfinishedLink]:
    """
    Yield each link that at least one of some runs has left open, once, with its last outcome over all runs.

    :param past: runs that have ended
    :param org_id: Zoho's id of the organisation; rows of others do not count
    """
    keys = [run.run_key for run in past]
    for run_key in keys:
        after = -1
        while page := open_page(engine, run_key, after):
            after = page[-1].seq
            told = _history(engine, [row.pair_key for row in page], org_id)
            for row in page:
                by_run = {event.run_key: event for event in told.get(row.pair_key, ())}
                left_by = [key for key in keys if key in by_run and by_run[key].outcome in RETRYABLE_OUTCOMES]
                if left_by[:1] != [run_key]:
                    # An earlier one of these runs has yielded it.
                    continue
                last = max(by_run.values(), key=lambda event: str(event.event_id))
                link = Link(row.external_id, row.related_external_id)
                yield UnfinishedLink(link, Outcome(last.outcome), last.operation)


def removed_links(
    engine: sa.Engine,
    run: StoredRun,
    *,
    org_id: str | None = None,
    wanted: RelinkFilter | None = None,
    pair_keys: Collection[str] | None = None,
) -> Iterator[RemovedLink]:
    """
    Yield the links that a run removed, each with what happened to it since.

    :param wanted: conditions on the audit row of the removal; None for all
    :param pair_keys: keys of the links to choose from; None for all links of the run
    """
    for page in _pages(run, pair_keys):
        removals = _removals(engine, run.run_key, page, wanted or RelinkFilter())
        last = _last_told(engine, [row.pair_key for row in removals], org_id)
        for row in removals:
            event = last.get(row.pair_key, row)
            if event.event_id == row.event_id:
                since = Since.STILL_REMOVED
            else:
                since = Since.REMOVED_AGAIN if event.outcome == Outcome.REMOVED else Since.PUT_BACK
            yield RemovedLink(Link(row.external_id, row.related_external_id), since)


def open_page(
    engine: sa.Engine, run_key: str, after: int, which: sa.ColumnElement[bool] = _OPEN
) -> Sequence[sa.Row[Any]]:
    """
    Return the next links of a plan that are not settled, in their order: seq, pair key and both ids.

    :param after: the place behind which to look
    :param which: what else they must be
    """
    statement = (
        sa.select(links.c.seq, links.c.pair_key, links.c.external_id, links.c.related_external_id)
        .where(links.c.run_key == run_key, links.c.seq > after, which)
        .order_by(links.c.seq)
        .limit(PAGE_LINKS)
    )
    with reading(engine).begin() as connection:
        return connection.execute(statement).all()


def _history(engine: sa.Engine, pair_keys: Sequence[str], org_id: str | None) -> dict[str, list[sa.Row[Any]]]:
    """Return the last audit row of each of some links in each run that applied."""
    newest = sa.func.row_number().over(
        partition_by=(audit.c.pair_key, audit.c.run_key),
        order_by=(audit.c.claim_no.desc(), audit.c.event_id.desc()),
    )
    ranked = _applied(pair_keys, org_id).add_columns(newest.label("newest")).subquery("ranked")
    found: dict[str, list[sa.Row[Any]]] = {}
    with reading(engine).begin() as connection:
        for row in connection.execute(sa.select(ranked).where(ranked.c.newest == 1)):
            found.setdefault(row.pair_key, []).append(row)
    return found


def _last_told(engine: sa.Engine, pair_keys: Sequence[str], org_id: str | None) -> dict[str, sa.Row[Any]]:
    """Return for each of some links the last audit row that says whether it is there."""
    newest = sa.func.row_number().over(partition_by=audit.c.pair_key, order_by=audit.c.event_id.desc())
    telling = _applied(pair_keys, org_id).where(audit.c.outcome.in_(_TELLS_PRESENCE))
    ranked = telling.add_columns(newest.label("newest")).subquery("ranked")
    with reading(engine).begin() as connection:
        rows = connection.execute(sa.select(ranked).where(ranked.c.newest == 1)).all()
    return {row.pair_key: row for row in rows}


def _applied(pair_keys: Sequence[str], org_id: str | None) -> sa.Select[Any]:
    statement = sa.select(
        audit.c.pair_key, audit.c.run_key, audit.c.outcome, audit.c.operation, audit.c.event_id
    ).where(audit.c.pair_key.in_(pair_keys), audit.c.dry_run == sa.false())
    if org_id is None:
        return statement
    return statement.where(sa.or_(audit.c.org_id.is_(None), audit.c.org_id == org_id))


def _pages(run: StoredRun, pair_keys: Collection[str] | None) -> Iterator[sa.ColumnElement[bool]]:
    """Yield conditions that part a run into pages: by place in its plan, or by the keys of the links meant."""
    if pair_keys is None:
        for start in range(0, run.planned or 0, PAGE_LINKS):
            yield audit.c.seq.between(start, start + PAGE_LINKS - 1)
        return
    keys = iter(sorted(pair_keys))
    while page := list(islice(keys, PAGE_LINKS)):
        yield audit.c.pair_key.in_(page)


def _removals(
    engine: sa.Engine, run_key: str, page: sa.ColumnElement[bool], wanted: RelinkFilter
) -> Sequence[sa.Row[Any]]:
    """Return the removals in a page of a run that match a filter: the last audit row of each link."""
    newest = sa.func.row_number().over(
        partition_by=audit.c.seq, order_by=(audit.c.claim_no.desc(), audit.c.event_id.desc())
    )
    # The filter applies to the last row of a link: an earlier one must not match in its place.
    last = sa.select(audit, newest.label("newest")).where(audit.c.run_key == run_key, page).subquery("last")
    statement = (
        sa.select(
            last.c.pair_key, last.c.event_id, last.c.outcome, last.c.external_id, last.c.related_external_id
        )
        .where(last.c.newest == 1, last.c.outcome == Outcome.REMOVED.value, *_conditions(last, wanted))
        .order_by(last.c.seq)
    )
    with reading(engine).begin() as connection:
        return connection.execute(statement).all()


def _conditions(removal: sa.Subquery, wanted: RelinkFilter) -> Iterator[sa.ColumnElement[bool]]:
    if wanted.external_id_prefix is not None:
        yield _has_prefix(removal.c.external_id, wanted.external_id_prefix)
    if wanted.related_external_id_prefix is not None:
        yield _has_prefix(removal.c.related_external_id, wanted.related_external_id_prefix)
    if wanted.finished_from is not None:
        yield removal.c.finished_at >= wanted.finished_from
    if wanted.finished_to is not None:
        yield removal.c.finished_at < wanted.finished_to
    if wanted.zoho_code is not None:
        yield removal.c.zoho_code == wanted.zoho_code


def _has_prefix(column: sa.ColumnElement[str], prefix: str) -> sa.ColumnElement[bool]:
    """
    Return whether a text begins with a literal prefix, the same in every database.

    ``LIKE`` ignores case in SQLite, and ``=`` ignores trailing spaces in MySQL: with a dot behind it they count.
    """
    return sa.func.substr(column, 1, len(prefix), type_=sa.String()).concat(".") == f"{prefix}."
