"""Find the job files that a Dag file names by relative paths."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from zoho_crm.core.job_files import JobFileError

if TYPE_CHECKING:
    from collections.abc import Callable

_FACTORIES = {__name__, "zoho_crm.dags", "zoho_crm.past_run_dags"}
"""Modules between a Dag file and the search."""


def find_jobs_folder(folder: str | Path) -> Path:
    """
    Return the absolute path of a folder of job files.

    A relative path is looked for in the folder of the Dag file that calls, then in each folder above it. The current
    folder plays no part: it differs between the processes of Airflow, and each version of a Dag bundle has its files.

    :param folder: e.g. ``include/jobs``, or an absolute path
    :raises JobFileError: there is no such folder; the message lists the paths
    """
    return _find("jobs folder", Path(folder), Path.is_dir)


def find_job_file(job: str | Path) -> Path:
    """
    Return the absolute path of a job file; a relative path is looked for as by :func:`find_jobs_folder`.

    :raises JobFileError: there is no such file; the message lists the paths
    """
    return _find("job file", Path(job), Path.exists)


def _find(what: str, path: Path, is_there: Callable[[Path], bool]) -> Path:
    candidates = _candidates(path)
    for candidate in candidates:
        if is_there(candidate):
            return candidate
    listed = ", ".join(str(candidate) for candidate in candidates)
    raise JobFileError(f"{what} {str(path)!r} does not exist; looked for {listed}")


def _candidates(path: Path) -> list[Path]:
    if path.is_absolute():
        return [path]
    dag_file = _dag_file()
    folders = [Path.cwd()] if dag_file is None else dag_file.parents
    return [folder / path for folder in folders]


def _dag_file() -> Path | None:
    """Return the file whose code called a factory; None for code without a file, such as that of a prompt."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") in _FACTORIES:
        frame = frame.f_back
    file = frame.f_globals.get("__file__")
    # Links are not followed: git-sync swaps a link to switch to another commit.
    return Path(file).absolute() if file else None
