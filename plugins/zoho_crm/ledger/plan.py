"""Plans: which links a run may change, cut into chunks. A run is planned once."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.core.links import Link, check_links
from zoho_crm.core.models import ChunkRef, LinkResult, PlannedLink, PlanSummary
from zoho_crm.core.outcomes import LinkState, Outcome, RunEventKind
from zoho_crm.errors import PlanError, ZohoConfigError
from zoho_crm.ledger import audit
from zoho_crm.ledger.chain import CHUNK_OF_PLAN, ChainEnd
from zoho_crm.ledger.engine import Store, reading
from zoho_crm.ledger.runs import RunStore
from zoho_crm.ledger.tables import attempts, chunks, fitted, links, runs, staging

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from zoho_crm.core.links import Relation
    from zoho_crm.core.models import Origin, StoredRun, Target

LABEL_LENGTH = 80
BATCH_ROWS = 5_000
ABANDONED_AFTER = timedelta(days=1)
"""No plan takes that long: its process has died."""


@dataclass(frozen=True, slots=True)
class ChunkSizes:
    """
    How to cut a plan.

    :param chunk_size: links in a chunk, as long as that makes no more than ``max_chunks``
    :param max_chunks: chunks at most: beyond it they grow
    """

    chunk_size: int
    max_chunks: int

    def __post_init__(self) -> None:
        if self.chunk_size < 1 or self.max_chunks < 1:
            raise ZohoConfigError(
                f"chunk_size and max_chunks must be at least 1, not {self.chunk_size} and {self.max_chunks}"
            )

    def for_links(self, count: int) -> int:
        """Return the links in each chunk of a plan with ``count`` links to send."""
        return max(self.chunk_size, -(-count // self.max_chunks))


@dataclass(frozen=True, slots=True)
class _Figures:
    """What is staged: rows, distinct links, and those of them that can be sent."""

    rows: int
    distinct: int
    valid: int


@dataclass(slots=True)
class _PlanChain:
    """The chain of the rows that a plan itself decides; see :class:`~zoho_crm.ledger.audit.ChainOwner`."""

    run_key: str
    chunk_no: int = CHUNK_OF_PLAN
    claim_no: int = 0
    chain: ChainEnd = field(default=ChainEnd())


class PlanStore(Store):
    """Stored plans: which links a run may remove, cut into chunks."""

    def create(
        self,
        run_key: str,
        relation: Relation,
        rows: Iterable[tuple[object, object]],
        *,
        chunk_size: int,
        max_chunks: int,
        origin: Origin,
        target: Target,
    ) -> PlanSummary:
        """
        Make the plan of a run, or return the one it has without reading ``rows``.

        :param rows: pairs of external id and related external id, of whatever types the source has
        :param chunk_size: links in a chunk, as long as that makes no more than ``max_chunks``
        :param max_chunks: chunks at most: beyond it they grow
        :param origin: the task that plans, for the audit rows of invalid links
        :raises PlanError: there is no such run, it was started for another relation, or a row is not a pair
        :raises ZohoConfigError: ``chunk_size`` or ``max_chunks`` is below 1
        """
        sizes = ChunkSizes(chunk_size, max_chunks)
        run = RunStore(self._engine).existing(run_key)
        _check_relation(run, relation, target)
        if stored := self.get(run_key):
            return stored
        staged = Staging(self._engine, self._clock)
        attempt = staged.begin(run_key)
        try:
            count = staged.add(attempt, relation, rows)
            self._publish(run, attempt, count, sizes=sizes, origin=origin, target=target)
        except BaseException:
            # An error of the cleanup must not hide the cause; a later plan cleans up as well.
            with suppress(sa.exc.SQLAlchemyError):
                staged.end(attempt)
            raise
        staged.end(attempt)
        if stored := self.get(run_key):
            return stored
        raise PlanError(f"the plan of run {run_key!r} is gone: it was deleted from the audit database")

    def get(self, run_key: str) -> PlanSummary | None:
        """Return the stored plan of a run, or None if it has none."""
        run = RunStore(self._engine).get(run_key)
        if run is None or run.planned_at is None:
            return None
        statement = (
            sa.select(chunks.c.chunk_no, chunks.c.links, chunks.c.first_external_id)
            .where(chunks.c.run_key == run_key)
            .order_by(chunks.c.chunk_no)
        )
        with reading(self._engine).begin() as connection:
            rows = connection.execute(statement).all()
        return PlanSummary(
            source_rows=run.source_rows or 0,
            planned=run.planned or 0,
            duplicates=run.duplicates or 0,
            invalid=run.invalid or 0,
            chunks=[
                ChunkRef(
                    run_key=run_key,
                    chunk_no=row.chunk_no,
                    links=row.links,
                    label=_label(row.chunk_no, len(rows), row.first_external_id),
                )
                for row in rows
            ],
        )

    def _publish(
        self,
        run: StoredRun,
        attempt: str,
        count: int,
        *,
        sizes: ChunkSizes,
        origin: Origin,
        target: Target,
    ) -> None:
        figures = self._figures(attempt)
        if figures.rows != count:
            if RunStore(self._engine).existing(run.run_key).planned_at is not None:
                # Another process has published the plan and deleted the rows that were staged here.
                return
            raise PlanError(
                f"{count} rows were staged for run {run.run_key!r} and {figures.rows} are there: "
                "something deletes from the audit database; plan again"
            )
        size = sizes.for_links(figures.valid)
        with self._engine.begin() as connection:
            now = self._now(connection)
            is_mine = audit.change_run(
                connection,
                run.run_key,
                RunEventKind.PLANNED,
                {
                    "planned_at": now,
                    "source_rows": figures.rows,
                    "planned": figures.distinct,
                    "duplicates": figures.rows - figures.distinct,
                    "invalid": figures.distinct - figures.valid,
                    "chunks": -(-figures.valid // size),
                },
                runs.c.planned_at.is_(None),
                now=now,
            )
            if not is_mine:
                return
            connection.execute(_insert_links(run.run_key, attempt, size))
            connection.execute(_insert_chunks(run.run_key))
            first, end = figures.valid, figures.distinct
            owner = _PlanChain(run.run_key)
            for start in range(first, end, BATCH_ROWS):
                invalid = _invalid_links(connection, run.run_key, start, min(start + BATCH_ROWS, end), now)
                rows = audit.audit_rows(
                    owner, invalid, origin=origin, target=target, job=run.job, now_s=now.timestamp()
                )
                audit.append(connection, rows)
                owner.chain = rows.end

    def _figures(self, attempt: str) -> _Figures:
        is_invalid = sa.case((staging.c.invalid_reason.is_(None), 0), else_=1)
        distinct = (
            sa.select(sa.func.count().label("copies"), sa.func.min(is_invalid).label("is_invalid"))
            .where(staging.c.attempt == attempt)
            .group_by(staging.c.pair_key)
            .subquery("distinct_links")
        )
        statement = sa.select(
            sa.func.sum(distinct.c.copies), sa.func.count(), sa.func.sum(1 - distinct.c.is_invalid)
        ).select_from(distinct)
        with reading(self._engine).begin() as connection:
            rows, links_in_all, valid = connection.execute(statement).one()
        return _Figures(int(rows or 0), links_in_all, int(valid or 0))

    def sample(self, run_key: str, limit: int = 10) -> list[Link]:
        """Return links of a plan that can be sent, spread evenly over it."""
        run = RunStore(self._engine).get(run_key)
        if run is None or run.planned is None:
            return []
        # Links that can be sent come first in a plan, and their numbers have no gaps.
        sendable = run.planned - (run.invalid or 0)
        count = min(limit, sendable)
        places = [number * sendable // count for number in range(count)]
        statement = (
            sa.select(links.c.external_id, links.c.related_external_id)
            .where(links.c.run_key == run_key, links.c.seq.in_(places))
            .order_by(links.c.seq)
        )
        with reading(self._engine).begin() as connection:
            return [Link(row.external_id, row.related_external_id) for row in connection.execute(statement)]


class Staging(Store):
    """Rows of a source on their way into a plan."""

    def begin(self, run_key: str) -> str:
        """
        Register an attempt to plan a run, and delete what dead attempts have left.

        :return: key of the attempt
        """
        attempt = str(uuid.uuid4())
        with self._engine.begin() as connection:
            now = self._now(connection)
            abandoned = sa.or_(
                attempts.c.started_at < now - ABANDONED_AFTER,
                sa.exists().where(runs.c.run_key == attempts.c.run_key, runs.c.planned_at.is_not(None)),
            )
            dead = connection.scalars(sa.select(attempts.c.attempt).where(abandoned)).all()
            connection.execute(sa.insert(attempts).values(attempt=attempt, run_key=run_key, started_at=now))
        for other in dead:
            self.end(other)
        return attempt

    def end(self, attempt: str) -> None:
        """Delete an attempt and its rows."""
        with self._engine.begin() as connection:
            connection.execute(sa.delete(staging).where(staging.c.attempt == attempt))
            connection.execute(sa.delete(attempts).where(attempts.c.attempt == attempt))

    def add(self, attempt: str, relation: Relation, rows: Iterable[tuple[object, object]]) -> int:
        """
        Store all rows of a source, one batch per transaction.

        :param rows: pairs of external id and related external id, of whatever types the source has
        :return: number of rows
        :raises PlanError: a row is not a pair
        """
        statement = _insert_statement(self._engine.dialect)
        source = _staged(relation, rows)
        count = 0
        while batch := list(islice(source, BATCH_ROWS)):
            for row_no, row in enumerate(batch, start=count):
                row["row_no"] = row_no
            with self._engine.begin() as connection:
                if self._engine.dialect.name == "postgresql":
                    connection.execute(statement, {"attempt": attempt, "batch": json.dumps(batch)})
                else:
                    connection.execute(statement, [{"attempt": attempt, **row} for row in batch])
            count += len(batch)
        return count


def _label(chunk_no: int, total: int, first_external_id: str) -> str:
    label = f"{chunk_no + 1}/{total} from {first_external_id}"
    return label if len(label) <= LABEL_LENGTH else f"{label[: LABEL_LENGTH - 1]}…"


def _check_relation(run: StoredRun, relation: Relation, target: Target) -> None:
    if run.relation == relation == target.relation:
        return
    raise PlanError(
        f"run {run.run_key!r} was started for {run.relation}, and this plan is for {relation} "
        f"for a target of {target.relation}: start a new run for another relation"
    )


def _insert_links(run_key: str, attempt: str, size: int) -> sa.Insert:
    """
    Return the statement that turns an attempt's rows into the plan: distinct links in the order of their parents.

    Links that can be sent come first, so that their numbers have no gaps and a chunk is a range of them.
    """
    is_invalid = sa.case((staging.c.invalid_reason.is_(None), 0), else_=1)
    copy_no = sa.func.row_number().over(
        partition_by=staging.c.pair_key, order_by=(is_invalid, staging.c.row_no)
    )
    copies = (
        sa.select(staging, is_invalid.label("is_invalid"), copy_no.label("copy_no"))
        .where(staging.c.attempt == attempt)
        .subquery("copies")
    )
    place = sa.func.row_number().over(
        order_by=(
            copies.c.is_invalid,
            copies.c.external_id,
            copies.c.related_external_id,
            copies.c.pair_key,
        )
    )
    placed = (
        sa.select(copies, (sa.cast(place, sa.BigInteger) - 1).label("seq"))
        .where(copies.c.copy_no == 1)
        .subquery("placed")
    )
    sendable = placed.c.is_invalid == 0
    source = sa.select(
        sa.literal(run_key, sa.String),
        placed.c.seq,
        sa.case((sendable, sa.cast(placed.c.seq // size, sa.Integer)), else_=None),
        placed.c.pair_key,
        placed.c.external_id,
        placed.c.related_external_id,
        sa.case((sendable, LinkState.PLANNED.value), else_=LinkState.SETTLED.value),
        sa.case((sendable, None), else_=Outcome.INVALID.value),
        placed.c.invalid_reason,
    )
    names = (
        "run_key",
        "seq",
        "chunk_no",
        "pair_key",
        "external_id",
        "related_external_id",
        "state",
        "outcome",
        "invalid_reason",
    )
    return sa.insert(links).from_select(names, source)


def _insert_chunks(run_key: str) -> sa.Insert:
    source = (
        sa.select(
            links.c.run_key,
            links.c.chunk_no,
            sa.func.count(),
            sa.func.min(links.c.seq),
            sa.func.min(links.c.external_id),
            sa.literal(0),
            sa.literal(0),
        )
        .where(links.c.run_key == run_key, links.c.chunk_no.is_not(None))
        .group_by(links.c.run_key, links.c.chunk_no)
    )
    names = ("run_key", "chunk_no", "links", "first_seq", "first_external_id", "claim_no", "write_no")
    return sa.insert(chunks).from_select(names, source)


def _invalid_links(
    connection: sa.Connection, run_key: str, start: int, end: int, now: datetime
) -> list[LinkResult]:
    statement = (
        sa.select(links)
        .where(links.c.run_key == run_key, links.c.seq >= start, links.c.seq < end)
        .order_by(links.c.seq)
    )
    return [
        LinkResult(
            PlannedLink(row.seq, Link(row.external_id, row.related_external_id), row.pair_key),
            Outcome.INVALID,
            finished_at=now,
            detail=row.invalid_reason,
        )
        for row in connection.execute(statement)
    ]


def _staged(relation: Relation, rows: Iterable[tuple[object, object]]) -> Iterator[dict[str, Any]]:
    for checked in check_links(rows, relation):
        yield {
            "pair_key": checked.pair_key,
            "external_id": checked.external_id,
            "related_external_id": checked.related_external_id,
            "invalid_reason": checked.invalid_reason
            and fitted(staging.c.invalid_reason, checked.invalid_reason),
        }


def _insert_statement(dialect: sa.Dialect) -> sa.Insert:
    """
    Return the statement that takes a batch.

    PostgreSQL takes a batch as one JSON document, which is three to five times as fast as a row at a time with
    either driver; other databases get plain rows.
    """
    if dialect.name != "postgresql":
        return sa.insert(staging)
    columns = [column for column in staging.c if column.name != "attempt"]
    document = sa.cast(sa.bindparam("batch", type_=sa.Text), sa.JSON)
    batch = sa.func.json_to_recordset(document).table_valued(
        *(sa.column(column.name, sa.BigInteger if column.name == "row_no" else sa.Text) for column in columns)
    )
    batch = batch.render_derived(with_types=True)
    attempt = sa.cast(sa.bindparam("attempt", type_=sa.Text), sa.Text)
    source = sa.select(attempt, *(batch.c[column.name] for column in columns))
    return sa.insert(staging).from_select(["attempt", *(column.name for column in columns)], source)
