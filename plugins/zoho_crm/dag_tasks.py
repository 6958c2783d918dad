"""The tasks of a run, which the Dags of jobs and those on past runs share, and their default arguments."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from zoho_crm.airflow_compat import backoff
from zoho_crm.operators.guard import ApproveOperator, GuardOperator
from zoho_crm.operators.job_operator import JobOperator, retry_arguments
from zoho_crm.operators.report import ReportOperator, updates_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoho_crm.core.job import Job
    from zoho_crm.operators.plan_links import PlanLinksOperator
    from zoho_crm.operators.preflight import PreflightOperator
    from zoho_crm.operators.reprocess_plan import PlanRelinkOperator, PlanRetryOperator

TIME_LIMITS = {
    "preflight": timedelta(minutes=30),
    "plan": timedelta(hours=6),
    "guard": timedelta(hours=2),
    "approve": timedelta(minutes=15),
    "report": timedelta(hours=2),
    "pseudonymize": timedelta(hours=6),
    "export": timedelta(hours=6),
}
"""Execution timeouts, far above what the tasks take; that of the sending task is a field of the job.

A task that ends so leaves the links as a killed one does. The wait for an approval does not count.
"""

_APPROVE_RETRIES: dict[str, Any] = {
    "retries": 20,
    "retry_delay": timedelta(seconds=3),
    "retry_exponential_backoff": backoff(1.0),
}
"""Soon and often: an early response may cost the task a try, and the next one uses it."""

CHUNK_NAME = "{{ task.chunk['label'].split(' from ')[0] }}, {{ task.chunk['links'] }} links"
"""Name of a mapped task, e.g. ``1/3, 500 links``; the rest of the label contains external IDs."""


def task_defaults(
    *, owner: str = "airflow", retries: int = 3, retry_delay: timedelta = timedelta(seconds=30)
) -> dict[str, Any]:
    """Return the default arguments of the tasks; each further pause between tries is twice as long."""
    return {
        "owner": owner,
        "retries": retries,
        "retry_delay": retry_delay,
        "retry_exponential_backoff": backoff(2.0),
        "max_retry_delay": timedelta(minutes=15),
        **retry_arguments(),
    }


def add_tasks(
    job: Job | None,
    folder: Path,
    *,
    preflight: type[PreflightOperator],
    plan: type[PlanLinksOperator | PlanRetryOperator | PlanRelinkOperator],
    map_over: Callable[[Any], Any],
    updates: str,
) -> None:
    """
    Add the tasks of a run to the current Dag or task group.

    :param job: None if the trigger form names it
    :param map_over: makes the mapped task of the plan task
    :param updates: name of the asset alias that the report updates
    """
    common: dict[str, Any] = {"job": job, "jobs_folder": folder}

    def add(operator: type[JobOperator], task_id: str, **arguments: Any) -> Any:
        return operator(task_id=task_id, execution_timeout=TIME_LIMITS[task_id], **common, **arguments)

    checked = add(preflight, "preflight")
    planned = add(plan, "plan", preflight_task_id=checked.task_id)
    guarded = add(GuardOperator, "guard")
    approved = add(ApproveOperator, "approve", guard_task_id=guarded.task_id, **_APPROVE_RETRIES)
    # The report runs whatever the other tasks ended as.
    report = add(ReportOperator, "report", trigger_rule="all_done", retries=1, outlets=[updates_of(updates)])
    checked >> planned >> guarded >> approved >> map_over(planned) >> report
