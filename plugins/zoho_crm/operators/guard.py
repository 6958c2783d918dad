"""Hold a plan against the job's limits before the first link is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoho_crm.core.run_request import read_run_request
from zoho_crm.errors import GuardError, PlanError
from zoho_crm.operators.context import data_interval_of, run_type_of
from zoho_crm.operators.job_task import JobTask

if TYPE_CHECKING:
    from airflow.sdk import Context


class GuardOperator(JobTask):
    """
    Stop a run whose plan is larger than the job allows.

    The trigger form's ``max_links``, given with a reason, takes the place of the job's. A dry run sends nothing, so
    that it only says what would happen.

    :return: the decision as it stands on the run row
    :raises GuardError: the plan passes the limit
    """

    def execute(self, context: Context) -> str:
        """Decide, write the decision onto the run row, and stop the run if need be."""
        from zoho_crm.ledger.ledger import Ledger

        job, key = self.job_of(context), self.run_key_of(context)
        request = read_run_request(
            context["params"],
            run_type=run_type_of(context),
            run_after=context["dag_run"].run_after,
            data_interval=data_interval_of(context),
        )
        limit = job.guards.max_links if request.max_links is None else request.max_links
        ledger = Ledger.from_conn_id(job.audit_conn_id)
        try:
            run, plan = ledger.get_run(key), ledger.plan_of(key)
            if run is None or plan is None:
                raise PlanError("The run has no plan")
            breach = limit is not None and plan.planned > limit
            decision = _decision(
                plan.planned, limit, request.reason if request.max_links is not None else None
            )
            ledger.record_guard(key, decision)
            if breach and not run.dry_run:
                raise GuardError(
                    f"{decision}. Nothing was sent. To let it pass, start a run with a larger max_links and a reason"
                )
        finally:
            ledger.close()
        return decision


def _decision(planned: int, limit: int | None, reason: str | None) -> str:
    if limit is None:
        return f"passed: {planned} links planned, no limit set"
    verdict = "breached" if planned > limit else "passed"
    overridden = f" (limit set for this run: {reason})" if reason else ""
    return f"{verdict}: {planned} links planned, {limit} allowed{overridden}"
