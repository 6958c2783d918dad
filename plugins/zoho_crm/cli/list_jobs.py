"""``zoho-delink list``: list the jobs of a folder with their schedules and last runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from zoho_crm.cli.check_job import format_schedule
from zoho_crm.cli.options import (
    JOBS_FOLDER,
    CommandError,
    Exit,
    command,
    json_option,
    usage_error,
)
from zoho_crm.errors import ZohoError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoho_crm.cli.output import Output
    from zoho_crm.core.job import Job
    from zoho_crm.core.models import StoredRun


@click.command("list")
@click.argument(
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=JOBS_FOLDER,
    default=Path("include/jobs"),
)
@json_option
@command
def list_jobs(folder: Path, out: Output) -> Exit:
    """
    List jobs with their schedules and last runs.

    FOLDER is the folder of the job files. It defaults to ZOHO_CRM_JOBS_FOLDER, or to include/jobs. The last run is that
    of the job's audit database, if its connection is found here. Exits with 1 if a job file is invalid.
    """
    from zoho_crm.core.job_files import load_jobs

    if not folder.is_dir():
        usage_error(f"Folder {folder} does not exist: name the folder of the job files.")
    jobs, errors = load_jobs(folder)
    last_runs, notes = _last_runs(jobs)
    rows = [_describe(job, last_runs.get(job.name)) for job in jobs]
    faults = [line for error in errors for line in str(error).splitlines()]
    if out.as_json:
        out.document({"ok": not faults, "folder": folder, "jobs": rows, "errors": faults, "notes": notes})
    else:
        _show(out, folder, rows, faults, notes)
    return Exit.CHECK_FAILED if faults else Exit.OK


def _last_runs(jobs: Sequence[Job]) -> tuple[dict[str, StoredRun], list[str]]:
    """Return the last run of each job, and why an audit database could not be read."""
    from zoho_crm.cli.connections import NoAuditError, open_ledger
    from zoho_crm.ledger.run_queries import RunFilter, RunQueries

    found: dict[str, StoredRun] = {}
    notes = []
    for conn_id in sorted({job.audit_conn_id for job in jobs}):
        try:
            with open_ledger(conn_id) as ledger:
                queries = RunQueries(ledger.engine)
                for job in jobs:
                    if job.audit_conn_id == conn_id:
                        runs = queries.page(RunFilter(job=job.name), visible=None, limit=1)
                        found |= {run.job: run for run in runs}
        except NoAuditError:
            continue
        except (CommandError, ZohoError) as error:
            notes.append(f"Last runs are not shown: {error}")
    return found, notes


def _describe(job: Job, last: StoredRun | None) -> dict[str, Any]:
    return {
        "job": job.name,
        "dag": job.dag_id,
        "schedule": format_schedule(job),
        "automatic": job.automatic,
        "last_run": last
        and {
            "run_key": last.run_key,
            "dag_id": last.dag_id,
            "started_at": last.started_at,
            "operation": last.operation,
            "mode": last.mode,
            "status": last.status,
            "ending": last.ending,
        },
    }


def _show(
    out: Output, folder: Path, rows: Sequence[dict[str, Any]], errors: Sequence[str], notes: Sequence[str]
) -> None:
    from zoho_crm.core.job import AUTOMATIC_RUNS

    if rows:
        out.table(
            ("job", "Dag", "schedule", "automatic runs", "last run"),
            [
                (
                    row["job"],
                    row["dag"],
                    row["schedule"],
                    AUTOMATIC_RUNS[row["automatic"]],
                    _format_run(row["last_run"]),
                )
                for row in rows
            ],
        )
    elif not errors:
        out.say(f"{folder} has no job file. Write a sample with zoho-delink init.")
    for error in errors:
        out.error(error)
    for note in notes:
        out.say(note)


def _format_run(run: dict[str, Any] | None) -> str:
    if run is None:
        return "-"
    action = {"dry_run": "dry run", "apply": run["operation"]}[run["mode"]]
    return f"{run['started_at']:%Y-%m-%d %H:%M} UTC, {action}: {run['ending']}"
