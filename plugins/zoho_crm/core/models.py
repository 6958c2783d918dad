"""Records that plan, ledger, client and report share."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, TypedDict

from zoho_crm.core.approval import ASKED, BREACHED
from zoho_crm.core.links import Relation
from zoho_crm.core.outcomes import NOT_FOUND_OUTCOMES, PRESUMED_OUTCOMES, Outcome, RunEventKind, RunStatus

if TYPE_CHECKING:
    from datetime import datetime

    from zoho_crm.core.links import Link


DELINK = "delink"
RELINK = "relink"
"""Operations of a run: remove its links, or restore them."""


SUCCEEDED_NEEDS_ATTENTION = f"{RunStatus.SUCCEEDED}, needs attention"
WAITING_FOR_APPROVAL = "waiting for approval"
ENDINGS = (*(status.value for status in RunStatus), WAITING_FOR_APPROVAL, SUCCEEDED_NEEDS_ATTENTION)
"""The status of a run for people: that of its row, ``waiting for approval`` or ``succeeded, needs attention``."""


class ChunkRef(TypedDict):
    """
    A chunk of a stored plan: all that travels over XCom.

    ``run_key``: the run; ``chunk_no``: from 0; ``links``: how many; ``label``: name of the mapped task.
    """

    run_key: str
    chunk_no: int
    links: int
    label: str


@dataclass(frozen=True, slots=True)
class Origin:
    """
    The Airflow task that a row comes from.

    :param run_type: Airflow's kind of the Dag run: scheduled, manual, backfill, asset_triggered
    :param triggered_by: who or what started the run: a user's name, or Airflow's word for it
    :param map_index: -1 for a task that is not mapped
    """

    dag_id: str
    dag_run_id: str
    run_type: str
    task_id: str
    logical_date: datetime | None = None
    data_interval_start: datetime | None = None
    data_interval_end: datetime | None = None
    triggered_by: str | None = None
    map_index: int = -1
    try_number: int = 1


@dataclass(frozen=True, slots=True)
class Target:
    """
    Where links are removed or restored, and how.

    :param org_id: Zoho's id of the organization, where preflight or the task has read it
    :param strategy: ``single`` or ``by_parent``
    :param operation: ``delink`` or ``relink``
    """

    relation: Relation
    data_center: str
    api_version: str
    strategy: str = "single"
    org_id: str | None = None
    dry_run: bool = False
    operation: str = DELINK


@dataclass(frozen=True, slots=True)
class PlannedLink:
    """
    One link of a stored plan.

    :param seq: its place in the plan, from 0
    :param ambiguous_before: whether an earlier try may have sent it without a recorded response
    :param snapshot: the link's attributes as a JSON object, read before it is removed, or to be restored with it;
        None if they were not read
    :param seen_linked_at: when this run saw it linked, before any request for it was in doubt; None if it did not
    """

    seq: int
    link: Link
    pair_key: str
    ambiguous_before: bool = False
    snapshot: str | None = None
    seen_linked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LinkResult:
    """
    The result of one link in one try.

    :param attempts: DELETE requests sent for it in this try
    :param sent_at: when the first of them left; None if none did
    :param finished_at: when the outcome was known
    :param detail: what the auditor should know beside Zoho's code and message
    :param ambiguous: whether a request of it, of this try or an earlier one, had no clear response: unless the
        outcome is final, Zoho may apply it late, so the next try verifies before it sends
    """

    planned: PlannedLink
    outcome: Outcome
    finished_at: datetime
    attempts: int = 0
    sent_at: datetime | None = None
    http_status: int | None = None
    zoho_code: str | None = None
    zoho_message: str | None = None
    zoho_record_id: str | None = None
    detail: str | None = None
    ambiguous: bool = False


@dataclass(frozen=True, slots=True)
class RunStart:
    """
    A run before its plan is made. Times are aware and in UTC.

    :param run_key: key of the run: the same for the same Dag run and job, also after a retry or a clear
    :param job: name of the job, or of the task where there is no job
    :param mode: ``apply`` or ``dry_run``
    :param window_start: start of the half-open window the links are from, or None if there is no window
    :param source_start: what the SQL gets as ``:window_start``; None for links that no SQL yields
    :param params: the trigger form's values, kept for the auditor
    :param origin_run_key: the earlier run whose links this one retries or relinks; None for links of a source
    :param environment: ``production``, ``sandbox``, ``developer`` or ``local``; None where it is not known
    :param preflight_credits: API credits that checks have used before there was a run
    :param texts: job file and SQL as the run uses them, by the field that names them
    :param guard_decision: of a run without a guard; None: nothing is sent before its guard has decided
    """

    run_key: str
    job: str
    origin: Origin
    target: Target
    mode: str
    window_start: datetime | None = None
    window_end: datetime | None = None
    source_start: datetime | None = None
    reason: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    origin_run_key: str | None = None
    environment: str | None = None
    preflight_credits: int = 0
    texts: dict[str, str] = field(default_factory=dict)
    guard_decision: str | None = None


_SUMMARIES: dict[str, tuple[str, ...]] = {
    RunEventKind.OPENED: ("mode", "triggered_by", "reason"),
    RunEventKind.PREPARED: ("environment", "org_id"),
    RunEventKind.PLANNED: ("planned",),
    RunEventKind.MEASURED: ("baseline_links", "source_as_of"),
    RunEventKind.GUARD_DECIDED: ("guard_decision",),
    RunEventKind.APPROVAL_REQUESTED: ("approval", "approval_until"),
    RunEventKind.APPROVAL_DECIDED: ("approval", "approved_by"),
    RunEventKind.APPROVAL_REFUSED: ("approval_note",),
    RunEventKind.STARTED: ("status",),
    RunEventKind.STOPPED: ("stop_reason",),
    RunEventKind.FAILED: ("failure",),
    RunEventKind.FINISHED: ("status", "detail"),
    RunEventKind.PSEUDONYMIZED: ("pseudonymized_at",),
}
"""For each kind of event the facts that people are shown first."""


@dataclass(frozen=True, slots=True)
class RunEvent:
    """
    A decision about a run, as it is stored.

    :param event_no: its place among the events of the run, from 1
    :param kind: a :class:`~zoho_crm.core.outcomes.RunEventKind`
    :param facts: changed columns of the run row, and what the change was based on
    :param code_version: version of the package that recorded it
    """

    event_no: int
    kind: str
    facts: dict[str, Any]
    recorded_at: datetime
    code_version: str
    event_hash: str

    @property
    def summary(self) -> str:
        """What was decided, in one line; names of the changed columns where no value says it."""
        found = {name: self.facts.get(name) for name in _SUMMARIES.get(self.kind, ())}
        named = [
            f"{value} {name}" if isinstance(value, int) else value for name, value in found.items() if value
        ]
        return ", ".join(named) or ", ".join(sorted(self.facts))


@dataclass(frozen=True, slots=True)
class PlanSummary:
    """
    The counts of a stored plan.

    :param source_rows: rows of the source
    :param planned: distinct links, the invalid ones included
    :param duplicates: rows with a link of an earlier row
    :param invalid: distinct links that cannot be sent
    :param chunks: the chunks that hold the others
    """

    source_rows: int
    planned: int
    duplicates: int
    invalid: int
    chunks: list[ChunkRef]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredRun:
    """
    A run as it is stored. Times are aware and in UTC; counts are None until the run is planned or finished.

    :param mode: ``apply`` or ``dry_run``
    :param window_start: start of the half-open window of the first try: later tries reuse it
    :param source_start: what the SQL got as ``:window_start``: earlier by the lookback of the job
    :param params: the trigger form's values
    :param failure: the task that failed, and why; None once the run is finished
    :param source_rows: rows the source gave; None while there is no plan, as ``planned`` and ``planned_at``
    :param credits: API credits used by all requests of all tries; None while the run is not finished
    :param preflight_credits: API credits of them used outside of chunks
    :param texts: SHA-256 of job file and SQL, by the field that names them
    """

    run_key: str
    job: str
    dag_id: str
    dag_run_id: str
    run_type: str
    logical_date: datetime | None
    data_interval_start: datetime | None
    data_interval_end: datetime | None
    triggered_by: str | None
    task_id: str
    org_id: str | None
    data_center: str
    api_version: str
    strategy: str
    operation: str
    origin_run_key: str | None
    module: str
    external_field: str
    related_list: str
    related_module: str
    related_external_field: str
    mode: str
    window_start: datetime | None
    window_end: datetime | None
    source_start: datetime | None
    reason: str | None
    params: dict[str, Any]
    status: str
    detail: str | None
    stop_reason: str | None
    failure: str | None
    source_rows: int | None
    planned: int | None
    duplicates: int | None
    chunks: int | None
    removed: int | None
    presumed_removed: int | None
    already_absent: int | None
    parent_not_found: int | None
    related_not_found: int | None
    invalid: int | None
    rejected: int | None
    failed: int | None
    unknown: int | None
    not_attempted: int | None
    would_remove: int | None
    relinked: int | None
    presumed_relinked: int | None
    already_linked: int | None
    would_relink: int | None
    credits: int | None
    preflight_credits: int
    baseline_links: int | None
    source_as_of: datetime | None
    guard_decision: str | None
    approval: str | None
    approved_by: str | None
    approved_at: datetime | None
    approval_until: datetime | None
    question: str | None
    approval_note: str | None
    started_at: datetime
    planned_at: datetime | None
    finished_at: datetime | None
    pseudonymized_at: datetime | None
    environment: str | None
    code_version: str
    schema_version: int
    texts: dict[str, str]

    @property
    def relation(self) -> Relation:
        """The relation of the run's links: that of its plan, even if the job file has changed since."""
        return relation_of(self)

    @property
    def is_breached(self) -> bool:
        """Whether the plan exceeds a limit of the guards."""
        return (self.guard_decision or "").startswith(BREACHED)

    @property
    def dry_run(self) -> bool:
        """Whether nothing is sent."""
        return self.mode == "dry_run"

    @property
    def has_ended(self) -> bool:
        """Whether the run is finished, or failed for good without its report, as pages find out from Airflow."""
        return self.finished_at is not None or (self.status == RunStatus.FAILED and self.detail is not None)

    @property
    def attention(self) -> str | None:
        """
        Why a person should look at a run that succeeded, as a sentence; None if nothing is conspicuous.

        A succeeded run needs attention if links were rejected, presumed or invalid, if more than half of its links have
        no record in Zoho, or if its detail says more.
        """
        if self.status != RunStatus.SUCCEEDED:
            return None
        parts = [
            _count(self, (Outcome.REJECTED,), "rejected by Zoho"),
            _count(self, PRESUMED_OUTCOMES, "presumed: a request may not have reached Zoho"),
            _count(self, (Outcome.INVALID,), "not sent, since an external ID is invalid"),
        ]
        if 2 * sum(getattr(self, outcome) or 0 for outcome in NOT_FOUND_OUTCOMES) > (self.planned or 0):
            parts.append(_count(self, NOT_FOUND_OUTCOMES, "without a record in Zoho"))
        return "; ".join(filter(None, [self.detail, *parts])) or None

    @property
    def ending(self) -> str:
        """The status for people: one of :data:`ENDINGS`."""
        if self.status == RunStatus.PLANNED and self.approval == ASKED:
            return WAITING_FOR_APPROVAL
        return SUCCEEDED_NEEDS_ATTENTION if self.attention else self.status


def relation_of(row: object) -> Relation:
    """
    Return the relation that the attributes of a stored run or audit row name.

    :raises ZohoConfigError: they name none
    """
    return Relation(**{part.name: getattr(row, part.name) for part in fields(Relation)})


DELETED = "deleted"
"""State of a Dag run that Airflow does not have any more; the others are Airflow's own."""


def ending_of(dag_run_state: str | None) -> str | None:
    """
    Return how Airflow ended a Dag run whose report did not run, as a sentence; None if it has not ended.

    :param dag_run_state: Airflow's state, or :data:`DELETED`; None if it is not known
    """
    if dag_run_state == DELETED:
        return "The Dag run was deleted in Airflow before its report ran"
    if dag_run_state in {"failed", "success"}:
        return f"The Dag run ended in Airflow as {dag_run_state}, without its report"
    return None


def _count(run: StoredRun, outcomes: tuple[Outcome, ...], what: str) -> str | None:
    links = sum(getattr(run, outcome) or 0 for outcome in outcomes)
    return f"{links} of {run.planned} links {what}" if links else None
