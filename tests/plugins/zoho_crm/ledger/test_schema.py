from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.support.ledger import MOMENT, RUN, drive, pairs, planned, rows_of
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger import schema, tables
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alembic.operations import Operations

AUDIT_COLUMNS = {
    "event_id",
    "run_key",
    "job",
    "dag_id",
    "dag_run_id",
    "run_type",
    "logical_date",
    "data_interval_start",
    "data_interval_end",
    "triggered_by",
    "task_id",
    "map_index",
    "try_number",
    "org_id",
    "data_center",
    "api_version",
    "module",
    "external_field",
    "external_id",
    "related_list",
    "related_module",
    "related_external_field",
    "related_external_id",
    "pair_key",
    "strategy",
    "attempts",
    "sent_at",
    "finished_at",
    "duration_ms",
    "http_status",
    "zoho_code",
    "zoho_message",
    "zoho_record_id",
    "outcome",
    "detail",
    "dry_run",
}
LINK_COLUMNS = {
    "run_key",
    "seq",
    "chunk_no",
    "pair_key",
    "external_id",
    "related_external_id",
    "state",
    "outcome",
}


def test_tables_and_view_have_the_names_and_columns_others_rely_on(ledger: Ledger, engine: sa.Engine) -> None:
    inspector = sa.inspect(engine)

    def columns(table: str) -> set[str]:
        return {column["name"] for column in inspector.get_columns(table)}

    assert columns("zoho_delink_audit") >= AUDIT_COLUMNS
    assert columns("zoho_delink_latest") >= AUDIT_COLUMNS
    assert columns("zoho_delink_link") >= LINK_COLUMNS
    assert {"connection", "slot", "holder", "lease_end"} <= columns("zoho_delink_slot")
    assert {"run_key", "status", "started_at", "finished_at", *Outcome} <= columns("zoho_delink_run")
    assert inspector.get_view_names() == ["zoho_delink_latest"]


def test_schema_is_created_once_and_its_version_recorded(ledger: Ledger, engine: sa.Engine) -> None:
    ledger.ensure_schema()

    assert schema.SCHEMA_VERSION == 1
    assert [row["version"] for row in rows_of(engine, tables.versions)] == [1]


def test_every_version_after_the_first_has_a_revision() -> None:
    assert sorted(schema.REVISIONS) == list(range(2, schema.SCHEMA_VERSION + 1))


def test_database_that_is_up_to_date_is_only_read(ledger: Ledger, engine: sa.Engine) -> None:
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    ledger.ensure_schema()

    assert statements
    assert [statement for statement in statements if "CREATE" in statement or "INSERT" in statement] == []


def test_newer_schema_is_refused(ledger: Ledger, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(tables.versions).values(version=2, applied_at=MOMENT, code_version="9"))

    with pytest.raises(
        ZohoConfigError, match=r"at schema version 2, .* versions up to 1: install the newer package"
    ):
        ledger.ensure_schema()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE zoho_delink_seal",
        "CREATE INDEX zoho_delink_audit_pair",
        "CREATE VIEW",
        "INSERT INTO zoho_delink_version",
    ],
    ids=["table", "index", "view", "version"],
)
def test_creation_interrupted_before_a_statement_is_resumed(engine: sa.Engine, statement: str) -> None:
    with pytest.raises(RuntimeError), _interrupted_before(engine, statement):
        Ledger(engine).ensure_schema()
    Ledger(engine).ensure_schema()

    inspector = sa.inspect(engine)
    indexes = {
        name: {index["name"] for index in inspector.get_indexes(name)} for name in inspector.get_table_names()
    }
    assert indexes == {
        table.name: {index.name for index in table.indexes} for table in tables.metadata.sorted_tables
    }
    assert inspector.get_view_names() == ["zoho_delink_latest"]
    assert [row["version"] for row in rows_of(engine, tables.versions)] == [1]


def test_older_schema_is_upgraded_revision_by_revision_and_keeps_its_rows(
    ledger: Ledger, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(ledger, pairs(3))

    def to_version_2(op: Operations) -> None:
        op.add_column("zoho_delink_run", sa.Column("a", sa.Integer))

    def to_version_3(op: Operations) -> None:
        op.execute("UPDATE zoho_delink_run SET a = 7")

    monkeypatch.setattr(schema, "SCHEMA_VERSION", 3)
    monkeypatch.setattr(schema, "REVISIONS", {2: to_version_2, 3: to_version_3})

    ledger.ensure_schema()
    ledger.ensure_schema()

    with engine.connect() as connection:
        stored = connection.exec_driver_sql("SELECT run_key, a FROM zoho_delink_run").all()
    assert stored == [(RUN, 7)]
    assert [row["version"] for row in rows_of(engine, tables.versions)] == [1, 2, 3]


def test_failed_revision_leaves_the_old_version(
    ledger: Ledger, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(op: Operations) -> None:
        op.execute("CREATE TABLE half_done (a INTEGER)")
        raise RuntimeError

    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(schema, "REVISIONS", {2: fails})

    with pytest.raises(RuntimeError):
        ledger.ensure_schema()

    assert [row["version"] for row in rows_of(engine, tables.versions)] == [1]
    # MySQL and MariaDB commit each statement that changes a table.
    assert sa.inspect(engine).has_table("half_done") == (engine.name == "mysql")


def test_error_that_does_not_go_away_is_raised(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SELECT no_such_function()")

    monkeypatch.setattr(schema, "_advance", refused)

    with pytest.raises(sa.exc.DBAPIError, match="no_such_function"):
        Ledger(engine).ensure_schema()


@pytest.mark.parametrize(
    ("query", "index"),
    [
        ("SELECT * FROM zoho_delink_audit WHERE pair_key = 'k' ORDER BY event_id", "zoho_delink_audit_pair"),
        ("SELECT outcome FROM zoho_delink_latest WHERE run_key = 'r'", "zoho_delink_audit_run"),
    ],
    ids=["history of a link", "latest of a run"],
)
def test_question_is_answered_through_an_index(sqlite_engine: sa.Engine, query: str, index: str) -> None:
    Ledger(sqlite_engine).ensure_schema()

    with sqlite_engine.connect() as connection:
        plan: list[Any] = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}").all()

    assert any(index in row.detail for row in plan)
    assert not any("TEMP B-TREE" in row.detail for row in plan)


def test_latest_row_is_of_the_latest_claim_whatever_the_clocks_say(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(1))
    drive(ledger, outcome=Outcome.UNKNOWN)
    drive(ledger, outcome=Outcome.REMOVED)
    with engine.begin() as connection:
        # As if the first worker's clock had been far ahead.
        connection.execute(
            sa.update(tables.audit)
            .where(tables.audit.c.claim_no == 1)
            .values(event_id="ffffffff-ffff-7fff-bfff-ffffffffffff")
        )

    with engine.connect() as connection:
        latest = connection.execute(sa.select(tables.latest.c.outcome, tables.latest.c.claim_no)).all()
    assert latest == [("removed", 2)]


@contextmanager
def _interrupted_before(engine: sa.Engine, start: str) -> Iterator[None]:
    """Fail, as if the process died, before the statement that begins so."""

    def interrupt(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.lstrip().startswith(start):
            raise RuntimeError

    sa.event.listen(engine, "before_cursor_execute", interrupt)
    try:
        yield
    finally:
        sa.event.remove(engine, "before_cursor_execute", interrupt)
