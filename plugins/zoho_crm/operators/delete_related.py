"""Take links out of Zoho CRM by external ids: the one task that removes anything."""

from __future__ import annotations

import asyncio
import os
import socket
import uuid
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseAsyncOperator, BaseOperator
from airflow.sdk.exceptions import TaskDeferred

from zoho_crm.core.links import Relation
from zoho_crm.core.outcomes import DELINK_OUTCOMES, DRIVE_AGAIN, Outcome
from zoho_crm.core.records import LinkResult, RunStart, Target
from zoho_crm.core.run_request import APPLY, BEGINNING, DRY_RUN, pasted_links, run_key
from zoho_crm.core.verdict import StopReason
from zoho_crm.errors import (
    ClaimLostError,
    LinksLeftError,
    PlanError,
    RunStoppedError,
    ZohoTokenThrottledError,
)
from zoho_crm.hooks.by_parent import ByParentDelinker
from zoho_crm.hooks.delink import Delinker
from zoho_crm.hooks.zoho_crm import ZohoCRMHook
from zoho_crm.operators.chunk_run import ChunkReport, ChunkRun, FixedSlots, Slots, Store
from zoho_crm.operators.context import origin_of
from zoho_crm.operators.report import close_run
from zoho_crm.operators.stores import ClaimedChunk, InMemory, LeasedSlots, distinct_links
from zoho_crm.operators.token_lock import refresh_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airflow.sdk import Context
    from airflow.sdk.definitions.mappedoperator import OperatorPartial

    from zoho_crm.core.records import ChunkRef, Origin
    from zoho_crm.ledger.ledger import Ledger


STRATEGIES = ("single", "by_parent")

DRY_RUN_BATCH = 1_000

WAITS = {StopReason.CREDITS: timedelta(minutes=30), StopReason.THROTTLED: timedelta(minutes=11)}
"""Causes that pass by themselves, and how long to stay away: credits come back over a day, tokens after ten minutes."""


class DeleteRelatedByExternalIdOperator(BaseAsyncOperator):
    """
    Take links between records out of Zoho CRM, by the ids that you own.

    Calls ``DELETE /{module}/{external id}/{related list}/{related external id}`` for each link, several at once,
    and says of each what happened. Both records stay. A delink cannot be undone by Zoho.

    With ``audit_conn_id`` every link is planned, marked before it is sent, and audited in that database; a retry, a
    clear or a crash resumes with what is not settled. Without it the task keeps no ledger: a retry goes over all its
    links again (those that are gone then count as ``already_absent``), and the requests in flight are bounded by
    ``task_concurrency`` alone, not by what the org allows over all tasks.

    The ids are data, not templates: nothing in ``links`` and ``chunk`` is rendered by Jinja.

    Source: https://www.zoho.com/crm/developer/docs/api/v7/delete-related-records-ext.html

    :param module: API name of the parents' module, e.g. ``Contacts``
    :param external_field: API name of the parents' external field
    :param related_list: API name of the related list on the parent, e.g. ``Deals``
    :param related_external_field: API name of the related records' external field
    :param related_module: API name of the related records' module, where it differs from the list's
    :param links: the links: ``{"external_id": ..., "related_external_id": ...}`` or pairs
    :param chunk: a chunk of a stored plan, as :class:`~zoho_crm.operators.plan.PlanOperator` returns it; needs
        ``audit_conn_id``
    :param zoho_conn_id: connection of type ``zoho_crm``
    :param audit_conn_id: connection of the database for plan and audit
    :param strategy: ``single``: one call a link; ``by_parent``: up to 100 links of one parent in a call, by Zoho's
        record ids, which are read first
    :param direct: with ``by_parent``, put external ids straight into the call, which Zoho does not document
    :param task_concurrency: requests in flight in this task, 1 to 25
    :param dry_run: send no DELETE; every link ends as ``would_remove``
    :param breaker_share: share of links that may fail, be refused or stay unknown before the whole run is stopped
    :param credit_reserve: API credits of the org to leave alone; Zoho tells what is left once half are used
    :param wait_patience: how long to wait, deferred, for credits or for an access token when Zoho gives none;
        needs ``audit_conn_id``
    :return: number of links by outcome, e.g. ``{"removed": 10, "already_absent": 2, ...}``
    :raises LinksLeftError: links ended as ``failed``, ``unknown`` or ``not_attempted``, so that Airflow tries again
    :raises RunStoppedError: Zoho gave an answer that waits for every link; trying again soon is of no use
    """

    template_fields: Sequence[str] = ("links", "chunk")
    ui_color = "#f6d5d0"
    # Airflow keeps an attribute of this name, though its own meaning of it is gone.
    task_concurrency: int

    @classmethod
    def partial(cls, *, task_concurrency: int = 5, **kwargs: Any) -> OperatorPartial:
        """Prepare the mapping, as for any operator; Airflow refuses this argument's name, once its own."""
        inherited = vars(BaseOperator)["partial"].__get__(None, cls)
        operator_partial: OperatorPartial = inherited(**kwargs)
        operator_partial.kwargs["task_concurrency"] = task_concurrency
        return operator_partial

    def __init__(
        self,
        *,
        module: str,
        external_field: str,
        related_list: str,
        related_external_field: str,
        related_module: str | None = None,
        links: Any = None,
        chunk: ChunkRef | None = None,
        zoho_conn_id: str = ZohoCRMHook.default_conn_name,
        audit_conn_id: str | None = None,
        strategy: str = "single",
        direct: bool = False,
        task_concurrency: int = 5,
        dry_run: bool = False,
        breaker_share: float = 0.5,
        credit_reserve: int = 0,
        wait_patience: timedelta = timedelta(hours=24),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (links is None) == (chunk is None):
            raise ValueError("Give exactly one of links and chunk")
        if chunk is not None and audit_conn_id is None:
            raise ValueError("A chunk is a part of a stored plan: give the audit_conn_id it is stored in")
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy {strategy!r} is none of: {', '.join(STRATEGIES)}")
        if direct and strategy != "by_parent":
            raise ValueError("direct is for the strategy by_parent")
        if not 1 <= task_concurrency <= 25:
            raise ValueError("task_concurrency must be 1 to 25: Zoho allows no org more than 25")
        self.module = module
        self.external_field = external_field
        self.related_list = related_list
        self.related_external_field = related_external_field
        self.related_module = related_module
        self.links = links
        self.chunk = chunk
        self.zoho_conn_id = zoho_conn_id
        self.audit_conn_id = audit_conn_id
        self.strategy = strategy
        self.direct = direct
        self.task_concurrency = task_concurrency
        self.breaker_share = breaker_share
        self.credit_reserve = credit_reserve
        self.wait_patience = wait_patience
        # Not named dry_run: that is a method of every operator.
        self._is_dry_run = dry_run
        self._stop: Callable[[str], object] | None = None

    @property
    def relation(self) -> Relation:
        """The relation of the links, checked; raises ZohoConfigError."""
        return Relation(
            module=self.module,
            external_field=self.external_field,
            related_list=self.related_list,
            related_module=self.related_module or self.related_list,
            related_external_field=self.related_external_field,
        )

    def render_template(
        self, content: Any, context: Context, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Resolve other tasks' results, and leave text alone: an id may hold what Jinja would change."""
        if isinstance(content, str):
            return content
        return super().render_template(content, context, jinja_env, seen_oids)

    def execute(self, context: Context) -> dict[str, int]:
        """Take the links away. Connections and token are resolved before the event loop runs."""
        return self._execute(context, waiting_since=None)

    def execute_after_wait(
        self, context: Context, event: Any = None, *, waiting_since: str
    ) -> dict[str, int]:
        """Go on after a wait in the triggerer; Airflow calls it."""
        return self._execute(context, datetime.fromisoformat(waiting_since))

    def _execute(self, context: Context, waiting_since: datetime | None) -> dict[str, int]:
        if self.audit_conn_id is None:
            return self._execute_in_memory(ZohoCRMHook(self.zoho_conn_id))
        from zoho_crm.ledger.ledger import Ledger

        ledger = Ledger.from_conn_id(self.audit_conn_id)
        hook = ZohoCRMHook(self.zoho_conn_id, refresh_lock=partial(refresh_lock, ledger, self.zoho_conn_id))
        try:
            if self.chunk is not None:
                return self._execute_chunk(hook, ledger, self.chunk, origin_of(context), waiting_since)
            return self._execute_links(hook, ledger, origin_of(context), waiting_since)
        finally:
            ledger.close()

    def on_kill(self) -> None:
        """Take no further link; what is in flight is waited for and written before the process ends."""
        if self._stop is not None:
            self._stop("the task was told to end")

    def _execute_in_memory(self, hook: ZohoCRMHook) -> dict[str, int]:
        relation = self.relation
        planned, invalid = distinct_links(self._pairs(), relation)
        if self._is_dry_run:
            counts = Counter({Outcome.WOULD_REMOVE: len(planned), Outcome.INVALID: len(invalid)})
            return self._summary(counts)
        store = InMemory(deque(planned))
        report = self._run(hook, relation, store, FixedSlots(self.task_concurrency))
        report.counts[Outcome.NOT_ATTEMPTED] += len(store.links)
        report.counts[Outcome.INVALID] += len(invalid)
        for link, fault in invalid:
            self.log.debug("Not sent: %r: %s", link.link, fault)
        return self._conclude(report)

    def _execute_links(
        self, hook: ZohoCRMHook, ledger: Ledger, origin: Origin, waiting_since: datetime | None
    ) -> dict[str, int]:
        """Store a plan of this task's own, then work it off as one chunk."""
        ledger.ensure_schema()
        relation = self.relation
        job = f"{origin.dag_id}.{origin.task_id}"
        key = run_key(job, origin.dag_id, origin.dag_run_id, origin.task_id, origin.map_index)
        target = self._target(hook, relation, dry_run=self._is_dry_run)
        ledger.start_run(
            RunStart(
                run_key=key,
                job=job,
                origin=origin,
                target=target,
                mode=DRY_RUN if self._is_dry_run else APPLY,
                window_start=BEGINNING,
                window_end=datetime.now(UTC),
            )
        )
        pairs = self._pairs()
        plan = ledger.plan_run(
            key, relation, pairs, chunk_size=max(1, len(pairs)), max_chunks=1, origin=origin, target=target
        )
        try:
            for chunk in plan.chunks:
                self._execute_chunk(hook, ledger, chunk, origin, waiting_since)
        except (ClaimLostError, TaskDeferred):
            # Either goes on with this run: closing it would fence out the newer try, which closes it itself.
            raise
        except BaseException:
            close_run(ledger, key, origin=origin, tolerance=0.0)
            raise
        _, counts = close_run(ledger, key, origin=origin, tolerance=0.0)
        return self._summary(counts)

    def _execute_chunk(
        self,
        hook: ZohoCRMHook,
        ledger: Ledger,
        chunk: ChunkRef,
        origin: Origin,
        waiting_since: datetime | None,
    ) -> dict[str, int]:
        relation = self.relation
        run = ledger.get_run(chunk["run_key"])
        if run is None:
            raise PlanError(f"There is no run {chunk['run_key']!r} in the audit database")
        if run.relation != relation:
            raise PlanError(
                f"The plan is of {run.relation}, this task of {relation}: the job was changed after planning. "
                "Start a new run"
            )
        dry_run = self._is_dry_run or run.mode == DRY_RUN
        holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        claim = ledger.claim_chunk(chunk["run_key"], chunk["chunk_no"], holder)
        store = ClaimedChunk(
            ledger=ledger,
            claim=claim,
            origin=origin,
            target=self._target(hook, relation, dry_run=dry_run, org_id=run.org_id),
            job=run.job,
            in_flight=not dry_run,
        )
        if dry_run:
            return self._summary(_would_remove(store))
        slots = LeasedSlots(
            ledger=ledger,
            connection=self.zoho_conn_id,
            holder=holder,
            wanted=self.task_concurrency,
            limit=hook.connection.max_concurrency,
        )
        ledger.mark_running(chunk["run_key"])
        report = self._run(hook, relation, store, slots)
        if report.reason in WAITS:
            self._wait(report, waiting_since or datetime.now(UTC))
        return self._conclude(report)

    def _wait(self, report: ChunkReport, since: datetime) -> None:
        """Leave the worker until Zoho may give again; return once the job's patience is over."""
        assert report.reason is not None  # noqa: S101 - for the type checker: it is one of WAITS
        pause = WAITS[report.reason]
        if datetime.now(UTC) + pause > since + self.wait_patience:
            self.log.error("The patience of %s is over", self.wait_patience)
            return
        self.log.warning("Waiting %s outside of a worker: %s", pause, report.stopped)
        self.defer(
            trigger=TimeDeltaTrigger(pause),
            method_name="execute_after_wait",
            kwargs={"waiting_since": since.isoformat()},
        )

    def _run(self, hook: ZohoCRMHook, relation: Relation, store: Store, slots: Slots) -> ChunkReport:
        try:
            client = hook.async_client(max_connections=self.task_concurrency)
        except ZohoTokenThrottledError as error:
            return ChunkReport(Counter(), f"there is no access token ({error})", StopReason.THROTTLED)
        self._course = (client, hook.connection.api_version, relation, store, slots)
        report: ChunkReport = super().execute({})  # type: ignore[no-untyped-call]
        return report

    async def aexecute(self, context: Context) -> ChunkReport:
        """Work the links off on the event loop. Nothing here calls Airflow, whose calls would block the loop."""
        client, api_version, relation, store, slots = self._course
        loop = asyncio.get_running_loop()
        async with client:
            single = Delinker(client, relation, api_version)
            run = ChunkRun(
                single if self.strategy == "single" else ByParentDelinker(single, direct=self.direct),
                store,
                slots,
                self.task_concurrency,
                breaker_share=self.breaker_share,
                credit_reserve=self.credit_reserve,
            )
            self._stop = lambda why: loop.call_soon_threadsafe(run.stop, why)
            if self.execution_timeout:
                # Airflow's own time-out strikes anywhere; ending before it writes what is in flight.
                seconds = self.execution_timeout.total_seconds()
                loop.call_later(seconds - min(60.0, seconds / 10), run.stop, "the task's time is nearly up")
            try:
                return await run.run()
            finally:
                self._stop = None

    def _target(
        self, hook: ZohoCRMHook, relation: Relation, *, dry_run: bool, org_id: str | None = None
    ) -> Target:
        return Target(
            relation=relation,
            data_center=hook.connection.data_center,
            api_version=hook.connection.api_version,
            strategy=self.strategy,
            org_id=org_id,
            dry_run=dry_run,
        )

    def _pairs(self) -> list[tuple[object, object]]:
        return pasted_links(self.links) or []

    def _conclude(self, report: ChunkReport) -> dict[str, int]:
        """Return the summary, or raise when links are left."""
        counts = report.counts
        summary = self._summary(counts)
        if report.stopped:
            error = LinksLeftError if report.reason is None else RunStoppedError
            raise error(f"Stopped: {report.stopped}. This try: {_sentence(counts)}")
        if any(counts[outcome] for outcome in DRIVE_AGAIN):
            raise LinksLeftError(f"Links are left to be tried again. This try: {_sentence(counts)}")
        return summary

    def _summary(self, counts: Counter[Outcome]) -> dict[str, int]:
        self.log.info("Links of this try by outcome: %s", _sentence(counts))
        return {outcome.value: counts[outcome] for outcome in DELINK_OUTCOMES}


def _would_remove(store: ClaimedChunk) -> Counter[Outcome]:
    """Settle a whole chunk as a dry run."""
    counts: Counter[Outcome] = Counter()
    results: list[LinkResult] = []
    while True:
        links = store.settle(results, DRY_RUN_BATCH)
        counts[Outcome.WOULD_REMOVE] += len(results)
        if not links:
            return counts
        now = datetime.now(UTC)
        results = [LinkResult(link, Outcome.WOULD_REMOVE, now) for link in links]


def _sentence(counts: Counter[Outcome]) -> str:
    parts = [f"{counts[outcome]} {outcome.value}" for outcome in Outcome if counts[outcome]]
    return ", ".join(parts) or "no links"
