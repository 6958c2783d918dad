"""Plan runs over links of earlier runs: retry unfinished links, relink removed links."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from zoho_crm.airflow_compat import max_map_length
from zoho_crm.core.approval import approval_block_reason
from zoho_crm.core.guard_rules import judge
from zoho_crm.core.links import PairKeys, to_external_id
from zoho_crm.core.models import DELINK, RELINK, RunStart, Target
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.relink_request import parse_relink_request
from zoho_crm.core.run_request import parse_retry_request
from zoho_crm.errors import ZohoConfigError
from zoho_crm.operators.guard import build_facts
from zoho_crm.operators.job_operator import (
    PlanOperator,
    delink_arguments,
    final_errors,
    origin_of,
    relink_arguments,
    request_of,
    requester_of,
    stored_params,
)
from zoho_crm.operators.preflight import PreflightOperator
from zoho_crm.source import SourceFacts
from zoho_crm.telemetry import log_plan

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from airflow.sdk import Context

    from zoho_crm.core.job import Job
    from zoho_crm.core.links import Link
    from zoho_crm.core.models import PlanSummary, StoredRun
    from zoho_crm.core.relink_request import RelinkRequest
    from zoho_crm.core.run_request import RetryRequest, RunRequest
    from zoho_crm.ledger.ledger import Ledger

CHOSEN = "chosen"


@dataclass
class Selection:
    """
    The links that a run reprocesses.

    :param links: read once, when the plan is made
    :param counts: links by their last event, and how many of them are chosen; filled while they are read
    :param origin_run_key: key of the origin run; None if there are several
    :param window: the window that their own windows lie in
    """

    links: Iterator[Link]
    counts: Counter[str]
    origin_run_key: str | None = None
    window: tuple[datetime | None, datetime | None] = (None, None)


class ReprocessPreflightOperator(PreflightOperator):
    """Check what a retry or a relink depends on, and who requested it; it does not read the warehouse."""

    def check_form(self, context: Context) -> None:
        """Check that the requester may reprocess links of the job, then the form."""
        _check_requester(self.job_of(context), context)
        self.parse_form(context)

    @abstractmethod
    def parse_form(self, context: Context) -> None:
        """Check the form."""

    def check_sql(self, job: Job) -> None:
        """Skip the check: the links come from the audit."""

    def check_source(self, job: Job) -> None:
        """Skip the check: links can be relinked while the warehouse is unavailable."""


class RetryPreflightOperator(ReprocessPreflightOperator):
    """Check what a retry of unfinished links depends on."""

    def parse_form(self, context: Context) -> None:
        """Check the form of ``zoho_delink_retry``."""
        parse_retry_request(context["params"], request_of(context))


class RelinkPreflightOperator(ReprocessPreflightOperator):
    """Check what a relink of removed links depends on, which needs other scopes."""

    operation: ClassVar[str] = RELINK

    def parse_form(self, context: Context) -> None:
        """Check the form of ``zoho_delink_relink``."""
        parse_relink_request(context["params"], request_of(context))


class ReprocessPlanOperator(PlanOperator):
    """
    Store links of earlier runs as the plan of this one.

    Planning a planned run again reads and changes nothing. The numbers of links by their last event are logged and
    returned as the XCom ``counts``.

    :return: the arguments of each mapped task, since Airflow knows the job at run time only; none for an empty plan
    :raises ZohoConfigError: a field of the trigger form is wrong, the origin run is not eligible, or the requester may
        not reprocess links of the job
    """

    operation: ClassVar[str]
    _planned: PlanSummary | None = None

    @final_errors
    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Store the plan and return what is mapped over."""
        from zoho_crm.ledger.ledger import Ledger

        job, key = self.job_of(context), self.run_key_of(context)
        ledger = Ledger.from_conn_id(job.audit_conn_id)
        try:
            stored = ledger.plans.get(key)
            plan = self._planned = stored or self._plan(ledger, job, key, context)
            self.complete(ledger, key)
            run = ledger.runs.get(key)
        finally:
            ledger.close()
        assert run is not None  # noqa: S101 - for the type checker: it has a plan
        log_plan(self.log, run, plan, is_new=stored is None)
        return [{**self.arguments(job), "chunk": chunk} for chunk in plan.chunks]

    def lineage(self, job: Job) -> tuple[list[Any], list[Any]]:
        """Return the audit of earlier runs, and the plan's table."""
        from zoho_crm.lineage import AUDIT_TABLE, PLAN_TABLE, ledger_output, ledger_table

        rows = self._planned.planned if self._planned else None
        audit = job.audit_conn_id
        return [ledger_table(audit, AUDIT_TABLE)], [ledger_output(audit, PLAN_TABLE, rows)]

    @abstractmethod
    def select(self, ledger: Ledger, job: Job, context: Context, target: Target) -> Selection:
        """Select the links to reprocess."""

    @abstractmethod
    def arguments(self, job: Job) -> dict[str, Any]:
        """Return the mapped operator's arguments, all but the chunk."""

    def complete(self, ledger: Ledger, key: str) -> None:
        """Add what else the plan needs; done again after a crash."""

    def _plan(self, ledger: Ledger, job: Job, key: str, context: Context) -> PlanSummary:
        # Again: someone may have marked the preflight task as done.
        _check_requester(job, context)
        request, origin = request_of(context), origin_of(context)
        preflight: dict[str, Any] = self.pull_preflight(context)
        target = self._target(job, request, preflight)
        selection = self.select(ledger, job, context, target)
        run = ledger.runs.start_plan(
            RunStart(
                run_key=key,
                job=job.name,
                origin=origin,
                target=target,
                mode=request.mode,
                window_start=selection.window[0],
                window_end=selection.window[1],
                reason=request.reason,
                params=stored_params(context),
                origin_run_key=selection.origin_run_key,
                environment=preflight.get("environment"),
                preflight_credits=preflight.get("credits", 0),
                texts=self.texts_of(job),
            )
        )
        plan = ledger.plans.create(
            run.run_key,
            target.relation,
            ((link.external_id, link.related_external_id) for link in selection.links),
            chunk_size=job.chunk_size,
            max_chunks=max_map_length(),
            origin=origin,
            target=target,
        )
        counts = dict(sorted(selection.counts.items()))
        self.log.info("Links found", job=job.name, run_key=key, mode=run.mode, **counts)
        context["ti"].xcom_push(key="counts", value=counts)
        return plan

    def _target(self, job: Job, request: RunRequest, preflight: dict[str, Any]) -> Target:
        return Target(
            relation=job.relation.as_relation(),
            data_center=preflight.get("data_center", ""),
            api_version=preflight.get("api_version", ""),
            strategy=job.strategy if self.operation == DELINK else "single",
            org_id=preflight.get("org_id"),
            dry_run=request.mode == "dry_run",
            operation=self.operation,
        )


class PlanRetryOperator(ReprocessPlanOperator):
    """Plan the links that earlier runs left unfinished, and that no run has settled since."""

    operation: ClassVar[str] = DELINK

    def select(self, ledger: Ledger, job: Job, context: Context, target: Target) -> Selection:
        """Select the links whose last outcome over all runs is one of the requested ones."""
        request = parse_retry_request(context["params"], request_of(context))
        origin = self._origin_runs(ledger, job, request, target)
        counts = Counter({CHOSEN: 0, "runs": len(origin)})

        def chosen() -> Iterator[Link]:
            for one in ledger.reprocess.unfinished_links(origin, target.org_id):
                # A relink run wanted the link to stay, whatever its outcome was.
                counts[one.outcome.value if one.operation == DELINK else "relinked"] += 1
                if one.operation == DELINK and one.outcome in request.outcomes:
                    counts[CHOSEN] += 1
                    yield one.link

        if request.window is None:
            return Selection(chosen(), counts, origin_run_key=origin[0].run_key)
        return Selection(chosen(), counts, window=request.window)

    def complete(self, ledger: Ledger, key: str) -> None:
        """Mark links in flight that an unanswered request may have reached, so that they are verified first."""
        ledger.reprocess.carry_over_in_flight(key)

    def arguments(self, job: Job) -> dict[str, Any]:
        """Return the arguments of the delink operator."""
        return delink_arguments(job)

    def _origin_runs(
        self, ledger: Ledger, job: Job, request: RetryRequest, target: Target
    ) -> list[StoredRun]:
        if request.run is not None:
            run = ledger.runs.find(job.name, request.run)
            if reason := _ineligibility_reason(ledger, job, run, target):
                raise ZohoConfigError(f"run: {run.run_key} {reason}")
            return [run]
        assert request.window is not None  # noqa: S101 - for the type checker: the form has one of both
        usable = []
        for run in ledger.runs.in_window(job.name, *request.window):
            if reason := _ineligibility_reason(ledger, job, run, target):
                self.log.warning("Run skipped: %s %s", run.run_key, reason)
            else:
                usable.append(run)
        if not usable:
            raise ZohoConfigError(
                f"window_start: no run of {job.name} that can be retried has its own window in this one; "
                "the log lists the skipped runs"
            )
        return usable


class PlanRelinkOperator(ReprocessPlanOperator):
    """Plan the links that a run removed, and that no run has relinked or removed again since."""

    operation: ClassVar[str] = RELINK

    def select(self, ledger: Ledger, job: Job, context: Context, target: Target) -> Selection:
        """Select the links that are gone because of the origin run."""
        from zoho_crm.ledger.reprocess import Since, ineligibility_reason

        request = parse_relink_request(context["params"], request_of(context))
        run = ledger.runs.find(job.name, request.run)
        if reason := ineligibility_reason(run, job.name, target):
            raise ZohoConfigError(f"run: {run.run_key} {reason}")
        keys = _pair_keys(request, target)
        counts = Counter({CHOSEN: 0, "already_absent": run.already_absent or 0})
        if keys is not None:
            counts["pasted"] = len(keys)

        def chosen() -> Iterator[Link]:
            for one in ledger.reprocess.removed_links(
                run, org_id=target.org_id, wanted=request.filter, pair_keys=keys
            ):
                is_removed = one.since is Since.STILL_REMOVED
                if is_removed and one.outcome is Outcome.PRESUMED_REMOVED:
                    counts[one.outcome.value] += 1
                    if not request.include_presumed:
                        continue
                counts[one.since.value] += 1
                if is_removed:
                    counts[CHOSEN] += 1
                    yield one.link

        return Selection(chosen(), counts, origin_run_key=run.run_key)

    def complete(self, ledger: Ledger, key: str) -> None:
        """Copy attributes from the origin run, and mark links in flight that an earlier relink may have reached."""
        run = ledger.runs.get(key)
        if run is not None and run.origin_run_key is not None:
            ledger.reprocess.copy_snapshots(key, run.origin_run_key)
        ledger.reprocess.carry_over_in_flight(key)

    def arguments(self, job: Job) -> dict[str, Any]:
        """Return the arguments of the relink operator."""
        return relink_arguments(job)


def _check_requester(job: Job, context: Context) -> None:
    """
    Check that the user who started the run may retry or relink links of a job.

    :raises ZohoConfigError: the job lists who may, and this user is not one of them
    """
    allowed, requester = job.guards.may_reprocess, requester_of(context)
    if allowed and requester not in allowed:
        who = f"user {requester!r}" if requester else "a user whom Airflow does not name"
        raise ZohoConfigError(
            f"job: {who} may not retry or relink links of {job.name}: guards.may_reprocess in its job file allows "
            f"{', '.join(allowed)}"
        )


def _pair_keys(request: RelinkRequest, target: Target) -> frozenset[str] | None:
    if request.links is None:
        return None
    keys = PairKeys(target.relation)
    texts = ((to_external_id(first), to_external_id(second)) for first, second in request.links)
    return frozenset(keys.of(str(first), str(second)) for first, second in texts)


def _ineligibility_reason(ledger: Ledger, job: Job, run: StoredRun, target: Target) -> str | None:
    """Return why the links of a run may not be retried, or None: a retry does not bypass a guard."""
    from zoho_crm.ledger.reprocess import ineligibility_reason

    if reason := ineligibility_reason(run, job.name, target):
        return reason
    if kept := approval_block_reason(run.approval):
        return f"was not approved: {kept}; start a new run"
    if run.guard_decision is None:
        return "has no decision of its guard; clear its task guard, or start a new run of the job"
    if run.approval is not None or not run.is_breached:
        return None
    limits = job.guards
    if run.baseline_links is None:
        # The job had no baseline then.
        limits = limits.model_copy(update={"max_share": None})
    facts = build_facts(
        ledger,
        run,
        planned=run.planned or 0,
        now=run.planned_at or run.started_at,
        source=SourceFacts(run.baseline_links, run.source_as_of),
    )
    # max_links is checked again, for the new plan.
    checks = [check for check in judge(facts, limits).checks if check.limit != "max_links"]
    others = [check.says for check in checks if check.breached]
    return f"was stopped by its guards: {'; '.join(others)}; start a new run" if others else None
