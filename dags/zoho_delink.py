"""One Dag for each job file in include/jobs. A file that cannot be used is told by zoho_delink_broken_jobs.py."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import DAG, CronDataIntervalTimetable, Param, get_parsing_context
from airflow.sdk.definitions.retry_policy import ExceptionRetryPolicy, RetryAction, RetryRule

from zoho_crm.core.job_files import load_jobs
from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator
from zoho_crm.operators.guard import GuardOperator
from zoho_crm.operators.plan import PlanOperator
from zoho_crm.operators.preflight import PreflightOperator
from zoho_crm.operators.report import ReportOperator

if TYPE_CHECKING:
    from zoho_crm.core.job import Job

JOBS = Path(os.environ.get("ZOHO_CRM_JOBS_FOLDER") or Path(__file__).parents[1] / "include" / "jobs")

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

PARAMS = {
    "mode": Param(
        "auto",
        type="string",
        enum=["auto", "dry_run", "apply"],
        title="Mode",
        description="auto: scheduled and backfill runs remove links, a run triggered by hand is a dry run",
    ),
    "window_start": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Window start",
        description="Take the links from this instant on; empty (with the end): everything still pending",
    ),
    "window_end": Param(
        None,
        type=["null", "string"],
        format="date-time",
        title="Window end",
        description="Take the links before this instant",
    ),
    "links": Param(
        None,
        type=["null", "array"],
        title="Links",
        description='Take these in place of the SQL, e.g. [{"external_id": "c-1", "related_external_id": "d-1"}]',
    ),
    "max_links": Param(
        None,
        type=["null", "integer"],
        minimum=0,
        title="Most links",
        description="Overrides the job's limit for this run; needs a reason",
    ),
    "reason": Param(
        None,
        type=["null", "string"],
        title="Reason",
        description="Why this run is started or its limit changed; kept with the run",
    ),
}

DOC_MD = """\
{description}

Takes links of **{relation}** out of Zoho CRM. Both records stay; Zoho cannot undo it.

| | |
|---|---|
| links from | connection `{source_conn_id}`, `{sql_file}` |
| plan and audit | connection `{audit_conn_id}`, tables `zoho_delink_*` |
| Zoho | connection `{zoho_conn_id}` |
| schedule | {schedule} |
| limit | {max_links} |

Triggered by hand it is a **dry run** unless *Mode* says `apply`. What happened to every link stands in
`zoho_delink_latest`, what happened to the run in `zoho_delink_run`.
"""


def doc_md(job: Job) -> str:
    """Describe a job for the people who meet its Dag in the UI."""
    limit = job.guards.max_links
    return DOC_MD.format(
        description=job.description,
        relation=job.relation.as_relation(),
        source_conn_id=job.source.conn_id,
        sql_file=job.source.sql_file,
        audit_conn_id=job.audit_conn_id,
        zoho_conn_id=job.zoho_conn_id,
        schedule=f"`{job.cron}` ({job.timezone})" if job.cron else "none: by hand and by backfill only",
        max_links="none" if limit is None else f"{limit} links a run",
    )


def build_dag(job: Job) -> DAG:
    """Wire the tasks of one job."""
    with DAG(
        dag_id=job.dag_id,
        description=job.description,
        doc_md=doc_md(job),
        schedule=CronDataIntervalTimetable(job.cron, timezone=job.timezone) if job.cron else None,
        start_date=job.start,
        catchup=False,
        max_active_runs=1,
        params=PARAMS,
        tags={"zoho", "delink", *job.tags},
        default_args={
            "owner": job.owner,
            "retries": job.retries,
            "retry_delay": job.retry_delay,
            "retry_exponential_backoff": 2.0,
            "max_retry_delay": timedelta(minutes=15),
            "retry_policy": RETRY_POLICY,
        },
    ) as dag:
        preflight = PreflightOperator(task_id="preflight", job=job, jobs_folder=JOBS)
        plan = PlanOperator(task_id="plan", job=job, jobs_folder=JOBS)
        guard = GuardOperator(task_id="guard", job=job, jobs_folder=JOBS)
        relation = job.relation.as_relation()
        delink = DeleteRelatedByExternalIdOperator.partial(
            task_id="delink",
            module=relation.module,
            external_field=relation.external_field,
            related_list=relation.related_list,
            related_module=relation.related_module,
            related_external_field=relation.related_external_field,
            zoho_conn_id=job.zoho_conn_id,
            audit_conn_id=job.audit_conn_id,
            strategy=job.strategy,
            direct=job.direct,
            task_concurrency=job.task_concurrency,
            breaker_share=job.breaker_share,
            credit_reserve=job.credit_reserve,
            wait_patience=job.wait_patience,
            execution_timeout=job.task_timeout,
            max_active_tis_per_dag=job.active_chunks,
            map_index_template="{{ task.chunk['label'] }}",
            **({"pool": job.pool} if job.pool else {}),
        ).expand(chunk=plan.output)
        report = ReportOperator(
            task_id="report", job=job, jobs_folder=JOBS, trigger_rule="all_done", retries=1
        )
        preflight >> plan >> guard >> delink >> report
    return dag


wanted = get_parsing_context().dag_id
for found in load_jobs(JOBS)[0]:
    if wanted in {None, found.dag_id}:
        globals()[found.dag_id] = build_dag(found)
