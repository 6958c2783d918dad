"""A copy of the audit in a warehouse: runs, audit rows, and views on them for reports and dbt."""

from __future__ import annotations

from datetime import UTC
from itertools import islice
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.databases import LOCKS_ROWS
from zoho_crm.ledger import tables
from zoho_crm.ledger.run_queries import NEEDS_ATTENTION
from zoho_crm.ledger.schema import CreateView, DropView

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_PREFIX = "zoho_delink_"
_BATCH_ROWS = 150
"""With some sixty columns, fewer parameters than any warehouse allows in a statement."""


class AuditExport:
    """
    The tables and views of one audit database in a warehouse.

    - ``zoho_delink_runs``: one row per finished run, with number (``event_no``) and time (``changed_at``) of its last
      event
    - ``zoho_delink_link_events``: one row per link and try, with the ``environment`` of its run
    - ``zoho_delink_link_outcomes`` (view): the last event of each link in each run
    - ``zoho_delink_latest_per_link`` (view): the last event of each link of an organization and environment over all
      runs, without dry runs
    - ``zoho_delink_errors_by_reason`` (view): links that were not removed, by day, outcome and reason
    - ``zoho_delink_links_per_day`` (view): links by day and outcome
    - ``zoho_delink_view_statements``: one row per view, with the query that it was created with

    Columns are those of the audit's tables; ``audit_conn_id`` names the audit database: several can share a warehouse.

    :param engine: engine of the warehouse
    :param audit_conn_id: connection of the audit database
    :param schema: schema of tables and views; None for the default of the connection
    """

    def __init__(self, engine: sa.Engine, audit_conn_id: str, *, schema: str | None = None) -> None:
        self._engine = engine
        self._audit_conn_id = audit_conn_id
        metadata = sa.MetaData(schema=schema)
        last_event = sa.Column("event_no", sa.BigInteger), sa.Column("changed_at", tables.UtcDateTime)
        self._runs = _copy(tables.runs, "runs", metadata, *last_event)
        environment = sa.Column("environment", _plain(tables.runs.c.environment.type))
        self._events = _copy(
            tables.audit, "link_events", metadata, environment, sa.Column("finished_on", sa.Date)
        )
        self._statements = sa.Table(
            f"{_PREFIX}view_statements",
            metadata,
            sa.Column("name", sa.String(tables.NAME_LENGTH)),
            sa.Column("statement", tables.long_text()),
        )
        self._statements.dialect_kwargs.update(tables.TABLE_OPTIONS)
        if engine.dialect.name in LOCKS_ROWS:
            # Others have no indexes.
            sa.Index(f"{_PREFIX}link_events_run", self._events.c.run_key)

    def create(self) -> None:
        """Create what does not exist yet, add the columns that this version of the package has, and renew old views."""
        schema = self._runs.schema
        inspector = sa.inspect(self._engine)
        names, views = set(inspector.get_table_names(schema)), set(inspector.get_view_names(schema))
        with self._engine.begin() as connection:
            missing: list[sa.Column[Any]] = []
            for table in (self._runs, self._events, self._statements):
                if table.name in names:
                    present = {column["name"] for column in inspector.get_columns(table.name, schema)}
                    missing += [column for column in table.c if column.name not in present]
                else:
                    table.create(connection)
            for column in missing:
                connection.execute(sa.text(_add_column(self._engine.dialect, column)))
            self._create_views(connection, views, renew=bool(missing))

    def _create_views(self, connection: sa.Connection, present: set[str], *, renew: bool) -> None:
        """
        Create the views that do not exist or were created with another query; others keep their grants.

        :param renew: create all of them again: a view keeps the columns that its table had
        """
        rows = connection.execute(sa.select(self._statements.c.name, self._statements.c.statement))
        known = {row.name: row.statement for row in rows}
        for name, select in self._views().items():
            create = CreateView(sa.table(name, schema=self._runs.schema), select)
            statement = str(create.compile(dialect=self._engine.dialect))
            if name in present and not renew and known.get(name) == statement:
                continue
            if name in present:
                connection.execute(DropView(create.view))
            connection.execute(create)
            connection.execute(sa.delete(self._statements).where(self._statements.c.name == name))
            connection.execute(self._statements.insert().values(name=name, statement=statement))

    def versions(self) -> dict[str, int | None]:
        """Return by run key the number of the last event that each exported run had."""
        statement = sa.select(self._runs.c.run_key, self._runs.c.event_no).where(self._is_mine(self._runs))
        with self._engine.connect() as connection:
            return {row.run_key: row.event_no for row in connection.execute(statement)}

    def replace_run(self, run: Mapping[str, Any], rows: Iterable[Mapping[str, Any]]) -> int:
        """
        Write a run and its audit rows in place of what the warehouse has of it, and return the number of rows.

        The run comes last: where a warehouse has no transactions, a run without its row is written again.
        """
        count = 0
        with self._engine.begin() as connection:
            for table in (self._runs, self._events):
                connection.execute(
                    sa.delete(table).where(self._is_mine(table), table.c.run_key == run["run_key"])
                )
            source = iter(rows)
            while batch := [self._event(run, row) for row in islice(source, _BATCH_ROWS)]:
                self._insert(connection, self._events, batch)
                count += len(batch)
            self._insert(connection, self._runs, [{**run, "audit_conn_id": self._audit_conn_id}])
        return count

    def _event(self, run: Mapping[str, Any], row: Mapping[str, Any]) -> dict[str, Any]:
        return {
            **row,
            "audit_conn_id": self._audit_conn_id,
            "environment": run["environment"],
            "finished_on": row["finished_at"].astimezone(UTC).date(),
        }

    def _insert(self, connection: sa.Connection, table: sa.Table, rows: list[dict[str, Any]]) -> None:
        if self._engine.dialect.name in LOCKS_ROWS:
            connection.execute(table.insert(), rows)
        else:
            # Others take seconds for each statement.
            connection.execute(table.insert().values(rows))

    def _is_mine(self, table: sa.Table) -> sa.ColumnElement[bool]:
        return table.c.audit_conn_id == self._audit_conn_id

    def _views(self) -> dict[str, sa.Select[Any]]:
        """Return the statement of each view by its name."""
        outcomes = _last_of(self._events, ("audit_conn_id", "run_key", "seq"), ("claim_no", "event_id"))
        latest = _last_of(
            self._events,
            ("audit_conn_id", "org_id", "environment", "pair_key"),
            ("event_id",),
            sa.not_(self._events.c.dry_run),
        )
        last = outcomes.subquery()
        place = ("audit_conn_id", "org_id", "environment", "job")
        day = [last.c[name] for name in (*place, "finished_on", "operation", "dry_run", "outcome")]
        reason = [
            *day,
            last.c.zoho_code,
            sa.func.coalesce(last.c.zoho_message, last.c.detail).label("reason"),
        ]
        needs_attention = last.c.outcome.in_([outcome.value for outcome in NEEDS_ATTENTION])
        links = sa.func.count().label("links")
        return {
            f"{_PREFIX}link_outcomes": outcomes,
            f"{_PREFIX}latest_per_link": latest,
            f"{_PREFIX}errors_by_reason": sa.select(*reason, links).where(needs_attention).group_by(*reason),
            f"{_PREFIX}links_per_day": sa.select(*day, links).group_by(*day),
        }


def _copy(source: sa.Table, name: str, metadata: sa.MetaData, *more: sa.Column[Any]) -> sa.Table:
    """Return a table with the columns of one of the audit's, without its keys and collations."""
    columns = [sa.Column(column.name, _plain(column.type)) for column in source.c]
    audit_conn_id = sa.Column("audit_conn_id", sa.String(tables.NAME_LENGTH))
    table = sa.Table(f"{_PREFIX}{name}", metadata, audit_conn_id, *columns, *more)
    table.dialect_kwargs.update(tables.TABLE_OPTIONS)
    return table


def _plain(kind: sa.types.TypeEngine[Any]) -> sa.types.TypeEngine[Any]:
    if isinstance(kind, sa.String) and kind.length:
        return sa.String(kind.length)
    return kind


def _last_of(
    events: sa.Table, group: tuple[str, ...], order: tuple[str, ...], *conditions: sa.ColumnElement[bool]
) -> sa.Select[Any]:
    """
    Return the last event of each group.

    :param group: columns that have the same values in a group
    :param order: columns that grow from event to event
    """
    age = sa.func.row_number().over(
        partition_by=[events.c[name] for name in group], order_by=[events.c[name].desc() for name in order]
    )
    ranked = sa.select(events, age.label("age")).where(*conditions).subquery()
    return sa.select(*(ranked.c[column.name] for column in events.c)).where(ranked.c.age == 1)


def _add_column(dialect: sa.Dialect, column: sa.Column[Any]) -> str:
    names = dialect.identifier_preparer
    kind = column.type.compile(dialect)
    return f"ALTER TABLE {names.format_table(column.table)} ADD COLUMN {names.format_column(column)} {kind}"
