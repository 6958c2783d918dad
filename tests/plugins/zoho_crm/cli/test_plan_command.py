from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.support.databases import AUDIT, Audit, Warehouse, set_connection
from tests.support.operators import pairs
from zoho_crm.core.links import Relation
from zoho_crm.core.models import Origin, RunStart, Target

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugins.zoho_crm.cli.conftest import Cli, Jobs

DAY = ("2026-11-21T00:00", "2026-11-22T00:00")
RELATION = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "zoho_crm.cli.plan_command.current_time", lambda: datetime(2026, 11, 23, 12, tzinfo=UTC)
    )


@pytest.fixture
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_counts_are_those_of_a_run(
    cli: Cli, jobs: Jobs, warehouse: Warehouse, own_temporary_folder: Path
) -> None:
    warehouse.add([*pairs(12), *pairs(3), ("c-1", None), ("", "d-1"), (" ", "d-2"), ("..", "d-3")])
    warehouse.add(pairs(5, start=50), at="2026-11-22 00:00:00.000000")
    jobs.write(chunk_size=5)
    document = cli.document("plan", "contacts_deals", "--window", *DAY, "--sample", 3)
    assert {
        name: document[name] for name in ("source_rows", "distinct", "duplicates", "invalid", "sendable")
    } == {
        "source_rows": 19,
        "distinct": 16,
        "duplicates": 3,
        "invalid": 4,
        "sendable": 12,
    }
    assert document["chunks"] == 3
    assert document["invalid_by_reason"]["external_id is blank"] == 2
    assert sum(document["invalid_by_reason"].values()) == 4
    assert len(document["sample"]) == 3
    assert {(one["external_id"], one["related_external_id"]) for one in document["sample"]} <= set(pairs(12))
    assert document["window_start"] == "2026-11-21T00:00:00Z"
    assert document["guards"] == (
        "passed: 16 links planned, 1000 allowed by default (the job file does not set guards.max_links)"
    )
    assert list(own_temporary_folder.iterdir()) == []


def test_all_takes_everything_up_to_now(cli: Cli, jobs: Jobs, warehouse: Warehouse) -> None:
    warehouse.add(pairs(2), at="2020-01-01 00:00:00.000000")
    warehouse.add(pairs(2, start=2), at="2026-11-23 11:59:59.999999")
    warehouse.add(pairs(2, start=4), at="2026-11-23 12:00:00.000000")
    assert cli.document("plan", "contacts_deals", "--all")["distinct"] == 4
    assert (
        "window: everything before 2026-11-23 12:00:00 UTC" in cli("plan", "contacts_deals", "--all").stdout
    )


def test_breach_exits_with_1_and_shows_what_a_run_would_do(
    cli: Cli, jobs: Jobs, warehouse: Warehouse
) -> None:
    warehouse.add(pairs(6))
    jobs.write(
        guards={
            "max_links": 5,
            "max_share": 0.5,
            "baseline_sql_file": "known.sql",
            "freshness_sql_file": "fresh.sql",
            "max_source_age": "1h",
        }
    )
    jobs.write_sql("SELECT 8", "known")
    jobs.write_sql("SELECT '2026-11-23T09:00:00'", "fresh")
    document = cli.document("plan", "contacts_deals", "--window", *DAY, code=1)
    assert document["ok"] is False
    assert document["baseline_links"] == 8
    assert document["source_as_of"] == "2026-11-23T09:00:00Z"
    assert len(document["breaches"]) == 3
    result = cli("plan", "contacts_deals", "--window", *DAY)
    assert result.exit_code == 1
    assert "error: 6 links planned, 5 allowed" in result.stdout
    assert "A run would stop before sending anything." in result.stdout
    jobs.write(guards={"max_links": 5, "on_breach": "approve"})
    assert "A run would wait for an approval." in cli("plan", "contacts_deals", "--window", *DAY).stdout
    jobs.write(guards={"max_links": 5, "approvals": "always"})
    assert (
        "A run would stop before sending anything." in cli("plan", "contacts_deals", "--window", *DAY).stdout
    )
    jobs.write(guards={"approvals": "always"})
    result = cli("plan", "contacts_deals", "--window", *DAY)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "A run would wait for an approval.")


def test_max_jump_uses_the_runs_in_the_audit(
    cli: Cli, jobs: Jobs, warehouse: Warehouse, audit: Audit
) -> None:
    warehouse.add(pairs(9))
    jobs.write(guards={"max_jump": 2})
    ledger = audit.ledger()
    for number in range(3):
        origin = Origin(dag_id="d", dag_run_id=f"r{number}", run_type="scheduled", task_id="plan")
        target = Target(RELATION, data_center="us", api_version="v7")
        ledger.runs.start(RunStart(f"r{number}", "contacts_deals", origin, target, mode="apply"))
        ledger.plans.create(
            f"r{number}", RELATION, pairs(4), chunk_size=9, max_chunks=9, origin=origin, target=target
        )
        ledger.runs.finish(f"r{number}", status="succeeded", detail=None, finished_at=datetime.now(UTC))
    before = {table: audit.rows(table, "1") for table in ("zoho_delink_run", "zoho_delink_link")}
    document = cli.document("plan", "contacts_deals", "--window", *DAY, code=1)
    assert document["breaches"] == ["9 links planned, 2 times the median of the last 3 runs (4) allowed"]
    assert {table: audit.rows(table, "1") for table in before} == before
    ledger.close()


def test_max_jump_is_skipped_before_the_first_run(
    cli: Cli, jobs: Jobs, warehouse: Warehouse, audit: Audit
) -> None:
    audit.engine.connect().close()
    warehouse.add(pairs(9))
    jobs.write(guards={"max_jump": 2})
    assert "too few" in cli.document("plan", "contacts_deals", "--window", *DAY)["guards"]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), "either --window START END or --all"),
        (("--all", "--window", *DAY), "either --window START END or --all"),
        (("--window", "2026-11-22T00:00", "2026-11-21T00:00"), "window_end: must lie after window_start"),
        (("--window", "yesterday", "2026-11-21T00:00"), "window_start: 'yesterday' is not a time"),
    ],
    ids=["neither", "both", "backwards", "no time"],
)
def test_invalid_window_is_a_usage_error(
    cli: Cli, jobs: Jobs, warehouse: Warehouse, args: tuple[str, ...], said: str
) -> None:
    result = cli("plan", "contacts_deals", *args)
    assert result.exit_code == 2
    assert said in result.stderr


def test_unknown_job_is_a_usage_error(cli: Cli, jobs: Jobs) -> None:
    result = cli("plan", "nothing", "--all")
    assert result.exit_code == 2
    assert "there is no job 'nothing'; there are: contacts_deals" in result.stderr


def test_sql_that_the_warehouse_refuses_is_a_usage_error(cli: Cli, jobs: Jobs, warehouse: Warehouse) -> None:
    jobs.write_sql("SELECT unheard_of FROM pairs")
    result = cli("plan", "contacts_deals", "--all")
    assert result.exit_code == 2
    assert "no such column: unheard_of" in result.stderr


def test_unreachable_warehouse_exits_with_3(
    cli: Cli, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_connection(monkeypatch, "warehouse", conn_type="postgres", host=str(tmp_path), schema="x", login="x")
    result = cli("plan", "contacts_deals", "--all")
    assert result.exit_code == 3
    assert "The database of connection 'warehouse' (source.conn_id) cannot be reached" in result.stderr


def test_control_characters_in_ids_are_escaped(cli: Cli, jobs: Jobs, warehouse: Warehouse) -> None:
    warehouse.add([("c-\u20281", "d-[red]1[/red]")])
    shown = cli("plan", "contacts_deals", "--window", *DAY, terminal=True).stdout
    assert "\u2028" not in shown
    assert "c-\\u20281" in shown
    assert "d-[red]1[/red]" in shown


def test_audit_database_is_not_needed_without_max_jump(cli: Cli, jobs: Jobs, warehouse: Warehouse) -> None:
    warehouse.add(pairs(1))
    jobs.write(audit_conn_id=f"{AUDIT}_missing")
    assert cli.document("plan", "contacts_deals", "--window", *DAY)["distinct"] == 1


@pytest.mark.parametrize("conn_type", ["unheard_of", "http"])
def test_connection_without_a_database_is_a_usage_error(
    cli: Cli, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, conn_type: str
) -> None:
    set_connection(monkeypatch, "warehouse", conn_type=conn_type, host="127.0.0.1")
    result = cli("plan", "contacts_deals", "--all")
    assert result.exit_code == 2
    assert "onnection 'warehouse'" in result.stderr
