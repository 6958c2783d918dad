"""One Dag for all jobs: put links back that a run has removed."""

from __future__ import annotations

from pathlib import Path

from airflow.sdk import DAG

from zoho_crm.core.run_request import RELINK_DAG_ID
from zoho_crm.operators.approve import ApproveOperator
from zoho_crm.operators.dag_parts import (
    AGAIN_MAPPING,
    job_names,
    jobs_folder,
    report_arguments,
    task_defaults,
)
from zoho_crm.operators.guard import GuardOperator
from zoho_crm.operators.relink import RelinkByExternalIdOperator
from zoho_crm.operators.report import ReportOperator
from zoho_crm.operators.reprocess_forms import relink_form
from zoho_crm.operators.reprocess_plan import PlanRelinkOperator, RelinkPreflightOperator

JOBS = jobs_folder(Path(__file__).parents[1])

DOC_MD = """\
Puts the links back that a run has removed, with the attributes they had if the job reads them (`snapshot: true`).
Left alone is what was put back already, what another run has removed since, and what that run found removed by
somebody else.

Nothing is sent unless *Mode* says `apply`: a dry run plans and counts. The new run has its own row in `zoho_delink_run`
(`operation` = `relink`), whose `origin_run_key` names the run it puts right.
"""

with DAG(
    dag_id=RELINK_DAG_ID,
    description="Put links back that a run has removed",
    doc_md=DOC_MD,
    schedule=None,
    catchup=False,
    params=relink_form(job_names(JOBS)),
    tags={"zoho", "delink", "past runs"},
    default_args=task_defaults(),
) as dag:
    preflight = RelinkPreflightOperator(task_id="preflight", job=None, jobs_folder=JOBS)
    plan = PlanRelinkOperator(task_id="plan", job=None, jobs_folder=JOBS)
    guard = GuardOperator(task_id="guard", job=None, jobs_folder=JOBS)
    approve = ApproveOperator(task_id="approve", job=None, jobs_folder=JOBS)
    relink = RelinkByExternalIdOperator.partial(task_id="relink", **AGAIN_MAPPING).expand_kwargs(plan.output)
    report = ReportOperator(job=None, jobs_folder=JOBS, **report_arguments(RELINK_DAG_ID))
    preflight >> plan >> guard >> approve >> relink >> report
