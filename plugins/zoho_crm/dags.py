"""
Dags for job files.

``globals().update(delink_dags("include/jobs"))`` is a whole Dag file. :func:`delink_task_group` adds the tasks of a job
to a Dag of your own. Nothing here reads a connection or a Variable: Dags parse with nothing configured.

A relative path is looked for in the folder of the Dag file, then in each folder above it.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk import DAG, TaskGroup, get_parsing_context, task

from zoho_crm.core.formatting import format_percent
from zoho_crm.core.job_files import JobFileError, load_job, load_jobs, paths_by_name, place_faults
from zoho_crm.core.run_request import RELINK_DAG_ID, RETRY_DAG_ID
from zoho_crm.dag_files import find_job_file, find_jobs_folder
from zoho_crm.dag_tasks import CHUNK_NAME, add_tasks, task_defaults
from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator
from zoho_crm.operators.job_operator import delink_arguments
from zoho_crm.operators.plan_links import PlanLinksOperator
from zoho_crm.operators.preflight import PreflightOperator
from zoho_crm.past_run_dags import (
    EXPORT_DAG_ID,
    RETENTION_DAG_ID,
    export_dag,
    relink_dag,
    retention_dag,
    retry_dag,
)
from zoho_crm.schedules import schedule_faults, schedule_of, schedule_text
from zoho_crm.source import sql_faults
from zoho_crm.trigger_forms import job_form

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoho_crm.core.job import Guards, Job

__all__ = [
    "delink_dag",
    "delink_dags",
    "delink_task_group",
    "export_dag",
    "relink_dag",
    "report_invalid_jobs",
    "retention_dag",
    "retry_dag",
]

INVALID_JOBS_DAG_ID = "zoho_delink_invalid_jobs"

_JOB_DOC = """\
{description}

Removes links of **{relation}** from Zoho CRM. Both records stay; Zoho cannot undo it.

| | |
|---|---|
| links from | connection `{source_conn_id}`, `{sql_file}` |
| plan and audit | connection `{audit_conn_id}`, tables `zoho_delink_*` |
| Zoho | connection `{zoho_conn_id}` |
| schedule | {schedule} |
| automatic runs | {automatic} |
| limit | {max_links} |

A manual run is a **dry run** unless *Mode* is `apply`. Automatic runs are those that Airflow starts: scheduled,
asset-triggered and backfill runs. The outcome of every link is in `zoho_delink_latest`, the result
of the run in `zoho_delink_run`.
"""

_INVALID_JOBS_DOC = """\
The Dags of these jobs are missing; other jobs are not affected. `zoho-delink check-job FILE` checks a file. This Dag
disappears once all files are valid.

```text
{faults}
```
"""


def delink_dags(
    folder: str | Path,
    *,
    retry: bool = True,
    relink: bool = True,
    retention: bool = True,
    export_conn_id: str | None = None,
    export_schema: str | None = None,
    invalid_jobs: bool = True,
) -> dict[str, DAG]:
    """
    Return all Dags of a project by Dag ID: one for each valid job file, and those on past runs.

    Invalid job files do not affect other jobs. They are reported by the Dag ``zoho_delink_invalid_jobs``, which exists
    and fails every hour as long as a file is invalid: with an import error, Airflow would stop scheduling every Dag of
    the file. See :func:`report_invalid_jobs` for an import error instead.

    :param folder: folder of the job files, e.g. ``include/jobs``; the SQL files are in ``../sql``
    :param retry: include the Dag that retries unfinished links
    :param relink: include the Dag that relinks removed links
    :param retention: include the Dag that replaces external IDs of old runs by hashes
    :param export_conn_id: connection to a warehouse; includes the Dag that copies the audit there
    :param export_schema: schema of the copy; None for the default of the connection
    :param invalid_jobs: include the Dag that reports invalid job files
    :raises JobFileError: there is no such folder
    """
    found = find_jobs_folder(folder)
    jobs, errors = load_jobs(found)
    valid, faults = _check_jobs(found, jobs, errors)
    factories: dict[str, Callable[[], DAG]] = {}
    for job in valid:
        factories[job.dag_id] = lambda job=job: _job_dag(job, found)  # type: ignore[misc]
    if retry:
        factories[RETRY_DAG_ID] = lambda: retry_dag(found, jobs)
    if relink:
        factories[RELINK_DAG_ID] = lambda: relink_dag(found, jobs)
    if retention:
        factories[RETENTION_DAG_ID] = lambda: retention_dag(found, jobs)
    if export_conn_id:
        factories[EXPORT_DAG_ID] = lambda: export_dag(found, export_conn_id, schema=export_schema, jobs=jobs)
    if invalid_jobs and faults:
        factories[INVALID_JOBS_DAG_ID] = lambda: _invalid_jobs_dag(faults)
    # A worker parses the file for one Dag alone.
    wanted = get_parsing_context().dag_id
    return {dag_id: build() for dag_id, build in factories.items() if wanted in {None, dag_id}}


def report_invalid_jobs(folder: str | Path) -> None:
    """
    Raise an error that lists all invalid job files of a folder, which Airflow shows as an import error.

    Call it in a Dag file without Dags: Airflow stops scheduling every Dag of a file that raises. In the file with the
    Dags, pass ``invalid_jobs=False`` to :func:`delink_dags`.

    :param folder: folder of the job files, e.g. ``include/jobs``

    :raises JobFileError: one line for each fault
    """
    if get_parsing_context().dag_id is not None:
        return
    found = find_jobs_folder(folder)
    faults = _check_jobs(found, *load_jobs(found))[1]
    if faults:
        raise JobFileError("\n".join(faults))


def delink_dag(job: str | Path) -> DAG:
    """
    Return the Dag of one job file.

    :param job: path of the job file, e.g. ``include/jobs/contacts_deals.yaml``
    :raises JobFileError: the job file or its SQL is missing or invalid; the message names file, line and field
    """
    file = find_job_file(job)
    return _job_dag(_load_valid(file), file.parent)


def delink_task_group(job: str | Path, group_id: str = "delink") -> TaskGroup:
    """
    Add the tasks of a job to the current Dag, as one task group.

    Schedule and trigger form are those of your Dag; with ``params=job_form()`` it has the form of a job's Dag.

    :param job: path of the job file, e.g. ``include/jobs/contacts_deals.yaml``
    :param group_id: ID of the group, which prefixes the IDs of its tasks
    :raises JobFileError: the job file or its SQL is missing or invalid; the message names file, line and field
    """
    file = find_job_file(job)
    loaded = _load_valid(file, has_schedule=False)
    defaults: Any = _job_defaults(loaded)
    with TaskGroup(group_id, default_args=defaults) as group:
        _add_job_tasks(loaded, file.parent)
    return group


def _check_jobs(folder: Path, jobs: list[Job], errors: list[JobFileError]) -> tuple[list[Job], list[str]]:
    """
    Return the jobs of which a Dag can be built, and one line for each fault of the others.

    :param errors: what reading the job files found
    """
    valid, faults = [], [line for error in errors for line in str(error).splitlines()]
    files = paths_by_name(folder)
    for job in jobs:
        if found := _faults(job, files[job.name]):
            faults += found
        else:
            valid.append(job)
    return valid, faults


def _load_valid(file: Path, *, has_schedule: bool = True) -> Job:
    job = load_job(file)
    if faults := _faults(job, file, has_schedule=has_schedule):
        raise JobFileError("\n".join(faults))
    return job


def _faults(job: Job, file: Path, *, has_schedule: bool = True) -> list[str]:
    """Return what is wrong with the SQL files and the schedule of a job, with file and line."""
    found = sql_faults(job, file.parent)
    if has_schedule:
        found += schedule_faults(job)
    return place_faults(found, file)


def _invalid_jobs_dag(faults: list[str]) -> DAG:
    """Return a Dag that fails with the faults of job files until they are gone."""
    with DAG(
        dag_id=INVALID_JOBS_DAG_ID,
        description="Invalid job files",
        doc_md=_INVALID_JOBS_DOC.format(faults="\n".join(faults)),
        schedule="@hourly",
        start_date=datetime(2026, 1, 1),
        catchup=False,
        max_active_runs=1,
        is_paused_upon_creation=False,
        tags={"zoho", "delink"},
    ) as dag:

        @task(task_id="report", retries=0)
        def report() -> None:
            raise JobFileError("\n".join(faults))

        report()
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
        params=job_form(job),
        tags={"zoho", "delink", *job.tags},
        default_args=_job_defaults(job),
    ) as dag:
        _add_job_tasks(job, folder)
    return dag


def _job_doc(job: Job) -> str:
    return _JOB_DOC.format(
        description=job.description,
        relation=job.relation.as_relation(),
        source_conn_id=job.source.conn_id,
        sql_file=job.source.sql_file,
        audit_conn_id=job.audit_conn_id,
        zoho_conn_id=job.zoho_conn_id,
        schedule=schedule_text(job),
        automatic=_automatic_text(job),
        max_links=_limit_text(job.guards),
    )


def _limit_text(guards: Guards) -> str:
    limits = []
    if guards.link_limit is not None:
        default = " (the default: `guards.max_links` is not set)" if guards.has_default_limit else ""
        limits.append(f"{guards.link_limit} links per run{default}")
    if guards.max_share is not None:
        limits.append(f"{format_percent(guards.max_share)} of the baseline links")
    return ", ".join(limits) or "none"


def _automatic_text(job: Job) -> str:
    if job.automatic == "apply":
        return f"**{job.automatic_runs}** (`automatic: apply` in the job file)"
    return f"{job.automatic_runs}, until the job file says `automatic: apply`"


def _job_defaults(job: Job) -> dict[str, Any]:
    return task_defaults(owner=job.owner, retries=job.retries, retry_delay=job.retry_delay)


def _add_job_tasks(job: Job, folder: Path) -> None:
    add_tasks(
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
