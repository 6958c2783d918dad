"""The last task of a run: what came out, told by the audit rows alone."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from zoho_crm.core.outcomes import DRIVE_AGAIN, Outcome
from zoho_crm.errors import PlanError
from zoho_crm.operators.context import origin_of
from zoho_crm.operators.job_task import JobTask

if TYPE_CHECKING:
    from airflow.sdk import Context

    from zoho_crm.core.records import Origin
    from zoho_crm.ledger.ledger import Ledger


class ReportOperator(JobTask):
    """
    Close a run: give every link without an outcome one, write the run row, and fail if too much is left.

    :return: job, run, mode, status and number of links by outcome
    :raises AirflowFailException: more links failed than the job tolerates, or what happened to one is unknown
    :raises PlanError: the run has no plan
    """

    def execute(self, context: Context) -> dict[str, Any]:
        """Close the run and return its summary."""
        from zoho_crm.ledger.ledger import Ledger

        job, key = self.job_of(context), self.run_key_of(context)
        ledger = Ledger.from_conn_id(job.audit_conn_id)
        try:
            # A first run that fails before its plan meets a database without tables.
            ledger.ensure_schema()
            if ledger.plan_of(key) is None:
                raise PlanError("The run has no plan; the log of the task that failed before says why")
            status, counts = close_run(
                ledger, key, origin=origin_of(context), tolerance=job.failure_tolerance
            )
            run = ledger.get_run(key)
        finally:
            ledger.close()
        summary = {
            "job": job.name,
            "run_key": key,
            "mode": run.mode if run else None,
            "status": status,
            "outcomes": {outcome.value: counts[outcome] for outcome in Outcome if counts[outcome]},
        }
        self.log.info("Run %s of %s: %s %s", key, job.name, status, summary["outcomes"])
        if status in {"failed", "stopped"}:
            raise AirflowFailException(
                f"The run {status}: {summary['outcomes']}. Clear its failed tasks to go on with it"
            )
        return summary


def close_run(ledger: Ledger, key: str, *, origin: Origin, tolerance: float) -> tuple[str, Counter[Outcome]]:
    """
    Give every link without an outcome one, and write what came out onto the run row.

    :param tolerance: share of the planned links that may have failed
    :return: the run's status, and its links by latest outcome
    """
    ledger.close_open_links(key, origin=origin)
    counts = Counter(ledger.counts(key))
    status = run_status(counts, tolerance)
    left = [
        f"{counts[outcome]} {outcome.value}"
        for outcome in Outcome
        if counts[outcome] and outcome in DRIVE_AGAIN
    ]
    detail = "; ".join(filter(None, (ledger.stop_reason(key), ", ".join(left))))
    ledger.finish_run(key, status=status, detail=detail or None, finished_at=datetime.now(UTC))
    return status, counts


def run_status(counts: Counter[Outcome], tolerance: float) -> str:
    """
    Decide how a run ended.

    ``stopped``: links were not attempted; ``failed``: one is unknown, or more failed than tolerated; ``partial``:
    some failed, but no more than tolerated; ``succeeded``: every link has an outcome that is final.
    """
    planned = sum(counts.values())
    if counts[Outcome.UNKNOWN] or counts[Outcome.FAILED] > tolerance * planned:
        return "failed"
    if counts[Outcome.NOT_ATTEMPTED]:
        return "stopped"
    return "partial" if counts[Outcome.FAILED] else "succeeded"
