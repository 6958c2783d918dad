"""
Job files: ``include/jobs/<job>.yaml``.

Errors name the file, the field and the reason.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from zoho_crm.core.job import Job
from zoho_crm.errors import ZohoConfigError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

JOBS_FOLDER_VARIABLE = "ZOHO_CRM_JOBS_FOLDER"

SOURCE_SQL = "source.sql_file"
BASELINE_SQL = "guards.baseline_sql_file"
FRESHNESS_SQL = "guards.freshness_sql_file"

_YAML_SUFFIXES = (".yaml", ".yml")


class JobFileError(ZohoConfigError):
    """A job file cannot be used. The message names file, field and reason, one line for each fault."""


def jobs_folder(project: Path) -> Path:
    """
    Return the folder of the job files: the one named by ``ZOHO_CRM_JOBS_FOLDER``, or the project's own.

    :param project: folder that contains ``include/jobs``
    """
    return Path(os.environ.get(JOBS_FOLDER_VARIABLE) or project / "include" / "jobs")


def job_files(folder: Path) -> list[Path]:
    """Return the job files of a folder, by name; hidden files are left out."""
    if not folder.is_dir():
        return []
    return sorted(
        path for path in folder.iterdir() if path.suffix in _YAML_SUFFIXES and not path.name.startswith(".")
    )


def load_job(path: Path) -> Job:
    """
    Read and check one job file.

    :raises JobFileError: it cannot be read, is not YAML, or does not describe a job
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - it is a safe one
    except (OSError, RecursionError, ValueError, yaml.YAMLError) as error:
        raise JobFileError(f"{path.name}: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise JobFileError(f"{path.name}: not a job: the file must be a mapping of fields")
    if "name" in content:
        raise JobFileError(f"{path.name}: name: not a field: the job is named like its file")
    try:
        job = Job.model_validate({**content, "name": path.stem})
    except ValidationError as error:
        raise JobFileError("\n".join(_fault_lines(path.name, error))) from None
    try:
        for field, sql_file in sql_files(job).items():
            find_sql(path.parent, sql_file, field)
    except JobFileError as error:
        raise JobFileError(f"{path.name}: {error}") from None
    return job


def load_jobs(folder: Path) -> tuple[list[Job], list[JobFileError]]:
    """
    Read all job files of a folder.

    :return: the jobs, and an error for each invalid file, which does not affect other jobs
    """
    jobs: dict[str, Job] = {}
    errors: list[JobFileError] = []
    for path in job_files(folder):
        try:
            job = load_job(path)
        except JobFileError as error:
            errors.append(error)
            continue
        if job.name in jobs:
            errors.append(JobFileError(f"{path.name}: name: another file already describes {job.name!r}"))
            continue
        jobs[job.name] = job
    return list(jobs.values()), errors


def named_job(folder: Path, name: object) -> Job:
    """
    Return the job of a given name.

    :raises JobFileError: no job has that name, or its file is invalid; the message lists the jobs
    """
    paths = {path.stem: path for path in job_files(folder)}
    if not isinstance(name, str) or name not in paths:
        raise JobFileError(f"job: there is no job {name!r}; there are: {', '.join(sorted(paths)) or 'none'}")
    return load_job(paths[name])


def sql_files(job: Job) -> dict[str, str]:
    """Return the SQL files that a job names, by the field that names them."""
    named = {
        SOURCE_SQL: job.source.sql_file,
        BASELINE_SQL: job.guards.baseline_sql_file,
        FRESHNESS_SQL: job.guards.freshness_sql_file,
    }
    return {field: sql_file for field, sql_file in named.items() if sql_file is not None}


def read_sql(job: Job, jobs_folder: Path) -> dict[str, str]:
    """
    Return the SQL of a job, by the field that names its file.

    :raises JobFileError: a file does not exist
    """
    return {
        field: find_sql(jobs_folder, sql_file, field).read_text(encoding="utf-8")
        for field, sql_file in sql_files(job).items()
    }


def find_sql(jobs_folder: Path, sql_file: str, field: str) -> Path:
    """
    Return a SQL file: below ``include/sql``, or below ``include``, where the folder of job files lies.

    :param field: what the file is called in the job file
    :raises JobFileError: there is no such file, or it lies elsewhere
    """
    include = jobs_folder.resolve().parent
    # Text that cannot be a path, such as one with a NUL, is not a file either.
    with suppress(OSError, ValueError):
        for base in (include / "sql", include):
            candidate = (base / sql_file).resolve()
            if candidate.is_relative_to(include) and candidate.is_file():
                return candidate
    raise JobFileError(f"{field}: {sql_file!r} is not a file below {include.name}/sql")


class _Loader(yaml.SafeLoader):
    """
    A YAML loader that is stricter in three ways.

    A duplicate key is refused: it would silently lose a value, such as a limit. An invalid date is left to the job's
    model, which names the field. The key ``on`` is a word, not a boolean as in YAML 1.1.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        written: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.tag == "tag:yaml.org,2002:bool":
                    key.tag = "tag:yaml.org,2002:str"
                if key.value in written:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value}: is there twice", key.start_mark
                    )
                written.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _fault_lines(file_name: str, error: ValidationError) -> Sequence[str]:
    lines = []
    for fault in error.errors(include_url=False, include_context=False):
        field = ".".join(str(part) for part in fault["loc"])
        reason = fault["msg"].removeprefix("Value error, ")
        lines.append(f"{file_name}: {field}: {reason}" if field else f"{file_name}: {reason}")
    return lines
