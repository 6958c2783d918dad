"""
The job file: what a data engineer writes to get a delink Dag.

One file ``include/jobs/<job>.yaml`` is one Dag ``zoho_delink__<job>``. What is wrong in a file is told with the
file, the field and the reason, so that it can be mended without reading this code.
"""

from __future__ import annotations

import math
import re
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from croniter import CroniterBadDateError, croniter
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from zoho_crm.core.links import Relation
from zoho_crm.errors import ZohoConfigError

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from pathlib import Path

DAG_ID_PREFIX = "zoho_delink__"

DEFAULT_ORG_CONCURRENCY = 10
"""Requests in flight that a connection allows where it does not say otherwise."""

_JOB_NAME = re.compile(r"[a-z][a-z0-9_]{0,79}")
_RANDOM_CRON = re.compile(r"\b[hr]\b", re.IGNORECASE)
_CONN_ID = re.compile(r"[\w.\-]{1,250}")
_YAML_SUFFIXES = (".yaml", ".yml")


def _check_conn_id(value: str) -> str:
    if not _CONN_ID.fullmatch(value):
        raise ValueError("not a connection id: letters, digits, '_', '-' and '.'")
    return value


ConnId = Annotated[str, AfterValidator(_check_conn_id)]


class JobFileError(ZohoConfigError):
    """A job file cannot be used. The message names file, field and reason, one line for each fault."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Source(_Model):
    """
    Where the links to remove come from.

    :param conn_id: connection of the warehouse; any whose hook is a ``DbApiHook``
    :param sql_file: file below ``include/sql`` (or ``include``) with one SELECT that yields ``external_id`` and
        ``related_external_id``, and may use ``:window_start`` and ``:window_end``
    """

    conn_id: ConnId
    sql_file: str = Field(min_length=1)


class RelationModel(_Model):
    """The relation the links belong to, in Zoho's API names; ``related_module`` defaults to ``related_list``."""

    module: str
    external_field: str
    related_list: str
    related_module: str | None = None
    related_external_field: str

    def as_relation(self) -> Relation:
        """Return the checked relation; raises ZohoConfigError."""
        return Relation(
            module=self.module,
            external_field=self.external_field,
            related_list=self.related_list,
            related_module=self.related_module or self.related_list,
            related_external_field=self.related_external_field,
        )


class Guards(_Model):
    """
    Limits that are checked between planning and sending.

    :param max_links: a run that plans more links than this stops before the first is sent
    """

    max_links: int | None = Field(default=None, ge=0)


class Job(_Model):
    """
    One job file, checked.

    :param name: the file's name without its ending
    :param description: one line for people
    :param owner: who is asked when it fails
    :param schedule: cron expression, or null to run by hand only
    :param timezone: IANA name of the zone the cron expression is meant in
    :param start_date: first day a schedule or a backfill covers, at midnight in ``timezone``
    :param zoho_conn_id: connection of type ``zoho_crm``
    :param audit_conn_id: connection of the database that holds plan and audit
    :param strategy: ``single``: one call a link; ``by_parent``: up to 100 links of one parent in a call
    :param direct: with ``by_parent``, do not read record ids first; Zoho does not document that
    :param allow_undocumented_relation: take links out of a relation that Zoho does not document a delink for
    :param chunk_size: links a mapped task takes care of; it grows when a run needs more tasks than Airflow maps
    :param task_concurrency: requests in flight within one mapped task
    :param max_active_chunks: mapped tasks at work at once over all runs of the job; by default as many as an org
        of 10 requests in flight keeps busy
    :param pool: name of an Airflow pool for the mapped tasks; it must exist, or they wait for ever
    :param breaker_share: share (0 to 1) of a task's links that may fail, be refused or stay unknown before the whole
        run is stopped
    :param credit_reserve: API credits of the org to leave to others; Zoho tells what is left once half are used
    :param wait_patience_hours: how long a task waits, outside of a worker, for credits or for an access token
    :param retries: tries after the first, for each task
    :param retry_delay_seconds: pause before the second try; each further one is twice as long
    :param task_timeout_minutes: a mapped task is stopped after that long; what it settled stays settled
    :param failure_tolerance: share (0 to 1) of the planned links that may fail without failing the run
    """

    name: str
    description: str = ""
    owner: str = "airflow"
    schedule: str | None = None
    timezone: str = "UTC"
    start_date: datetime
    source: Source
    relation: RelationModel
    zoho_conn_id: ConnId = "zoho_crm_default"
    audit_conn_id: ConnId
    strategy: Literal["single", "by_parent"] = "single"
    direct: bool = False
    allow_undocumented_relation: bool = False
    chunk_size: int = Field(default=500, ge=1, le=100_000)
    task_concurrency: int = Field(default=5, ge=1, le=25)
    max_active_chunks: int | None = Field(default=None, ge=1)
    pool: str | None = Field(default=None, min_length=1, max_length=256)
    breaker_share: float = Field(default=0.5, ge=0.0, le=1.0)
    credit_reserve: int = Field(default=0, ge=0)
    wait_patience_hours: float = Field(default=24.0, ge=0.0, le=24.0 * 7)
    retries: int = Field(default=3, ge=0, le=20)
    retry_delay_seconds: int = Field(default=30, ge=1, le=3600)
    task_timeout_minutes: int = Field(default=120, ge=1)
    guards: Guards = Guards()
    failure_tolerance: float = Field(default=0.0, ge=0.0, le=1.0)
    tags: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = ()

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not _JOB_NAME.fullmatch(value):
            raise ValueError(
                "the file's name becomes the Dag's: a small letter, then up to 79 small letters, digits and '_'"
            )
        return value

    @field_validator("schedule")
    @classmethod
    def _check_schedule(cls, value: str | None) -> str | None:
        if value is None:
            return value
        # Croniter knows letters that stand for a random number: another one each time somebody asks.
        if len(value.split()) != 5 or _RANDOM_CRON.search(value) or not croniter.is_valid(value):
            raise ValueError(f"{value!r} is not a cron expression of five fields")
        try:
            croniter(value).get_next()
        except CroniterBadDateError:
            raise ValueError(f"{value!r} is never due") from None
        return value

    @field_validator("timezone")
    @classmethod
    def _check_timezone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ValueError(f"{value!r} is not an IANA time zone") from None
        return value

    @field_validator("start_date", mode="before")
    @classmethod
    def _check_start_date(cls, value: Any) -> Any:
        if isinstance(value, date) and not isinstance(value, datetime):
            return datetime(value.year, value.month, value.day)
        if not isinstance(value, str | datetime):
            # A number would be taken for seconds since 1970.
            raise ValueError("is not a date: write it like 2026-11-01")  # noqa: TRY004 - pydantic asks for this
        return value

    @field_validator("start_date")
    @classmethod
    def _check_year(cls, value: datetime) -> datetime:
        if not 1970 <= value.year < 9999:
            raise ValueError(f"the year {value.year} is not one a schedule can begin in")
        return value

    @model_validator(mode="after")
    def _check_relation(self) -> Self:
        try:
            relation = self.relation.as_relation()
        except ZohoConfigError as error:
            raise ValueError(f"relation: {error}") from None
        if not relation.is_documented and not self.allow_undocumented_relation:
            raise ValueError(
                f"relation: Zoho documents no delink for {relation.module} -> {relation.related_list}; "
                "set allow_undocumented_relation: true once you have tried it in a sandbox"
            )
        return self

    @model_validator(mode="after")
    def _check_direct(self) -> Self:
        if self.direct and self.strategy != "by_parent":
            raise ValueError("direct: is for the strategy by_parent")
        return self

    @property
    def dag_id(self) -> str:
        """Id of the job's Dag."""
        return DAG_ID_PREFIX + self.name

    @property
    def active_chunks(self) -> int:
        """Mapped tasks at work at once: enough to keep the org busy, no more than find something to do."""
        return self.max_active_chunks or math.ceil(DEFAULT_ORG_CONCURRENCY / self.task_concurrency)

    @property
    def start(self) -> datetime:
        """``start_date`` as an aware time."""
        if self.start_date.tzinfo is None:
            return self.start_date.replace(tzinfo=ZoneInfo(self.timezone))
        return self.start_date.astimezone(UTC)

    @property
    def retry_delay(self) -> timedelta:
        """``retry_delay_seconds`` as a duration."""
        return timedelta(seconds=self.retry_delay_seconds)

    @property
    def wait_patience(self) -> timedelta:
        """``wait_patience_hours`` as a duration."""
        return timedelta(hours=self.wait_patience_hours)

    @property
    def task_timeout(self) -> timedelta:
        """``task_timeout_minutes`` as a duration."""
        return timedelta(minutes=self.task_timeout_minutes)


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
        sql_path(job, path.parent)
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


def sql_path(job: Job, jobs_folder: Path) -> Path:
    """
    Return the job's SQL file: below ``include/sql``, or below ``include``, where the folder of job files lies.

    :raises JobFileError: there is no such file, or it lies elsewhere
    """
    include = jobs_folder.resolve().parent
    # Text that can be no path, such as one with a NUL, is no file either.
    with suppress(OSError, ValueError):
        for base in (include / "sql", include):
            candidate = (base / job.source.sql_file).resolve()
            if candidate.is_relative_to(include) and candidate.is_file():
                return candidate
    raise JobFileError(f"source.sql_file: {job.source.sql_file!r} is no file below {include.name}/sql")


class _Loader(yaml.SafeLoader):
    """
    YAML without two of its traps.

    A key that is there twice would silently lose one of its values, say a limit. A date that cannot be is left to the
    job's model, which names the field.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        written: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
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
