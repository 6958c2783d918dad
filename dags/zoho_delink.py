"""One Dag for each job file in include/jobs. A file that cannot be used is told by zoho_delink_broken_jobs.py."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from airflow.sdk import DAG, get_parsing_context

from zoho_crm.core.job_files import JobFileError, load_jobs
from zoho_crm.operators.approve import ApproveOperator
from zoho_crm.operators.dag_parts import (
    CHUNK_NAME,
    delink_arguments,
    jobs_folder,
    report_arguments,
    task_defaults,
)
from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator
from zoho_crm.operators.guard import GuardOperator
from zoho_crm.operators.plan_links import PlanLinksOperator
from zoho_crm.operators.preflight import PreflightOperator
from zoho_crm.operators.report import ReportOperator
from zoho_crm.operators.schedule import schedule_of, schedule_text
from zoho_crm.operators.trigger_form import job_form

if TYPE_CHECKING:
    from zoho_crm.core.job import Job

JOBS = jobs_folder(Path(__file__).parents[1])

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
        schedule=schedule_text(job),
        max_links="none" if limit is None else f"{limit} links a run",
    )


def build_dag(job: Job) -> DAG:
    """Wire the tasks of one job."""
    with DAG(
        dag_id=job.dag_id,
        description=job.description,
        doc_md=doc_md(job),
        schedule=schedule_of(job),
        start_date=job.start,
        catchup=False,
        max_active_runs=1,
        params=job_form(),
        tags={"zoho", "delink", *job.tags},
        default_args=task_defaults(owner=job.owner, retries=job.retries, retry_delay=job.retry_delay),
    ) as dag:
        preflight = PreflightOperator(task_id="preflight", job=job, jobs_folder=JOBS)
        plan = PlanLinksOperator(task_id="plan", job=job, jobs_folder=JOBS)
        guard = GuardOperator(task_id="guard", job=job, jobs_folder=JOBS)
        approve = ApproveOperator(task_id="approve", job=job, jobs_folder=JOBS)
        delink = DeleteRelatedByExternalIdOperator.partial(
            task_id="delink",
            **delink_arguments(job),
            max_active_tis_per_dag=job.active_chunks,
            map_index_template=CHUNK_NAME,
            **({"pool": job.pool} if job.pool else {}),
        ).expand(chunk=plan.output)
        report = ReportOperator(job=job, jobs_folder=JOBS, **report_arguments(job.dag_id))
        preflight >> plan >> guard >> approve >> delink >> report
    return dag


wanted = get_parsing_context().dag_id
for found in load_jobs(JOBS)[0]:
    if wanted in {None, found.dag_id}:
        with suppress(JobFileError):  # zoho_delink_broken_jobs.py tells it
            globals()[found.dag_id] = build_dag(found)
