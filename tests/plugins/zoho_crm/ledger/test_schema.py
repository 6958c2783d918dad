from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.plugins.zoho_crm.ledger.samples import MOMENT, RUN, drive, pairs, planned, rows_of
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger import schema, tables
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from pathlib import Path

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


def test_schema_is_made_once_and_noted(ledger: Ledger, engine: sa.Engine) -> None:
    ledger.ensure_schema()

    assert [row["version"] for row in rows_of(engine, tables.versions)] == [schema.SCHEMA_VERSION]


def test_database_that_is_up_to_date_is_only_read(ledger: Ledger, engine: sa.Engine) -> None:
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))

    ledger.ensure_schema()

    assert [statement for statement in statements if "CREATE" in statement or "INSERT" in statement] == []


def test_newer_schema_is_refused(ledger: Ledger, engine: sa.Engine) -> None:
    _note(engine, schema.SCHEMA_VERSION + 1)

    with pytest.raises(ZohoConfigError, match="install the newer package"):
        ledger.ensure_schema()


def test_older_schema_is_brought_forward_step_by_step_and_keeps_its_rows(
    ledger: Ledger, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(ledger, pairs(3))
    steps = {
        4: lambda connection: connection.exec_driver_sql("ALTER TABLE zoho_delink_run ADD COLUMN a INTEGER"),
        5: lambda connection: connection.exec_driver_sql("UPDATE zoho_delink_run SET a = 7"),
    }
    monkeypatch.setattr(schema, "SCHEMA_VERSION", 5)
    monkeypatch.setattr(schema, "MIGRATIONS", steps)

    ledger.ensure_schema()
    ledger.ensure_schema()

    with engine.connect() as connection:
        stored = connection.exec_driver_sql("SELECT run_key, a FROM zoho_delink_run").all()
    assert stored == [(RUN, 7)]
    assert [row["version"] for row in rows_of(engine, tables.versions)] == [3, 4, 5]


def test_failed_step_leaves_the_old_version(
    ledger: Ledger, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(connection: sa.Connection) -> None:
        connection.exec_driver_sql("CREATE TABLE half_done (a INTEGER)")
        raise RuntimeError

    monkeypatch.setattr(schema, "SCHEMA_VERSION", 4)
    monkeypatch.setattr(schema, "MIGRATIONS", {4: fails})

    with pytest.raises(RuntimeError):
        ledger.ensure_schema()

    assert [row["version"] for row in rows_of(engine, tables.versions)] == [3]
    # Where the database commits whatever changes a table by itself, the step goes on from there when it is tried again.
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
def test_question_is_answered_through_an_index(tmp_path: Path, query: str, index: str) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'ledger.db'}")
    Ledger(engine).ensure_schema()

    with engine.connect() as connection:
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


def _note(engine: sa.Engine, version: int) -> None:
    with engine.begin() as connection:
        connection.execute(
            sa.insert(tables.versions).values(version=version, applied_at=MOMENT, code_version="9")
        )
