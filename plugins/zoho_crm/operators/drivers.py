"""How a task works on its links: in memory, with its own plan, or on a chunk of a stored plan."""

from __future__ import annotations

import os
import socket
import uuid
from collections import Counter, deque
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from zoho_crm.airflow_compat import TaskDeferred
from zoho_crm.core.approval import NO_LIMITS
from zoho_crm.core.formatting import format_count, format_duration
from zoho_crm.core.link_input import pasted_links
from zoho_crm.core.links import Link, check_links
from zoho_crm.core.models import LinkResult, PlannedLink, RunStart
from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES, Outcome
from zoho_crm.core.run_request import APPLY, BEGINNING, DRY_RUN, run_key
from zoho_crm.core.verdict import StopReason
from zoho_crm.errors import ClaimLostError, PlanError, RunStoppedError, UnfinishedLinksError
from zoho_crm.operators.breaker import NotFoundLimit
from zoho_crm.operators.chunk_run import ChunkReport
from zoho_crm.operators.chunk_store import (
    ChunkStore,
    CreditUsage,
    RequireSnapshot,
    SnapshotStore,
    count_outcomes,
    count_results,
)
from zoho_crm.operators.job_operator import THROTTLED_PAUSE
from zoho_crm.operators.preflight import OrgCheck, check_environment
from zoho_crm.operators.report import close_run
from zoho_crm.operators.slot_keeper import FixedSlots, LeasedSlots
from zoho_crm.telemetry import chunk_span, span

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zoho_crm.core.links import Relation
    from zoho_crm.core.models import ChunkRef, Origin, StoredRun, Target
    from zoho_crm.hooks.zoho_crm import ZohoCRMHook
    from zoho_crm.ledger.claims import Claim
    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.operators.chunk_run import Select, Store
    from zoho_crm.operators.link_operator import LinkOperator

WAITS = {
    StopReason.CREDITS: timedelta(minutes=30),
    StopReason.OVERLOADED: timedelta(minutes=2),
    StopReason.NO_SLOT: timedelta(minutes=2),
    StopReason.THROTTLED: THROTTLED_PAUSE,
}
"""Causes that pass by themselves, and how long to wait: credits return over a day, tokens after ten minutes."""

DRY_RUN_BATCH = 1_000
"""Links of one transaction where nothing is sent."""


@dataclass(frozen=True)
class InMemoryDriver:
    """Works on the operator's links without a ledger: only the task's log and its summary know the outcomes."""

    operator: LinkOperator
    hook: ZohoCRMHook
    origin: Origin

    def run(self) -> dict[str, int]:
        """Return the number of links by outcome."""
        operator, job = self.operator, _job_name(self.origin)
        sends = operator.verify or not operator.is_dry_run
        planned, invalid = deduplicate_links(pasted_links(operator.links) or [], operator.relation)
        target = operator.target(self.hook if sends else None, dry_run=operator.is_dry_run)
        store = MemoryStore(deque(planned), job, target)
        with chunk_span(operator.log, job, target, links=len(planned) + len(invalid)) as record:
            if sends:
                processor = operator.verifier if operator.is_dry_run else operator.processor
                limit = not_found_limit(operator, Counter())
                slots = FixedSlots(operator.task_concurrency)
                report = operator.send(self.hook, processor, store, slots, not_found=limit)
            else:
                report = settle_unverified(store, operator.unverified)
            for link, reason in invalid:
                operator.log.debug("Link not sent: link=%r reason=%s", link, reason)
            rest = Counter({Outcome.NOT_ATTEMPTED: len(store.links), Outcome.INVALID: len(invalid)})
            count_outcomes(rest, job, target)
            report.counts.update(rest)
            operator.worked_on = target, report.counts
            record(report)
            return conclude(operator, report)


@dataclass(frozen=True)
class ChunkDriver:
    """
    Works on a chunk of a stored plan, under a claim of this try.

    :param waiting_since: when an earlier part of this try began to wait for Zoho
    """

    operator: LinkOperator
    hook: ZohoCRMHook
    ledger: Ledger
    origin: Origin
    waiting_since: datetime | None

    def run(self, chunk: ChunkRef) -> dict[str, int]:
        """Return the number of links by outcome."""
        operator = self.operator
        run = load_run(self.ledger, chunk, operation=operator.operation, relation=operator.relation)
        dry_run = operator.is_dry_run or run.mode == DRY_RUN
        check_environment(run, self.hook.connection)
        if not dry_run:
            check_plan_age(self.ledger, run, operator.max_plan_age)
        target = operator.target(self.hook, dry_run=dry_run, org_id=run.org_id)
        with chunk_span(operator.log, run.job, target, links=chunk["links"], chunk=chunk) as record:
            report = self._work(chunk, run, target)
            operator.worked_on = target, report.counts
            record(report)
            if report.reason in WAITS:
                since = self.waiting_since or operator.now()
                operator.wait(WAITS[report.reason], since, report.stopped)
            return conclude(operator, report)

    def _work(self, chunk: ChunkRef, run: StoredRun, target: Target) -> ChunkReport:
        operator = self.operator
        holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        with span("claim"):
            claim = self.ledger.claims.claim(run.run_key, chunk["chunk_no"], holder)
        usage = CreditUsage(self.hook.meter)
        store = ChunkStore(self.ledger, claim, self.origin, target, run.job, usage, not target.dry_run)
        if target.dry_run and not (operator.verify or run.params.get("verify") is True):
            return settle_unverified(store, operator.unverified)
        slots = LeasedSlots(
            ledger=self.ledger,
            connection=operator.zoho_conn_id,
            holder=holder,
            wanted=operator.task_concurrency,
            limit=self.hook.connection.max_concurrency,
            claim=claim,
        )
        check = OrgCheck(self.ledger, run, store)
        if target.dry_run:
            return operator.send(self.hook, operator.verifier, store, slots, check)
        self.ledger.runs.mark_running(run.run_key, reopen=self._resumes_finished(run, claim))
        limit = None
        if operator.max_not_found_share is not None:
            limit = not_found_limit(operator, self.ledger.runs.settled_counts(run.run_key))
        if not operator.snapshot_fields:
            return operator.send(self.hook, operator.processor, store, slots, check, not_found=limit)
        missing = self._store_snapshots(SnapshotStore(self.ledger, claim, usage), slots, check)
        return missing or operator.send(
            self.hook,
            lambda client: RequireSnapshot(operator.processor(client)),
            store,
            slots,
            check,
            not_found=limit,
        )

    def _resumes_finished(self, run: StoredRun, claim: Claim) -> bool:
        """Return whether the run has ended, and this try is to work on links that it left unfinished."""
        return (
            run.finished_at is not None
            and self.ledger.claims.has_unsettled(claim)
            and self.ledger.runs.stop_reason(run.run_key) is None
        )

    def _store_snapshots(
        self, store: SnapshotStore, slots: LeasedSlots, check: OrgCheck
    ) -> ChunkReport | None:
        """Read and store the attributes of all links still to be sent; return a report if none may be sent."""
        with span("snapshot"):
            report = self.operator.send(self.hook, self.operator.snapshot_reader, store, slots, check)
        unread = sum(report.counts[outcome] for outcome in RETRYABLE_OUTCOMES)
        if not report.stopped and not unread:
            return None
        why = report.stopped or f"the attributes of {format_count(unread, 'link')} could not be read"
        return ChunkReport(Counter(), f"{why}; nothing was sent", report.reason)


@dataclass(frozen=True)
class OwnPlanDriver:
    """
    Stores the operator's links as a plan of this task, works on it as one chunk, and closes the run.

    :param waiting_since: when an earlier part of this try began to wait for Zoho
    """

    operator: LinkOperator
    hook: ZohoCRMHook
    ledger: Ledger
    origin: Origin
    waiting_since: datetime | None

    def run(self) -> dict[str, int]:
        """Return the number of links by outcome."""
        chunk_driver = ChunkDriver(self.operator, self.hook, self.ledger, self.origin, self.waiting_since)
        key, chunks = self._plan()
        try:
            for chunk in chunks:
                chunk_driver.run(chunk)
        except (ClaimLostError, TaskDeferred):
            # The newer try, or this one after its wait, closes the run. Closing it here would fence that out.
            raise
        except BaseException:
            self._close(key)
            raise
        return self.operator.summarize(self._close(key))

    def _close(self, key: str) -> Counter[Outcome]:
        """Close and seal the run, which has no task `report`; return its links by latest outcome."""
        limit = self.operator.max_not_found_share
        _, counts = close_run(self.ledger, key, origin=self.origin, tolerance=0.0, not_found=limit)
        self.ledger.finalizer.seal(key)
        return counts

    def _plan(self) -> tuple[str, list[ChunkRef]]:
        operator, origin, job = self.operator, self.origin, _job_name(self.origin)
        self.ledger.ensure_schema()
        self.ledger.check_readiness()
        key = run_key(job, origin.dag_id, origin.dag_run_id, origin.task_id, origin.map_index)
        target = operator.target(self.hook, dry_run=operator.is_dry_run)
        self.ledger.runs.start(
            RunStart(
                run_key=key,
                job=job,
                origin=origin,
                target=target,
                mode=DRY_RUN if operator.is_dry_run else APPLY,
                window_start=BEGINNING,
                window_end=operator.now(),
                environment=self.hook.connection.kind,
                guard_decision=NO_LIMITS,
            )
        )
        pairs = pasted_links(operator.links) or []
        plan = self.ledger.plans.create(
            key,
            operator.relation,
            pairs,
            chunk_size=max(1, len(pairs)),
            max_chunks=1,
            origin=origin,
            target=target,
        )
        return key, plan.chunks


@dataclass
class MemoryStore:
    """A list of links without a ledger."""

    links: deque[PlannedLink]
    job: str
    target: Target

    def settle(self, results: Sequence[LinkResult], take: int, select: Select = len) -> list[PlannedLink]:
        """Count outcomes and hand out further links."""
        count_results(results, self.job, self.target)
        return [self.links.popleft() for _ in range(select(list(islice(self.links, take))))]

    def stop_reason(self) -> str | None:
        """Return None: the run has no other tasks."""
        return None

    def stop_run(self, why: str) -> None:
        """Do nothing: the run has no other tasks."""


def not_found_limit(operator: LinkOperator, settled: Counter[Outcome]) -> NotFoundLimit | None:
    """Return the limit of links without a record in Zoho; None without one, and for a dry run."""
    if operator.max_not_found_share is None or operator.is_dry_run:
        return None
    return NotFoundLimit(operator.max_not_found_share, operator.relation, settled)


def deduplicate_links(
    pairs: Iterable[tuple[object, object]], relation: Relation
) -> tuple[list[PlannedLink], list[tuple[Link, str]]]:
    """
    Check and de-duplicate pairs of external IDs.

    :return: the valid links, sorted so that those of one parent are adjacent, and the invalid pairs with the reason
    """
    valid: dict[str, Link] = {}
    invalid: dict[str, tuple[Link, str]] = {}
    for checked in check_links(pairs, relation):
        link = Link(checked.external_id, checked.related_external_id)
        if checked.invalid_reason is None:
            valid.setdefault(checked.pair_key, link)
        else:
            invalid.setdefault(checked.pair_key, (link, checked.invalid_reason))
    ordered = sorted(valid.items(), key=lambda item: (item[1].external_id, item[1].related_external_id))
    planned = [PlannedLink(seq, link, key) for seq, (key, link) in enumerate(ordered)]
    return planned, list(invalid.values())


def settle_unverified(store: Store, outcome: Outcome) -> ChunkReport:
    """Settle all links of a store as a dry run that sends nothing."""
    counts: Counter[Outcome] = Counter()
    results: list[LinkResult] = []
    while True:
        links = store.settle(results, DRY_RUN_BATCH)
        counts[outcome] += len(results)
        if not links:
            return ChunkReport(counts)
        now = datetime.now(UTC)
        results = [LinkResult(link, outcome, now) for link in links]


def load_run(ledger: Ledger, chunk: ChunkRef, *, operation: str, relation: Relation) -> StoredRun:
    """
    Return the run of a chunk.

    :param operation: what the task does to links: ``delink`` or ``relink``
    :raises PlanError: there is no such run, or it is for another operation or relation
    """
    run = ledger.runs.get(chunk["run_key"])
    if run is None:
        raise PlanError(f"run_key: the audit database has no run {chunk['run_key']!r}")
    if run.operation != operation:
        raise PlanError(
            f"The plan is for the operation {run.operation}, this task is for {operation}. Nothing was sent"
        )
    if run.relation != relation:
        raise PlanError(
            f"The plan is for {run.relation}, this task is for {relation}: the job was changed after planning. "
            "Start a new run"
        )
    return run


def check_plan_age(ledger: Ledger, run: StoredRun, max_age: timedelta | None) -> None:
    """
    Refuse a plan that is too old, unless nothing of it is left to send.

    :param max_age: None for any age
    :raises RunStoppedError: the plan is too old
    """
    if max_age is None or run.planned_at is None:
        return
    age = ledger.runs.now() - run.planned_at
    if age > max_age and ledger.runs.count_unsettled(run.run_key):
        raise RunStoppedError(
            f"The plan is {format_duration(age)} old; max_plan_age is {format_duration(max_age)}. "
            "Nothing was sent in this try; start a new run"
        )


def conclude(operator: LinkOperator, report: ChunkReport) -> dict[str, int]:
    """
    Return the summary of a try.

    :raises UnfinishedLinksError: links are left that another try may settle
    :raises RunStoppedError: Zoho refuses every link
    """
    counts = report.counts
    parts = [f"{counts[outcome]} {outcome.value}" for outcome in Outcome if counts[outcome]]
    sentence = ", ".join(parts) or "no links"
    if report.stopped:
        error = UnfinishedLinksError if report.reason is None else RunStoppedError
        raise error(f"Stopped: {report.stopped}. This try: {sentence}")
    if any(counts[outcome] for outcome in RETRYABLE_OUTCOMES):
        raise UnfinishedLinksError(f"Unfinished links are left for another try. This try: {sentence}")
    return operator.summarize(counts)


def _job_name(origin: Origin) -> str:
    """Return the name that stands in for a job outside a job's Dag."""
    return f"{origin.dag_id}.{origin.task_id}"
