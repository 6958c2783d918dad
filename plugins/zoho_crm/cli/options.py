"""Shared options of the commands, exit codes, and errors that end a command."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from datetime import UTC, datetime
from enum import IntEnum
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from zoho_crm.cli.airflow_home import provide_airflow_home
from zoho_crm.cli.output import Output
from zoho_crm.errors import (
    GuardError,
    ZohoAuthError,
    ZohoConfigError,
    ZohoError,
    ZohoNotSentError,
    ZohoResponseError,
    ZohoTokenThrottledError,
    ZohoUnansweredError,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.core.job import Job

JOBS_FOLDER = "ZOHO_CRM_JOBS_FOLDER"
LOG_LEVEL = "AIRFLOW__LOGGING__LOGGING_LEVEL"

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
    help="Connection of the audit database. Default: that of the job, or of all jobs if they agree.",
)


class Exit(IntEnum):
    """Exit codes of all commands."""

    OK = 0
    CHECK_FAILED = 1
    """A job, a connection, a plan or the audit did not pass its check."""
    USAGE_ERROR = 2
    """An argument, an environment variable, a file or a connection is wrong."""
    UNREACHABLE = 3
    """Zoho or a database cannot be reached, or does not give a usable response at the moment."""
    INTERRUPTED = 130
    """Ctrl-C, as in a shell."""


def current_time() -> datetime:
    """Return the current time in UTC."""
    return datetime.now(UTC)


class CommandError(click.ClickException):
    """
    An error that ends a command with a message and an exit code.

    With ``--json``, standard output gets a document with both.

    :param code: the exit code
    """

    def __init__(self, message: str, code: Exit) -> None:
        super().__init__(message)
        self.code = code

    @property
    def exit_code(self) -> int:  # type: ignore[override] # click reads it, and never writes it
        """The exit code that click uses."""
        return int(self.code)


def command(function: Callable[..., Any]) -> Callable[..., None]:
    """
    Make a function the body of a command, which expected errors end with a message.

    The function gets an :class:`Output` as ``out`` instead of ``as_json``, and may return an exit code.
    """

    @wraps(function)
    def run(*, as_json: bool = False, **options: Any) -> None:
        out = Output(as_json=as_json, stream=sys.stdout)
        # Airflow warns of matters that the user of a command cannot change, such as short values in a connection.
        os.environ.setdefault(LOG_LEVEL, "ERROR")
        provide_airflow_home()
        try:
            # Airflow logs to standard output, which is for the result.
            with redirect_stdout(sys.stderr):
                code = function(out=out, **options)
        except KeyboardInterrupt:
            _print_error(out, "interrupted", Exit.INTERRUPTED)
            raise CommandError("interrupted", Exit.INTERRUPTED) from None
        except click.ClickException as error:
            _print_error(out, error.format_message(), error.exit_code)
            raise
        except Exception as error:
            if (expected := exit_of(error)) is None:
                raise
            _print_error(out, message_of(error), expected)
            raise CommandError(message_of(error), expected) from None
        if code:
            sys.exit(int(code))

    return run


def job_named(jobs_folder: Path, name: str) -> Job:
    """
    Return a job by its name.

    :raises JobFileError: there is no such job, or its file is invalid
    """
    from zoho_crm.core.job_files import named_job

    return named_job(jobs_folder, name)


def audit_conn_of(jobs_folder: Path, job: Job | None, audit_conn_id: str | None) -> str:
    """
    Return the connection id of the audit database.

    :param job: job given on the command line, or None
    :param audit_conn_id: connection given on the command line, or None
    :raises CommandError: neither was given, and the job files, or without any ``ZOHO_CRM_AUDIT_CONN_IDS``, name none or
        several
    """
    from zoho_crm.core.job_files import audit_conn_ids, load_jobs

    if audit_conn_id or job:
        return audit_conn_id or (job.audit_conn_id if job else "")
    found = sorted({one.audit_conn_id for one in load_jobs(jobs_folder)[0]}) or audit_conn_ids()
    if len(found) != 1:
        reason = (
            f"the job files in {jobs_folder} name {', '.join(found)}"
            if found
            else f"{jobs_folder} has no job file"
        )
        usage_error(f"Name the job with --job, or the audit database with --audit-conn-id: {reason}.")
    return found[0]


def exit_of(error: BaseException) -> Exit | None:
    """Return the exit code of an expected error; None for an unexpected one."""
    match error:
        case ZohoNotSentError() | ZohoUnansweredError() | ZohoTokenThrottledError():
            return Exit.UNREACHABLE
        case ZohoAuthError() | ZohoResponseError() | GuardError():
            return Exit.CHECK_FAILED
        case ZohoConfigError():
            return Exit.USAGE_ERROR
        case ZohoError():
            return Exit.UNREACHABLE
    return Exit.UNREACHABLE if _is_database_error(error) else None


def message_of(error: BaseException) -> str:
    """Return an error as one sentence, without the SQL and parameters of a database error."""
    if isinstance(error, ZohoError):
        return str(error)
    cause = getattr(error, "orig", None) or error
    return f"Database error: {' '.join(str(cause).split())}"


def usage_error(message: str) -> NoReturn:
    """End the command because of a wrong argument, option or setting."""
    raise CommandError(message, Exit.USAGE_ERROR)


def _print_error(out: Output, message: str, code: int) -> None:
    if out.as_json:
        out.document({"error": message, "exit_code": int(code)})


def _is_database_error(error: BaseException) -> bool:
    """Return whether SQLAlchemy raised the error, without importing SQLAlchemy."""
    alchemy = sys.modules.get("sqlalchemy.exc")
    return alchemy is not None and isinstance(error, alchemy.SQLAlchemyError)
