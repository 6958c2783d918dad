"""What the Dag files share: where job files lie, how tasks are tried again, what the mapped tasks are given."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoho_crm.airflow_compat import ExceptionRetryPolicy, RetryAction, RetryRule
from zoho_crm.core.job_files import load_jobs
from zoho_crm.operators.assets import updates_of

if TYPE_CHECKING:
    from zoho_crm.core.job import Job

JOBS_FOLDER_VARIABLE = "ZOHO_CRM_JOBS_FOLDER"

# Classes are named by their path: Airflow then stores the policy with the Dag without importing them.
RETRY_POLICY = ExceptionRetryPolicy(
    rules=[
        RetryRule(
            exception="zoho_crm.errors.ZohoTokenThrottledError",
            action=RetryAction.RETRY,
            retry_delay=timedelta(minutes=11),
            reason="Zoho hands out no access token for ten minutes; asking earlier makes it longer",
        ),
        RetryRule(
            exception=[
                "zoho_crm.errors.GuardError",
                "zoho_crm.errors.RunStoppedError",
                "zoho_crm.errors.ZohoAuthError",
                "zoho_crm.errors.ZohoConfigError",
            ],
            action=RetryAction.FAIL,
            reason="Another try would meet the same; the message says what to change",
        ),
    ]
)

CHUNK_NAME = "{{ task.chunk['label'].split(' from ')[0] }}, {{ task.chunk['links'] }} links"
"""How Airflow calls a mapped task, e.g. ``1/3, 500 links``: it tells OpenLineage so, and ids are not for others."""

AGAIN_MAPPING: dict[str, Any] = {
    "max_active_tis_per_dagrun": 2,
    "map_index_template": CHUNK_NAME,
}
"""What Airflow must know of the mapped task of a Dag on past runs before a job is named."""


def jobs_folder(project: Path) -> Path:
    """
    Return the folder of the job files: the one the environment names, or the project's own.

    :param project: folder that holds ``include/jobs``
    """
    return Path(os.environ.get(JOBS_FOLDER_VARIABLE) or project / "include" / "jobs")


def job_names(folder: Path) -> list[str]:
    """Return the names of the jobs whose files can be used; none where there is no such folder."""
    return [job.name for job in load_jobs(folder)[0]]


def task_defaults(
    *, owner: str = "airflow", retries: int = 3, retry_delay: timedelta = timedelta(seconds=30)
) -> dict[str, Any]:
    """Return the default arguments of a Dag's tasks; each further pause between tries is twice as long."""
    return {
        "owner": owner,
        "retries": retries,
        "retry_delay": retry_delay,
        "retry_exponential_backoff": 2.0,
        "max_retry_delay": timedelta(minutes=15),
        "retry_policy": RETRY_POLICY,
    }


def report_arguments(dag_id: str) -> dict[str, Any]:
    """Return the arguments of the last task of a Dag: it runs however the others ended, and tells of updates."""
    return {
        "task_id": "report",
        "trigger_rule": "all_done",
        "retries": 1,
        "outlets": [updates_of(dag_id)],
    }


def delink_arguments(job: Job) -> dict[str, Any]:
    """Return the arguments of the deleting operator that a job decides, all but the chunk."""
    return {
        **_arguments(job),
        "strategy": job.strategy,
        "snapshot_fields": list(job.snapshot_attributes),
    }


def relink_arguments(job: Job) -> dict[str, Any]:
    """Return the arguments of the operator that puts links back that a job decides, all but the chunk."""
    return _arguments(job)


def _arguments(job: Job) -> dict[str, Any]:
    relation = job.relation.as_relation()
    return {
        "module": relation.module,
        "external_field": relation.external_field,
        "related_list": relation.related_list,
        "related_module": relation.related_module,
        "related_external_field": relation.related_external_field,
        "zoho_conn_id": job.zoho_conn_id,
        "audit_conn_id": job.audit_conn_id,
        "task_concurrency": job.task_concurrency,
        "breaker_share": job.breaker_share,
        "credit_reserve": job.credit_reserve,
        "wait_patience": job.wait_patience,
        "max_plan_age": job.guards.max_plan_age,
        "execution_timeout": job.task_timeout,
    }
