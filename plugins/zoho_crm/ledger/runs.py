"""Runs: who started them, why, for which window, and how they ended."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm import __version__
from zoho_crm.core.approval import ASKED, send_block_reason
from zoho_crm.core.models import DELINK, StoredRun
from zoho_crm.core.outcomes import LinkState, Outcome, RunEventKind, RunStatus
from zoho_crm.errors import PlanError, ZohoConfigError
from zoho_crm.ledger import audit
from zoho_crm.ledger.audit import origin_columns, target_columns
from zoho_crm.ledger.chain import canonical, digest
from zoho_crm.ledger.engine import Store, reading
from zoho_crm.ledger.schema import SCHEMA_VERSION
from zoho_crm.ledger.tables import (
    RUN_KEY_LENGTH,
    chunks,
    fitted,
    job_states,
    latest,
    links,
    runs,
    source_texts,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zoho_crm.core.models import RunStart

CHUNK_CREDITS = (
    sa.select(sa.func.coalesce(sa.func.sum(chunks.c.credits), 0))
    .where(chunks.c.run_key == runs.c.run_key)
    .correlate(runs)
    .scalar_subquery()
)
CREDITS_OF_RUN = runs.c.preflight_credits + sa.cast(CHUNK_CREDITS, sa.BigInteger)
"""All API credits that a run has used."""

_COMPLETED = (RunStatus.SUCCEEDED.value, RunStatus.PARTIAL.value, RunStatus.FAILED.value)
"""Stopped and rejected runs are excluded from the baseline: otherwise the next run like them would pass."""

_TRIES = 20


class RunStore(Store):
    """Rows of runs: who started them, why, for which window, and how they ended."""

    def start(self, run: RunStart) -> StoredRun:
        """
        Store a run, or return the one stored under its key, whose window, mode and relation stay.

        :raises ZohoConfigError: its key is too long, or its mode and target contradict each other
        """
        _check_start(run)
        if stored := self.get(run.run_key):
            return stored
        self._store_texts(run.texts)
        try:
            with self._engine.begin() as connection:
                now = self._now(connection)
                audit.open_run(connection, _new_row(run, now), now=now)
        except sa.exc.IntegrityError:
            # Another process was first, unless the row itself is invalid.
            if (stored := self.get(run.run_key)) is None:
                raise
            return stored
        return self.existing(run.run_key)

    def open(self, run: RunStart) -> StoredRun:
        """
        Store a run before its plan is made, or open the one stored under its key again if it failed without a plan.

        The window and the mode of a stored run stay.
        """
        stored = self.start(run)
        if stored.planned_at is not None:
            return stored
        values = {"status": RunStatus.PLANNED.value, "detail": None, "failure": None, "finished_at": None}
        self._prepare(run, {**_place_columns(run), **values})
        return self.existing(run.run_key)

    def start_plan(self, run: RunStart) -> StoredRun:
        """Store a run, or complete the one that preflight has opened: its mode stays, and its window if it has one."""
        stored = self.start(run)
        if stored.planned_at is not None or stored.data_center:
            return stored
        values = {**_place_columns(run), "origin_run_key": run.origin_run_key}
        if stored.window_end is None:
            values |= {name: getattr(run, name) for name in ("window_start", "window_end", "source_start")}
        self._prepare(run, values)
        return self.existing(run.run_key)

    def get(self, run_key: str) -> StoredRun | None:
        """Return a run, or None if there is none with this key."""
        names = [field.name for field in fields(StoredRun)]
        statement = sa.select(*(runs.c[name] for name in names)).where(runs.c.run_key == run_key)
        with reading(self._engine).begin() as connection:
            row = connection.execute(statement).mappings().one_or_none()
        return stored_run(row) if row else None

    def existing(self, run_key: str) -> StoredRun:
        """
        Return a run that must be there.

        :raises PlanError: there is none with this key
        """
        if run := self.get(run_key):
            return run
        raise no_such_run(run_key)

    def counts(self, run_key: str) -> Counter[Outcome]:
        """Return how many links have each outcome by their last audit row; outcomes without links count 0."""
        with reading(self._engine).begin() as connection:
            return _counts(connection, run_key)

    def settled_counts(self, run_key: str) -> Counter[Outcome]:
        """Return how many settled links of the plan have each outcome."""
        statement = (
            sa.select(links.c.outcome, sa.func.count())
            .where(
                links.c.run_key == run_key, links.c.outcome.in_([each for each in Outcome if each.is_final])
            )
            .group_by(links.c.outcome)
        )
        with reading(self._engine).begin() as connection:
            return Counter({Outcome(outcome): count for outcome, count in connection.execute(statement)})

    def count_unsettled(self, run_key: str) -> int:
        """Return how many planned links are not settled: never tried, or to be retried."""
        statement = (
            sa.select(sa.func.count())
            .select_from(links)
            .where(links.c.run_key == run_key, links.c.state != LinkState.SETTLED.value)
        )
        with reading(self._engine).begin() as connection:
            return connection.scalar(statement) or 0

    def finish(self, run_key: str, *, status: str, detail: str | None, finished_at: datetime) -> None:
        """
        Write how a run ended; the counts are taken from the audit rows.

        Writing the same end again changes nothing unless audit rows were added since: then the run ended again.

        :param status: a :class:`~zoho_crm.ledger.runs.RunStatus`
        :raises ZohoConfigError: there is no such status
        :raises PlanError: there is no such run
        """
        if status not in set(RunStatus):
            raise ZohoConfigError(f"status {status!r} is none of {', '.join(RunStatus)}")
        with self._engine.begin() as connection:
            before = audit.decided(connection, run_key, lock=True)
            by_outcome = _counts(connection, run_key)
            ending: dict[str, Any] = {
                "status": str(status),
                "detail": fitted(runs.c.detail, detail),
                # A cleared task of a finished run is to send again.
                "stop_reason": None,
                "failure": None,
                **{outcome.value: by_outcome[outcome] for outcome in Outcome},
            }
            facts = {"audit_rows": audit.count_rows(connection, run_key)}
            last = audit.last_facts(connection, run_key, RunEventKind.FINISHED)
            if before.get("finished_at") and {**last, **before}.items() >= {**ending, **facts}.items():
                # Another report that finds what the last one found: the run ended then.
                finished_at, facts = datetime.fromisoformat(before["finished_at"]), {}
            values = {**ending, "finished_at": finished_at, "credits": CREDITS_OF_RUN}
            self._change(connection, run_key, RunEventKind.FINISHED, values, facts)

    def record_org(self, run_key: str, org_id: str) -> str:
        """Record the organization of a run that does not know it; return the one that is stored then."""
        with self._engine.begin() as connection:
            audit.change_run(
                connection,
                run_key,
                RunEventKind.PREPARED,
                {"org_id": fitted(runs.c.org_id, org_id)},
                runs.c.org_id.is_(None),
                now=self._now(connection),
            )
        return self.existing(run_key).org_id or org_id

    def mark_running(self, run_key: str, *, reopen: bool = False) -> None:
        """
        Set a planned run to running; a run in any other status is left alone.

        :param reopen: also set a finished run to running: it ends again
        """
        is_due = runs.c.status == RunStatus.PLANNED.value
        if reopen:
            is_due = sa.or_(is_due, runs.c.finished_at.is_not(None))
        with self._engine.begin() as connection:
            audit.change_run(
                connection,
                run_key,
                RunEventKind.STARTED,
                {"status": RunStatus.RUNNING.value, "detail": None, "finished_at": None},
                is_due,
                now=self._now(connection),
            )

    def stop(self, run_key: str, why: str) -> None:
        """Keep all tasks of the run from sending, until the run is finished; the first reason stays."""
        with self._engine.begin() as connection:
            audit.change_run(
                connection,
                run_key,
                RunEventKind.STOPPED,
                {"stop_reason": fitted(runs.c.stop_reason, why)},
                runs.c.stop_reason.is_(None),
                now=self._now(connection),
            )

    def record_failure(
        self, run_key: str, failure: str, *, status: str | None = None, only_unfinished: bool = False
    ) -> None:
        """
        Record which task failed, and why; the first one stays until the run is finished.

        :param status: status that the run has from now on; None: it stays
        :param only_unfinished: leave a finished run alone
        """
        values = {"failure": fitted(runs.c.failure, failure), **({"status": status} if status else {})}
        with self._engine.begin() as connection:
            is_open = runs.c.finished_at.is_(None) if only_unfinished else sa.true()
            audit.change_run(
                connection,
                run_key,
                RunEventKind.FAILED,
                values,
                runs.c.failure.is_(None),
                is_open,
                now=self._now(connection),
            )

    def unfinished(self, job: str, *, limit: int = 20) -> list[StoredRun]:
        """Return the runs of a job that have not ended, oldest first."""
        statement = (
            sa.select(runs.c.run_key)
            .where(runs.c.job == job, runs.c.finished_at.is_(None))
            .order_by(runs.c.started_at, runs.c.run_key)
            .limit(limit)
        )
        with reading(self._engine).begin() as connection:
            keys: Sequence[str] = connection.scalars(statement).all()
        return [self.existing(key) for key in keys]

    def stop_reason(self, run_key: str, *, dry_run: bool = False) -> str | None:
        """
        Return why the tasks of the run may not go on; None if they may.

        :param dry_run: the task sends nothing, and so needs no decision
        """
        columns = (runs.c.mode, runs.c.stop_reason, runs.c.guard_decision, runs.c.approval)
        with reading(self._engine).begin() as connection:
            row = connection.execute(sa.select(*columns).where(runs.c.run_key == run_key)).one_or_none()
        if row is None:
            return None
        stopped: str | None = row.stop_reason
        if stopped or dry_run or row.mode == "dry_run":
            return stopped
        return send_block_reason(row.guard_decision, row.approval)

    def add_preflight_credits(self, run_key: str, used: int) -> None:
        """Count API credits used outside of chunks; nothing happens while there is no run."""
        with self._engine.begin() as connection:
            connection.execute(
                sa.update(runs)
                .where(runs.c.run_key == run_key)
                .values(preflight_credits=runs.c.preflight_credits + used, credits=runs.c.credits + used)
            )

    def record_source_facts(
        self, run_key: str, *, baseline_links: int | None, source_as_of: datetime | None
    ) -> None:
        """Record the facts about the source: how many links it has, and how fresh it is."""
        self._set(run_key, RunEventKind.MEASURED, baseline_links=baseline_links, source_as_of=source_as_of)

    def record_guard(
        self,
        run_key: str,
        decision: str,
        *,
        needs_approval: bool = False,
        checks: Sequence[Mapping[str, Any]] = (),
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """
        Record the decision of the guards; an approval of an earlier decision no longer counts.

        :param needs_approval: nothing is sent before :meth:`record_approval` records an approval
        :param checks: for its event, each limit with what was measured, as JSON values
        :param texts: job file and SQL that the decision used; None: those that the run has
        """
        self._store_texts(texts or {})
        self._set(
            run_key,
            RunEventKind.GUARD_DECIDED,
            facts={"checks": list(checks)} if checks else None,
            **({"texts": _text_hashes(texts)} if texts else {}),
            guard_decision=decision,
            approval=ASKED if needs_approval else None,
            approved_by=None,
            approved_at=None,
            approval_until=None,
            question=None,
            approval_note=None,
            failure=None,
        )

    def ask_approval(
        self, run_key: str, question: str | None = None, *, until: datetime | None = None
    ) -> None:
        """
        Record that an approval is requested: nothing is sent before :meth:`record_approval` records it.

        :param question: SHA-256 of the question, once people are shown it
        :param until: until when they can respond
        """
        self._set(
            run_key,
            RunEventKind.APPROVAL_REQUESTED,
            approval=ASKED,
            approved_by=None,
            approved_at=None,
            approval_until=until,
            question=question,
            approval_note=None,
        )

    def record_approval(
        self, run_key: str, *, approval: str, approved_by: str | None, approved_at: datetime
    ) -> None:
        """
        Record the response to the approval request.

        :param approval: ``approved``, or a text that begins with ``rejected``
        """
        self._set(
            run_key,
            RunEventKind.APPROVAL_DECIDED,
            approval=approval,
            approved_by=approved_by,
            approved_at=approved_at,
        )

    def refuse_approval(self, run_key: str, note: str) -> None:
        """
        Record an approval that does not count; the run still waits for one.

        :param note: whose it is, and why it does not count
        """
        self._set(
            run_key,
            RunEventKind.APPROVAL_REFUSED,
            approval=ASKED,
            approved_by=None,
            approved_at=None,
            approval_note=note,
        )

    def find(self, job: str, name: str) -> StoredRun:
        """
        Return a run of a job by name.

        :param name: a run key, or an Airflow run id
        :raises ZohoConfigError: there is none, or several Dags of the job have a run with that id
        """
        exact = sa.select(runs.c.run_key).where(runs.c.run_key == name)
        by_run_id = (
            sa.select(runs.c.run_key)
            .where(runs.c.job == job, runs.c.dag_run_id == name)
            .order_by(runs.c.started_at, runs.c.run_key)
        )
        with reading(self._engine).begin() as connection:
            keys = connection.scalars(exact).all() or connection.scalars(by_run_id).all()
        if not keys:
            raise ZohoConfigError(
                f"run: the audit database holds no run {name!r} of {job}; give Airflow's run id, or the run_key "
                "of its row"
            )
        if len(keys) > 1:
            raise ZohoConfigError(
                f"run: {len(keys)} runs of {job} have the id {name!r}; give the key of one: {', '.join(keys)}"
            )
        return self.existing(keys[0])

    def in_window(self, job: str, start: datetime, end: datetime) -> list[StoredRun]:
        """
        Return the runs of a job whose own window lies in a half-open one, oldest first.

        A run without a window starts at the beginning of time, and so is in no later window.
        """
        statement = (
            sa.select(runs.c.run_key)
            .where(runs.c.job == job, runs.c.window_start >= start, runs.c.window_end <= end)
            .order_by(runs.c.started_at, runs.c.run_key)
        )
        with reading(self._engine).begin() as connection:
            keys: Sequence[str] = connection.scalars(statement).all()
        return [self.existing(key) for key in keys]

    def _set(
        self,
        run_key: str,
        kind: RunEventKind,
        *,
        facts: Mapping[str, Any] | None = None,
        **values: str | int | datetime | None,
    ) -> None:
        """
        Write some columns of a run, and the event that says so; text is cut to what the columns hold.

        :raises PlanError: there is no such run
        """
        fitting = {
            name: fitted(runs.c[name], value) if isinstance(value, str) else value
            for name, value in values.items()
        }
        with self._engine.begin() as connection:
            self._change(connection, run_key, kind, fitting, facts)

    def _change(
        self,
        connection: sa.Connection,
        run_key: str,
        kind: RunEventKind,
        values: Mapping[str, Any],
        facts: Mapping[str, Any] | None = None,
    ) -> None:
        now = self._now(connection)
        if not audit.change_run(connection, run_key, kind, values, now=now, facts=facts):
            raise no_such_run(run_key)

    def _prepare(self, run: RunStart, values: dict[str, Any]) -> None:
        """Complete the row of a run before its plan, with the job file and the SQL that are used now."""
        self._store_texts(run.texts)
        if run.texts:
            values["texts"] = _text_hashes(run.texts)
        self._set(run.run_key, RunEventKind.PREPARED, **values)

    def _store_texts(self, texts: Mapping[str, str]) -> None:
        """Store job file and SQL once, under their hash."""
        for text in texts.values():
            content = fitted(source_texts.c.content, text)
            key = digest(content or "")
            with reading(self._engine).begin() as connection:
                known = sa.select(source_texts.c.text_hash).where(source_texts.c.text_hash == key)
                if connection.scalar(known):
                    continue
            # Another process may store the same text at the same time.
            with suppress(sa.exc.IntegrityError), self._engine.begin() as connection:
                row = {"text_hash": key, "content": content, "stored_at": self._now(connection)}
                connection.execute(sa.insert(source_texts).values(row))

    def recent_planned_counts(self, job: str, before_run_key: str, limit: int = 10) -> list[int]:
        """
        Return how many links each of a job's last delinking runs planned, newest first.

        Stopped and rejected runs are left out, and so are runs that start from another run.
        """
        statement = sa.select(runs.c.planned).where(
            runs.c.job == job,
            runs.c.run_key != before_run_key,
            runs.c.operation == DELINK,
            runs.c.mode == "apply",
            runs.c.origin_run_key.is_(None),
            runs.c.planned.is_not(None),
            runs.c.finished_at.is_not(None),
            runs.c.status.in_(_COMPLETED),
        )
        if before := self.get(before_run_key):
            statement = statement.where(
                runs.c.dag_id == before.dag_id, runs.c.started_at <= before.started_at
            )
        newest = statement.order_by(runs.c.started_at.desc(), runs.c.run_key).limit(limit)
        with reading(self._engine).begin() as connection:
            return list(connection.scalars(newest))

    def record_job_state(self, job: str, state: str, run_key: str) -> str | None:
        """
        Record the state of a job. Of several processes that record the same change at once, one has made it.

        :return: the state before; "" if there was none; None if nothing has changed
        """
        name, state = fitted(job_states.c.job, job), str(fitted(job_states.c.state, state))
        for tries_left in reversed(range(_TRIES)):
            with reading(self._engine).begin() as connection:
                before = connection.scalar(sa.select(job_states.c.state).where(job_states.c.job == name))
            if before == state:
                return None
            try:
                with self._engine.begin() as connection:
                    values = {"state": state, "run_key": run_key, "changed_at": self._now(connection)}
                    if before is None:
                        connection.execute(sa.insert(job_states).values(job=name, **values))
                        return ""
                    is_mine = sa.and_(job_states.c.job == name, job_states.c.state == before)
                    if connection.execute(sa.update(job_states).where(is_mine).values(values)).rowcount:
                        return str(before)
            except sa.exc.IntegrityError:
                # Another process was first, unless the row itself is invalid.
                if not tries_left:
                    raise
        return None


def no_such_run(run_key: str) -> PlanError:
    """Return the error for a key that no run has."""
    return PlanError(f"the audit database holds no run {run_key!r}: start the run before anything else")


def _check_start(run: RunStart) -> None:
    if not 0 < len(run.run_key) <= RUN_KEY_LENGTH or fitted(runs.c.run_key, run.run_key) != run.run_key:
        raise ZohoConfigError(f"run_key must be 1 to {RUN_KEY_LENGTH} printable characters: {run.run_key!r}")
    if run.mode not in {"apply", "dry_run"}:
        raise ZohoConfigError(f"mode {run.mode!r} is neither apply nor dry_run")
    if run.target.dry_run != (run.mode == "dry_run"):
        raise ZohoConfigError(f"mode {run.mode!r} and dry_run={run.target.dry_run} contradict each other")


def stored_run(row: Mapping[Any, Any]) -> StoredRun:
    """Return a run from its columns."""
    return StoredRun(**{**row, "params": json.loads(row["params"]), "texts": json.loads(row["texts"])})


def _text_hashes(texts: Mapping[str, str]) -> str:
    """Return the column ``texts`` of a run."""
    return canonical(
        {name: digest(fitted(source_texts.c.content, text) or "") for name, text in texts.items()}
    )


def _place_columns(run: RunStart) -> dict[str, Any]:
    """Return the columns that say what a run changes, and in which environment."""
    return {**target_columns(run.target), "environment": fitted(runs.c.environment, run.environment)}


def _new_row(run: RunStart, now: datetime) -> dict[str, Any]:
    return {
        "run_key": run.run_key,
        **origin_columns(run.origin, run.job),
        **_place_columns(run),
        "origin_run_key": run.origin_run_key,
        "mode": run.mode,
        "window_start": run.window_start,
        "window_end": run.window_end,
        "source_start": run.source_start,
        "reason": fitted(runs.c.reason, run.reason),
        "params": json.dumps(run.params, default=str, sort_keys=True),
        "status": RunStatus.PLANNED.value,
        "preflight_credits": run.preflight_credits,
        "guard_decision": run.guard_decision,
        "started_at": now,
        "code_version": __version__,
        "schema_version": SCHEMA_VERSION,
        "texts": _text_hashes(run.texts),
    }


def _counts(connection: sa.Connection, run_key: str) -> Counter[Outcome]:
    statement = (
        sa.select(latest.c.outcome, sa.func.count())
        .where(latest.c.run_key == run_key)
        .group_by(latest.c.outcome)
    )
    return Counter({Outcome(outcome): count for outcome, count in connection.execute(statement)})
