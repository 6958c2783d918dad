"""
Dags for job files.

``globals().update(delink_dags("/project/include/jobs"))`` is a whole Dag file. :func:`delink_task_group` adds the same
tasks to a Dag of your own. Nothing here reads a connection or a Variable: Dags parse with nothing configured.
"""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, Param, TaskGroup, get_parsing_context

from zoho_crm.airflow_compat import backoff
from zoho_crm.core.job_files import JobFileError, load_job, load_jobs
from zoho_crm.core.run_request import RELINK_DAG_ID, RETRY_DAG_ID
from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator
from zoho_crm.operators.guard import ApproveOperator, GuardOperator
from zoho_crm.operators.job_operator import JobOperator, delink_arguments, retry_arguments
from zoho_crm.operators.plan_links import PlanLinksOperator
from zoho_crm.operators.preflight import PreflightOperator
from zoho_crm.operators.relink import RelinkByExternalIdOperator
from zoho_crm.operators.report import ReportOperator, updates_of
from zoho_crm.operators.reprocess_plan import (
    PlanRelinkOperator,
    PlanRetryOperator,
    RelinkPreflightOperator,
    RetryPreflightOperator,
)
from zoho_crm.operators.retention_task import RetentionOperator
from zoho_crm.schedules import schedule_of, schedule_text
from zoho_crm.trigger_forms import job_form, relink_form, retry_form

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.core.job import Job

RETENTION_DAG_ID = "zoho_delink_retention"

TIME_LIMITS = {
    "preflight": timedelta(minutes=30),
    "plan": timedelta(hours=6),
    "guard": timedelta(hours=2),
    "approve": timedelta(minutes=15),
    "report": timedelta(hours=2),
    "pseudonymize": timedelta(hours=6),
}
"""Execution timeouts, far above what the tasks take; that of the sending task is a field of the job.

A task that ends so leaves the links as a killed one does. The wait for an approval does not count.
"""

CHUNK_NAME = "{{ task.chunk['label'].split(' from ')[0] }}, {{ task.chunk['links'] }} links"
"""Name of a mapped task, e.g. ``1/3, 500 links``; the rest of the label contains external IDs."""

_JOB_DOC = """\
{description}

Removes links of **{relation}** from Zoho CRM. Both records stay; Zoho cannot undo it.

| | |
|---|---|
| links from | connection `{source_conn_id}`, `{sql_file}` |
| plan and audit | connection `{audit_conn_id}`, tables `zoho_delink_*` |
| Zoho | connection `{zoho_conn_id}` |
| schedule | {schedule} |
| limit | {max_links} |

A manual run is a **dry run** unless *Mode* is `apply`. The outcome of every link is in `zoho_delink_latest`, the result
of the run in `zoho_delink_run`.
"""

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


def delink_dags(folder: str | Path) -> dict[str, DAG]:
    """
    Return one Dag for each valid job file of a folder, by Dag ID.

    Invalid files are skipped, so that they do not affect other jobs; call :func:`report_invalid_jobs` in another Dag
    file to show them as an import error.

    :param folder: folder of the job files; the SQL files are in ``../sql``
    """
    wanted = get_parsing_context().dag_id
    dags = {}
    for job in load_jobs(Path(folder))[0]:
        if wanted in {None, job.dag_id}:
            with suppress(JobFileError):
                dags[job.dag_id] = _job_dag(job, Path(folder))
    return dags


def report_invalid_jobs(folder: str | Path) -> None:
    """
    Raise an error that lists all invalid job files of a folder, which Airflow shows as an import error.

    Call it in a Dag file without Dags: Airflow stops scheduling every Dag of a file that raises.

    :raises JobFileError: one line for each fault
    """
    if get_parsing_context().dag_id is not None:
        return
    jobs, errors = load_jobs(Path(folder))
    for job in jobs:
        try:
            schedule_of(job)
        except JobFileError as error:
            errors.append(error)
    if errors:
        raise JobFileError("\n".join(str(error) for error in errors))


def delink_dag(job: str | Path) -> DAG:
    """
    Return the Dag of one job file.

    :param job: path of the job file, e.g. ``/project/include/jobs/contacts_deals.yaml``
    :raises JobFileError: the file is invalid; the message names file, field and reason
    """
    return _job_dag(load_job(Path(job)), Path(job).parent)


def delink_task_group(job: str | Path, group_id: str = "delink") -> TaskGroup:
    """
    Add the tasks of a job to the current Dag, as one task group.

    Schedule and trigger form are those of your Dag; with ``params=job_form()`` it has the form of a job's Dag.

    :param job: path of the job file
    :param group_id: ID of the group, which prefixes the IDs of its tasks
    :raises JobFileError: the file is invalid; the message names file, field and reason
    """
    loaded = load_job(Path(job))
    defaults: Any = _job_defaults(loaded)
    with TaskGroup(group_id, default_args=defaults) as group:
        _add_job_tasks(loaded, Path(job).parent)
    return group


def retry_dag(folder: str | Path) -> DAG:
    """
    Return the Dag that retries the unfinished links of earlier runs, for all jobs.

    :param folder: folder of the job files
    """
    return _reprocess_dag(
        RETRY_DAG_ID,
        folder,
        description="Retry unfinished links",
        doc_md=_RETRY_DOC,
        params=retry_form(_job_names(folder)),
        preflight=RetryPreflightOperator,
        plan=PlanRetryOperator,
        task_id="delink",
        operator=DeleteRelatedByExternalIdOperator,
    )


def relink_dag(folder: str | Path) -> DAG:
    """
    Return the Dag that restores links that a run removed, for all jobs.

    :param folder: folder of the job files
    """
    return _reprocess_dag(
        RELINK_DAG_ID,
        folder,
        description="Relink removed links",
        doc_md=_RELINK_DOC,
        params=relink_form(_job_names(folder)),
        preflight=RelinkPreflightOperator,
        plan=PlanRelinkOperator,
        task_id="relink",
        operator=RelinkByExternalIdOperator,
    )


def retention_dag(folder: str | Path) -> DAG:
    """
    Return the Dag that replaces external IDs of old runs by hashes, for all jobs that set ``retention_days``.

    :param folder: folder of the job files
    """
    jobs = [job.name for job in load_jobs(Path(folder))[0] if job.retention_days is not None]
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
            jobs_folder=Path(folder),
            execution_timeout=TIME_LIMITS["pseudonymize"],
            max_active_tis_per_dagrun=1,
            map_index_template="{{ task.job_name }}",
        ).expand(job_name=jobs)
    return dag


def task_defaults(
    *, owner: str = "airflow", retries: int = 3, retry_delay: timedelta = timedelta(seconds=30)
) -> dict[str, Any]:
    """Return the default arguments of the tasks; each further pause between tries is twice as long."""
    return {
        "owner": owner,
        "retries": retries,
        "retry_delay": retry_delay,
        "retry_exponential_backoff": backoff(2.0),
        "max_retry_delay": timedelta(minutes=15),
        **retry_arguments(),
    }


_APPROVE_RETRIES: dict[str, Any] = {
    "retries": 20,
    "retry_delay": timedelta(seconds=3),
    "retry_exponential_backoff": backoff(1.0),
}
"""Soon and often: an early response may cost the task a try, and the next one uses it."""

_UNBOUND_MAPPING: dict[str, Any] = {"max_active_tis_per_dagrun": 2, "map_index_template": CHUNK_NAME}
"""Arguments of a mapped task whose job is known at run time only."""


def _reprocess_dag(
    dag_id: str,
    folder: str | Path,
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
        _add_tasks(
            None,
            Path(folder),
            preflight=preflight,
            plan=plan,
            map_over=lambda planned: operator.partial(task_id=task_id, **_UNBOUND_MAPPING).expand_kwargs(
                planned.output
            ),
            updates=dag_id,
        )
    return dag


def _job_dag(job: Job, folder: Path) -> DAG:
    with DAG(
        dag_id=job.dag_id,
        description=job.description,
        doc_md=_job_doc(job),
        schedule=schedule_of(job),
        start_date=job.start,
        catchup=False,
        max_active_runs=1,
        params=job_form(),
        tags={"zoho", "delink", *job.tags},
        default_args=_job_defaults(job),
    ) as dag:
        _add_job_tasks(job, folder)
    return dag


def _job_doc(job: Job) -> str:
    limit = job.guards.max_links
    return _JOB_DOC.format(
        description=job.description,
        relation=job.relation.as_relation(),
        source_conn_id=job.source.conn_id,
        sql_file=job.source.sql_file,
        audit_conn_id=job.audit_conn_id,
        zoho_conn_id=job.zoho_conn_id,
        schedule=schedule_text(job),
        max_links="none" if limit is None else f"{limit} links per run",
    )


def _job_defaults(job: Job) -> dict[str, Any]:
    return task_defaults(owner=job.owner, retries=job.retries, retry_delay=job.retry_delay)


def _add_job_tasks(job: Job, folder: Path) -> None:
    _add_tasks(
        job,
        folder,
        preflight=PreflightOperator,
        plan=PlanLinksOperator,
        map_over=lambda plan: DeleteRelatedByExternalIdOperator.partial(
            task_id="delink",
            **delink_arguments(job),
            max_active_tis_per_dag=job.active_chunks,
            map_index_template=CHUNK_NAME,
            **({"pool": job.pool} if job.pool else {}),
        ).expand(chunk=plan.output),
        updates=job.dag_id,
    )


def _add_tasks(
    job: Job | None,
    folder: Path,
    *,
    preflight: type[PreflightOperator],
    plan: type[PlanLinksOperator | PlanRetryOperator | PlanRelinkOperator],
    map_over: Callable[[Any], Any],
    updates: str,
) -> None:
    """
    Add the tasks of a run to the current Dag or task group.

    :param job: None if the trigger form names it
    :param map_over: makes the mapped task of the plan task
    :param updates: name of the asset alias that the report updates
    """
    common: dict[str, Any] = {"job": job, "jobs_folder": folder}

    def add(operator: type[JobOperator], task_id: str, **arguments: Any) -> Any:
        return operator(task_id=task_id, execution_timeout=TIME_LIMITS[task_id], **common, **arguments)

    checked = add(preflight, "preflight")
    planned = add(plan, "plan", preflight_task_id=checked.task_id)
    guarded = add(GuardOperator, "guard")
    approved = add(ApproveOperator, "approve", guard_task_id=guarded.task_id)
    # The report runs whatever the other tasks ended as.
    report = add(ReportOperator, "report", trigger_rule="all_done", retries=1, outlets=[updates_of(updates)])
    checked >> planned >> guarded >> approved >> map_over(planned) >> report


def _job_names(folder: str | Path) -> list[str]:
    return [job.name for job in load_jobs(Path(folder))[0]]
