"""
Job files: ``include/jobs/<job>.yaml``.

What is wrong in a file is told with the file, the field and the reason, so that it can be mended without reading this
code.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from zoho_crm.core.job import Job
from zoho_crm.errors import ZohoConfigError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

_YAML_SUFFIXES = (".yaml", ".yml")


class JobFileError(ZohoConfigError):
    """A job file cannot be used. The message names file, field and reason, one line for each fault."""


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
    named = {
        "source.sql_file": job.source.sql_file,
        "guards.baseline_sql_file": job.guards.baseline_sql_file,
        "guards.freshness_sql_file": job.guards.freshness_sql_file,
    }
    try:
        for field, sql_file in named.items():
            if sql_file is not None:
                find_sql(path.parent, sql_file, field)
    except JobFileError as error:
        raise JobFileError(f"{path.name}: {error}") from None
    return job


def load_jobs(folder: Path) -> tuple[list[Job], list[JobFileError]]:
    """
    Read all job files of a folder.

    :return: the jobs, and an error for each file that cannot be used: a broken file takes no other job down
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
    Return the job that somebody names.

    :raises JobFileError: there is none of that name, or its file cannot be used; the message says which there are
    """
    paths = {path.stem: path for path in job_files(folder)}
    if not isinstance(name, str) or name not in paths:
        raise JobFileError(f"job: there is no job {name!r}; there are: {', '.join(sorted(paths)) or 'none'}")
    return load_job(paths[name])


def sql_path(job: Job, jobs_folder: Path) -> Path:
    """Return the job's SQL file; raises JobFileError."""
    return find_sql(jobs_folder, job.source.sql_file, "source.sql_file")


def find_sql(jobs_folder: Path, sql_file: str, field: str) -> Path:
    """
    Return a SQL file: below ``include/sql``, or below ``include``, where the folder of job files lies.

    :param field: what the file is called in the job file
    :raises JobFileError: there is no such file, or it lies elsewhere
    """
    include = jobs_folder.resolve().parent
    # Text that can be no path, such as one with a NUL, is no file either.
    with suppress(OSError, ValueError):
        for base in (include / "sql", include):
            candidate = (base / sql_file).resolve()
            if candidate.is_relative_to(include) and candidate.is_file():
                return candidate
    raise JobFileError(f"{field}: {sql_file!r} is no file below {include.name}/sql")


class _Loader(yaml.SafeLoader):
    """
    YAML without three of its traps.

    A key that is there twice would silently lose one of its values, say a limit. A date that cannot be is left to the
    job's model, which names the field. And the key ``on`` is a word, not the truth value that YAML 1.1 takes it for.
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
