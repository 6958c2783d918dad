"""What the commands have in common: options, and errors that end with a sentence and an exit code."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from zoho_crm.cli.exits import Exit, exit_of, message_of
from zoho_crm.cli.output import Output

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.core.job import Job

JOBS_FOLDER = "ZOHO_CRM_JOBS_FOLDER"

json_option = click.option("--json", "as_json", is_flag=True, help="Print one JSON document for machines.")

jobs_folder_option = click.option(
    "--jobs-folder",
    type=click.Path(path_type=Path, file_okay=False),
    envvar=JOBS_FOLDER,
    show_envvar=True,
    default=Path("include/jobs"),
    show_default=True,
    help="Folder of the job files.",
)

audit_conn_option = click.option(
    "--audit-conn-id",
    metavar="CONN_ID",
    help="Connection of the audit database; by default the one that the job names, or all jobs do.",
)


def current_time() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class CommandError(click.ClickException):
    """
    Ends a command with a sentence and an exit code.

    With ``--json`` the sentence is a document on standard output as well, so that a reader always gets one.

    :param code: the exit code
    """

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code

    @property
    def exit_code(self) -> int:  # type: ignore[override] # click reads it, and never writes it
        """The exit code, for click."""
        return int(self.code)


def command(function: Callable[..., Any]) -> Callable[..., None]:
    """
    Make a function the body of a command: errors that are to be expected end it with a sentence.

    The function gets :class:`Output` as ``out`` in place of ``as_json``, and may return an exit code.
    """

    @wraps(function)
    def run(*, as_json: bool = False, **options: Any) -> None:
        out = Output(as_json=as_json, stream=sys.stdout)
        os.environ.setdefault("AIRFLOW__LOGGING__LOGGING_LEVEL", "WARNING")
        try:
            # Airflow logs to standard output, which belongs to the result.
            with redirect_stdout(sys.stderr):
                code = function(out=out, **options)
        except click.ClickException as error:
            _tell(out, error.format_message(), error.exit_code)
            raise
        except Exception as error:
            if (expected := exit_of(error)) is None:
                raise
            _tell(out, message_of(error), expected)
            raise CommandError(message_of(error), expected) from None
        if code:
            sys.exit(int(code))

    return run


def job_named(jobs_folder: Path, name: str) -> Job:
    """
    Return a job by its name.

    :raises JobFileError: there is none of that name, or its file cannot be used
    """
    from zoho_crm.core.job_files import named_job

    return named_job(jobs_folder, name)


def audit_conn_of(jobs_folder: Path, job: Job | None, audit_conn_id: str | None) -> str:
    """
    Return the connection of the audit database that is meant.

    :param job: the job that was named, or None
    :param audit_conn_id: the connection that was named, or None
    :raises CommandError: none was named, and the job files do not agree on one
    """
    from zoho_crm.core.job_files import load_jobs

    if audit_conn_id or job:
        return audit_conn_id or (job.audit_conn_id if job else "")
    found = sorted({one.audit_conn_id for one in load_jobs(jobs_folder)[0]})
    if len(found) != 1:
        told = (
            f"the job files in {jobs_folder} name {', '.join(found)}"
            if found
            else f"no job file in {jobs_folder}"
        )
        usage_error(f"Name the job with --job, or the audit database with --audit-conn-id: {told}.")
    return found[0]


def usage_error(message: str) -> NoReturn:
    """End the command: what it was asked cannot be meant."""
    raise CommandError(message, Exit.USAGE_ERROR)


def _tell(out: Output, message: str, code: int) -> None:
    if out.as_json:
        out.document({"error": message, "exit_code": int(code)})
