from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.plugins.zoho_crm.cli.conftest import check_golden
from tests.plugins.zoho_crm.operators.world import WAREHOUSE, Warehouse, connection_to, set_connection
from zoho_crm.cli import schedule
from zoho_crm.cli.explain import check_one_select
from zoho_crm.errors import PlanError

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugins.zoho_crm.cli.conftest import Cli, Jobs
    from tests.postgres import PostgresServer


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schedule, "current_time", lambda: datetime(2026, 11, 23, 12, tzinfo=UTC))


def test_a_job_that_can_be_used_is_told_as_json(cli: Cli, jobs: Jobs) -> None:
    jobs.write(schedule="0 2 * * *", guards={"max_links": 500})
    document = cli.document("check-job", jobs.file)
    assert document["fine"] is True
    assert document["faults"] == []
    assert document["relation"] == "Contacts.External_Contact_ID -> Deals (Deals.External_Deal_ID)"
    assert document["guards"] == {"max_links": 500, "on_breach": "stop", "approval_timeout": "1d"}
    assert document["next_windows"][0] == {
        "window_start": "2026-11-23T02:00:00Z",
        "window_end": "2026-11-24T02:00:00Z",
    }
    assert len(document["next_windows"]) == 3


def test_a_terminal_shows_a_table_and_a_pipe_shows_plain_lines(
    cli: Cli, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.write(
        schedule="30 1 * * *",
        timezone="Europe/Berlin",
        description="Take contacts off deals they no longer belong to",
        guards={"max_links": 500, "on_breach": "approve", "approvers": ["ada", "grace"]},
    )
    monkeypatch.chdir(tmp_path)
    for name, terminal in (("check_job.terminal.txt", True), ("check_job.pipe.txt", False)):
        check_golden(name, cli("check-job", "include/jobs/contacts_deals.yaml", terminal=terminal).stdout)


def test_every_fault_of_the_file_is_told_and_ends_with_1(cli: Cli, jobs: Jobs) -> None:
    jobs.write(schedule="every night", chunk_size=0)
    document = cli.document("check-job", jobs.file, code=1)
    assert document["fine"] is False
    assert document["faults"] == [
        "contacts_deals.yaml: schedule: 'every night' is not a cron expression of five fields",
        "contacts_deals.yaml: chunk_size: Input should be greater than or equal to 1",
    ]
    result = cli("check-job", jobs.file)
    assert result.exit_code == 1
    assert "wrong: contacts_deals.yaml: chunk_size: " in result.stdout


def test_a_file_that_is_not_there_is_wrong_use(cli: Cli, jobs: Jobs) -> None:
    result = cli("check-job", jobs.folder / "nothing.yaml")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


@pytest.mark.parametrize(
    ("sql", "fault"),
    [
        (" \n", "source.sql_file is empty"),
        ("SELECT :today", "source.sql_file uses :today; a run has only :window_start and :window_end"),
    ],
    ids=["empty", "unknown parameter"],
)
def test_sql_that_no_run_could_use_is_a_fault(cli: Cli, jobs: Jobs, sql: str, fault: str) -> None:
    jobs.write_sql(sql)
    assert cli.document("check-job", jobs.file, code=1)["faults"] == [fault]


def test_an_asset_and_a_job_by_hand_have_no_next_windows(cli: Cli, jobs: Jobs) -> None:
    jobs.write(schedule={"asset": "links_to_remove"})
    document = cli.document("check-job", jobs.file)
    assert document["schedule"] == "whenever the asset 'links_to_remove' is updated"
    assert document["next_windows"] == []
    jobs.write(schedule=None)
    assert cli.document("check-job", jobs.file)["schedule"] == "none: by hand and by backfill only"


def test_sqlite_is_asked_for_its_plan_and_runs_nothing(cli: Cli, jobs: Jobs, warehouse: Warehouse) -> None:
    warehouse.add([("c-1", "d-1")])
    (plan,) = cli.document("check-job", jobs.file, "--explain")["plans"]
    assert plan["field"] == "source.sql_file"
    assert plan["dialect"] == "sqlite"
    assert plan["lines"] == ["SCAN pairs"]


@pytest.mark.integration
@pytest.mark.parametrize("driver", ["psycopg", "psycopg2"])
def test_postgresql_is_asked_for_its_plan_and_runs_nothing(
    cli: Cli, jobs: Jobs, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch, driver: str
) -> None:
    with postgres_server.database() as name:
        url = postgres_server.url(name)
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "CREATE TABLE pairs (external_id text, related_external_id text, marked_at timestamptz)"
            )
            connection.exec_driver_sql("CREATE SEQUENCE touched")
        connection_values = connection_to(url)
        connection_values["extra"]["sqlalchemy_scheme"] = f"postgresql+{driver}"
        set_connection(monkeypatch, WAREHOUSE, **connection_values)
        jobs.write_sql(
            "-- what is to go\nSELECT external_id, related_external_id, nextval('touched') FROM pairs\n"
            "WHERE marked_at >= :window_start AND marked_at < :window_end;\n"
        )
        (plan,) = cli.document("check-job", jobs.file, "--explain")["plans"]
        assert plan["dialect"] == "postgresql"
        assert "Seq Scan on pairs" in "".join(plan["lines"])
        jobs.write_sql("ANALYZE SELECT nextval('touched')")
        (fault,) = cli.document("check-job", jobs.file, "--explain", code=1)["faults"]
        assert fault == "source.sql_file: contacts_deals.sql: it must begin with SELECT or WITH"
        with engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT is_called FROM touched").scalar() is False
        engine.dispose()


def test_sql_that_the_warehouse_refuses_is_a_fault(cli: Cli, jobs: Jobs, warehouse: Warehouse) -> None:
    warehouse.drop()
    document = cli.document("check-job", jobs.file, "--explain", code=1)
    assert document["faults"] == [
        "source.sql_file: contacts_deals.sql: the database refuses it: no such table: pairs"
    ]


def test_every_sql_of_the_guards_is_asked_about(cli: Cli, jobs: Jobs, warehouse: Warehouse) -> None:
    jobs.write(guards={"max_share": 0.1, "baseline_sql_file": "known.sql"})
    jobs.write_sql("SELECT count(*) FROM pairs", "known")
    plans = cli.document("check-job", jobs.file, "--explain")["plans"]
    assert [plan["field"] for plan in plans] == ["source.sql_file", "guards.baseline_sql_file"]


def test_a_dialect_without_a_known_way_says_so(
    cli: Cli, jobs: Jobs, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoho_crm.cli.explain._FORMS", {})
    result = cli("check-job", jobs.file, "--explain")
    assert result.exit_code == 0
    assert "We know no way to ask sqlite for a plan without running the statement." in result.stdout


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM pairs",
        "ANALYZE SELECT 1",
        "(ANALYZE) SELECT 1",
        "-- a comment\nDROP TABLE pairs",
        "SELECT 1; DROP TABLE pairs",
        "SELECT 1;; COMMIT; DROP TABLE pairs",
        "/* SELECT */ UPDATE pairs SET external_id = 1",
        "",
    ],
)
def test_what_is_not_one_select_is_not_explained(sql: str) -> None:
    with pytest.raises(PlanError):
        check_one_select(sql)


@pytest.mark.parametrize(
    "sql", ["SELECT ';' FROM a;\n", "with x as (select 1) select * from x", "-- a; b\nSELECT 1 ;"]
)
def test_one_select_is_one_select_whatever_its_text_holds(sql: str) -> None:
    check_one_select(sql)


def test_a_connection_that_nobody_has_is_wrong_use(
    cli: Cli, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(f"AIRFLOW_CONN_{WAREHOUSE.upper()}", raising=False)
    result = cli("check-job", jobs.file, "--explain")
    assert result.exit_code == 2
    assert (
        "There is no connection 'warehouse' (source.conn_id): neither AIRFLOW_CONN_WAREHOUSE" in result.stderr
    )


def test_a_warehouse_that_is_away_ends_with_3(
    cli: Cli, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_connection(monkeypatch, WAREHOUSE, conn_type="sqlite", host=str(tmp_path / "away.db"))
    result = cli("check-job", jobs.file, "--explain", "--json")
    assert result.exit_code == 3
    told: dict[str, Any] = json.loads(result.stdout)
    assert told["exit_code"] == 3
    assert "cannot be reached: there is no file" in told["error"]
    assert not (tmp_path / "away.db").exists()


def test_a_schedule_that_airflow_would_refuse_is_a_fault(cli: Cli, jobs: Jobs) -> None:
    jobs.write(schedule="15,45 2 * * *", timezone="Europe/Berlin")
    (fault,) = cli.document("check-job", jobs.file, code=1)["faults"]
    assert "leaves out a stretch of time when the clocks of Europe/Berlin change" in fault
