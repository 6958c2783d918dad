from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.plugins.zoho_crm.cli.conftest import check_golden
from tests.support.databases import AUDIT, set_connection
from tests.support.releases import LEAVES_GAPS

if TYPE_CHECKING:
    from tests.plugins.zoho_crm.cli.conftest import Cli, Jobs
    from tests.support.databases import Warehouse


SQL_FILE = "contacts_deals.yaml, line 10: source.sql_file: contacts_deals.sql"


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoho_crm.cli.check_job.current_time", lambda: datetime(2026, 11, 23, 12, tzinfo=UTC))


def test_valid_job_as_json(cli: Cli, jobs: Jobs) -> None:
    jobs.write(schedule="0 2 * * *", guards={"max_links": 500})
    document = cli.document("check-job", jobs.file)
    assert document["ok"] is True
    assert document["errors"] == []
    assert document["relation"] == "Contacts.External_Contact_ID -> Deals (Deals.External_Deal_ID)"
    assert document["guards"] == {
        "max_links": 500,
        "max_not_found_share": 0.5,
        "on_breach": "stop",
        "approvals": "on_breach",
        "approval_timeout": "1d",
        "forbid_self_approval": True,
    }
    assert document["next_windows"][0] == {
        "window_start": "2026-11-23T02:00:00Z",
        "window_end": "2026-11-24T02:00:00Z",
    }
    assert len(document["next_windows"]) == 3


def test_terminal_shows_tables_and_pipe_plain_lines(
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


def test_job_whose_runs_always_need_an_approval(cli: Cli, jobs: Jobs) -> None:
    jobs.write(
        guards={"max_links": 5, "approvals": "always", "forbid_self_approval": False, "may_raise": ["ada"]}
    )
    lines = cli("check-job", jobs.file).stdout.splitlines()
    assert "guards: max_links 5, max_not_found_share 0.5, may_raise ada" in lines
    assert "on a breach: the run stops" in lines
    assert "each run: approval within 1d" in lines
    assert "self-approval: allowed" in lines


def test_docs_show_the_output(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Path(__file__).parents[4]
    monkeypatch.chdir(project)
    command = "check-job include/jobs/contacts_deals.yaml"
    shown = f"$ zoho-delink {command}\n{cli(*command.split()).stdout}```\n"
    assert shown in (project / "docs" / "cli.md").read_text()


def test_says_what_automatic_runs_do(cli: Cli, jobs: Jobs) -> None:
    assert cli.document("check-job", jobs.file)["automatic"] == "dry_run"
    assert "automatic runs: dry run\n" in cli("check-job", jobs.file).stdout
    jobs.write(automatic="apply")
    assert cli.document("check-job", jobs.file)["automatic"] == "apply"
    assert "automatic runs: remove links\n" in cli("check-job", jobs.file).stdout


@pytest.mark.parametrize(
    ("guards", "max_links", "line"),
    [
        ({}, 1_000, "guards: max_links 1000 (the default), max_not_found_share 0.5\n"),
        ({"max_links": 20}, 20, "guards: max_links 20, max_not_found_share 0.5\n"),
        ({"max_links": None}, None, "guards: no limit of links, max_not_found_share 0.5\n"),
    ],
    ids=["default", "set", "null"],
)
def test_says_how_many_links_are_allowed_and_that_it_is_the_default(
    cli: Cli, jobs: Jobs, guards: dict[str, int | None], max_links: int | None, line: str
) -> None:
    jobs.write(guards=guards)
    document = cli.document("check-job", jobs.file)
    assert document["guards"].get("max_links") == max_links
    assert document["max_links_is_default"] is (guards == {})
    assert line in cli("check-job", jobs.file).stdout


def test_names_the_scopes_that_the_refresh_token_needs(cli: Cli, jobs: Jobs) -> None:
    scopes = cli.document("check-job", jobs.file)["scopes"]
    assert scopes[:2] == ["ZohoCRM.modules.contacts.READ", "ZohoCRM.modules.contacts.DELETE"]
    assert scopes[-1] == "ZohoCRM.org.READ"
    assert f"scopes: {', '.join(scopes)}\n" in cli("check-job", jobs.file).stdout


def test_names_of_approvers_are_an_error_where_user_ids_are_numbers(
    cli: Cli, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.write(guards={"on_breach": "approve", "approvers": [1, "ada"]})
    cli.document("check-job", jobs.file)
    fab = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
    monkeypatch.setenv("AIRFLOW__CORE__AUTH_MANAGER", fab)
    (error,) = cli.document("check-job", jobs.file, code=1)["errors"]
    assert error.startswith(
        "contacts_deals.yaml, line 3: guards.approvers: 'ada' is not a user ID: with the FAB auth manager"
    )


def test_warns_of_rows_before_the_first_window(cli: Cli, jobs: Jobs) -> None:
    jobs.write(schedule="0 2 * * *", start_date="2026-11-23")
    says = (
        "start_date lies between two times of the schedule: rows marked before 2026-11-23 02:00 UTC, where the first "
        "window starts, belong to no window; a manual run reads them"
    )
    document = cli.document("check-job", jobs.file)
    assert (document["ok"], document["warnings"]) == (True, [says])
    assert f"warning: {says}\n" in cli("check-job", jobs.file).stdout


def test_says_whether_late_rows_are_read(cli: Cli, jobs: Jobs) -> None:
    jobs.write(schedule="0 2 * * *")
    assert "lookback: none: rows that are committed after" in cli("check-job", jobs.file).stdout
    jobs.write(
        schedule="0 2 * * *",
        source={"conn_id": "warehouse", "sql_file": "contacts_deals.sql", "lookback": "6h"},
    )
    assert cli.document("check-job", jobs.file)["source"]["lookback"] == "6h"
    line = "lookback: scheduled and backfill runs read from 6h before their window\n"
    assert line in cli("check-job", jobs.file).stdout


def test_every_error_of_the_file_is_reported_and_exits_with_1(cli: Cli, jobs: Jobs) -> None:
    jobs.write(schedule="every night", chunk_size=0)
    document = cli.document("check-job", jobs.file, code=1)
    assert document["ok"] is False
    assert document["errors"] == [
        "contacts_deals.yaml, line 9: schedule: 'every night' has 2 fields; a cron expression has five: minute, hour, "
        "day of month, month, day of week",
        "contacts_deals.yaml, line 2: chunk_size: must be at least 1",
    ]
    result = cli("check-job", jobs.file)
    assert result.exit_code == 1
    assert "error: contacts_deals.yaml, line 2: chunk_size: " in result.stdout


def test_missing_file_is_a_usage_error(cli: Cli, jobs: Jobs) -> None:
    result = cli("check-job", jobs.folder / "nothing.yaml")
    assert result.exit_code == 2
    assert "does not exist" in result.stderr


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        (" \n", "is empty"),
        (
            "SELECT :today",
            "uses :today; a run has only :window_start and :window_end. Write a colon that is not a "
            "parameter as \\:",
        ),
        ("DELETE FROM pairs", "contains DELETE, but must only read: it must be one SELECT"),
        (
            "SELECT '{{ ds }}'",
            "has a template ({{), which is not rendered: use :window_start and :window_end",
        ),
    ],
    ids=["empty", "unknown parameter", "delete", "template"],
)
def test_unusable_sql_is_an_error(cli: Cli, jobs: Jobs, sql: str, error: str) -> None:
    jobs.write_sql(sql)
    assert cli.document("check-job", jobs.file, code=1)["errors"] == [f"{SQL_FILE} {error}"]


def test_jobs_without_cron_expression_have_no_next_windows(cli: Cli, jobs: Jobs) -> None:
    jobs.write(schedule={"asset": "links_to_remove"})
    document = cli.document("check-job", jobs.file)
    assert document["schedule"] == "whenever the asset 'links_to_remove' is updated"
    assert document["next_windows"] == []
    jobs.write(schedule=None)
    assert cli.document("check-job", jobs.file)["schedule"] == "none: manual runs only"


@pytest.mark.skipif(not LEAVES_GAPS, reason="Airflow 3.4 and later leave no gap")
def test_schedule_that_airflow_refuses_is_an_error(cli: Cli, jobs: Jobs) -> None:
    jobs.write(schedule="15,45 2 * * *", timezone="Europe/Berlin")
    (error,) = cli.document("check-job", jobs.file, code=1)["errors"]
    assert "leaves out a stretch of time when the clocks of Europe/Berlin change" in error


def test_sql_is_run_in_a_warehouse_that_is_defined_here(cli: Cli, jobs: Jobs, warehouse: Warehouse) -> None:
    document = cli.document("check-job", jobs.file)
    assert (document["ok"], document["errors"]) == (True, [])
    jobs.write_sql("SELECT external_id, related_external_id AS deal FROM pairs")
    assert cli.document("check-job", jobs.file, code=1)["errors"] == [
        f"{SQL_FILE} must yield the column related_external_id once; it yields: external_id, deal"
    ]
    jobs.write_sql("CHOOSE external_id FROM pairs")
    (error,) = cli.document("check-job", jobs.file, code=1)["errors"]
    assert error == (
        "contacts_deals.yaml, line 10: source.sql_file: the warehouse refuses contacts_deals.sql: "
        'near "FROM": syntax error'
    )


def test_says_which_connections_were_not_checked(
    cli: Cli, jobs: Jobs, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_WAREHOUSE")
    jobs.write(retention_conn_id="audit_retention")
    document = cli.document("check-job", jobs.file)
    assert document["not_checked"] == [
        "source.conn_id: connection 'warehouse' is not defined here",
        "zoho_conn_id: connection 'zoho_crm_default' is not defined here",
        "audit_conn_id: connection 'audit' is not defined here",
        "retention_conn_id: connection 'audit_retention' is not defined here",
    ]
    line = "warning: not checked: source.conn_id: connection 'warehouse' is not defined here\n"
    assert line in cli("check-job", jobs.file).stdout
    set_connection(monkeypatch, "warehouse", conn_type="sqlite", host="/nowhere/w.db")
    assert cli.document("check-job", jobs.file)["not_checked"][0] == (
        "The database of connection 'warehouse' (source.conn_id) cannot be reached: file /nowhere/w.db does not exist"
    )


def test_connections_of_another_type_are_errors(
    cli: Cli, jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_connection(monkeypatch, "warehouse", conn_type="http", host="x")
    set_connection(monkeypatch, "zoho_crm_default", conn_type="http", host="x")
    set_connection(monkeypatch, AUDIT, conn_type="nonsense", host="x")
    assert cli.document("check-job", jobs.file, code=1)["errors"] == [
        "contacts_deals.yaml: Connection 'warehouse' is not for a SQL database: use a connection type whose hook is a "
        "DbApiHook, such as postgres or sqlite",
        "contacts_deals.yaml: Connection 'zoho_crm_default' has the type http: it must have the type zoho_crm",
        "contacts_deals.yaml: Connection 'audit' has a type that Airflow does not know here: correct the type, or "
        "install its provider package",
    ]
