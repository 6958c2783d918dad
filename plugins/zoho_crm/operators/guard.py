"""Hold a plan against the job's limits before the first link is sent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypedDict

from zoho_crm.airflow_compat import base_url
from zoho_crm.core.approval import Question, plan_url
from zoho_crm.core.guard_rules import Facts, Override, judge
from zoho_crm.core.job_files import SOURCE_SQL, read_sql
from zoho_crm.core.models import RELINK
from zoho_crm.databases import create_source_engine
from zoho_crm.errors import GuardError, PlanError, ZohoConfigError
from zoho_crm.operators import notify
from zoho_crm.operators.job_operator import JobOperator
from zoho_crm.source import SourceFacts, fetch_source_facts

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import Context

    from zoho_crm.core.guard_rules import Decision
    from zoho_crm.core.job import Job
    from zoho_crm.core.models import PlanSummary
    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.ledger.runs import StoredRun


class GuardResult(TypedDict):
    """
    What ``approve`` needs to know.

    ``decision``: as it stands on the run row; ``ask``: whether a person decides; ``subject`` and ``body``: what they
    are asked, as Markdown; None if nobody is asked.
    """

    decision: str
    ask: bool
    subject: str | None
    body: str | None


class GuardOperator(JobOperator):
    """
    Hold a plan against the job's limits; beyond one, stop the run or have a person asked.

    The trigger form's ``max_links``, given with a reason, takes the place of the job's. Links that another run has
    left or removed are judged by their number alone. A dry run sends nothing, so that it only says what would happen.

    :return: the decision, and the question for ``approve``
    :raises GuardError: the plan passes a limit, and ``on_breach`` is ``stop``
    :raises PlanError: the run has no plan, or the SQL of a guard does not yield what it must
    """

    def execute(self, context: Context) -> GuardResult:
        """Decide, write facts and decision onto the run row, and stop the run if need be."""
        from zoho_crm.ledger.ledger import Ledger

        job, key = self.job_of(context), self.run_key_of(context)
        ledger = Ledger.from_conn_id(job.audit_conn_id)
        try:
            run, plan = ledger.runs.get(key), ledger.plans.get(key)
            if run is None or plan is None:
                raise PlanError("The run has no plan")
            facts, decision = self._judge(ledger, job, run, plan)
            ledger.runs.record_guard(key, decision.text)
            self.log.info(
                "Guard decided",
                job=job.name,
                run_key=key,
                mode=run.mode,
                planned=plan.planned,
                breaches=len(decision.breaches),
                on_breach=job.guards.on_breach,
                decision=decision.text,
            )
            if not decision.breaches or run.dry_run:
                return GuardResult(decision=decision.text, ask=False, subject=None, body=None)
            if job.guards.on_breach == "stop":
                raise GuardError(f"{decision.text}. Nothing was sent. {decision.way_on}")
            ledger.runs.ask_approval(key)
            question = _question(ledger, job, run, plan, facts, decision)
            self._tell(ledger, job, context, run, plan, decision)
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
        inputs = [ledger_table(audit, PLAN_TABLE), *tables_read(job.source.conn_id, *sql.values())]
        return inputs, [ledger_output(audit, RUN_TABLE)]

    def _judge(self, ledger: Ledger, job: Job, run: StoredRun, plan: PlanSummary) -> tuple[Facts, Decision]:
        # A Dag without a job of its own works on links of earlier runs.
        count_only = run.operation == RELINK or run.origin_run_key is not None or self.job is None
        source = SourceFacts() if count_only else self._query_source(job, run)
        ledger.runs.record_source_facts(
            run.run_key, baseline_links=source.baseline_links, source_as_of=source.source_as_of
        )
        facts = build_facts(ledger, run, planned=plan.planned, now=datetime.now(UTC), source=source)
        return facts, judge(facts, job.guards, _override(run), count_only=count_only)

    def _query_source(self, job: Job, run: StoredRun) -> SourceFacts:
        """Run the SQL of the guards that the job sets."""
        sql = _guard_sql(job, self.jobs_folder)
        if not sql:
            return SourceFacts()
        assert run.window_start is not None  # noqa: S101 - for the type checker: a run of a job has a window
        assert run.window_end is not None  # noqa: S101 - as above
        engine = create_source_engine(job.source.conn_id)
        try:
            return fetch_source_facts(engine, sql, run.window_start, run.window_end)
        finally:
            engine.dispose()

    def _tell(
        self,
        ledger: Ledger,
        job: Job,
        context: Context,
        run: StoredRun,
        plan: PlanSummary,
        decision: Decision,
    ) -> None:
        """Tell people at once that somebody is asked: the run waits for them."""
        notify.notify_state_change(
            ledger,
            job,
            context,
            run,
            state=notify.BREACH,
            text=f"{job.name} asks for approval: {'; '.join(decision.breaches)}",
            counts={"planned": plan.planned, "duplicates": plan.duplicates, "invalid": plan.invalid},
            status=run.status,
        )


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


def _guard_sql(job: Job, jobs_folder: Path) -> dict[str, str]:
    """Return the SQL of the guards that a job sets, by the field that names its file."""
    return {field: sql for field, sql in read_sql(job, jobs_folder).items() if field != SOURCE_SQL}


def _override(run: StoredRun) -> Override | None:
    """Return what the trigger form set in place of the job's limit: the form of the run's first try."""
    max_links = run.params.get("max_links")
    if max_links is None or max_links == "":
        return None
    if not run.reason:
        raise ZohoConfigError("reason: say why, when max_links overrides the job's limit")
    return Override(int(max_links), run.reason)


def _question(
    ledger: Ledger, job: Job, run: StoredRun, plan: PlanSummary, facts: Facts, decision: Decision
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
        sample=ledger.plans.sample(run.run_key),
        plan_url=plan_url(base_url(), run.dag_id, run.dag_run_id, job.name),
        baseline_links=facts.baseline_links,
        reason=run.reason,
        origin_run_key=run.origin_run_key,
        send_until=planned_at + age if age and planned_at else None,
    )
