"""
The job: the fields of a job file, from which a delink Dag is built.

One file ``include/jobs/<job>.yaml`` is one Dag ``zoho_delink__<job>``; :mod:`zoho_crm.core.job_files` reads it.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal, Self, get_origin
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from croniter import CroniterBadDateError, croniter
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationInfo,
    field_validator,
    model_validator,
)

from zoho_crm.core.links import LINK_ATTRIBUTES, Relation, check_api_name, documented_module
from zoho_crm.errors import ZohoConfigError

DAG_ID_PREFIX = "zoho_delink__"

AUTOMATIC_RUNS = {"dry_run": "dry run", "apply": "remove links"}
"""What each value of ``automatic`` means, in words."""

DEFAULT_MAX_LINKS = 1_000
"""Maximum number of planned links of a job that sets no limit, neither by count nor by share."""

DEFAULT_ORG_CONCURRENCY = 10
"""Requests in flight for the whole org, unless the connection sets ``max_concurrency``."""

_JOB_NAME = re.compile(r"[a-z][a-z0-9_]{0,79}")
_RANDOM_CRON = re.compile(r"\b[hr]\b", re.IGNORECASE)
_CRON_FIELDS = ("minute", "hour", "day of month", "month", "day of week")
_CRON_PRESETS = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@quarterly": "0 0 1 */3 *",
    "@yearly": "0 0 1 1 *",
}
"""The names that Airflow has for cron expressions."""
_CONN_ID = re.compile(r"[\w.\-]{1,250}")
_DURATION = re.compile(r"(\d{1,6})\s*([mhd])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_CLASS_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def _check_conn_id(value: str) -> str:
    if not _CONN_ID.fullmatch(value):
        raise ValueError("not a connection id: letters, digits, '_', '-' and '.'")
    return value


def _check_api_name(value: str) -> str:
    try:
        return check_api_name("the value", value)
    except ZohoConfigError as error:
        raise ValueError(str(error)) from None


def _read_duration(value: Any) -> Any:
    """Read ``90m``, ``6h`` or ``2d``. A number without a unit is refused."""
    if isinstance(value, timedelta):
        return value
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError("is not a duration; use 90m, 6h or 2d")
    return int(match[1]) * _UNITS[match[2]]


def _read_user_id(value: Any) -> Any:
    """Read a number as text: Airflow compares user IDs as text, and those of FAB are numbers."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _check_storage_url(value: str) -> str:
    scheme, separator, rest = value.partition("://")
    if not scheme or not separator or not rest:
        raise ValueError(
            "must be a URL of a folder, such as s3://aws_default@bucket/anchors or file:///srv/anchors"
        )
    return value


ConnId = Annotated[str, AfterValidator(_check_conn_id)]
StorageUrl = Annotated[str, AfterValidator(_check_storage_url)]
ApiName = Annotated[str, AfterValidator(_check_api_name)]
Duration = Annotated[timedelta, BeforeValidator(_read_duration), Field(gt=timedelta(0))]
UserId = Annotated[str, BeforeValidator(_read_user_id), Field(min_length=1)]
SqlFile = Annotated[str, Field(min_length=1)]
UserName = Annotated[str, Field(min_length=1)]
Event = Literal["failed", "stopped", "rejected", "breach", "approval", "recovered"]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_boolean(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse a boolean where none belongs: it would be read as the number 1 or 0."""
        annotation = cls.model_fields[str(info.field_name)].annotation
        # A field with a closed list of values names them.
        if isinstance(value, bool) and annotation is not bool and get_origin(annotation) is not Literal:
            raise ValueError("is a boolean, as yes, no, on and off are in YAML; put text in quotes")
        return value


class Source(_Model):
    """
    Where the links to remove come from.

    :param conn_id: connection of the warehouse; any whose hook is a ``DbApiHook``
    :param sql_file: file below ``include/sql`` (or ``include``) with one SELECT that yields ``external_id`` and
        ``related_external_id``, and may use ``:window_start`` and ``:window_end``
    :param lookback: how much earlier than its window a scheduled or backfill run starts to read, for rows that are
        committed late; null: not at all. Windows of the trigger form and of assets are read as they are
    """

    conn_id: ConnId
    sql_file: str = Field(min_length=1)
    lookback: Duration | None = None


class RelationModel(_Model):
    """
    The relation the links belong to, in Zoho's API names.

    :param module: module of the parent records, e.g. ``Contacts``
    :param external_field: external field of the parent records
    :param related_list: related list of the parent records
    :param related_module: module of the related records; by default the name of the related list, from which it may
        differ: the list ``Contact_Roles`` of a deal holds ``Contacts``
    :param related_external_field: external field of the related records
    """

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


class AssetSchedule(_Model):
    """
    Run whenever an Airflow asset is updated.

    :param asset: name of the asset
    :param uri: URI of the asset, if it has one beside its name
    """

    asset: str = Field(min_length=1, max_length=1500)
    uri: str | None = Field(default=None, min_length=1, max_length=1500)

    @field_validator("asset")
    @classmethod
    def _check_asset(cls, value: str) -> str:
        if value.isspace() or value in {"self", "context"}:
            raise ValueError(f"{value!r} is not a name that Airflow allows")
        return value

    @field_validator("uri")
    @classmethod
    def _check_uri(cls, value: str | None) -> str | None:
        parts = urlsplit(value or "")
        if value is not None and (value.isspace() or parts.scheme.lower() == "airflow"):
            raise ValueError("is not a URI that Airflow allows")
        if parts.username or parts.password:
            raise ValueError("holds a user or a password: remove them, since all users can read it")
        return value


Schedule = Annotated[
    Annotated[str, Tag("cron")] | Annotated[AssetSchedule, Tag("asset")],
    Discriminator(lambda value: "asset" if isinstance(value, dict | AssetSchedule) else "cron"),
]


class Guards(_Model):
    """
    Limits that are checked between planning and sending.

    :param max_links: maximum number of planned links; null: no limit. By default 1000, or no limit if ``max_share`` is
        set
    :param max_share: maximum share (0 to 1) of planned links in the number that ``baseline_sql_file`` yields
    :param baseline_sql_file: SQL that yields one number: how many links exist in all
    :param freshness_sql_file: SQL that yields one time: when the source was last updated
    :param max_source_age: maximum age of that time
    :param max_plan_age: how long after planning a link may still be sent
    :param max_jump: maximum number of planned links, as a multiple of the median of the last runs
    :param max_not_found_share: share (0 to 1) of the links processed so far that may have no record in Zoho; counted
        while the run sends, from 50 links on. If it is exceeded, the run stops. null: no limit
    :param on_breach: ``stop`` the run, or ``approve``: wait for an approval
    :param approvals: ``on_breach``: a run waits for an approval only as ``on_breach`` says; ``always``: each run that
        would send, retry and relink runs included
    :param approvers: Airflow user IDs of those who may approve: user names for the simple auth manager, numbers for
        FAB; empty: everyone who may edit the Dag run
    :param approval_timeout: how long to wait for an approval; no response in time is a rejection
    :param forbid_self_approval: whether an approval by the user who requested the run does not count, where Airflow
        names that user
    :param may_raise: Airflow user names of those whose runs may raise ``max_links`` in the trigger form with
        ``on_breach: stop``; empty: no one. With ``on_breach: approve``, a raised limit needs an approval
    :param may_reprocess: Airflow user names of those who may retry or relink links of the job; empty: everyone who may
        trigger ``zoho_delink_retry`` or ``zoho_delink_relink``
    """

    max_links: int | None = Field(default=None, ge=0)
    max_share: float | None = Field(default=None, gt=0.0, le=1.0)
    baseline_sql_file: SqlFile | None = None
    freshness_sql_file: SqlFile | None = None
    max_source_age: Duration | None = None
    max_plan_age: Duration | None = None
    max_jump: float | None = Field(default=None, gt=1.0)
    max_not_found_share: float | None = Field(default=0.5, ge=0.0, le=1.0)
    on_breach: Literal["stop", "approve"] = "stop"
    approvals: Literal["on_breach", "always"] = "on_breach"
    approvers: tuple[UserId, ...] = ()
    approval_timeout: Duration = timedelta(hours=24)
    forbid_self_approval: bool = True
    may_raise: tuple[UserName, ...] = ()
    may_reprocess: tuple[UserName, ...] = ()

    @property
    def has_default_limit(self) -> bool:
        """Whether the number of links is limited because the job file sets no limit."""
        return "max_links" not in self.model_fields_set and self.max_share is None

    @property
    def link_limit(self) -> int | None:
        """Maximum number of planned links: ``max_links`` or its default; None: no limit."""
        return DEFAULT_MAX_LINKS if self.has_default_limit else self.max_links

    @property
    def may_ask(self) -> bool:
        """Whether a run of the job can wait for an approval."""
        return self.on_breach == "approve" or self.approvals == "always"

    @model_validator(mode="after")
    def _check_pairs(self) -> Self:
        pairs = (("max_share", "baseline_sql_file"), ("max_source_age", "freshness_sql_file"))
        for limit, sql_file in pairs:
            if (getattr(self, limit) is None) != (getattr(self, sql_file) is None):
                raise ValueError(f"{limit} and {sql_file} need each other: give both or neither")
        if self.approvers and not self.may_ask:
            raise ValueError(
                "approvers: only used with on_breach: approve or approvals: always; set one, or remove approvers"
            )
        if self.may_raise and self.on_breach == "approve":
            raise ValueError(
                "may_raise: only used with on_breach: stop; with on_breach: approve, a raised limit needs an approval"
            )
        return self


class Notice(_Model):
    """
    A notifier and the events it is called for.

    :param notifier: path of an Airflow notifier's class, e.g.
        ``airflow.providers.slack.notifications.slack_webhook.SlackWebhookNotifier``
    :param on: the events
    :param args: arguments of the notifier; templated ones may use ``{{ zoho.text }}`` and others
    """

    notifier: str
    on: tuple[Event, ...] = ("failed", "stopped", "rejected", "breach", "approval", "recovered")
    args: dict[str, Any] = Field(default_factory=dict)

    @field_validator("notifier")
    @classmethod
    def _check_notifier(cls, value: str) -> str:
        if not _CLASS_PATH.fullmatch(value):
            raise ValueError(f"{value!r} is not the path of a class")
        return value


class Job(_Model):
    """
    The content of one job file, checked.

    :param name: name of the file without its suffix
    :param description: one line for people
    :param owner: owner of the Dag, whom to contact when it fails
    :param schedule: cron expression; an asset whose updates start a run; or null for manual runs only
    :param timezone: IANA time zone of the cron expression
    :param start_date: first day of the schedule and of backfills, from midnight in ``timezone``
    :param automatic: what scheduled, asset-triggered and backfill runs do: ``dry_run``: plan and count only; ``apply``:
        remove links. The mode of the trigger form, or of a backfill's ``--dag-run-conf``, overrides it
    :param zoho_conn_id: connection of type ``zoho_crm``
    :param audit_conn_id: connection of the audit database, which stores plan and audit
    :param audit_anchor: folder outside of the audit database, such as ``s3://aws_default@bucket/anchors``, where each
        report writes the heads of new seals; the same for all jobs of one audit database
    :param audit_anchor_key_conn_id: connection whose password is an Ed25519 private key in PEM, to sign them
    :param strategy: ``single``: one call per link; ``by_parent``: up to 100 links of one parent per call
    :param allow_undocumented_relation: allow a relation for which Zoho documents no delink; try it in a sandbox first
    :param allow_user_external_field: allow external fields whose values belong to one Zoho user; the refresh token must
        be that user's
    :param chunk_size: links of one mapped task; larger if a run would exceed Airflow's limit of mapped tasks
    :param task_concurrency: requests in flight of one mapped task
    :param max_active_chunks: mapped tasks at a time over all runs of the job; by default 10 / ``task_concurrency``,
        rounded up, and at least 2
    :param pool: an existing Airflow pool for the mapped tasks, to limit several Dags together
    :param breaker_share: share (0 to 1) of a task's links that may be ``failed``, ``rejected`` or ``unknown`` before
        the whole run stops
    :param credit_reserve: API credits of the org to leave unused; Zoho reports the remaining ones once half are used
    :param wait_patience_hours: how long a task waits, outside of a worker, for credits, an access token or a free slot
        of the org
    :param retries: retries of each task
    :param retry_delay_seconds: delay of the first retry; each further delay is twice as long
    :param task_timeout_minutes: timeout of a mapped task; outcomes stored before stay. By default 120, or a minute for
        20 links of ``chunk_size`` if that is more
    :param guards: limits that are checked between planning and sending
    :param failure_tolerance: share (0 to 1) of planned links that may fail without failing the run
    :param snapshot: read the attributes of each link (such as ``Contact_Role``) before it is removed, to relink it with
        them; costs one more call per link
    :param snapshot_fields: the attributes; by default those that Zoho documents for the relation
    :param retention_days: days after which the external IDs of a run are replaced by hashes; null: never
    :param retention_conn_id: connection to the audit database for that, if the role of ``audit_conn_id`` may not
        change audit rows; null: ``audit_conn_id``
    :param notify: notifiers to call when the job changes for the worse or recovers, or needs an approval
    :param tags: further tags of the Dag, beside ``zoho`` and ``delink``
    """

    name: str
    description: str = ""
    owner: str = "airflow"
    schedule: Schedule | None = None
    timezone: str = "UTC"
    start_date: datetime
    automatic: Literal["dry_run", "apply"] = "dry_run"
    source: Source
    relation: RelationModel
    zoho_conn_id: ConnId = "zoho_crm_default"
    audit_conn_id: ConnId
    audit_anchor: StorageUrl | None = None
    audit_anchor_key_conn_id: ConnId | None = None
    strategy: Literal["single", "by_parent"] = "single"
    allow_undocumented_relation: bool = False
    allow_user_external_field: bool = False
    chunk_size: int = Field(default=500, ge=1, le=100_000)
    task_concurrency: int = Field(default=5, ge=1, le=25)
    max_active_chunks: int | None = Field(default=None, ge=1)
    pool: str | None = Field(default=None, min_length=1, max_length=256)
    breaker_share: float = Field(default=0.5, ge=0.0, le=1.0)
    credit_reserve: int = Field(default=0, ge=0)
    wait_patience_hours: float = Field(default=24.0, ge=0.0, le=24.0 * 7)
    retries: int = Field(default=3, ge=0, le=20)
    retry_delay_seconds: int = Field(default=30, ge=1, le=3600)
    task_timeout_minutes: int | None = Field(default=None, ge=1)
    guards: Guards = Guards()
    failure_tolerance: float = Field(default=0.0, ge=0.0, le=1.0)
    snapshot: bool = False
    snapshot_fields: tuple[ApiName, ...] = ()
    retention_days: int | None = Field(default=None, ge=1)
    retention_conn_id: ConnId | None = None
    notify: tuple[Notice, ...] = ()
    tags: tuple[Annotated[str, Field(min_length=1, max_length=100)], ...] = ()

    @field_validator("name")
    @classmethod
    def _check_name(cls, value: str) -> str:
        if not _JOB_NAME.fullmatch(value):
            raise ValueError(
                "the file's name becomes the Dag's: a small letter, then up to 79 small letters, digits and '_'"
            )
        return value

    @field_validator("schedule", mode="before")
    @classmethod
    def _read_schedule(cls, value: Any) -> Any:
        if isinstance(value, str):
            return _CRON_PRESETS.get(value.strip(), value)
        if value is None or isinstance(value, dict | AssetSchedule):
            return value
        raise ValueError('must be a cron expression in quotes, such as "0 2 * * *", an asset, or null')

    @field_validator("schedule")
    @classmethod
    def _check_schedule(cls, value: str | AssetSchedule | None) -> str | AssetSchedule | None:
        if isinstance(value, str) and (fault := _cron_fault(value)):
            raise ValueError(fault)
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
            # A number would be read as seconds since 1970.
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
            raise ValueError(f"relation: {_undocumented(relation)}")
        return self

    @model_validator(mode="after")
    def _check_anchor(self) -> Self:
        if self.audit_anchor_key_conn_id and not self.audit_anchor:
            raise ValueError("audit_anchor_key_conn_id: nothing is signed unless audit_anchor is set")
        return self

    @model_validator(mode="after")
    def _check_snapshot(self) -> Self:
        if self.snapshot_fields and not self.snapshot:
            raise ValueError("snapshot_fields: nothing is read unless snapshot is true")
        if self.snapshot and not self.snapshot_attributes:
            raise ValueError(
                "snapshot: no attributes are known of links of this relation; name them in snapshot_fields"
            )
        return self

    @property
    def snapshot_attributes(self) -> tuple[str, ...]:
        """Attributes of a link that are read before it is removed; none without ``snapshot``."""
        if not self.snapshot:
            return ()
        relation = self.relation
        return self.snapshot_fields or LINK_ATTRIBUTES.get((relation.module, relation.related_list), ())

    @property
    def cron(self) -> str | None:
        """``schedule``, where it is a cron expression."""
        return self.schedule if isinstance(self.schedule, str) else None

    @property
    def asset(self) -> AssetSchedule | None:
        """``schedule``, where it is an asset."""
        return self.schedule if isinstance(self.schedule, AssetSchedule) else None

    @property
    def automatic_runs(self) -> str:
        """What automatic runs do, in words."""
        return AUTOMATIC_RUNS[self.automatic]

    @property
    def has_automatic_runs(self) -> bool:
        """Whether Airflow may start runs: the job has a schedule, or says what they do in a Dag of your own."""
        return self.schedule is not None or self.automatic == "apply"

    @property
    def dag_id(self) -> str:
        """Id of the job's Dag."""
        return DAG_ID_PREFIX + self.name

    @property
    def active_chunks(self) -> int:
        """Mapped tasks that run at the same time: enough to use the org's limit, few enough not to wait for it."""
        return self.max_active_chunks or max(2, math.ceil(DEFAULT_ORG_CONCURRENCY / self.task_concurrency))

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
        """``task_timeout_minutes`` as a duration, or its default."""
        return timedelta(minutes=self.task_timeout_minutes or max(120, self.chunk_size / 20))


def _cron_fault(cron: str) -> str | None:
    """Return what is wrong with a cron expression, by its cause."""
    fields = cron.split()
    if cron.startswith("@"):
        return f"{cron!r} is not one of {', '.join(_CRON_PRESETS)}"
    if len(fields) != len(_CRON_FIELDS):
        count = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        return f"{cron!r} has {count}; a cron expression has five: {', '.join(_CRON_FIELDS)}"
    if _RANDOM_CRON.search(cron):
        # In croniter these letters stand for a random number, which differs each time.
        return f"{cron!r} has H or R, which stand for a random time: write the time itself"
    if not croniter.is_valid(cron):
        wrong = [
            f"{name} {field}"
            for index, (name, field) in enumerate(zip(_CRON_FIELDS, fields, strict=True))
            if not croniter.is_valid(" ".join([*["*"] * index, field, *["*"] * (4 - index)]))
        ]
        reason = f"{cron!r} is not a valid cron expression"
        return f"{reason} ({', '.join(wrong)})" if wrong else reason
    try:
        croniter(cron).get_next()
    except CroniterBadDateError:
        return f"{cron!r} is never due"
    return None


def _undocumented(relation: Relation) -> str:
    """Return why a relation that Zoho does not document is refused, and what to write instead."""
    module, name = relation.module, relation.related_list
    if (holds := documented_module(module, name)) is not None:
        return f"related list {name} of {module} holds records of {holds}: set related_module: {holds}"
    instead = ""
    if (module, name) == ("Deals", "Contacts"):
        instead = "use related_list: Contact_Roles with related_module: Contacts, or "
    return (
        f"Zoho documents no delink for {module} -> {name}; {instead}"
        "set allow_undocumented_relation: true once you have tried it in a sandbox"
    )
