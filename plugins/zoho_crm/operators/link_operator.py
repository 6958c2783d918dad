"""What the two public operators share: arguments, mapping, the event loop, waiting outside of a worker, lineage."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk import BaseOperator

from zoho_crm.airflow_compat import AirflowFailException, partial_of
from zoho_crm.core.links import Relation
from zoho_crm.core.models import Target
from zoho_crm.core.verdict import StopReason
from zoho_crm.errors import OtherOrgError, ZohoTokenThrottledError
from zoho_crm.hooks.presence import PresenceClient
from zoho_crm.hooks.zoho_crm import ZohoCRMHook
from zoho_crm.operators.chunk_run import ChunkReport, ChunkRun
from zoho_crm.operators.drivers import ChunkDriver, InMemoryDriver, OwnPlanDriver
from zoho_crm.operators.job_operator import final_errors, origin_of, wait_in_triggerer, with_recorded_failures
from zoho_crm.operators.slot_keeper import refresh_lock, shared_clock

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from airflow.sdk import Context

    from zoho_crm.airflow_compat import OperatorPartial
    from zoho_crm.core.models import ChunkRef, Origin
    from zoho_crm.core.outcomes import Outcome
    from zoho_crm.hooks.async_client import AsyncZohoClient
    from zoho_crm.operators.breaker import NotFoundLimit, Stop
    from zoho_crm.operators.chunk_run import LinkProcessor, Store
from zoho_crm.operators.slot_keeper import Slots

TASK_KILLED = "the task was killed"
TIME_IS_UP = "the task's execution_timeout is nearly reached"


class LinkOperator(BaseOperator):
    """
    Base class of the operators that change links of one relation, several at once.

    The arguments are those of :class:`~zoho_crm.operators.delete_related.DeleteRelatedByExternalIdOperator`. External
    IDs are data, not templates: Jinja renders nothing in ``links`` and ``chunk``.
    """

    template_fields: Sequence[str] = ("links", "chunk")
    operation: ClassVar[str]
    outcomes: ClassVar[tuple[Outcome, ...]]
    """The outcomes that the summary counts."""
    changing: ClassVar[tuple[Outcome, ...]]
    """Outcome of a link that was changed in Zoho."""
    linked: ClassVar[Outcome]
    """Outcome of an existing link in a dry run."""
    gone: ClassVar[Outcome]
    """Outcome of a missing link in a dry run, if both records exist."""
    unverified: ClassVar[Outcome]
    """Outcome of every link in a dry run that sends nothing."""
    strategy: str = "single"
    snapshot_fields: Sequence[str] = ()
    # Airflow once had an argument of this name.
    task_concurrency: int

    worked_on: tuple[Target, Counter[Outcome]] | None = None
    """Target and outcomes of this try, for OpenLineage."""
    _stop: Callable[[str], object] | None = None
    _is_killed = False
    _clock: Callable[[], float] | None = None
    """The clock of this try, once it has an audit database."""
    _ends_at: float | None = None

    @classmethod
    def partial(cls, **kwargs: Any) -> OperatorPartial:
        """Prepare the mapping as for any operator; each argument may come from ``partial`` or from ``expand``."""
        return partial_of(cls, kwargs)

    def __init__(
        self,
        *,
        module: str,
        external_field: str,
        related_list: str,
        related_external_field: str,
        related_module: str | None,
        links: Any,
        chunk: ChunkRef | None,
        zoho_conn_id: str,
        audit_conn_id: str | None,
        task_concurrency: int,
        dry_run: bool,
        verify: bool,
        breaker_share: float,
        credit_reserve: int,
        max_not_found_share: float | None,
        max_plan_age: timedelta | None,
        wait_patience: timedelta,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if (links is None) == (chunk is None):
            raise ValueError("links, chunk: give exactly one of them")
        if chunk is not None and audit_conn_id is None:
            raise ValueError("audit_conn_id: required with chunk, whose plan is stored in that database")
        if not 1 <= task_concurrency <= 25:
            raise ValueError(f"task_concurrency: {task_concurrency} is not 1 to 25, Zoho's limit for an org")
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
        # Not named dry_run, which is a method of every operator.
        self.is_dry_run = dry_run
        self.verify = verify
        self.breaker_share = breaker_share
        self.credit_reserve = credit_reserve
        self.max_not_found_share = max_not_found_share
        self.max_plan_age = max_plan_age
        self.wait_patience = wait_patience
        self.on_failure_callback = with_recorded_failures(self.on_failure_callback)

    def processor(self, client: AsyncZohoClient) -> LinkProcessor:
        """Return what changes the links."""
        raise NotImplementedError

    def verifier(self, client: AsyncZohoClient) -> LinkProcessor:
        """Return what verifies the links of a dry run."""
        return PresenceClient(
            client,
            self.relation,
            client.connection.api_version,
            linked=self.linked,
            gone=self.gone,
            now=self.now,
        )

    def snapshot_reader(self, client: AsyncZohoClient) -> LinkProcessor:
        """Return what reads the attributes of the links."""
        return PresenceClient(
            client,
            self.relation,
            client.connection.api_version,
            fields=tuple(self.snapshot_fields),
            now=self.now,
        )

    @property
    def relation(self) -> Relation:
        """
        The relation of the links.

        :raises ZohoConfigError: a name is not an API name, or the related list is refused
        """
        return Relation(
            module=self.module,
            external_field=self.external_field,
            related_list=self.related_list,
            related_module=self.related_module or self.related_list,
            related_external_field=self.related_external_field,
        )

    def target(self, hook: ZohoCRMHook | None, *, dry_run: bool, org_id: str | None = None) -> Target:
        """
        Return what the audit stores about where the links are.

        :param hook: None if nothing is sent: the connection need not exist then
        """
        return Target(
            relation=self.relation,
            data_center=hook.connection.data_center if hook else "",
            api_version=hook.connection.api_version if hook else "",
            strategy=self.strategy,
            org_id=org_id,
            dry_run=dry_run,
            operation=self.operation,
        )

    def render_template(
        self, content: Any, context: Context, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Resolve results of other tasks and leave text alone: an ID may contain Jinja's delimiters."""
        if isinstance(content, str):
            return content
        return super().render_template(content, context, jinja_env, seen_oids)

    @final_errors
    def execute(self, context: Context, waiting_since: datetime | None = None) -> dict[str, int]:
        """Work on the links and return their number by outcome."""
        self._is_killed = False
        if self.execution_timeout:
            # Airflow's own timeout may strike anywhere. Ending before it writes what is in flight.
            seconds = self.execution_timeout.total_seconds()
            self._ends_at = time.monotonic() + seconds - min(60.0, seconds / 10)
        try:
            return self._drive(origin_of(context), waiting_since)
        except OtherOrgError as error:
            # A retry would meet the same connection.
            raise AirflowFailException(str(error)) from None

    def _drive(self, origin: Origin, waiting_since: datetime | None) -> dict[str, int]:
        if self.audit_conn_id is None:
            return InMemoryDriver(self, ZohoCRMHook(self.zoho_conn_id), origin).run()
        from zoho_crm.ledger.ledger import Ledger

        ledger = Ledger.from_conn_id(self.audit_conn_id)
        try:
            self._clock = shared_clock(ledger)
            hook = ZohoCRMHook(
                self.zoho_conn_id,
                refresh_lock=partial(refresh_lock, ledger, self.zoho_conn_id),
                shared_clock=self._clock,
            )
            if self.chunk is not None:
                return ChunkDriver(self, hook, ledger, origin, waiting_since).run(self.chunk)
            return OwnPlanDriver(self, hook, ledger, origin, waiting_since).run()
        finally:
            ledger.close()

    def execute_after_wait(
        self, context: Context, event: Any = None, *, waiting_since: str
    ) -> dict[str, int]:
        """Resume after a wait in the triggerer; Airflow calls it."""
        return self.execute(context, datetime.fromisoformat(waiting_since))

    def now(self) -> datetime:
        """Return the time by the clock of the audit database, where the task has one."""
        return datetime.fromtimestamp(self._clock() if self._clock else time.time(), UTC)

    def on_kill(self) -> None:
        """Take no further link; what is in flight is waited for and written before the process ends."""
        self._is_killed = True
        if self._stop is not None:
            self._stop(TASK_KILLED)

    def send(
        self,
        hook: ZohoCRMHook,
        make_processor: Callable[[AsyncZohoClient], LinkProcessor],
        store: Store,
        slots: Slots,
        check: Callable[[AsyncZohoClient], Awaitable[Stop | None]] | None = None,
        *,
        not_found: NotFoundLimit | None = None,
    ) -> ChunkReport:
        """
        Process the links of a store on an event loop.

        Connection and token are resolved before the loop runs: calls to Airflow would block it.

        :param check: called before anything else is sent; returns a reason not to send any link
        :param not_found: limit of links without a record in Zoho
        """
        try:
            client = hook.async_client(max_connections=self.task_concurrency)
        except ZohoTokenThrottledError as error:
            return ChunkReport(Counter(), f"there is no access token ({error})", StopReason.THROTTLED)

        async def run() -> ChunkReport:
            async with client:
                chunk_run = ChunkRun(
                    make_processor(client),
                    store,
                    slots,
                    self.task_concurrency,
                    breaker_share=self.breaker_share,
                    credit_reserve=self.credit_reserve,
                    not_found=not_found,
                    check=partial(check, client) if check else None,
                )
                client.require(chunk_run.right)
                self._stop_in_time(chunk_run)
                try:
                    return await chunk_run.run()
                finally:
                    self._stop = None

        return asyncio.run(run())

    def _stop_in_time(self, chunk_run: ChunkRun) -> None:
        """Stop a chunk run when the task is killed, and before its execution timeout."""
        loop = asyncio.get_running_loop()
        self._stop = lambda why: loop.call_soon_threadsafe(chunk_run.stop, why)
        if self._is_killed:
            chunk_run.stop(TASK_KILLED)
        if self._ends_at is not None:
            loop.call_later(max(0.0, self._ends_at - time.monotonic()), chunk_run.stop, TIME_IS_UP)

    def wait(self, pause: timedelta, since: datetime, why: str | None) -> None:
        """Defer until Zoho may accept requests again; return if that exceeds ``wait_patience``."""
        wait_in_triggerer(self, pause, now=self.now(), since=since, patience=self.wait_patience, why=why)

    def summarize(self, counts: Counter[Outcome]) -> dict[str, int]:
        """Return the number of links by outcome, zeros included."""
        return {outcome.value: counts[outcome] for outcome in self.outcomes}

    def get_openlineage_facets_on_start(self) -> Any:
        """Return what is known before the task starts; Airflow's OpenLineage provider calls it."""
        return self._lineage()

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return what the task has changed; Airflow's OpenLineage provider calls it, also after a failure."""
        return self._lineage()

    def _lineage(self) -> Any:
        from zoho_crm.lineage import link_lineage

        return link_lineage(self.audit_conn_id, self.worked_on, self.changing)
