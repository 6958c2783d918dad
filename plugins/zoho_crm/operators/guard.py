"""The tasks between plan and sending: compare the plan with the job's limits, and ask a person for approval."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NoReturn, TypedDict

from airflow.providers.standard.operators.hitl import ApprovalOperator, HITLOperator

from zoho_crm.airflow_compat import await_response, base_url, has_awaiting_input, register_question
from zoho_crm.core.approval import (
    APPROVED,
    REJECTED,
    Question,
    decide,
    describe_requester,
    format_approver,
    plan_url,
    question_digest,
    refusal,
)
from zoho_crm.core.formatting import format_duration
from zoho_crm.core.guard_rules import Facts, Override, judge
from zoho_crm.core.job_files import SOURCE_SQL, read_sql
from zoho_crm.core.models import RELINK
from zoho_crm.databases import create_source_engine
from zoho_crm.errors import GuardError, PlanError, ZohoConfigError
from zoho_crm.operators import notify
from zoho_crm.operators.job_operator import JobOperator, final_errors, requester_of
from zoho_crm.source import SourceFacts, fetch_source_facts
from zoho_crm.triggers import LateResponseTrigger

if TYPE_CHECKING:
    from pathlib import Path
    from uuid import UUID

    from airflow.sdk import Context

    from zoho_crm.core.guard_rules import Decision
    from zoho_crm.core.job import Job
    from zoho_crm.core.job_files import JobSql
    from zoho_crm.core.models import PlanSummary, StoredRun
    from zoho_crm.ledger.ledger import Ledger


_FIRST_PAUSE_S, _RETRY_PAUSE_S = 10.0, 4.0
"""
How long the scheduler has to see that the task waits, before a response is looked for.

A retry has a response to use, and a shorter pause: if the scheduler is still slower, another retry follows.
"""


class GuardResult(TypedDict):
    """
    What ``approve`` needs to know.

    ``decision``: as it stands on the run row; ``ask``: whether a person decides; ``subject`` and ``body``: what they
    are asked, as Markdown; None if no approval is required.
    """

    decision: str
    ask: bool
    subject: str | None
    body: str | None


class GuardOperator(JobOperator):
    """
    Compare a plan with the job's limits; if it exceeds one, stop the run or require an approval.

    ``max_links`` of the trigger form, which needs a reason, lowers the job's, or raises it for those who may. Only the
    number of links counts for links of earlier runs. A dry run stores the decision and continues.

    :return: the decision, and the question for ``approve``
    :raises GuardError: the plan exceeds a limit, and ``on_breach`` is ``stop``
    :raises PlanError: the run has no plan, or the SQL of a guard does not return what its limit needs
    """

    @final_errors
    def execute(self, context: Context) -> GuardResult:
        """Decide, store facts and decision on the run row, and stop the run if required."""
        from zoho_crm.ledger.ledger import Ledger

        job, key = self.job_of(context), self.run_key_of(context)
        ledger = Ledger.from_conn_id(job.audit_conn_id)
        try:
            run, plan = ledger.runs.get(key), ledger.plans.get(key)
            if run is None or plan is None:
                raise PlanError("The run has no plan")
            requester = requester_of(context)
            facts, decision = self._judge(ledger, job, run, plan, requester)
            is_due = bool(decision.breaches) or (job.guards.approvals == "always" and bool(plan.chunks))
            stops = bool(decision.breaches) and job.guards.on_breach == "stop"
            asks = is_due and not stops and not run.dry_run
            ledger.runs.record_guard(
                key,
                decision.text,
                needs_approval=asks,
                checks=[asdict(each) for each in decision.checks],
                texts=self.texts_of(job),
            )
            self.log.info(
                "Guard decided",
                job=job.name,
                run_key=key,
                mode=run.mode,
                planned=plan.planned,
                breaches=len(decision.breaches),
                on_breach=job.guards.on_breach,
                approvals=job.guards.approvals,
                decision=decision.text,
            )
            if stops and not run.dry_run:
                raise GuardError(f"{decision.text}. Nothing was sent. {decision.way_on(job.guards)}")
            if not asks:
                return GuardResult(decision=decision.text, ask=False, subject=None, body=None)
            question = _question(ledger, job, run, plan, facts, decision, requester)
            self._notify(ledger, job, context, run, plan, decision)
        finally:
            ledger.close()
        return GuardResult(decision=decision.text, ask=True, subject=question.subject, body=question.body)

    def lineage(self, job: Job) -> tuple[list[Any], list[Any]]:
        """Return the plan's table, what the guards' SQL reads, and the runs' table."""
        from zoho_crm.lineage import (
            PLAN_TABLE,
            RUN_TABLE,
            ledger_output,
            ledger_table,
            tables_read,
        )

        sql = _guard_sql(job, self.jobs_folder) if self.job is not None else {}
        audit = job.audit_conn_id
        inputs = [
            ledger_table(audit, PLAN_TABLE),
            *tables_read(job.source.conn_id, *(one.text for one in sql.values())),
        ]
        return inputs, [ledger_output(audit, RUN_TABLE)]

    def _judge(
        self, ledger: Ledger, job: Job, run: StoredRun, plan: PlanSummary, requester: str | None
    ) -> tuple[Facts, Decision]:
        # A Dag for all jobs works on links of earlier runs.
        count_only = run.operation == RELINK or run.origin_run_key is not None or self.job is None
        source = SourceFacts() if count_only else self._query_source(job, run)
        ledger.runs.record_source_facts(
            run.run_key, baseline_links=source.baseline_links, source_as_of=source.source_as_of
        )
        facts = build_facts(ledger, run, planned=plan.planned, now=ledger.runs.now(), source=source)
        return facts, judge(facts, job.guards, _override(run, requester), count_only=count_only)

    def _query_source(self, job: Job, run: StoredRun) -> SourceFacts:
        """Run the SQL of the guards that the job sets."""
        sql = _guard_sql(job, self.jobs_folder)
        if not sql:
            return SourceFacts()
        assert run.source_start is not None  # noqa: S101 - for the type checker: a run of a job has a window
        assert run.window_end is not None  # noqa: S101 - as above
        engine = create_source_engine(job.source.conn_id)
        try:
            return fetch_source_facts(engine, sql, run.source_start, run.window_end)
        finally:
            engine.dispose()

    def _notify(
        self,
        ledger: Ledger,
        job: Job,
        context: Context,
        run: StoredRun,
        plan: PlanSummary,
        decision: Decision,
    ) -> None:
        """Notify people at once that the run waits for an approval."""
        until = datetime.now(UTC) + job.guards.approval_timeout
        why = "; ".join(decision.breaches) or "each of its runs needs one"
        text = f"{job.name} asks for approval until {until:%Y-%m-%d %H:%M} UTC: {why}"
        counts = {"planned": plan.planned, "duplicates": plan.duplicates, "invalid": plan.invalid}
        if decision.breaches:
            notify.notify_state_change(
                ledger,
                job,
                context,
                run,
                state=notify.BREACH,
                text=text,
                counts=counts,
                status=run.status,
            )
        else:
            notify.notify_approval_request(job, context, run, text=text, counts=counts)


class ApproveOperator(JobOperator, ApprovalOperator):
    """
    Wait for an approval if the guards require one; else succeed at once.

    It holds no worker while it waits. No response within the job's ``approval_timeout`` rejects the run. A rejection
    skips the next task and is not a failure. An approval that does not count, such as that of the user who requested
    the run, is discarded and the question asked again; the run row says why. Clearing the task asks again. Before
    Airflow 3.3, the triggerer looks for the response.

    If Airflow's scheduler sees a response before it sees that the task waits, it takes that for a crash and runs the
    task again. That try keeps the question, and so the response that Airflow has stored for it.

    :param guard_task_id: ID of the task whose result contains the question, with the group's prefix
    :return: ``approval``, ``by`` and ``at`` as on the run row; None if no approval is required
    :raises PlanError: the guard task has no result
    """

    def __init__(
        self, *, guard_task_id: str = "guard", execution_timeout: timedelta | None = None, **kwargs: Any
    ) -> None:
        self.response_timeout: timedelta | None = None
        super().__init__(subject="May this run continue?", defaults=ApprovalOperator.REJECT, **kwargs)
        self.guard_task_id = guard_task_id
        # Airflow's operator would take it for the time that a response may take.
        self.execution_timeout = execution_timeout

    @property
    def hitl_summary(self) -> dict[str, Any]:
        """The question as listeners such as OpenLineage see it: without its body, which contains external IDs."""
        # The standard provider has a property since 1.17; before, it assigns a dictionary and adds to it.
        if hasattr(HITLOperator, "hitl_summary"):
            return {**super().hitl_summary, "body": None}
        return self._summary

    @hitl_summary.setter
    def hitl_summary(self, summary: dict[str, Any]) -> None:
        self._summary = {**summary, "body": None}

    def validate_params(self) -> None:
        """Skip the check: the question has no fields, and a run's parameters are checked when it starts."""

    @final_errors
    def execute(self, context: Context) -> Any:
        """Ask, unless there is nothing to ask."""
        asked: dict[str, Any] | None = context["ti"].xcom_pull(task_ids=self.guard_task_id)
        if asked is None:
            # Someone marked the guard task as done, which decides nothing.
            raise PlanError(f"The task {self.guard_task_id} has no result; clear it, so that it decides")
        if not asked["ask"]:
            self.log.info("No approval required: decision=%s", asked["decision"])
            return None
        from zoho_crm.ledger.ledger import Ledger

        job = self.job_of(context)
        self._set_question(job, asked)
        self.response_timeout = job.guards.approval_timeout
        ti, key = context["ti"], self.run_key_of(context)
        until = datetime.now(UTC) + job.guards.approval_timeout
        # A clear raises the number of tries; a retry does not.
        question = question_digest(self.subject, self.body, job.guards.approvers, ti.max_tries)
        ledger = Ledger.from_conn_id(job.audit_conn_id)
        try:
            if ledger.runs.existing(key).question == question:
                self.log.info("The question of an earlier try stays; a response to it counts")
                self._wait_in_triggerer(ti.id, until, pause_s=_RETRY_PAUSE_S)
            ledger.runs.ask_approval(key)
            self._check_question(ti.id)
            ledger.runs.ask_approval(key, question, until=until)
        finally:
            ledger.close()
        self._wait(ti.id, until, job.guards.approval_timeout)

    def _set_question(self, job: Job, asked: dict[str, Any]) -> None:
        """Set question and approvers, after templates are rendered: the question contains external IDs of others."""
        self.subject, self.body = asked["subject"], asked["body"]
        self.assigned_users = [{"id": user, "name": user} for user in job.guards.approvers] or None

    def _wait(self, task_instance_id: UUID, until: datetime, timeout: timedelta) -> NoReturn:
        """Wait for a response; not by the base class, which registers the question again and discards a response."""
        if not has_awaiting_input():
            self._wait_in_triggerer(task_instance_id, until, pause_s=_FIRST_PAUSE_S)
        await_response("execute_complete", timeout)

    def _wait_in_triggerer(self, task_instance_id: UUID, until: datetime, *, pause_s: float) -> NoReturn:
        """Wait for a response to the registered question, or use the one that is there."""
        self.defer(
            trigger=LateResponseTrigger(
                ti_id=task_instance_id,
                options=self.options,
                params={},
                defaults=self.defaults,
                timeout_datetime=until,
                pause_s=pause_s,
            ),
            method_name="execute_complete",
        )

    def _check_question(self, task_instance_id: UUID) -> None:
        """
        Check that Airflow shows this question to the current approvers, and not an earlier one.

        :raises PlanError: an earlier question of this run differs
        """
        approvers = [user["id"] for user in self.assigned_users or ()]
        if register_question(self, task_instance_id) != (self.subject, self.body, approvers):
            raise PlanError(
                "Airflow still shows the first question of this run, and it is no longer true: limits, approvers or "
                "figures have changed since. Nothing was sent; start a new run"
            )

    @final_errors
    def execute_complete(self, context: Context, event: dict[str, Any]) -> Any:
        """Store the response on the run row, then continue or skip the sending task."""
        from zoho_crm.ledger.ledger import Ledger

        if "error" in event:
            return super().execute_complete(context, event)
        job = self.job_of(context)
        timed_out, user = bool(event.get("timedout")), event.get("responded_by_user")
        approval = REJECTED if timed_out else decide(event["chosen_options"])
        ledger = Ledger.from_conn_id(job.audit_conn_id)
        try:
            if ledger.runs.existing(self.run_key_of(context)).question is None:
                raise PlanError(
                    f"The task {self.guard_task_id} has decided again since this question was asked: the response does "
                    "not count, and nothing was sent. Clear this task, with the tasks after it"
                )
            if approval == APPROVED and (reason := refusal(user, job.guards, requester_of(context))):
                note = f"The approval by {format_approver(user) or 'no user'} does not count: {reason}"
                self._ask_again(ledger, job, context, note)
                timed_out, approval = True, REJECTED
            if approval == REJECTED:
                # Anything but a plain approval is a rejection, for Airflow as well.
                event = {**event, "chosen_options": [self.REJECT]}
            if timed_out:
                approval += f": no response within {format_duration(job.guards.approval_timeout)}"
            by = None if timed_out else format_approver(user)
            at = datetime.fromtimestamp(event["responded_at"].timestamp(), UTC)
            ledger.runs.record_approval(
                self.run_key_of(context), approval=approval, approved_by=by, approved_at=at
            )
        finally:
            ledger.close()
        super().execute_complete(context, event)
        return {"approval": approval, "by": by, "at": at.isoformat()}

    def _ask_again(self, ledger: Ledger, job: Job, context: Context, note: str) -> None:
        """
        Discard a response that does not count, and wait for another; return if the time for one is over.

        If the task is lost before the response is discarded, its next try finds the response, and comes here again.

        :param note: why it does not count, for people
        """
        ti, key = context["ti"], self.run_key_of(context)
        ledger.runs.refuse_approval(key, note)
        self.log.warning("Approval refused", run_key=key, reason=note)
        until = ledger.runs.existing(key).approval_until or datetime.now(UTC)
        asked: dict[str, Any] | None = ti.xcom_pull(task_ids=self.guard_task_id)
        if asked is None or not asked["ask"]:
            raise PlanError(f"The task {self.guard_task_id} has no question; clear it, so that it decides")
        remaining = until - datetime.now(UTC)
        if remaining <= timedelta(0):
            return
        self._set_question(job, asked)
        self._check_question(ti.id)
        self._wait(ti.id, until, remaining)


def build_facts(ledger: Ledger, run: StoredRun, *, planned: int, now: datetime, source: SourceFacts) -> Facts:
    """
    Return what the limits of a job compare with a plan.

    :param planned: number of links
    :param now: when the plan was, or is, judged
    :param source: what the SQL of the guards returned
    """
    return Facts(
        planned=planned,
        now=now,
        baseline_links=source.baseline_links,
        source_as_of=source.source_as_of,
        recent_planned=ledger.runs.recent_planned_counts(run.job, run.run_key),
    )


def _guard_sql(job: Job, jobs_folder: Path) -> dict[str, JobSql]:
    """Return the SQL of the guards that a job sets, by the field that names its file."""
    return {field: sql for field, sql in read_sql(job, jobs_folder).items() if field != SOURCE_SQL}


def _override(run: StoredRun, requester: str | None) -> Override | None:
    """Return what the trigger form set in place of the job's limit: the form of the run's first try."""
    max_links = run.params.get("max_links")
    if max_links is None or max_links == "":
        return None
    if not run.reason:
        raise ZohoConfigError("reason: say why, when max_links overrides the job's limit")
    return Override(int(max_links), run.reason, requester)


def _question(
    ledger: Ledger,
    job: Job,
    run: StoredRun,
    plan: PlanSummary,
    facts: Facts,
    decision: Decision,
    requester: str | None,
) -> Question:
    age, planned_at = job.guards.max_plan_age, run.planned_at
    return Question(
        job=job.name,
        operation=run.operation,
        mode=run.mode,
        relation=str(run.relation),
        window=(run.window_start, run.window_end),
        plan=plan,
        breaches=decision.breaches,
        requested_by=describe_requester(
            requester, run.run_type, forbid_self_approval=job.guards.forbid_self_approval
        ),
        sample=ledger.plans.sample(run.run_key),
        plan_url=plan_url(base_url(), run.dag_id, run.dag_run_id, job.name),
        respond_within=job.guards.approval_timeout,
        approvers=job.guards.approvers,
        baseline_links=facts.baseline_links,
        reason=run.reason,
        origin_run_key=run.origin_run_key,
        send_until=planned_at + age if age and planned_at else None,
    )
