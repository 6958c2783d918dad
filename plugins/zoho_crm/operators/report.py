"""The last task of a run: status and counts, derived from the audit rows."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from airflow.sdk import Asset, AssetAlias

from zoho_crm import airflow_compat, telemetry
from zoho_crm.airflow_compat import AirflowFailException
from zoho_crm.anchors.anchor_files import AnchorFolder
from zoho_crm.core.approval import approval_block_reason, is_rejected
from zoho_crm.core.guard_rules import not_found_breach
from zoho_crm.core.models import Origin, ending_of
from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES, Outcome
from zoho_crm.core.run_request import APPLY, default_mode
from zoho_crm.errors import AnchorError, ZohoConfigError
from zoho_crm.operators import notify
from zoho_crm.operators.job_operator import (
    JobOperator,
    failed_tasks,
    final_errors,
    first_row,
    origin_of,
    request_of,
    run_type_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from zoho_crm.core.job import Job
    from zoho_crm.core.links import Relation
    from zoho_crm.core.models import StoredRun
    from zoho_crm.ledger.ledger import Ledger

log = logging.getLogger(__name__)

_UPDATING_STATUSES = frozenset({"succeeded", "partial"})
"""Statuses of a run that updates the asset of its relation."""

_NOTHING_SENT = {Outcome.NOT_ATTEMPTED, Outcome.INVALID}


class ReportOperator(JobOperator):
    """
    Close a run: give every link without an outcome one, write the run row, and fail if too much is left.

    Notifies people if the state of the job has changed. A run that a person rejected does not fail.

    :return: job, run, mode, status, number of links by outcome, and the head of the seal over its audit rows
    :raises AirflowFailException: the run has no plan, more links failed than the job tolerates, or what happened to one
        is unknown
    """

    closes_run: ClassVar[bool] = True

    @final_errors
    def execute(self, context: Context) -> dict[str, Any]:
        """Close the run and return its summary."""
        job = self.job_of(context)
        try:
            summary = self._close(job, context)
        except AirflowFailException:
            raise
        except Exception as error:
            if _is_final(error, context) and _applies(job, context):
                text = f"{job.name} failed, and its report as well: {type(error).__name__}"
                notify.notify_failure(None, job, context, self.run_key_of(context), text)
            raise
        facts = {name: value for name, value in summary.items() if name != "outcomes"}
        self.log.info("Run closed", **facts, **summary["outcomes"])
        if summary["status"] in {"failed", "stopped"}:
            raise AirflowFailException(
                f"The run {summary['status']}: {summary['outcomes']}. Clear its failed tasks to resume it"
            )
        return summary

    def lineage(self, job: Job) -> tuple[list[Any], list[Any]]:
        """Return the audit's table, and the runs'."""
        from zoho_crm.lineage import AUDIT_TABLE, RUN_TABLE, ledger_output, ledger_table

        audit = job.audit_conn_id
        return [ledger_table(audit, AUDIT_TABLE)], [ledger_output(audit, RUN_TABLE)]

    def _close(self, job: Job, context: Context) -> dict[str, Any]:
        from zoho_crm.ledger.ledger import Ledger

        key = self.run_key_of(context)
        ledger = Ledger.from_conn_id(job.audit_conn_id)
        try:
            # A first run that fails before its plan meets a database without tables.
            ledger.ensure_schema()
            failure = self._failure(ledger, job, context)
            if ledger.plans.get(key) is None:
                self._close_without_plan(ledger, job, context, failure or "Task plan did not run")
            status, counts = close_run(
                ledger,
                key,
                origin=origin_of(context),
                tolerance=job.failure_tolerance,
                not_found=job.guards.max_not_found_share,
            )
            run = ledger.runs.get(key)
            assert run is not None  # noqa: S101 - for the type checker: it has a plan
            seal = ledger.finalizer.seal(key).head
            not_anchored = anchor_seals(ledger, job)
            outcomes = {outcome.value: counts[outcome] for outcome in Outcome if counts[outcome]}
            _notify(ledger, job, context, run, status, outcomes, not_anchored)
            asset = relation_asset(job.zoho_conn_id, run.relation)
            emit_asset_event(self.outlets, context, asset, run, status, outcomes)
        finally:
            ledger.close()
        return {
            "job": job.name,
            "run_key": key,
            "mode": run.mode,
            "status": status,
            "outcomes": outcomes,
            "seal": seal,
        }

    def _failure(self, ledger: Ledger, job: Job, context: Context) -> str | None:
        """Return which task of the run failed, and why; store what that task could not store itself."""
        key = self.run_key_of(context)
        run = ledger.runs.start(first_row(self, context, job))
        if run.failure or run.stop_reason or run.is_breached:
            return run.failure
        failed = [name for name in failed_tasks(context) if name != self.task_id]
        if not failed:
            return None
        failure = f"Task {', '.join(failed)} failed; its log has the reason"
        ledger.runs.record_failure(key, failure)
        return failure

    def _close_without_plan(self, ledger: Ledger, job: Job, context: Context, failure: str) -> NoReturn:
        """
        Close a run whose plan was never made.

        :raises AirflowFailException: always; it names the task that failed
        """
        key = self.run_key_of(context)
        ledger.runs.finish(key, status="failed", detail=failure, finished_at=ledger.runs.now())
        ledger.finalizer.seal(key)
        anchor_seals(ledger, job)
        if not ledger.runs.existing(key).dry_run:
            text = f"{job.name} failed before anything was planned: {failure}"
            notify.notify_failure(ledger, job, context, key, text)
        raise AirflowFailException(
            f"{failure}. Nothing was planned or sent: fix the cause, then clear that task, or start a new run"
        )


def anchor_seals(ledger: Ledger, job: Job) -> str | None:
    """
    Write the anchors of new seals, and of those whose report could not.

    :return: why that failed; the run is closed in any case, and the next report tries again
    """
    try:
        if folder := AnchorFolder.of_job(job):
            folder.write_missing(ledger)
    except (AnchorError, ZohoConfigError) as error:
        log.error("Seals not anchored: job=%s error=%s", job.name, error)  # noqa: TRY400 - the message says it
        return str(error)
    except Exception as error:
        # The run is closed, and people are notified, whatever the folder, the key or the database raises.
        log.exception("Seals not anchored: job=%s", job.name)
        return f"{type(error).__name__}; the log of report has the reason"
    return None


def close_run(
    ledger: Ledger, key: str, *, origin: Origin, tolerance: float, not_found: float | None = None
) -> tuple[str, Counter[Outcome]]:
    """
    Give every link without an outcome one, and write status, counts and reasons onto the run row.

    :param tolerance: share of the planned links that may have failed
    :param not_found: share of the links that may have no record in Zoho; None: no limit
    :return: the run's status, and its links by latest outcome
    """
    closed = ledger.finalizer.close_unfinished_links(key, origin=origin)
    counts = Counter(ledger.runs.counts(key))
    run = ledger.runs.existing(key)
    status = run_status(counts, tolerance, rejected=is_rejected(run.approval))
    if status == "stopped" and run.failure and run.status == "failed":
        status = "failed"
    why = (
        run.stop_reason
        or approval_block_reason(run.approval)
        or (run.failure if status != "succeeded" else None)
    )
    if why is None and not_found is not None:
        why = not_found_breach(counts, run.relation, not_found, fewest=1)
    left = [
        f"{counts[outcome]} {outcome.value}"
        for outcome in Outcome
        if counts[outcome] and outcome in RETRYABLE_OUTCOMES
    ]
    detail = "; ".join(filter(None, (why, ", ".join(left))))
    ledger.runs.finish(key, status=status, detail=detail or None, finished_at=ledger.runs.now())
    telemetry.count_links(
        closed, job=run.job, relation=run.relation, operation=run.operation, dry_run=run.dry_run
    )
    telemetry.count_run(run.job, run.operation, status, dry_run=run.dry_run)
    return status, counts


def close_ended_runs(ledger: Ledger, job: Job, own_key: str) -> None:
    """
    Close the runs of a job whose Dag run has ended, or is deleted, without a report.

    What cannot be closed now stays for the next run.
    """
    for run in ledger.runs.unfinished(job.name):
        if run.run_key == own_key:
            continue
        state = airflow_compat.dag_run_state(run.dag_id, run.dag_run_id)
        if (ending := ending_of(state)) is None:
            continue
        ledger.runs.record_failure(run.run_key, ending, status="failed")
        if run.planned_at is None:
            now = ledger.runs.now()
            ledger.runs.finish(run.run_key, status="failed", detail=run.failure or ending, finished_at=now)
        else:
            limit = job.guards.max_not_found_share
            close_run(
                ledger,
                run.run_key,
                origin=_origin_of_run(run),
                tolerance=job.failure_tolerance,
                not_found=limit,
            )
        ledger.finalizer.seal(run.run_key)
        log.warning("Run closed without its report: run_key=%s reason=%s", run.run_key, ending)


def _origin_of_run(run: StoredRun) -> Origin:
    return Origin(
        dag_id=run.dag_id,
        dag_run_id=run.dag_run_id,
        run_type=run.run_type,
        task_id="preflight",
        logical_date=run.logical_date,
        data_interval_start=run.data_interval_start,
        data_interval_end=run.data_interval_end,
        triggered_by=run.triggered_by,
    )


def run_status(counts: Counter[Outcome], tolerance: float, *, rejected: bool = False) -> str:
    """
    Decide how a run ended.

    ``failed``: what happened to a link is unknown, or more failed than tolerated; ``stopped``: links were not
    attempted; ``rejected``: they were not since a person has refused the run, or no one responded in time;
    ``partial``: some failed, but no more than tolerated; ``succeeded``: every link has an outcome that is final.

    :param rejected: whether the run was refused
    """
    planned = sum(counts.values())
    if counts[Outcome.UNKNOWN] or counts[Outcome.FAILED] > tolerance * planned:
        return "failed"
    if rejected and (counts[Outcome.NOT_ATTEMPTED] or set(+counts) <= _NOTHING_SENT):
        return "rejected"
    if counts[Outcome.NOT_ATTEMPTED]:
        return "stopped"
    return "partial" if counts[Outcome.FAILED] else "succeeded"


def _notify(
    ledger: Ledger,
    job: Job,
    context: Context,
    run: StoredRun,
    status: str,
    outcomes: dict[str, int],
    not_anchored: str | None,
) -> None:
    """
    Notify people of the state of the job after the run, if it has changed.

    :param not_anchored: why its seal has no anchor; None if it has one, or the job wants none
    """
    done = ", ".join(f"{count} {name}" for name, count in outcomes.items()) or "no links"
    state, text = status, f"{job.name}: the run ended as {run.ending}: {done}"
    if run.attention:
        text += f" ({run.attention})"
    if status in {"succeeded", "partial"}:
        state = notify.OK
    elif status == "stopped" and run.approval is None and run.is_breached:
        state, text = notify.BREACH, f"{job.name} was stopped before the first link: {run.guard_decision}"
    elif run.detail:
        by = f", by {run.approved_by}" if status == "rejected" and run.approved_by else ""
        text += f" ({run.detail}{by})"
    if not_anchored:
        state = "failed" if state == notify.OK else state
        text += f". Its seal is not anchored: {not_anchored}"
    notify.notify_state_change(
        ledger, job, context, run, state=state, text=text, counts=outcomes, status=status
    )


def _applies(job: Job, context: Context) -> bool:
    """Return whether a run without a row would have sent anything; for an invalid form, by run type and job."""
    try:
        return request_of(context, job).mode == APPLY
    except ZohoConfigError:
        return default_mode(run_type_of(context), job.automatic) == APPLY


def _is_final(error: Exception, context: Context) -> bool:
    """Return whether Airflow does not retry the task: never after a configuration error."""
    task_instance = context["ti"]
    return isinstance(error, ZohoConfigError) or task_instance.try_number > task_instance.max_tries


def relation_asset(zoho_conn_id: str, relation: Relation) -> Asset:
    """
    Return the asset of a relation, e.g. ``zoho://zoho_crm_default/Contacts/Deals``, which is its name and its URI.

    :param zoho_conn_id: stands for the organization, which is unknown while a Dag is parsed
    """
    return Asset(f"zoho://{zoho_conn_id}/{relation.module}/{relation.related_list}")


def updates_of(name: str) -> AssetAlias:
    """Return the outlet of a report: an alias, since a dry run would update a plain asset as well."""
    return AssetAlias(f"zoho_crm/{name}")


def emit_asset_event(
    outlets: list[Any],
    context: Context,
    asset: Asset,
    run: StoredRun,
    status: str,
    outcomes: Mapping[str, int],
) -> None:
    """
    Have Airflow record an update of a relation once the task has succeeded.

    Dry runs, stopped and failed runs update nothing. The event contains the window of the run, which a job reads that
    the asset starts.

    :param outlets: of the task; its aliases get the event
    :param outcomes: number of links by outcome
    """
    if run.dry_run or status not in _UPDATING_STATUSES:
        return
    extra: dict[str, Any] = {
        "job": run.job,
        "run_key": run.run_key,
        "operation": run.operation,
        "mode": run.mode,
        "status": status,
        "outcomes": dict(outcomes),
        "window_start": run.window_start and run.window_start.isoformat(),
        "window_end": run.window_end and run.window_end.isoformat(),
    }
    for outlet in outlets:
        if isinstance(outlet, AssetAlias):
            context["outlet_events"][outlet].add(asset, extra=extra)
