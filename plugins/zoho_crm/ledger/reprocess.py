"""
Links of earlier runs that a new run starts from: unfinished ones to retry, removed ones to relink.

Only runs that applied count: a dry run changed nothing. A run is read one page at a time, each page in a short
transaction, so that the new plan can be written meanwhile in every database.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import islice
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.core.links import NO_ATTRIBUTES, Link
from zoho_crm.core.models import DELINK, RELINK
from zoho_crm.core.outcomes import REMOVAL_OUTCOMES, RETRYABLE_OUTCOMES, LinkState, Outcome
from zoho_crm.core.relink_request import RelinkFilter
from zoho_crm.ledger.engine import Store, reading
from zoho_crm.ledger.runs import RunStore
from zoho_crm.ledger.tables import audit, links, runs

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from zoho_crm.core.models import StoredRun, Target

PAGE_LINKS = 500
"""Links in one ``IN``, and in one short transaction."""

COPY_LINKS = 5_000
"""Links whose snapshots are copied in one transaction."""

_UNSETTLED = links.c.state != LinkState.SETTLED.value
_UNTOUCHED = sa.and_(links.c.state == LinkState.PLANNED.value, links.c.outcome.is_(None))
_CHANGES = (
    Outcome.REMOVED.value,
    Outcome.RELINKED.value,
    Outcome.PRESUMED_RELINKED.value,
    Outcome.ALREADY_LINKED.value,
)
"""Outcomes that show what happened to a removed link since. A link presumed removed may just have stayed removed."""
_REMOVALS = tuple(outcome.value for outcome in REMOVAL_OUTCOMES)
_UNFINISHED = tuple(outcome.value for outcome in RETRYABLE_OUTCOMES)
_CHANGED = (
    Outcome.REMOVED.value,
    Outcome.PRESUMED_REMOVED.value,
    Outcome.RELINKED.value,
    Outcome.PRESUMED_RELINKED.value,
)
_SETTLING_OUTCOMES = {
    DELINK: (*_CHANGED, Outcome.ALREADY_LINKED.value),
    RELINK: (*_CHANGED, Outcome.ALREADY_ABSENT.value),
}
"""
Outcomes after which a request of an earlier run, by its operation, can no longer be what changed a link.

A refusal says nothing about the earlier request, and "already absent" is just what a removal leaves behind.
"""


class Since(StrEnum):
    """What happened to a removed link after its removal, by the audit of all runs that applied."""

    STILL_REMOVED = "still_removed"
    RELINKED = "relinked"
    """A run relinked it, or found it linked."""
    REMOVED_AGAIN = "removed_again"
    """Another run removed it since: relink it by naming that run."""


@dataclass(frozen=True, slots=True)
class UnfinishedLink:
    """
    A link that a run left unfinished.

    :param outcome: of its last audit row over all runs
    :param operation: of the run that wrote this row: ``delink``, or ``relink`` for a link that is to stay
    """

    link: Link
    outcome: Outcome
    operation: str


@dataclass(frozen=True, slots=True)
class RemovedLink:
    """
    A link that a run removed, and what happened to it since.

    :param outcome: ``removed``, or ``presumed_removed`` where it may have been gone before the run
    """

    link: Link
    outcome: Outcome
    since: Since


class OriginLinks(Store):
    """Links of earlier runs, and what a new run takes over from them."""

    def unfinished_links(
        self, origin: Sequence[StoredRun], org_id: str | None = None
    ) -> Iterator[UnfinishedLink]:
        """
        Yield each link that at least one of the runs left unfinished, once, with its last outcome over all runs.

        :param origin: runs that have ended
        :param org_id: Zoho's ID of the organization; rows of other organizations do not count
        """
        keys = [run.run_key for run in origin]
        for run_key in keys:
            after = -1
            while page := self._unsettled_page(run_key, after):
                after = page[-1].seq
                rows_of = self._last_rows([row.pair_key for row in page], org_id)
                for row in page:
                    by_run = {event.run_key: event for event in rows_of.get(row.pair_key, ())}
                    unfinished_in = [
                        key for key in keys if key in by_run and by_run[key].outcome in RETRYABLE_OUTCOMES
                    ]
                    if unfinished_in[:1] != [run_key]:
                        # An earlier one of the runs has yielded it.
                        continue
                    last = max(by_run.values(), key=lambda event: str(event.event_id))
                    link = Link(row.external_id, row.related_external_id)
                    yield UnfinishedLink(link, Outcome(last.outcome), last.operation)

    def removed_links(
        self,
        run: StoredRun,
        *,
        org_id: str | None = None,
        wanted: RelinkFilter | None = None,
        pair_keys: Collection[str] | None = None,
    ) -> Iterator[RemovedLink]:
        """
        Yield the links that a run removed or is presumed to have removed, each with what happened to it since.

        :param wanted: conditions on the audit row of the removal; None for all
        :param pair_keys: keys of the links to choose from; None for all links of the run
        """
        for page in _pages(run, pair_keys):
            removals = self._removals(run.run_key, page, wanted or RelinkFilter())
            last = self._last_changes([row.pair_key for row in removals], org_id)
            for row in removals:
                event = last.get(row.pair_key, row)
                if event.event_id <= row.event_id:
                    since = Since.STILL_REMOVED
                else:
                    since = Since.REMOVED_AGAIN if event.outcome == Outcome.REMOVED else Since.RELINKED
                link = Link(row.external_id, row.related_external_id)
                yield RemovedLink(link, Outcome(row.outcome), since)

    def copy_snapshots(self, run_key: str, origin_run_key: str) -> None:
        """
        Copy to each link of a plan the attributes that the run which removed it has read. It can be repeated.

        :param run_key: the run that relinks
        :param origin_run_key: the run that removed the links
        """
        snapshot = (
            sa.select(sa.func.max(audit.c.snapshot))
            .where(
                audit.c.run_key == origin_run_key,
                audit.c.pair_key == links.c.pair_key,
                audit.c.outcome.in_(_REMOVALS),
            )
            .scalar_subquery()
        )
        last_seq = sa.select(sa.func.max(links.c.seq)).where(links.c.run_key == run_key)
        with reading(self._engine).begin() as connection:
            end: int = connection.scalar(last_seq) or 0
        for start in range(0, end + 1, COPY_LINKS):
            with self._engine.begin() as connection:
                connection.execute(
                    sa.update(links)
                    .where(
                        links.c.run_key == run_key,
                        links.c.seq.between(start, start + COPY_LINKS - 1),
                        links.c.snapshot.is_(None),
                    )
                    .values(snapshot=snapshot)
                )

    def carry_over_in_flight(self, run_key: str, org_id: str | None = None) -> None:
        """
        Mark the links of a plan as in flight that a request of an earlier run may have reached.

        They keep the attributes that the earlier run has read. They are verified before anything is sent, and presumed
        changed when they are as the run would leave them, as within one run. Links that this run has touched already
        are left alone, so that it can be repeated. A dry run sends nothing, and marks nothing.

        :param org_id: Zoho's ID of the organization, for a run that does not know it yet
        """
        run = RunStore(self._engine).existing(run_key)
        run = replace(run, org_id=run.org_id or org_id)
        if run.dry_run:
            return
        after = -1
        while page := self._unsettled_page(run_key, after, _UNTOUCHED):
            after = page[-1].seq
            in_doubt = self._in_doubt(run, [row.pair_key for row in page])
            doubtful = [
                {"of_seq": row.seq, "known": in_doubt[row.pair_key]}
                for row in page
                if row.pair_key in in_doubt
            ]
            if not doubtful:
                continue
            with self._engine.begin() as connection:
                connection.execute(
                    sa.update(links)
                    .where(links.c.run_key == run_key, links.c.seq == sa.bindparam("of_seq"), _UNTOUCHED)
                    .values(
                        state=LinkState.IN_FLIGHT.value,
                        snapshot=sa.func.coalesce(links.c.snapshot, sa.bindparam("known")),
                    ),
                    doubtful,
                )

    def _unsettled_page(
        self, run_key: str, after: int, which: sa.ColumnElement[bool] = _UNSETTLED
    ) -> Sequence[sa.Row[Any]]:
        """
        Return the next links of a plan in its order: seq, pair key and both IDs.

        :param after: the seq to start after
        :param which: condition on the links
        """
        statement = (
            sa.select(links.c.seq, links.c.pair_key, links.c.external_id, links.c.related_external_id)
            .where(links.c.run_key == run_key, links.c.seq > after, which)
            .order_by(links.c.seq)
            .limit(PAGE_LINKS)
        )
        with reading(self._engine).begin() as connection:
            return connection.execute(statement).all()

    def _last_rows(self, pair_keys: Sequence[str], org_id: str | None) -> dict[str, list[sa.Row[Any]]]:
        """Return the last audit row of each link in each run that applied, by pair key."""
        newest = sa.func.row_number().over(
            partition_by=(audit.c.pair_key, audit.c.run_key),
            order_by=(audit.c.claim_no.desc(), audit.c.event_id.desc()),
        )
        ranked = _applied(pair_keys, org_id).add_columns(newest.label("newest")).subquery("ranked")
        found: dict[str, list[sa.Row[Any]]] = {}
        with reading(self._engine).begin() as connection:
            for row in connection.execute(sa.select(ranked).where(ranked.c.newest == 1)):
                found.setdefault(row.pair_key, []).append(row)
        return found

    def _last_changes(self, pair_keys: Sequence[str], org_id: str | None) -> dict[str, sa.Row[Any]]:
        """Return for each link the last audit row that shows that it was removed or exists, by pair key."""
        newest = sa.func.row_number().over(partition_by=audit.c.pair_key, order_by=audit.c.event_id.desc())
        showing = _applied(pair_keys, org_id).where(audit.c.outcome.in_(_CHANGES))
        ranked = showing.add_columns(newest.label("newest")).subquery("ranked")
        with reading(self._engine).begin() as connection:
            rows = connection.execute(sa.select(ranked).where(ranked.c.newest == 1)).all()
        return {row.pair_key: row for row in rows}

    def _removals(
        self, run_key: str, page: sa.ColumnElement[bool], wanted: RelinkFilter
    ) -> Sequence[sa.Row[Any]]:
        """Return the removals in a page of a run that match a filter: the last audit row of each link."""
        newest = sa.func.row_number().over(
            partition_by=audit.c.seq, order_by=(audit.c.claim_no.desc(), audit.c.event_id.desc())
        )
        # The filter applies to the last row of a link: an earlier one must not match in its place.
        last = (
            sa.select(audit, newest.label("newest")).where(audit.c.run_key == run_key, page).subquery("last")
        )
        statement = (
            sa.select(
                last.c.pair_key,
                last.c.event_id,
                last.c.outcome,
                last.c.external_id,
                last.c.related_external_id,
            )
            .where(last.c.newest == 1, last.c.outcome.in_(_REMOVALS), *_conditions(last, wanted))
            .order_by(last.c.seq)
        )
        with reading(self._engine).begin() as connection:
            return connection.execute(statement).all()

    def _in_doubt(self, run: StoredRun, pair_keys: Sequence[str]) -> dict[str, str | None]:
        """
        Return the links that a run of the same operation and organization left in flight, and that are so still.

        A later outcome of any run settles a doubt if it shows what became of the link.

        :return: the attributes that these runs have last read, None if they have not, by pair key
        """
        doubt, later = audit.alias("doubt"), audit.alias("later")
        settled_since = sa.exists().where(
            later.c.pair_key == doubt.c.pair_key,
            later.c.event_id > doubt.c.event_id,
            later.c.outcome.in_(_SETTLING_OUTCOMES[run.operation]),
            later.c.dry_run == sa.false(),
            later.c.org_id == run.org_id,
            later.c.data_center == run.data_center,
        )
        statement = (
            sa.select(doubt.c.pair_key, links.c.snapshot)
            .join(links, sa.and_(links.c.run_key == doubt.c.run_key, links.c.seq == doubt.c.seq))
            .join(runs, runs.c.run_key == doubt.c.run_key)
            .where(
                doubt.c.pair_key.in_(pair_keys),
                doubt.c.outcome.in_(_UNFINISHED),
                doubt.c.operation == run.operation,
                doubt.c.org_id == run.org_id,
                doubt.c.data_center == run.data_center,
                runs.c.environment == run.environment,
                links.c.state == LinkState.IN_FLIGHT.value,
                sa.not_(settled_since),
            )
            .order_by(doubt.c.event_id)
        )
        known: dict[str, str | None] = {}
        with reading(self._engine).begin() as connection:
            for row in connection.execute(statement):
                has_attributes = row.snapshot not in {None, NO_ATTRIBUTES}
                known[row.pair_key] = row.snapshot if has_attributes else known.get(row.pair_key)
        return known


def ineligibility_reason(run: StoredRun, job: str, target: Target) -> str | None:
    """
    Return why a new run may not start from the links of an earlier one; None if it may.

    :param job: the job of the new run
    :param target: relation and organization of the new run
    :return: the rest of a sentence that begins with the run
    """
    if run.job != job:
        return f"is a run of {run.job}, not of {job}"
    if run.operation != DELINK:
        return f"is a relink; to finish it, relink the run {run.origin_run_key!r} again"
    if run.relation != target.relation:
        return f"was for {run.relation}, and the job is now for {target.relation}"
    if run.dry_run:
        return "was a dry run: it sent nothing"
    if run.planned_at is None or run.finished_at is None:
        return "is not finished; wait for its end, or clear its tasks"
    if run.pseudonymized_at is not None:
        return (
            f"was pseudonymized at {run.pseudonymized_at:%Y-%m-%d %H:%M} UTC: the IDs of its links are gone"
        )
    here = (target.org_id, target.data_center)
    if run.org_id and target.org_id and (run.org_id, run.data_center) != here:
        return (
            f"was for the organization {run.org_id} ({run.data_center}), and the connection now leads to "
            f"{target.org_id} ({target.data_center})"
        )
    return None


def _applied(pair_keys: Sequence[str], org_id: str | None) -> sa.Select[Any]:
    statement = sa.select(
        audit.c.pair_key, audit.c.run_key, audit.c.outcome, audit.c.operation, audit.c.event_id
    ).where(audit.c.pair_key.in_(pair_keys), audit.c.dry_run == sa.false())
    if org_id is None:
        return statement
    return statement.where(sa.or_(audit.c.org_id.is_(None), audit.c.org_id == org_id))


def _pages(run: StoredRun, pair_keys: Collection[str] | None) -> Iterator[sa.ColumnElement[bool]]:
    """Yield conditions that split a run into pages: by seq, or by the given keys."""
    if pair_keys is None:
        for start in range(0, run.planned or 0, PAGE_LINKS):
            yield audit.c.seq.between(start, start + PAGE_LINKS - 1)
        return
    keys = iter(sorted(pair_keys))
    while page := list(islice(keys, PAGE_LINKS)):
        yield audit.c.pair_key.in_(page)


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
