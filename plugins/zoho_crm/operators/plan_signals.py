"""What the making of a plan leaves behind beside the plan: a line in the log, and the count of what cannot be sent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoho_crm import metrics
from zoho_crm.core.outcomes import Outcome

if TYPE_CHECKING:
    from zoho_crm.core.models import PlanSummary
    from zoho_crm.ledger.runs import StoredRun


def log_plan(log: Any, run: StoredRun, plan: PlanSummary, *, is_new: bool) -> None:
    """
    Tell of a plan.

    :param log: Airflow's logger of the task, which writes keys and values
    :param is_new: whether this try has made it; the links of another cannot be counted again
    """
    log.info(
        "Plan stored" if is_new else "Plan found",
        job=run.job,
        run_key=run.run_key,
        operation=run.operation,
        mode=run.mode,
        window_start=run.window_start and run.window_start.isoformat(),
        window_end=run.window_end and run.window_end.isoformat(),
        planned=plan.planned,
        chunks=len(plan.chunks),
        invalid=plan.invalid,
        source_rows=plan.source_rows,
        duplicates=plan.duplicates,
    )
    if is_new:
        metrics.links_settled(
            {Outcome.INVALID: plan.invalid},
            job=run.job,
            relation=run.relation,
            operation=run.operation,
            dry_run=run.dry_run,
        )
