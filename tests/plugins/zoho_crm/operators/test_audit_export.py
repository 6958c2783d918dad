"""The copy of the audit in a warehouse: what is copied, copied again, and what its views say."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.support.databases import AUDIT, WAREHOUSE, Audit, connection_to, set_connection
from tests.support.ledger import MOMENT, RUN, TARGET, drive, pairs, planned, run_start, settle, take
from tests.support.operators import context
from zoho_crm.audit_export import AuditExport
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger import tables
from zoho_crm.ledger.link_queries import LinkQueries
from zoho_crm.ledger.pseudonymize import BATCH_LINKS, Pseudonymizer
from zoho_crm.ledger.run_queries import RunQueries
from zoho_crm.operators.audit_tasks import ExportAuditOperator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zoho_crm.ledger.ledger import Ledger

VIEWS = ("link_outcomes", "latest_per_link", "errors_by_reason", "links_per_day")


@pytest.fixture
def warehouse(
    request: pytest.FixtureRequest, audit: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Audit]:
    """An empty database of the same kind, and the connection to it."""
    with ExitStack() as stack:
        url = sa.URL.create("sqlite", database=str(tmp_path / "warehouse.db"))
        if audit.engine.name == "postgresql":
            server = request.getfixturevalue("postgres_server")
            url = server.url(stack.enter_context(server.database()), "psycopg2")
        set_connection(monkeypatch, WAREHOUSE, **connection_to(url))
        warehouse = Audit(url)
        yield warehouse
        warehouse.engine.dispose()


@pytest.fixture
def ledger(audit: Audit) -> Ledger:
    """Two finished runs of three links, and one that has not finished."""
    ledger = audit.ledger()
    for name, outcome in {"first": Outcome.FAILED, "second": Outcome.REMOVED}.items():
        planned(ledger, pairs(3), run_key=name)
        drive(ledger, run_key=name, outcome=outcome)
        finish(ledger, name, MOMENT)
    planned(ledger, pairs(3), run_key="running")
    drive(ledger, run_key="running")
    return ledger


def finish(ledger: Ledger, run_key: str, moment: datetime, status: str = "succeeded") -> None:
    ledger.runs.finish(run_key, status=status, detail=None, finished_at=moment)


def export(**options: Any) -> dict[str, int]:
    task = ExportAuditOperator(task_id="export", audit_conn_id=AUDIT, warehouse_conn_id=WAREHOUSE, **options)
    result: dict[str, int] = task.execute(context("export"))
    return result


def count(warehouse: Audit, name: str) -> int:
    return len(warehouse.rows(f"zoho_delink_{name}", "1"))


def test_finished_runs_are_copied_once(audit: Audit, warehouse: Audit, ledger: Ledger) -> None:
    assert export() == {"runs": 2, "rows": 6}
    assert export() == {"runs": 0, "rows": 0}

    runs = warehouse.rows("zoho_delink_runs", "run_key")
    assert [(run["run_key"], run["audit_conn_id"], run["planned"]) for run in runs] == [
        ("first", AUDIT, 3),
        ("second", AUDIT, 3),
    ]
    events = warehouse.rows("zoho_delink_link_events", "event_id")
    original = {row["event_id"]: row for row in audit.events() if row["run_key"] != "running"}
    assert [event["event_id"] for event in events] == list(original)
    for event in events:
        assert {name: event[name] for name in original[event["event_id"]]} == original[event["event_id"]]
        assert str(event["finished_on"]) == "2026-07-01"


def test_run_that_ended_again_replaces_its_copy(warehouse: Audit, ledger: Ledger) -> None:
    export()
    finish(ledger, "first", MOMENT + timedelta(hours=1), status="partial")
    finish(ledger, "running", MOMENT + timedelta(hours=2))

    assert export() == {"runs": 2, "rows": 6}
    assert (count(warehouse, "runs"), count(warehouse, "link_events")) == (3, 9)


def test_cleared_run_with_the_same_counts_replaces_its_copy(warehouse: Audit, ledger: Ledger) -> None:
    export()
    drive(ledger, run_key="first", outcome=Outcome.FAILED)
    finish(ledger, "first", MOMENT + timedelta(hours=1))
    assert export() == {"runs": 1, "rows": 6}

    finish(ledger, "first", MOMENT + timedelta(hours=2))
    assert export() == {"runs": 0, "rows": 0}


def test_ids_that_retention_replaced_are_replaced_in_the_copy(warehouse: Audit, ledger: Ledger) -> None:
    export()
    assert ledger.retention.pseudonymize("first") == 3

    assert export() == {"runs": 1, "rows": 3}
    hashed = {
        row["run_key"]
        for row in warehouse.rows("zoho_delink_link_events", "1")
        if row["external_id"].startswith("sha256:")
    }
    assert hashed == {"first"}


def test_run_that_retention_has_begun_waits_for_its_end(
    audit: Audit, warehouse: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if retention ends days later: no ID stays in the copy."""
    ledger = audit.ledger()
    planned(ledger, pairs(BATCH_LINKS + 1), chunk_size=1000)
    drive(ledger)
    finish(ledger, RUN, MOMENT)
    replace_batch = Pseudonymizer._replace_batch
    with monkeypatch.context() as patch:
        patch.setattr(Pseudonymizer, "_replace_batch", lambda *of: replace_batch(*of) and None)
        ledger.retention.pseudonymize(RUN)
    planned(ledger, pairs(1), run_key="other")
    drive(ledger, run_key="other")
    finish(ledger, "other", datetime.now(UTC) + timedelta(days=3))

    assert export() == {"runs": 1, "rows": 1}
    assert ledger.retention.pseudonymize(RUN) == 1
    assert export() == {"runs": 1, "rows": BATCH_LINKS + 1}
    events = warehouse.rows("zoho_delink_link_events", "1")
    assert {row["external_id"].startswith("sha256:") for row in events if row["run_key"] == RUN} == {True}


def test_end_by_a_clock_that_was_ahead_hides_no_later_run(warehouse: Audit, ledger: Ledger) -> None:
    finish(ledger, "first", datetime.now(UTC) + timedelta(days=40), status="partial")
    export()
    finish(ledger, "running", datetime.now(UTC))

    assert export() == {"runs": 1, "rows": 3}


def test_copy_that_broke_off_is_completed(warehouse: Audit, ledger: Ledger) -> None:
    """A warehouse without transactions may keep a part of a run."""
    export()
    with warehouse.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM zoho_delink_runs WHERE run_key = 'second'")
        connection.exec_driver_sql("DELETE FROM zoho_delink_link_events WHERE run_key = 'second' AND seq > 0")

    assert export() == {"runs": 1, "rows": 3}
    assert (count(warehouse, "runs"), count(warehouse, "link_events")) == (2, 6)


def test_failure_in_the_middle_leaves_whole_runs(
    warehouse: Audit, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    insert = AuditExport._insert

    def broken(self: AuditExport, connection: sa.Connection, table: sa.Table, rows: list[Any]) -> None:
        insert(self, connection, table, rows)
        if rows[0]["run_key"] == "second":
            raise ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(AuditExport, "_insert", broken)
        with pytest.raises(ConnectionError):
            export()
    assert (count(warehouse, "runs"), count(warehouse, "link_events")) == (1, 3)

    assert export() == {"runs": 1, "rows": 3}


def test_views_count_each_link_once(warehouse: Audit, ledger: Ledger) -> None:
    planned(ledger, pairs(3), run_key="retried")
    claim = ledger.claims.claim("retried", 0, "a try")
    settle(ledger, claim, take(ledger, claim, 3)[:1], Outcome.FAILED)
    drive(ledger, run_key="retried")
    finish(ledger, "retried", MOMENT)
    export()

    assert {view: count(warehouse, view) for view in VIEWS} == {
        "link_outcomes": 9,
        "latest_per_link": 3,
        "errors_by_reason": 1,
        "links_per_day": 2,
    }
    (errors,) = warehouse.rows("zoho_delink_errors_by_reason", "1")
    assert (errors["outcome"], errors["links"]) == ("failed", 3)
    assert [
        (day["outcome"], day["links"]) for day in warehouse.rows("zoho_delink_links_per_day", "outcome")
    ] == [
        ("failed", 3),
        ("removed", 6),
    ]


def test_two_audit_databases_share_a_warehouse(warehouse: Audit, ledger: Ledger) -> None:
    export()
    other = AuditExport(warehouse.engine, "other")
    other.create()
    run = RunQueries(ledger.engine).finished_row("first")

    assert run is not None
    assert other.versions() == {}
    other.replace_run(run, [])
    assert (count(warehouse, "runs"), count(warehouse, "link_events")) == (3, 6)


def test_column_of_a_later_version_is_added_to_tables_and_views(warehouse: Audit, ledger: Ledger) -> None:
    export()
    with warehouse.engine.begin() as connection:
        for view in VIEWS:
            connection.exec_driver_sql(f"DROP VIEW zoho_delink_{view}")
        connection.exec_driver_sql("ALTER TABLE zoho_delink_link_events DROP COLUMN zoho_code")
        connection.exec_driver_sql("CREATE VIEW zoho_delink_link_outcomes AS SELECT 1 AS a")

    finish(ledger, "running", datetime.now(UTC))
    assert export()["runs"] == 1
    assert "zoho_code" in warehouse.rows("zoho_delink_link_outcomes", "1")[0]


def test_view_is_created_again_only_if_its_query_has_changed(
    warehouse: Audit, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        views = AuditExport._views
        older = {"zoho_delink_links_per_day": sa.select(sa.literal(1).label("old"))}
        patch.setattr(AuditExport, "_views", lambda self: views(self) | older)
        export()
    created: list[str] = []

    def record(*of: Any) -> None:
        if of[2].startswith("CREATE VIEW"):
            created.append(of[2].split()[2])

    sa.event.listen(sa.Engine, "before_cursor_execute", record)
    try:
        for _twice in range(2):
            export()
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", record)

    assert "old" not in warehouse.rows("zoho_delink_links_per_day", "1")[0]
    assert created == ["zoho_delink_links_per_day"]


def test_same_link_in_two_organizations_is_two_links(warehouse: Audit, audit: Audit) -> None:
    ledger = audit.ledger()
    places = {"main": ("1", "production"), "other": ("2", "production"), "test": ("1", "sandbox")}
    for run_key, (org_id, environment) in places.items():
        target = replace(TARGET, org_id=org_id)
        ledger.runs.start(run_start(run_key, target=target, environment=environment))
        planned(ledger, pairs(1), run_key=run_key)
        claim = ledger.claims.claim(run_key, 0, "a try")
        settle(ledger, claim, take(ledger, claim, 1), target=target)
        finish(ledger, run_key, MOMENT)
    export()

    for view in ("latest_per_link", "links_per_day"):
        found = warehouse.rows(f"zoho_delink_{view}", "org_id, environment")
        assert [(row["org_id"], row["environment"]) for row in found] == [
            ("1", "production"),
            ("1", "sandbox"),
            ("2", "production"),
        ]


def test_schema_is_used(warehouse: Audit, ledger: Ledger) -> None:
    if warehouse.engine.name == "sqlite":
        pytest.skip("SQLite has no schemas")
    with warehouse.engine.begin() as connection:
        connection.exec_driver_sql("CREATE SCHEMA reports")
    assert export(schema="reports") == {"runs": 2, "rows": 6}
    assert export(schema="reports") == {"runs": 0, "rows": 0}
    with warehouse.engine.connect() as connection:
        assert connection.scalar(sa.text("SELECT count(*) FROM reports.zoho_delink_latest_per_link")) == 3


def test_warehouse_without_sql_is_refused(
    audit: Audit, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW_CONN_WEB", "http://127.0.0.1")
    task = ExportAuditOperator(task_id="export", audit_conn_id=AUDIT, warehouse_conn_id="web")
    with pytest.raises(ZohoConfigError, match="is not for a SQL database"):
        task.execute(context("export"))


@pytest.mark.systems
def test_warehouse_without_row_locks(ledger: Ledger, tmp_path: Path) -> None:
    duckdb = sa.create_engine(f"duckdb:///{tmp_path / 'warehouse.duckdb'}")
    export = AuditExport(duckdb, AUDIT)
    runs, rows = RunQueries(ledger.engine), LinkQueries(ledger.engine)
    for _twice in range(2):
        export.create()
        for run_key in runs.finished_versions():
            if run := runs.finished_row(run_key):
                export.replace_run(run, rows.audit_rows(run_key, only_latest=False))
    with duckdb.connect() as connection:
        found = connection.execute(
            sa.text("SELECT outcome, links FROM zoho_delink_links_per_day ORDER BY outcome")
        )
        assert [tuple(row) for row in found] == [("failed", 3), ("removed", 3)]
        assert export.versions() == runs.finished_versions()
    duckdb.dispose()


def test_many_rows_are_copied_in_batches(audit: Audit, warehouse: Audit) -> None:
    ledger = audit.ledger()
    planned(ledger, pairs(1000), chunk_size=1000)
    drive(ledger)
    with audit.engine.begin() as connection:
        connection.execute(sa.update(tables.runs).values(status="succeeded", finished_at=MOMENT))
    assert export() == {"runs": 1, "rows": 1000}
    assert count(warehouse, "link_events") == 1000
