"""Contexts of tasks, a job, and an operator, for tests of the operators."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.support.databases import AUDIT, WAREHOUSE
from zoho_crm.core.job import Job
from zoho_crm.core.outcomes import DELINK_OUTCOMES
from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator

if TYPE_CHECKING:
    from pathlib import Path


RUN_AFTER = datetime(2026, 11, 22, 2, tzinfo=UTC)
DAG_ID = "zoho_delink__contacts_deals"
RUN_ID = "manual__2026-11-22"


def outcomes(**counts: int) -> dict[str, int]:
    """Return an operator's summary: every outcome, with 0 unless given."""
    assert set(counts) <= {outcome.value for outcome in DELINK_OUTCOMES}
    return {outcome.value: counts.get(outcome.value, 0) for outcome in DELINK_OUTCOMES}


def context(
    task_id: str = "delink",
    *,
    run_id: str = RUN_ID,
    dag_id: str = DAG_ID,
    map_index: int | None = -1,
    try_number: int = 1,
    run_type: str = "manual",
    params: dict[str, Any] | None = None,
    interval: tuple[datetime, datetime] | None = None,
    preflight: dict[str, Any] | None = None,
    guard: dict[str, Any] | None = None,
    max_tries: int = 1,
    requester: str | None = "ada",
) -> Any:
    """Return the parts of Airflow's task context that the operators use."""

    def xcom_pull(*, task_ids: str) -> dict[str, Any] | None:
        return {"preflight": preflight, "guard": guard}[task_ids]

    made: dict[str, Any] = {
        "dag_run": SimpleNamespace(
            run_type=run_type, run_after=RUN_AFTER, logical_date=None, triggering_user_name=requester
        ),
        "ti": SimpleNamespace(
            dag_id=dag_id,
            run_id=run_id,
            task_id=task_id,
            map_index=map_index,
            try_number=try_number,
            max_tries=max_tries,
            xcom_pull=xcom_pull,
        ),
        "params": params or {},
    }
    if interval is not None:
        made |= {"data_interval_start": interval[0], "data_interval_end": interval[1]}
    return made


def jobs_folder(sql_path: Path) -> Path:
    """Return the folder of job files next to a folder of SQL files."""
    return sql_path.parents[1] / "jobs"


def make_job(**changes: Any) -> Job:
    content = {
        "name": "contacts_deals",
        "start_date": "2026-11-01",
        "source": {"conn_id": WAREHOUSE, "sql_file": "contacts_deals.sql"},
        "relation": {
            "module": "Contacts",
            "external_field": "External_Contact_ID",
            "related_list": "Deals",
            "related_external_field": "External_Deal_ID",
        },
        "audit_conn_id": AUDIT,
    }
    return Job.model_validate({**content, **changes})


def delink(task_id: str = "delink", **changes: Any) -> DeleteRelatedByExternalIdOperator:
    return DeleteRelatedByExternalIdOperator(
        **{
            "task_id": task_id,
            "module": "Contacts",
            "external_field": "External_Contact_ID",
            "related_list": "Deals",
            "related_external_field": "External_Deal_ID",
            **changes,
        }
    )


def pairs(count: int, start: int = 0) -> list[tuple[str, str]]:
    """Return links in plan order."""
    return [(f"c-{number:05}", f"d-{number:05}") for number in range(start, start + count)]
