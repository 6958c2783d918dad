"""The one class through which operators, Dags and the UI use the audit database."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import sqlalchemy as sa

from zoho_crm.core.approval import ASKED
from zoho_crm.errors import ZohoError
from zoho_crm.ledger import (
    carry_over,
    claims,
    finalize,
    history,
    origin_runs,
    plan,
    pseudonymize,
    runs,
    schema,
    seals,
    selection,
    slots,
    snapshots,
    verify_chain,
)
from zoho_crm.ledger.engine import engine_of, prepared, reading

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    from zoho_crm.core.links import Link, Relation
    from zoho_crm.core.models import (
        LinkResult,
        Origin,
        PlannedLink,
        PlanSummary,
        RunStart,
        Target,
    )
    from zoho_crm.core.outcomes import Outcome
    from zoho_crm.core.relink_request import RelinkFilter
    from zoho_crm.ledger.chain import Finding
    from zoho_crm.ledger.claims import Claim
    from zoho_crm.ledger.runs import StoredRun
    from zoho_crm.ledger.seals import Seal
    from zoho_crm.ledger.selection import RemovedLink, UnfinishedLink


class _Store:
    """What every store works with."""

    def __init__(self, engine: sa.Engine, clock: Callable[[], float]) -> None:
        self._engine = engine
        self._clock = clock

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)


class RunStore(_Store):
    """Rows of runs: who started them, why, which window, and how they ended."""

    def start(self, run: RunStart) -> StoredRun:
        """
        Store a run, or return what is stored under its key: window, mode and relation of the first time win.

        :raises ZohoConfigError: its key is too long, or its mode and target contradict each other
        """
        return runs.start_run(self._engine, run, self._now())

    def get(self, run_key: str) -> StoredRun | None:
        """Return a run, or None if there is none with this key."""
        return runs.get_run(self._engine, run_key)

    def counts(self, run_key: str) -> dict[Outcome, int]:
        """Return how many links have each outcome by their last audit row; an outcome nobody has counts 0."""
        return runs.counts(self._engine, run_key)

    def pending(self, run_key: str) -> int:
        """Return how many planned links are not settled: never tried, or to be driven again."""
        return runs.pending(self._engine, run_key)

    def finish(self, run_key: str, *, status: str, detail: str | None, finished_at: datetime) -> None:
        """
        Write how a run ended; the counts are taken from the audit rows.

        :param status: a :class:`~zoho_crm.ledger.runs.RunStatus`
        :raises ZohoConfigError: there is no such status
        :raises PlanError: there is no such run
        """
        runs.finish_run(self._engine, run_key, status=status, detail=detail, finished_at=finished_at)

    def mark_running(self, run_key: str) -> None:
        """Say that a planned run has begun to send; a run in any other status is left alone."""
        runs.mark_running(self._engine, run_key)

    def stop(self, run_key: str, why: str) -> None:
        """Keep all tasks of the run from sending, until the run is finished; the first reason stays."""
        runs.stop_run(self._engine, run_key, why)

    def stop_reason(self, run_key: str) -> str | None:
        """Return why no task of the run sends anything any more, None while they may."""
        return runs.stop_reason(self._engine, run_key)

    def set_org_id(self, run_key: str, org_id: str) -> None:
        """Note Zoho's id of the organisation."""
        self._set(run_key, org_id=org_id)

    def add_preflight_credits(self, run_key: str, used: int) -> None:
        """Count API credits that a task has used which works on no chunk; nothing happens while there is no run."""
        runs.add_preflight_credits(self._engine, run_key, used)

    def record_source_facts(
        self, run_key: str, *, baseline_links: int | None, source_as_of: datetime | None
    ) -> None:
        """Note what the job's SQL says of its source: how many links there are, and how fresh it is."""
        self._set(run_key, baseline_links=baseline_links, source_as_of=source_as_of)

    def record_guard(self, run_key: str, decision: str) -> None:
        """Note what the guards decided, and why; what a person said of an earlier decision holds no longer."""
        self._set(run_key, guard_decision=decision, approval=None, approved_by=None, approved_at=None)

    def ask_approval(self, run_key: str) -> None:
        """Note that a person is asked: nothing of the run is sent before :meth:`record_approval` says yes."""
        self._set(run_key, approval=ASKED, approved_by=None, approved_at=None)

    def record_approval(
        self, run_key: str, *, approval: str, approved_by: str | None, approved_at: datetime
    ) -> None:
        """
        Note what a person decided about the run.

        :param approval: ``approved``, or a text that begins with ``rejected``
        """
        self._set(run_key, approval=approval, approved_by=approved_by, approved_at=approved_at)

    def recent_planned_counts(self, job: str, before_run_key: str, limit: int = 10) -> list[int]:
        """
        Return how many links each of a job's last runs planned that took links out, newest first.

        Runs that were stopped or rejected do not count, nor runs that take up the links of another run.
        """
        return history.recent_planned(self._engine, job, before_run_key, limit)

    def record_job_state(self, job: str, state: str, run_key: str) -> str | None:
        """
        Note how a job stands. Of several that note the same change at once, one has made it.

        :return: the state before; "" if there was none; None if nothing has changed
        """
        return history.record_job_state(self._engine, job, state, run_key, self._now())

    def find(self, job: str, name: str) -> StoredRun:
        """
        Return the run of a job that somebody names by its key or by Airflow's run id.

        :raises ZohoConfigError: there is none, or several Dags of the job have a run with that id
        """
        return origin_runs.find_run(self._engine, job, name)

    def in_window(self, job: str, start: datetime, end: datetime) -> list[StoredRun]:
        """Return the runs of a job whose own window lies in a half-open one, oldest first."""
        return origin_runs.runs_in_window(self._engine, job, start, end)

    def _set(self, run_key: str, **values: str | int | datetime | None) -> None:
        runs.set_columns(self._engine, run_key, values)


class PlanStore(_Store):
    """Stored plans of runs."""

    def create(
        self,
        run_key: str,
        relation: Relation,
        rows: Iterable[tuple[object, object]],
        *,
        chunk_size: int,
        max_chunks: int,
        origin: Origin,
        target: Target,
    ) -> PlanSummary:
        """
        Make the plan of a run, or return the one it has without reading ``rows``.

        :param rows: pairs of external id and related external id, of whatever types the source has
        :param chunk_size: links in a chunk, as long as that makes no more than ``max_chunks``
        :param max_chunks: chunks at most: beyond it they grow
        :param origin: the task that plans, for the audit rows of invalid links
        :raises PlanError: there is no such run, it was started for another relation, or a row is not a pair
        :raises ZohoConfigError: ``chunk_size`` or ``max_chunks`` is below 1
        """
        return plan.plan_run(
            self._engine,
            run_key,
            relation,
            rows,
            sizes=plan.ChunkSizes(chunk_size, max_chunks),
            origin=origin,
            target=target,
            now=self._now(),
        )

    def get(self, run_key: str) -> PlanSummary | None:
        """Return the stored plan of a run, or None if it has none."""
        return plan.plan_of(self._engine, run_key)

    def sample(self, run_key: str, limit: int = 10) -> list[Link]:
        """Return links of a plan that can be sent, spread evenly over it."""
        return history.sample(self._engine, run_key, limit)


class ChunkClaims(_Store):
    """Claims on chunks, and what is written under them."""

    def claim(self, run_key: str, chunk_no: int, holder: str) -> Claim:
        """
        Claim a chunk, fencing out whoever has claimed it before.

        :param holder: who claims, for people who read the table
        :raises PlanError: the plan has no such chunk
        """
        return claims.claim_chunk(self._engine, run_key, chunk_no, holder, self._now())

    def take(self, claim: Claim, limit: int, *, in_flight: bool = True) -> list[PlannedLink]:
        """
        Take the chunk's next links that are not settled; an empty list says that there are no more.

        :param in_flight: False for a dry run: no request follows, so no link is marked
        :raises ClaimLostError: a newer claim exists, and nothing was written
        :raises PlanError: requests of this run have been sent, and it is now driven as a dry run
        """
        return claims.take(self._engine, claim, limit, in_flight=in_flight)

    def settle(
        self,
        claim: Claim,
        results: Sequence[LinkResult],
        *,
        origin: Origin,
        target: Target,
        job: str,
        take: int = 0,
        in_flight: bool = True,
        credits_used: int = 0,
    ) -> list[PlannedLink]:
        """
        Write results with their audit rows and take the next links, in one transaction.

        :param results: one for each link at most; links without one stay as they are
        :param take: how many links to take at most
        :param in_flight: False for a dry run, as in :meth:`take`
        :param credits_used: API credits since the last write under this claim
        :raises ClaimLostError: a newer claim exists, and nothing was written
        :raises PlanError: a result is for a link that this claim has not taken, or has settled before
        """
        return claims.settle(
            self._engine,
            claim,
            results,
            origin=origin,
            target=target,
            job=job,
            take=take,
            in_flight=in_flight,
            credits_used=credits_used,
        )

    def without_snapshot(self, claim: Claim, limit: int) -> list[PlannedLink]:
        """Return the chunk's next links that are yet to be sent and have no snapshot; an empty list: no more."""
        return snapshots.without_snapshot(self._engine, claim, limit)

    def store_snapshots(self, claim: Claim, texts: Mapping[int, str], *, credits_used: int = 0) -> None:
        """
        Store what links have of their own, in one transaction.

        :param texts: JSON text by the link's place in the plan
        :param credits_used: API credits since the last write under this claim
        :raises ClaimLostError: a newer claim exists, and nothing was written
        :raises PlanError: a link is not in the chunk, or is being sent or done with; nothing was written
        """
        snapshots.store_snapshots(self._engine, claim, texts, credits_used=credits_used)


class RunFinalizer(_Store):
    """The end of a run: outcomes for unfinished links, and the seal."""

    def close_unfinished_links(self, run_key: str, *, origin: Origin) -> Counter[Outcome]:
        """
        Give every link without an outcome one: ``not_attempted`` if it was never sent, else ``unknown``.

        A try that still runs somewhere is fenced out. The links stay open for a later try.

        :return: the number of links closed, by outcome
        """
        return finalize.close_unfinished_links(self._engine, run_key, origin=origin, now=self._now())

    def seal(self, run_key: str) -> Seal:
        """
        Seal a run as its audit is now, or return its last seal if nothing has been added since.

        :raises PlanError: there is no such run
        :raises AuditAlteredError: the last audit rows are not those that were written
        """
        return seals.seal_run(self._engine, run_key, self._now())


class AuditChain(_Store):
    """The hash chain of the audit."""

    def verify(self, run_key: str | None = None) -> Iterator[Finding]:
        """
        Yield what is wrong with the audit; nothing if all of it is as it was written. Memory stays flat.

        :param run_key: verify this run alone; None for all
        """
        return verify_chain.verify(self._engine, run_key)


class OriginLinks(_Store):
    """Links of earlier runs that a retry or a relink starts from."""

    def unfinished_links(
        self, past: Sequence[StoredRun], org_id: str | None = None
    ) -> Iterator[UnfinishedLink]:
        """
        Yield each link that at least one of some runs has left open, once, with its last outcome over all runs.

        :param past: runs that have ended
        :param org_id: Zoho's id of the organisation; rows of others do not count
        """
        return selection.last_outcomes(self._engine, past, org_id)

    def removed_links(
        self,
        run: StoredRun,
        *,
        org_id: str | None = None,
        wanted: RelinkFilter | None = None,
        pair_keys: Collection[str] | None = None,
    ) -> Iterator[RemovedLink]:
        """
        Yield the links that a run removed, each with what happened to it since.

        :param wanted: conditions on the audit row of the removal; None for all
        :param pair_keys: keys of the links to choose from; None for all links of the run
        """
        return selection.removed_links(self._engine, run, org_id=org_id, wanted=wanted, pair_keys=pair_keys)

    def copy_snapshots(self, run_key: str, origin_run_key: str) -> None:
        """Give each link of a plan the attributes that the run which removed it has read."""
        carry_over.copy_snapshots(self._engine, run_key, origin_run_key)

    def carry_over_in_flight(self, run_key: str) -> None:
        """Mark the links of a plan that a request of a past run may have reached: they are asked about first."""
        carry_over.carry_over_in_flight(self._engine, run_key)


class Pseudonymizer(_Store):
    """Pseudonymization of old runs."""

    def due_runs(self, job: str, before: datetime) -> list[str]:
        """
        Return the keys of a job's runs whose ids are to be replaced, oldest first; those left half done among them.

        :param before: runs that finished before this time
        """
        return pseudonymize.runs_to_pseudonymise(self._engine, job, before)

    def unfinished_runs(self, job: str, before: datetime) -> list[str]:
        """
        Return the keys of a job's runs that keep their ids because they never ended, oldest first.

        :param before: runs that started before this time
        """
        return pseudonymize.unfinished_runs(self._engine, job, before)

    def pseudonymize(self, run_key: str) -> int:
        """
        Replace the external ids of a finished run by their hashes, in batches. Nobody can drive the run any more.

        :return: how many audit rows were changed; a call that was cut short is finished by the next
        :raises PlanError: there is no such run, it is not finished, or links of it have no outcome
        """
        return pseudonymize.pseudonymise(self._engine, run_key, self._now())


class OrgSlots(_Store):
    """Leases on the requests that an organization may have in flight."""

    def lease(self, connection: str, holder: str, *, wanted: int, limit: int, lease_s: float) -> list[int]:
        """
        Hold up to ``wanted`` slots in all, and never more than ``limit`` over all holders.

        :param connection: id of the Zoho connection whose requests are bounded
        :param lease_s: seconds after which the lease ends by itself; much more than clocks of workers differ
        :return: numbers of the slots held; one that was held before and is missing has been given up
        """
        return slots.lease_slots(
            self._engine,
            connection,
            holder,
            wanted=wanted,
            limit=limit,
            lease_s=lease_s,
            now=self._clock(),
        )

    def count(self, connection: str) -> int:
        """Return how many slots of a connection are leased now, over all holders."""
        return slots.leased_slots(self._engine, connection, now=self._clock())

    def renew(self, connection: str, holder: str, lease_s: float) -> list[int]:
        """Renew the holder's leases; a slot missing in the result has ended and may be somebody else's."""
        return slots.renew_slots(self._engine, connection, holder, lease_s=lease_s, now=self._clock())

    def release(self, connection: str, holder: str) -> None:
        """Give up all leases of the holder."""
        slots.release_slots(self._engine, connection, holder)


class Ledger:
    """
    Plans, claims, slots and the audit trail. Threads may share one; a :class:`Claim` belongs to one thread at a time.

    A database that cannot be reached raises SQLAlchemy's ``OperationalError`` from every method except
    :meth:`check_connection`. What a failed method was about to write is then not written, or, where the answer to
    the commit was lost, written whole: in both cases repeating it is safe.

    :param engine: engine of the audit database
    :param clock: seconds since 1970; the time of leases, plans and claims
    """

    def __init__(self, engine: sa.Engine, *, clock: Callable[[], float] = time.time) -> None:
        self._engine = prepared(engine)
        self.runs = RunStore(self._engine, clock)
        self.plans = PlanStore(self._engine, clock)
        self.claims = ChunkClaims(self._engine, clock)
        self.finalizer = RunFinalizer(self._engine, clock)
        self.chain = AuditChain(self._engine, clock)
        self.reprocess = OriginLinks(self._engine, clock)
        self.retention = Pseudonymizer(self._engine, clock)
        self.slots = OrgSlots(self._engine, clock)

    @classmethod
    def from_conn_id(cls, audit_conn_id: str) -> Ledger:
        """
        Return the ledger in the database of an Airflow connection.

        :raises ZohoConfigError: the connection is not for a SQL database
        """
        return cls(engine_of(audit_conn_id))

    @property
    def engine(self) -> sa.Engine:
        """The engine, for reports and pages that only read."""
        return self._engine

    def close(self) -> None:
        """Close the database connections; the ledger opens new ones if it is used again."""
        self._engine.dispose()

    def ensure_schema(self) -> None:
        """
        Create the tables, or bring them to this package's version. Several processes may do it at once.

        :raises ZohoConfigError: the database is at a newer version than this package knows
        """
        schema.ensure_schema(self._engine)

    def check_connection(self) -> None:
        """
        Ask the database for an answer.

        :raises ZohoError: it cannot be reached
        """
        try:
            with reading(self._engine).begin() as connection:
                connection.execute(sa.select(sa.literal(1)))
        except sa.exc.SQLAlchemyError as error:
            cause = getattr(error, "orig", None) or error
            url = self._engine.url
            raise ZohoError(
                f"the audit database ({url.get_backend_name()}, {url.host or 'local'}, {url.database}) cannot be "
                f"reached: {str(cause).strip()}. Check the connection of audit_conn_id and its network."
            ) from error
