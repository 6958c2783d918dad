"""Plans from a real warehouse into a real ledger."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest

from tests.support.operators import context, jobs_folder, make_job, pairs
from zoho_crm.errors import PlanError, ZohoConfigError
from zoho_crm.ledger.run_queries import RunQueries
from zoho_crm.operators.plan_links import PlanLinksOperator
from zoho_crm.telemetry import log_plan

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.databases import Audit, Warehouse
    from zoho_crm.core.job import Job
    from zoho_crm.core.models import ChunkRef

DAY = (datetime(2026, 11, 21, 2, tzinfo=UTC), datetime(2026, 11, 22, 2, tzinfo=UTC))


@pytest.fixture(autouse=True)
def tables(audit: Audit) -> None:
    audit.ledger()


def plan(sql_path: Path, job: Job | None = None, **in_context: Any) -> list[ChunkRef]:
    return PlanLinksOperator(
        task_id="plan", job=job or make_job(), jobs_folder=jobs_folder(sql_path)
    ).execute(context("plan", **in_context))


def test_only_references_to_chunks_come_back(audit: Audit, warehouse: Warehouse, sql_path: Path) -> None:
    warehouse.add(pairs(25))
    chunks = plan(sql_path, make_job(chunk_size=10))
    assert [(chunk["chunk_no"], chunk["links"]) for chunk in chunks] == [(0, 10), (1, 10), (2, 5)]
    assert [chunk["label"] for chunk in chunks] == [
        "1/3 from c-00000",
        "2/3 from c-00010",
        "3/3 from c-00020",
    ]
    assert {key for chunk in chunks for key in chunk} == {"run_key", "chunk_no", "links", "label"}


def test_a_window_is_half_open(audit: Audit, warehouse: Warehouse, sql_path: Path) -> None:
    for number, at in enumerate(
        (
            "2026-11-21 01:59:59.999999",
            "2026-11-21 02:00:00.000000",
            "2026-11-22 01:59:59.999999",
            "2026-11-22 02:00:00.000000",
        )
    ):
        warehouse.add(pairs(1, start=number), at=at)
    plan(sql_path, make_job(automatic="apply"), run_type="scheduled", interval=DAY)
    assert [row["external_id"] for row in audit.links()] == ["c-00001", "c-00002"]
    stored = audit.ledger().runs.get(audit.run()["run_key"])
    assert stored is not None
    assert (stored.window_start, stored.window_end, stored.mode) == (*DAY, "apply")


@pytest.mark.parametrize(
    ("params", "mode"),
    [({}, "dry_run"), ({"mode": "apply"}, "apply")],
    ids=["automatic", "with the mode in its configuration"],
)
@pytest.mark.parametrize("run_type", ["scheduled", "backfill", "asset_triggered"])
def test_an_automatic_run_is_dry_unless_job_or_configuration_says_apply(
    audit: Audit,
    warehouse: Warehouse,
    sql_path: Path,
    run_type: str,
    params: dict[str, str],
    mode: str,
) -> None:
    warehouse.add(pairs(1), at="2026-11-21 03:00:00")
    plan(sql_path, run_type=run_type, interval=DAY, params=params)
    assert audit.run()["mode"] == mode


def test_late_rows_are_read_within_the_lookback_of_the_job(
    audit: Audit, warehouse: Warehouse, sql_path: Path
) -> None:
    moments = ("2026-11-20 19:59:59.999999", "2026-11-20 20:00:00.000000", "2026-11-21 02:00:00.000000")
    for number, at in enumerate(moments):
        warehouse.add(pairs(1, start=number), at=at)
    source = {"conn_id": "warehouse", "sql_file": "contacts_deals.sql", "lookback": "6h"}
    plan(sql_path, make_job(source=source), run_type="scheduled", interval=DAY)
    assert [row["external_id"] for row in audit.links()] == ["c-00001", "c-00002"]
    stored = audit.ledger().runs.get(audit.run()["run_key"])
    assert stored is not None
    assert (stored.window_start, stored.window_end) == DAY
    assert stored.source_start == datetime(2026, 11, 20, 20, tzinfo=UTC)
    log = Mock()
    planned = audit.ledger().plans.get(stored.run_key)
    assert planned is not None
    log_plan(log, stored, planned, is_new=False)
    assert log.info.call_args.kwargs["source_start"] == "2026-11-20T20:00:00+00:00"


def test_a_second_try_takes_the_plan_as_it_is_stored(
    audit: Audit, warehouse: Warehouse, sql_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    warehouse.add(pairs(5))
    first = plan(sql_path, params={"mode": "apply"})
    stored = audit.run()
    warehouse.drop()
    sql_path.write_text("no SQL at all")
    assert plan(sql_path, params={"mode": "apply"}, try_number=2) == first
    assert "first try" not in capsys.readouterr().out
    assert plan(sql_path, params={"mode": "dry_run"}, try_number=3) == first
    assert audit.run() == stored
    assert "Asked for dry_run, but the run keeps the mode of its first try, apply" in capsys.readouterr().out


def test_pasted_links_take_the_place_of_the_sql(audit: Audit, warehouse: Warehouse, sql_path: Path) -> None:
    warehouse.add(pairs(5))
    plan(sql_path, params={"links": [["a", "b"], {"external_id": "c", "related_external_id": "d"}]})
    assert [(row["external_id"], row["related_external_id"]) for row in audit.links()] == [
        ("a", "b"),
        ("c", "d"),
    ]
    assert "links" not in audit.run()["params"]


def test_ids_of_other_types_get_their_exact_text(audit: Audit, warehouse: Warehouse, sql_path: Path) -> None:
    name = uuid.UUID(int=7)
    sql_path.write_text("SELECT 42 AS external_id, 1.5 AS related_external_id UNION ALL SELECT 7, 8")
    plan(sql_path)
    plan(sql_path, run_id="pasted", params={"links": [[name, 9]]})
    assert [
        (row["external_id"], row["related_external_id"], row["outcome"], row["invalid_reason"])
        for row in audit.links()
    ] in (
        [
            (str(name), "9", None, None),
            ("7", "8", None, None),
            ("42", "1.5", "invalid", "related_external_id is not text but float"),
        ],
        [
            ("7", "8", None, None),
            ("42", "1.5", "invalid", "related_external_id is not text but float"),
            (str(name), "9", None, None),
        ],
    )


def test_columns_may_be_in_any_case_and_order(audit: Audit, warehouse: Warehouse, sql_path: Path) -> None:
    sql_path.write_text("SELECT 1 AS ignored, 'd' AS RELATED_EXTERNAL_ID, 'c' AS External_Id")
    plan(sql_path)
    assert [(row["external_id"], row["related_external_id"]) for row in audit.links()] == [("c", "d")]


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        (
            "SELECT 'a' AS external_id",
            "^source.sql_file: contacts_deals.sql must yield the column related_external_id once; "
            "it yields: external_id$",
        ),
        (
            "SELECT 'a' AS external_id, 'b' AS external_id, 'c' AS related_external_id",
            "must yield the column external_id once",
        ),
        ("SELECT :since AS external_id", "^source.sql_file: contacts_deals.sql uses :since; "),
        (
            "DELETE FROM pairs",
            "^source.sql_file: contacts_deals.sql contains DELETE, but must only read: it must be one SELECT$",
        ),
        (
            "CHOOSE 1",
            '^source.sql_file: the warehouse refuses contacts_deals.sql: near "CHOOSE": syntax error$',
        ),
    ],
)
def test_sql_that_yields_no_pairs_is_reported(
    audit: Audit, warehouse: Warehouse, sql_path: Path, sql: str, says: str
) -> None:
    sql_path.write_text(sql)
    with pytest.raises(PlanError, match=says):
        plan(sql_path)
    assert audit.links() == []
    assert audit.run()["planned_at"] is None


def test_an_empty_source_makes_an_empty_plan(audit: Audit, warehouse: Warehouse, sql_path: Path) -> None:
    assert plan(sql_path) == []
    assert (audit.run()["planned"], audit.run()["source_rows"], audit.run()["chunks"]) == (0, 0, 0)


def test_more_links_than_airflow_maps_make_larger_chunks(
    audit: Audit, warehouse: Warehouse, sql_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MAX_MAP_LENGTH", "3")
    warehouse.add(pairs(10))
    assert [chunk["links"] for chunk in plan(sql_path, make_job(chunk_size=1))] == [4, 4, 2]


def test_the_run_row_has_requester_and_reason(audit: Audit, warehouse: Warehouse, sql_path: Path) -> None:
    plan(
        sql_path,
        params={"mode": "apply", "reason": "spring cleaning"},
        preflight={"org_id": "700000001", "data_center": "eu", "api_version": "v8"},
    )
    run = audit.run()
    reported = (
        "triggered_by",
        "reason",
        "mode",
        "run_type",
        "org_id",
        "data_center",
        "api_version",
        "status",
    )
    assert [run[name] for name in reported] == [
        "ada",
        "spring cleaning",
        "apply",
        "manual",
        "700000001",
        "eu",
        "v8",
        "planned",
    ]


def test_a_wrong_field_of_the_form_leaves_nothing(audit: Audit, warehouse: Warehouse, sql_path: Path) -> None:
    with pytest.raises(ZohoConfigError, match=r"^mode: 'purge'"):
        plan(sql_path, params={"mode": "purge"})
    assert audit.runs() == []


def test_job_file_and_sql_are_kept_as_the_plan_used_them(
    audit: Audit, warehouse: Warehouse, sql_path: Path
) -> None:
    job, folder = make_job(), jobs_folder(sql_path)
    folder.mkdir(exist_ok=True)
    (folder / f"{job.name}.yaml").write_text("description: of today\n")

    plan(sql_path, job)

    queries = RunQueries(audit.engine)
    run = queries.get(audit.run()["run_key"])
    assert run is not None
    texts = queries.texts(run)
    assert texts["job_file"] == "description: of today\n"
    assert texts["source.sql_file"] == sql_path.read_text()
    assert [event.kind for event in queries.events(run.run_key)] == ["opened", "planned"]
