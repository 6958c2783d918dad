"""The Dags that work on earlier runs of all jobs: retry unfinished links, relink removed links, retention, export."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Param

from zoho_crm.core.job_files import load_jobs
from zoho_crm.core.run_request import RELINK_DAG_ID, RETRY_DAG_ID
from zoho_crm.dag_files import find_jobs_folder
from zoho_crm.dag_tasks import CHUNK_NAME, TIME_LIMITS, add_tasks, task_defaults
from zoho_crm.operators.audit_tasks import ExportAuditOperator, RetentionOperator
from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator
from zoho_crm.operators.relink import RelinkByExternalIdOperator
from zoho_crm.operators.reprocess_plan import (
    PlanRelinkOperator,
    PlanRetryOperator,
    RelinkPreflightOperator,
    RetryPreflightOperator,
)
from zoho_crm.trigger_forms import relink_form, retry_form

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from zoho_crm.core.job import Job
    from zoho_crm.operators.preflight import PreflightOperator

RETENTION_DAG_ID = "zoho_delink_retention"
EXPORT_DAG_ID = "zoho_delink_export"

_RETRY_DOC = """\
Retries the links of earlier runs whose last outcome over all runs is `failed`, `unknown` or `not_attempted`. The task
`plan` counts them by their last outcome: see its log and its XCom `counts`.

Nothing is sent unless *Mode* is `apply`. The new run has its own row in `zoho_delink_run`, whose `origin_run_key` names
the run that it retries; it is empty if the run retries those of a window.
"""

_RELINK_DOC = """\
Restores the links that a run removed, with the attributes they had if the job reads them (`snapshot: true`). Links that
were relinked already, that another run removed since, or that the run found already removed stay as they are.

Nothing is sent unless *Mode* is `apply`: a dry run plans and counts. The new run has its own row in `zoho_delink_run`
(`operation` = `relink`), whose `origin_run_key` names the run whose links it restores.
"""

_RETENTION_DOC = """\
Replaces the external IDs of runs that finished more than `retention_days` of their job ago by hashes, in the plan and
in the audit. The audit still verifies. The links of such a run cannot be retried or relinked.

Jobs without `retention_days` are skipped. *Dry run* only counts. See `docs/audit.md`.
"""


_EXPORT_DOC = """\
Copies finished runs and their audit rows to a warehouse: the tables `zoho_delink_runs` and `zoho_delink_link_events`,
and views on them. A run that has ended again, or whose external IDs were replaced by hashes, replaces its copy.

See `docs/audit-export.md`.
"""


def retry_dag(folder: str | Path, jobs: Sequence[Job] | None = None) -> DAG:
    """
    Return the Dag that retries the unfinished links of earlier runs, for all jobs.

    :param folder: folder of the job files, e.g. ``include/jobs``
    :param jobs: those of the folder, if they have been read already
    :raises JobFileError: there is no such folder
    """
    jobs_folder, jobs = _read(folder, jobs)
    return _reprocess_dag(
        RETRY_DAG_ID,
        jobs_folder,
        description="Retry unfinished links",
        doc_md=_RETRY_DOC,
        params=retry_form([job.name for job in jobs]),
        preflight=RetryPreflightOperator,
        plan=PlanRetryOperator,
        task_id="delink",
        operator=DeleteRelatedByExternalIdOperator,
    )


def relink_dag(folder: str | Path, jobs: Sequence[Job] | None = None) -> DAG:
    """
    Return the Dag that restores links that a run removed, for all jobs.

    :param folder: folder of the job files, e.g. ``include/jobs``
    :param jobs: those of the folder, if they have been read already
    :raises JobFileError: there is no such folder
    """
    jobs_folder, jobs = _read(folder, jobs)
    return _reprocess_dag(
        RELINK_DAG_ID,
        jobs_folder,
        description="Relink removed links",
        doc_md=_RELINK_DOC,
        params=relink_form([job.name for job in jobs]),
        preflight=RelinkPreflightOperator,
        plan=PlanRelinkOperator,
        task_id="relink",
        operator=RelinkByExternalIdOperator,
    )


def retention_dag(folder: str | Path, jobs: Sequence[Job] | None = None) -> DAG:
    """
    Return the Dag that replaces external IDs of old runs by hashes, for all jobs that set ``retention_days``.

    :param folder: folder of the job files, e.g. ``include/jobs``
    :param jobs: those of the folder, if they have been read already
    :raises JobFileError: there is no such folder
    """
    jobs_folder, jobs = _read(folder, jobs)
    names = [job.name for job in jobs if job.retention_days is not None]
    dry_run = Param(
        False,
        type="boolean",
        title="Dry run",
        description="Only count: replaced IDs cannot be restored",
    )
    with DAG(
        dag_id=RETENTION_DAG_ID,
        description="Replace external IDs of old runs by hashes",
        doc_md=_RETENTION_DOC,
        schedule="30 3 * * *",
        start_date=datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=1,
        params={"dry_run": dry_run},
        tags={"zoho", "delink", "past runs"},
        default_args=task_defaults(),
    ) as dag:
        RetentionOperator.partial(
            task_id="pseudonymize",
            jobs_folder=jobs_folder,
            execution_timeout=TIME_LIMITS["pseudonymize"],
            max_active_tis_per_dagrun=1,
            map_index_template="{{ task.job_name }}",
        ).expand(job_name=names)
    return dag


def export_dag(
    folder: str | Path,
    warehouse_conn_id: str,
    *,
    schema: str | None = None,
    jobs: Sequence[Job] | None = None,
) -> DAG:
    """
    Return the Dag that copies the audit of all jobs to a warehouse each night.

    :param folder: folder of the job files, e.g. ``include/jobs``
    :param warehouse_conn_id: connection to the warehouse; its role creates tables and views
    :param schema: schema of the tables; None for the default of the connection
    :param jobs: those of the folder, if they have been read already
    :raises JobFileError: there is no such folder
    """
    _, jobs = _read(folder, jobs)
    with DAG(
        dag_id=EXPORT_DAG_ID,
        description="Copy the audit to a warehouse",
        doc_md=_EXPORT_DOC,
        schedule="0 4 * * *",
        start_date=datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=1,
        tags={"zoho", "delink", "past runs"},
        default_args=task_defaults(),
    ) as dag:
        ExportAuditOperator.partial(
            task_id="export",
            warehouse_conn_id=warehouse_conn_id,
            schema=schema,
            execution_timeout=TIME_LIMITS["export"],
            max_active_tis_per_dagrun=1,
            map_index_template="{{ task.audit_conn_id }}",
        ).expand(audit_conn_id=sorted({job.audit_conn_id for job in jobs}))
    return dag


def _read(folder: str | Path, jobs: Sequence[Job] | None) -> tuple[Path, Sequence[Job]]:
    """Return the path of a folder of job files, and its valid jobs."""
    found = find_jobs_folder(folder)
    return found, load_jobs(found)[0] if jobs is None else jobs


_STORED_PLAN_ALONE: dict[str, Any] = {
    "links": None,
    "max_active_tis_per_dagrun": 2,
    "map_index_template": CHUNK_NAME,
}
"""
Arguments of a mapped task whose job is known at run time only.

Airflow lets no result of ``plan`` replace them: without ``links``, the operator requires a chunk and its audit
database.
"""


def _reprocess_dag(
    dag_id: str,
    folder: Path,
    *,
    description: str,
    doc_md: str,
    params: dict[str, Param],
    preflight: type[PreflightOperator],
    plan: type[PlanRetryOperator | PlanRelinkOperator],
    task_id: str,
    operator: type[DeleteRelatedByExternalIdOperator | RelinkByExternalIdOperator],
) -> DAG:
    """
    Return a Dag on earlier runs of any job, which the trigger form names.

    :param task_id: ID of the mapped task
    :param operator: operator of the mapped task; the plan yields its arguments
    """
    with DAG(
        dag_id=dag_id,
        description=description,
        doc_md=doc_md,
        schedule=None,
        catchup=False,
        max_active_runs=1,
        params=params,
        tags={"zoho", "delink", "past runs"},
        default_args=task_defaults(),
    ) as dag:
        add_tasks(
            None,
            folder,
            preflight=preflight,
            plan=plan,
            map_over=lambda planned: operator.partial(task_id=task_id, **_STORED_PLAN_ALONE).expand_kwargs(
                planned.output
            ),
            updates=dag_id,
        )
    return dag
