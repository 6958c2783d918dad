"""What the tasks that change links have in common: they drive a list of links, or a chunk of a stored plan."""

from __future__ import annotations

import os
import socket
import uuid
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from zoho_crm.airflow_compat import TaskDeferred, partial_of
from zoho_crm.core.link_input import pasted_links
from zoho_crm.core.links import Relation
from zoho_crm.core.models import RunStart, Target
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.run_request import APPLY, BEGINNING, DRY_RUN, run_key
from zoho_crm.errors import ClaimLostError
from zoho_crm.hooks.presence import PresenceClient
from zoho_crm.hooks.zoho_crm import ZohoCRMHook
from zoho_crm.operators.async_operator import WAITS, AsyncLinkOperator
from zoho_crm.operators.chunk_run import ChunkReport, FixedSlots, LinkProcessor, Slots
from zoho_crm.operators.context import origin_of
from zoho_crm.operators.credit_usage import CreditUsage
from zoho_crm.operators.plan_checks import check_plan_age, run_of
from zoho_crm.operators.report import close_run
from zoho_crm.operators.stores import (
    ChunkStore,
    LeasedSlots,
    MemoryStore,
    count_links,
    deduplicate_links,
    settle_unverified,
)
from zoho_crm.operators.token_lock import refresh_lock
from zoho_crm.telemetry import chunk_span, span

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from zoho_crm.airflow_compat import OperatorPartial
    from zoho_crm.core.models import ChunkRef, Origin
    from zoho_crm.hooks.async_client import AsyncZohoClient
    from zoho_crm.ledger.claims import Claim
    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.ledger.runs import StoredRun


class Drive(NamedTuple):
    """What one try needs to change links: the hook, and the ledger's side of it."""

    hook: ZohoCRMHook
    ledger: Ledger
    claim: Claim
    slots: Slots
    spending: CreditUsage


class LinkOperator(AsyncLinkOperator):
    """
    Drive links of one relation, several at once, and say of each what happened.

    With ``audit_conn_id`` every link is planned, marked before it is sent, and audited in that database; a retry, a
    clear or a crash resumes with what is not settled. Without it the task keeps no ledger: a retry goes over all its
    links again, and the requests in flight are bounded by ``task_concurrency`` alone, not by what the org allows over
    all tasks.

    The ids are data, not templates: nothing in ``links`` and ``chunk`` is rendered by Jinja.

    It can be mapped by ``.partial(...).expand(chunk=...)`` or ``expand(links=...)``, and by
    ``.partial(task_id=...).expand_kwargs(...)`` with any of its arguments.

    :param module: API name of the parents' module, e.g. ``Contacts``
    :param external_field: API name of the parents' external field
    :param related_list: API name of the related list on the parent, e.g. ``Deals``
    :param related_external_field: API name of the related records' external field
    :param related_module: API name of the related records' module, where it differs from the list's
    :param links: the links: ``{"external_id": ..., "related_external_id": ...}`` or pairs
    :param chunk: a chunk of a stored plan, as :class:`~zoho_crm.operators.plan_links.PlanLinksOperator` returns it;
        needs ``audit_conn_id``
    :param zoho_conn_id: connection of type ``zoho_crm``
    :param audit_conn_id: connection of the database for plan and audit
    :param task_concurrency: requests in flight in this task, 1 to 25
    :param dry_run: change nothing; every link ends as what would happen to it
    :param verify: in a dry run, ask Zoho about every link, by reading calls alone; without it a dry run sends nothing
    :param breaker_share: share of links that may fail, be refused or stay unknown before the whole run is stopped
    :param credit_reserve: API credits of the org to leave alone; Zoho tells what is left once half are used
    :param max_plan_age: how long after the plan was made a try may begin to send
    :param wait_patience: how long to wait, deferred, for credits or for an access token when Zoho gives none;
        needs ``audit_conn_id``
    :return: number of links by outcome, e.g. ``{"removed": 10, "already_absent": 2, ...}``
    :raises LinksLeftError: links ended as ``failed``, ``unknown`` or ``not_attempted``, so that Airflow tries again
    :raises RunStoppedError: Zoho gave an answer that waits for every link, or the plan is too old; trying again soon
        is of no use
    """

    template_fields: Sequence[str] = ("links", "chunk")
    operation: ClassVar[str]
    changing: ClassVar[Outcome]
    """The outcome of a link that was changed in Zoho."""
    linked: ClassVar[Outcome]
    """What a dry run says of a link that is there."""
    gone: ClassVar[Outcome]
    """What a dry run says of a link that is not there, while both records are."""
    unasked: ClassVar[Outcome]
    """What a dry run says that asks Zoho nothing."""
    strategy: str = "single"
    _driven: tuple[Target, Counter[Outcome]] | None = None
    """What this try has worked on and what came of it, for OpenLineage."""

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """Prepare the mapping, as for any operator, but so that each argument may come from either call."""
        return partial_of(cls, kwargs)

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
        task_concurrency: int = 5,
        dry_run: bool = False,
        verify: bool = False,
        breaker_share: float = 0.5,
        credit_reserve: int = 0,
        max_plan_age: timedelta | None = None,
        wait_patience: timedelta = timedelta(hours=24),
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (links is None) == (chunk is None):
            raise ValueError("Give exactly one of links and chunk")
        if chunk is not None and audit_conn_id is None:
            raise ValueError("A chunk is a part of a stored plan: give the audit_conn_id it is stored in")
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
        self.task_concurrency = task_concurrency
        self.verify = verify
        self.breaker_share = breaker_share
        self.credit_reserve = credit_reserve
        self.max_plan_age = max_plan_age
        self.wait_patience = wait_patience
        # Not named dry_run: that is a method of every operator.
        self._is_dry_run = dry_run

    def worker(self, client: AsyncZohoClient) -> LinkProcessor:
        """Return what changes the links."""
        raise NotImplementedError

    def before_sending(self, drive: Drive) -> ChunkReport | None:
        """Do what must be done before the first link of a chunk is sent; return a report if nothing may be."""
        return None

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
        """Drive the links. Connections and token are resolved before the event loop runs."""
        return self._execute(context, waiting_since=None)

    def execute_after_wait(
        self, context: Context, event: Any = None, *, waiting_since: str
    ) -> dict[str, int]:
        """Go on after a wait in the triggerer; Airflow calls it."""
        return self._execute(context, datetime.fromisoformat(waiting_since))

    def get_openlineage_facets_on_start(self) -> Any:
        """Return what is known before the task begins; Airflow's OpenLineage provider calls it."""
        return self._lineage()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return what the task has changed, whether it ended well or not; Airflow's OpenLineage provider calls it."""
        return self._lineage()

    def _lineage(self) -> Any:
        from zoho_crm.lineage import link_lineage

        return link_lineage(self.audit_conn_id, self._driven, self.changing)

    def _execute(self, context: Context, waiting_since: datetime | None) -> dict[str, int]:
        self.begin()
        if self.audit_conn_id is None:
            return self._execute_in_memory(ZohoCRMHook(self.zoho_conn_id), origin_of(context))
        from zoho_crm.ledger.ledger import Ledger

        ledger = Ledger.from_conn_id(self.audit_conn_id)
        hook = ZohoCRMHook(self.zoho_conn_id, refresh_lock=partial(refresh_lock, ledger, self.zoho_conn_id))
        try:
            if self.chunk is not None:
                return self._execute_chunk(hook, ledger, self.chunk, origin_of(context), waiting_since)
            return self._execute_links(hook, ledger, origin_of(context), waiting_since)
        finally:
            ledger.close()

    def _execute_in_memory(self, hook: ZohoCRMHook, origin: Origin) -> dict[str, int]:
        job = _job_of(origin)
        planned, invalid = deduplicate_links(self._pairs(), self.relation)
        asks = self.verify or not self._is_dry_run
        target = self._target(hook if asks else None, self.relation, dry_run=self._is_dry_run)
        with chunk_span(self.log, job, target, links=len(planned) + len(invalid)) as tell:
            store = MemoryStore(deque(planned), job, target)
            if asks:
                recruit = self._prober if self._is_dry_run else self.worker
                report = self.drive(hook, recruit, store, FixedSlots(self.task_concurrency))
            else:
                report = ChunkReport(settle_unverified(store, self.unasked))
            for link, fault in invalid:
                self.log.debug("Not sent: %r: %s", link.link, fault)
            rest = Counter({Outcome.NOT_ATTEMPTED: len(store.links), Outcome.INVALID: len(invalid)})
            count_links(rest, job, target)
            report.counts.update(rest)
            self._driven = target, report.counts
            tell(report)
            return self.conclude(report)

    def _execute_links(
        self, hook: ZohoCRMHook, ledger: Ledger, origin: Origin, waiting_since: datetime | None
    ) -> dict[str, int]:
        """Store a plan of this task's own, then work it off as one chunk."""
        ledger.ensure_schema()
        relation = self.relation
        job = _job_of(origin)
        key = run_key(job, origin.dag_id, origin.dag_run_id, origin.task_id, origin.map_index)
        target = self._target(hook, relation, dry_run=self._is_dry_run)
        ledger.runs.start(
            RunStart(
                run_key=key,
                job=job,
                origin=origin,
                target=target,
                mode=DRY_RUN if self._is_dry_run else APPLY,
                window_start=BEGINNING,
                window_end=datetime.now(UTC),
                environment=hook.connection.kind,
            )
        )
        pairs = self._pairs()
        plan = ledger.plans.create(
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
        return self.summary(counts)

    def _execute_chunk(
        self,
        hook: ZohoCRMHook,
        ledger: Ledger,
        chunk: ChunkRef,
        origin: Origin,
        waiting_since: datetime | None,
    ) -> dict[str, int]:
        run = run_of(ledger, chunk, operation=self.operation, relation=self.relation)
        dry_run = self._is_dry_run or run.mode == DRY_RUN
        if not dry_run:
            check_plan_age(ledger, run, self.max_plan_age)
        target = self._target(hook, run.relation, dry_run=dry_run, org_id=run.org_id)
        with chunk_span(self.log, run.job, target, links=chunk["links"], chunk=chunk) as tell:
            report = self._drive_chunk(hook, ledger, chunk, run, target, origin)
            self._driven = target, report.counts
            tell(report)
            if report.reason in WAITS:
                self.wait(report, waiting_since or datetime.now(UTC))
            return self.conclude(report)

    def _drive_chunk(
        self,
        hook: ZohoCRMHook,
        ledger: Ledger,
        chunk: ChunkRef,
        run: StoredRun,
        target: Target,
        origin: Origin,
    ) -> ChunkReport:
        holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:12]}"
        with span("claim"):
            claim = ledger.claims.claim(run.run_key, chunk["chunk_no"], holder)
        spending = CreditUsage(hook.meter, self.zoho_conn_id, target.org_id)
        store = ChunkStore(
            ledger=ledger,
            claim=claim,
            origin=origin,
            target=target,
            job=run.job,
            in_flight=not target.dry_run,
            spending=spending,
        )
        if target.dry_run and not (self.verify or run.params.get("verify") is True):
            return ChunkReport(settle_unverified(store, self.unasked))
        slots = LeasedSlots(
            ledger=ledger,
            connection=self.zoho_conn_id,
            holder=holder,
            wanted=self.task_concurrency,
            limit=hook.connection.max_concurrency,
        )
        if target.dry_run:
            return self.drive(hook, self._prober, store, slots)
        ledger.runs.mark_running(run.run_key)
        refusal = self.before_sending(Drive(hook, ledger, claim, slots, spending))
        return refusal or self.drive(hook, self.worker, store, slots)

    def _prober(self, client: AsyncZohoClient) -> LinkProcessor:
        return PresenceClient(
            client, self.relation, client.connection.api_version, linked=self.linked, gone=self.gone
        )

    def _target(
        self, hook: ZohoCRMHook | None, relation: Relation, *, dry_run: bool, org_id: str | None = None
    ) -> Target:
        return Target(
            relation=relation,
            data_center=hook.connection.data_center if hook else "",
            api_version=hook.connection.api_version if hook else "",
            strategy=self.strategy,
            org_id=org_id,
            dry_run=dry_run,
            operation=self.operation,
        )

    def _pairs(self) -> list[tuple[object, object]]:
        return pasted_links(self.links) or []


def _job_of(origin: Origin) -> str:
    """Return what stands for a job where there is none: the task itself."""
    return f"{origin.dag_id}.{origin.task_id}"
