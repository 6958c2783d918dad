"""Turn a run's window into a stored plan: which links, in which chunks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoho_crm.airflow_compat import max_map_length
from zoho_crm.core.job_files import SOURCE_SQL, read_sql
from zoho_crm.core.models import RunStart, Target
from zoho_crm.databases import create_source_engine
from zoho_crm.operators.job_operator import (
    PlanOperator,
    final_errors,
    origin_of,
    request_of,
    stored_params,
)
from zoho_crm.source import stream_links
from zoho_crm.telemetry import log_plan

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.sdk import Context

    from zoho_crm.core.job import Job
    from zoho_crm.core.models import ChunkRef, PlanSummary, StoredRun
    from zoho_crm.core.run_request import RunRequest


class PlanLinksOperator(PlanOperator):
    """
    Read the links to remove, check and de-duplicate them, and store them as the plan of this run.

    Mode and window are those of the run's first try: a retry or a clear finds them stored and reuses them. Planning a
    run that is planned reads nothing and changes nothing.

    :return: references to the chunks, over which ``delink`` is mapped; none for an empty plan
    :raises ZohoConfigError: a field of the trigger form is wrong; the message names it
    :raises PlanError: the SQL cannot be used
    """

    _plan: PlanSummary | None = None
    _reads_source = False

    @final_errors
    def execute(self, context: Context) -> list[ChunkRef]:
        """Store the plan and return its chunks."""
        from zoho_crm.ledger.ledger import Ledger

        job, origin = self.job_of(context), origin_of(context)
        request = request_of(context, job)
        preflight: dict[str, Any] = self.pull_preflight(context)
        ledger = Ledger.from_conn_id(job.audit_conn_id)
        try:
            run = ledger.runs.start_plan(self._run_start(context, job, request, preflight))
            if run.mode != request.mode:
                self.log.warning(
                    "Asked for %s, but the run keeps the mode of its first try, %s: start a new run instead",
                    request.mode,
                    run.mode,
                )
            is_new = ledger.plans.get(run.run_key) is None
            plan = self._plan = ledger.plans.create(
                run.run_key,
                job.relation.as_relation(),
                self._rows(job, request, run),
                chunk_size=job.chunk_size,
                max_chunks=max_map_length(),
                origin=origin,
                target=self._target(job, preflight, dry_run=run.dry_run),
            )
            ledger.reprocess.carry_over_in_flight(run.run_key)
        finally:
            ledger.close()
        log_plan(self.log, run, plan, is_new=is_new)
        return plan.chunks

    def lineage(self, job: Job) -> tuple[list[Any], list[Any]]:
        """Return the warehouse's tables, once they are read, and the plan's; pasted links are of no table."""
        from zoho_crm.lineage import PLAN_TABLE, ledger_output, tables_read

        sql = read_sql(job, self.jobs_folder)[SOURCE_SQL].text if self._reads_source else ""
        rows = self._plan.planned if self._plan else None
        return tables_read(job.source.conn_id, sql), [ledger_output(job.audit_conn_id, PLAN_TABLE, rows)]

    def _run_start(
        self, context: Context, job: Job, request: RunRequest, preflight: dict[str, Any]
    ) -> RunStart:
        return RunStart(
            run_key=self.run_key_of(context),
            job=job.name,
            origin=origin_of(context),
            target=self._target(job, preflight, dry_run=request.mode == "dry_run"),
            mode=request.mode,
            window_start=request.window_start,
            window_end=request.window_end,
            source_start=request.source_start,
            reason=request.reason,
            params=stored_params(context),
            environment=preflight.get("environment"),
            preflight_credits=preflight.get("credits", 0),
            texts=self.texts_of(job),
        )

    @staticmethod
    def _target(job: Job, preflight: dict[str, Any], *, dry_run: bool) -> Target:
        return Target(
            relation=job.relation.as_relation(),
            data_center=preflight.get("data_center", ""),
            api_version=preflight.get("api_version", ""),
            strategy=job.strategy,
            org_id=preflight.get("org_id"),
            dry_run=dry_run,
        )

    def _rows(self, job: Job, request: RunRequest, run: StoredRun) -> Iterable[tuple[object, object]]:
        """Pairs of the run: pasted ones, or those of the SQL. Nothing is read before the first is asked for."""
        if request.links is not None:
            yield from request.links
            return
        self._reads_source = True
        assert run.source_start is not None  # noqa: S101 - for the type checker: start_run has stored both
        assert run.window_end is not None  # noqa: S101 - as above
        engine = create_source_engine(job.source.conn_id)
        try:
            sql = read_sql(job, self.jobs_folder)[SOURCE_SQL]
            yield from stream_links(engine, sql, run.source_start, run.window_end)
        finally:
            engine.dispose()
