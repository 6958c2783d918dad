"""One Dag for all jobs: drive the links again that past runs have left open."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG

from zoho_crm.core.run_request import REDRIVE_DAG_ID
from zoho_crm.operators.approve import ApproveOperator
from zoho_crm.operators.dag_parts import (
    AGAIN_MAPPING,
    job_names,
    jobs_folder,
    report_arguments,
    task_defaults,
)
from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator
from zoho_crm.operators.guard import GuardOperator
from zoho_crm.operators.report import ReportOperator
from zoho_crm.operators.reprocess_forms import retry_form
from zoho_crm.operators.reprocess_plan import PlanRetryOperator, RetryPreflightOperator

JOBS = jobs_folder(Path(__file__).parents[1])

DOC_MD = """\
Takes the links of past runs up again that ended as `failed`, `unknown` or `not_attempted`, and that no run has settled
since. The first task that counts them is `plan`: its log and its XCom `counts` say how many there are, by their last
outcome over all runs.

Nothing is sent unless *Mode* says `apply`. The new run has its own row in `zoho_delink_run`, whose `origin_run_key`
names the run it takes up; for a window it is empty.
"""

with DAG(
    dag_id=REDRIVE_DAG_ID,
    description="Drive the links again that past runs have left open",
    doc_md=DOC_MD,
    schedule=None,
    catchup=False,
    params=retry_form(job_names(JOBS)),
    tags={"zoho", "delink", "past runs"},
    default_args=task_defaults(),
) as dag:
    preflight = RetryPreflightOperator(task_id="preflight", job=None, jobs_folder=JOBS)
    plan = PlanRetryOperator(task_id="plan", job=None, jobs_folder=JOBS)
    guard = GuardOperator(task_id="guard", job=None, jobs_folder=JOBS)
    approve = ApproveOperator(task_id="approve", job=None, jobs_folder=JOBS)
    delink = DeleteRelatedByExternalIdOperator.partial(task_id="delink", **AGAIN_MAPPING).expand_kwargs(
        plan.output
    )
    report = ReportOperator(job=None, jobs_folder=JOBS, **report_arguments(REDRIVE_DAG_ID))
    preflight >> plan >> guard >> approve >> delink >> report
