"""Ask a person where the guards say so."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airflow.providers.standard.operators.hitl import ApprovalOperator

from zoho_crm.airflow_compat import register_question
from zoho_crm.core.approval import APPROVED, REJECTED
from zoho_crm.core.formatting import format_duration
from zoho_crm.errors import PlanError
from zoho_crm.operators.job_operator import JobOperator

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from airflow.sdk import Context


class ApproveOperator(JobOperator, ApprovalOperator):
    """
    Wait for a person's yes if the guards ask for one; else succeed at once.

    While it waits it holds no worker. No answer within the job's ``approval_timeout`` is a refusal. A refusal skips
    the task after this one, and is no failure. A clear of the task asks again.

    :return: ``approval``, ``by`` and ``at`` as they stand on the run row; None if nobody was asked
    :raises PlanError: the guards have left no decision
    """

    def __init__(self, *, guard_task_id: str = "guard", **kwargs: Any) -> None:
        super().__init__(subject="May this run continue?", defaults=ApprovalOperator.REJECT, **kwargs)
        self.guard_task_id = guard_task_id

    @property
    def hitl_summary(self) -> dict[str, Any]:
        """What listeners such as OpenLineage are told of the question: not its body, which holds ids."""
        return {**super().hitl_summary, "body": None}

    def execute(self, context: Context) -> Any:
        """Ask, unless there is nothing to ask."""
        asked: dict[str, Any] | None = context["ti"].xcom_pull(task_ids=self.guard_task_id)
        if asked is None:
            # Somebody has marked it as done: that is no decision.
            raise PlanError("The task guard has left no decision; clear it, so that it decides")
        if not asked["ask"]:
            self.log.info("Nobody is asked: %s", asked["decision"])
            return None
        from zoho_crm.ledger.ledger import Ledger

        job = self.job_of(context)
        # Set here, past the rendering of templates: the question holds ids of others.
        self.subject, self.body = asked["subject"], asked["body"]
        self.response_timeout = job.guards.approval_timeout
        self.assigned_users = [{"id": user, "name": user} for user in job.guards.approvers] or None
        ledger = Ledger.from_conn_id(job.audit_conn_id)
        try:
            ledger.runs.ask_approval(self.run_key_of(context))
        finally:
            ledger.close()
        self._check_question(context["ti"].id)
        return super().execute(context)

    def _check_question(self, task_instance_id: UUID) -> None:
        """
        Make sure that people are shown this question, and that those who may answer it are asked.

        Airflow 3.3 keeps the first question of a task when it is cleared, and takes away its answer alone.

        :raises PlanError: an earlier question of this run says something else
        """
        approvers = [user["id"] for user in self.assigned_users or ()]
        if register_question(self, task_instance_id) != (self.subject, self.body, approvers):
            raise PlanError(
                "Airflow still shows the first question of this run, and it is no longer true: limits, approvers or "
                "figures have changed since. Nothing was sent; start a new run"
            )

    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Write the answer onto the run row, then let the run go on or skip what would send."""
        from zoho_crm.ledger.ledger import Ledger

        if "error" in event:
            return super().execute_complete(context, event)
        job = self.job_of(context)
        timed_out = bool(event.get("timedout"))
        approval = APPROVED
        if timed_out or event["chosen_options"] != [self.APPROVE]:
            # Whatever is not a plain yes is a no, for Airflow as well.
            approval, event = REJECTED, {**event, "chosen_options": [self.REJECT]}
        if timed_out:
            approval += f": nobody answered in {format_duration(job.guards.approval_timeout)}"
        by = None if timed_out else _name_of(event.get("responded_by_user"))
        at = datetime.fromtimestamp(event["responded_at"].timestamp(), UTC)
        ledger = Ledger.from_conn_id(job.audit_conn_id)
        try:
            ledger.runs.record_approval(
                self.run_key_of(context), approval=approval, approved_by=by, approved_at=at
            )
        finally:
            ledger.close()
        super().execute_complete(context, event)
        return {"approval": approval, "by": by, "at": at.isoformat()}


def _name_of(user: Mapping[str, str] | None) -> str | None:
    """Return a user as people know them, with Airflow's id where that is another."""
    if not user:
        return None
    return user["name"] if user["name"] == user["id"] else f"{user['name']} ({user['id']})"
