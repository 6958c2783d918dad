"""One Dag for all jobs: external ids of runs older than the job's retention_days are replaced by their hashes."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from airflow.sdk import DAG, Param

from zoho_crm.core.job_files import load_jobs
from zoho_crm.operators.dag_parts import jobs_folder, task_defaults
from zoho_crm.operators.retention_task import RetentionOperator

JOBS = jobs_folder(Path(__file__).parents[1])

DOC_MD = """\
Replaces the external ids of runs that finished longer ago than `retention_days` of their job by hashes, in the plan
and in the audit. The audit still verifies. A run whose ids are replaced cannot be driven again or put back.

Jobs without `retention_days` are left alone. *Dry run* only counts. See `docs/audit.md`.
"""

with DAG(
    dag_id="zoho_delink_retention",
    description="Replace external ids of old runs by their hashes",
    doc_md=DOC_MD,
    schedule="30 3 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    params={
        "dry_run": Param(
            False,
            type="boolean",
            title="Dry run",
            description="Only count: what is replaced cannot be brought back",
        )
    },
    tags={"zoho", "delink", "past runs"},
    default_args=task_defaults(),
) as dag:
    RetentionOperator.partial(
        task_id="pseudonymise",
        jobs_folder=JOBS,
        max_active_tis_per_dagrun=1,
        map_index_template="{{ task.job_name }}",
    ).expand(job_name=[job.name for job in load_jobs(JOBS)[0] if job.retention_days is not None])
