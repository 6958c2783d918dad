"""The base of the tasks that work for one job, what they read from Airflow's context, and when they are tried again."""

from __future__ import annotations

import logging
import re
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, TypeVar

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger
from airflow.sdk import BaseOperator

from zoho_crm.airflow_compat import AirflowException, forbid_retry, has_retry_policies
from zoho_crm.core.job_files import named_job, read_texts
from zoho_crm.core.models import DELINK, RELINK, Origin, RunStart, Target
from zoho_crm.core.outcomes import RunStatus
from zoho_crm.core.run_request import (
    DRY_RUN,
    RELINK_DAG_ID,
    AssetEvent,
    default_mode,
    parse_run_request,
    run_key,
)
from zoho_crm.errors import (
    GuardError,
    RunStoppedError,
    UnfinishedLinksError,
    ZohoAuthError,
    ZohoConfigError,
    ZohoError,
    ZohoTokenThrottledError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow.sdk import Context

    from zoho_crm.core.job import Job
    from zoho_crm.core.run_request import RunRequest


log = logging.getLogger(__name__)


class JobOperator(BaseOperator):
    """
    A task that works for one job: the Dag's own, or the one that the trigger form names.

    :param job: the job; None if the field ``job`` of the form names it
    :param jobs_folder: folder of the job files; the SQL files are in ``../sql``
    """

    closes_run: ClassVar[bool] = False
    """Whether the task writes how the run ended, and then fails with it."""
    _job: Job | None = None
    """The job of this try, once it is known."""

    def __init__(self, *, job: Job | None, jobs_folder: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.jobs_folder = jobs_folder
        self.on_failure_callback = with_recorded_failures(self.on_failure_callback)

    def job_of(self, context: Context) -> Job:
        """
        Return the job.

        :raises JobFileError: the form names no valid job; the message lists the valid ones
        """
        self._job = self.job or named_job(self.jobs_folder, context["params"].get("job"))
        return self._job

    def run_key_of(self, context: Context) -> str:
        """Return the key of the run: the same in all of its tasks, tries and clears."""
        origin = origin_of(context)
        return run_key(self.job_of(context).name, origin.dag_id, origin.dag_run_id)

    def texts_of(self, job: Job) -> dict[str, str]:
        """Return the job file, and in the job's own Dag its SQL, as this task uses them."""
        return read_texts(job, self.jobs_folder, with_sql=self.job is not None)

    def on_kill(self) -> None:
        """Log why the task ends; Airflow calls it when the task is killed, and at its execution timeout."""
        self.log.error(
            "Task killed, or its execution_timeout reached: execution_timeout=%s", self.execution_timeout
        )

    def lineage(self, job: Job) -> tuple[list[Any], list[Any]]:
        """Return the OpenLineage datasets that the task reads and writes."""
        return [], []

    def get_openlineage_facets_on_start(self) -> Any:
        """Return what is known before the task starts; Airflow's OpenLineage provider calls it."""
        return self._lineage(self.job)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return what is known when the task has ended; Airflow's OpenLineage provider calls it."""
        return self._lineage(self.job or self._job)

    def _lineage(self, job: Job | None) -> Any:
        from zoho_crm.lineage import build_lineage

        return build_lineage(*self.lineage(job)) if job else None


def with_recorded_failures(callbacks: Any) -> list[Any]:
    """Return the failure callbacks of a task, :func:`record_failure` first."""
    if callbacks is None:
        return [record_failure]
    others = callbacks if isinstance(callbacks, list | tuple) else [callbacks]
    return [record_failure, *(each for each in others if each is not record_failure)]


def record_failure(context: Context) -> None:
    """Write onto the run row which task failed, and why; Airflow calls it once the task is not tried again."""
    task: Any = context["task"]
    error = context.get("exception")
    if isinstance(error, GuardError | UnfinishedLinksError):
        # The decision of the guards, and the outcomes of the links, stand on the run row.
        return
    from zoho_crm.ledger.ledger import Ledger

    try:
        audit_conn_id, key, status = _row_of(task, context)
        if audit_conn_id is None:
            return
        ledger = Ledger.from_conn_id(audit_conn_id)
        try:
            closes_run = isinstance(task, JobOperator) and task.closes_run
            failure = f"Task {task.task_id} failed: {_cause(error)}"
            ledger.runs.record_failure(key, failure, status=status, only_unfinished=closes_run)
        finally:
            ledger.close()
    except Exception as problem:
        # The task has failed already, and its log has the reason.
        log.warning("Failure not recorded: task=%s error=%s", task.task_id, type(problem).__name__)


def _row_of(task: Any, context: Context) -> tuple[str | None, str, str | None]:
    """Return audit connection and key of the run that a task works for, and the status that its failure means."""
    if isinstance(task, JobOperator):
        return task.job_of(context).audit_conn_id, task.run_key_of(context), RunStatus.FAILED.value
    # Outcomes decide what the failure of a chunk means.
    return (task.audit_conn_id, task.chunk["run_key"], None) if task.chunk else (None, "", None)


def _cause(error: object) -> str:
    """Return why a task failed, for people; errors of databases may contain external IDs and are named only."""
    if isinstance(error, ZohoError | AirflowException):
        return str(error)
    if isinstance(error, BaseException):
        name = type(error).__name__
        return (
            "its execution_timeout was reached" if "Timeout" in name else f"{name}; its log has the details"
        )
    return "it was killed or marked as failed"


def failed_tasks(context: Context) -> list[str]:
    """Return the IDs of the failed tasks of this Dag run; none where Airflow does not say."""
    ti: Any = context["ti"]
    try:
        found = ti.get_task_states(dag_id=ti.dag_id, run_ids=[ti.run_id]).get(ti.run_id, {})
    except Exception as error:
        log.info("States of tasks unknown: error=%s", type(error).__name__)
        return []
    names = {name for name, state in found.items() if state == "failed"}
    # Mapped tasks have their map index in the name.
    return sorted({re.sub(r"_\d+$", "", name) for name in names})


def stored_params(context: Context) -> dict[str, Any]:
    """Return the trigger form's values for the run row, without pasted links: the plan has them."""
    return {name: value for name, value in context["params"].items() if name != "links"}


def first_row(operator: JobOperator, context: Context, job: Job) -> RunStart:
    """
    Return the row of a run before its plan is made, also if its trigger form is invalid.

    :param operator: the task; one of a Dag for all jobs has no window, as the plan finds it
    """
    of_job_dag = operator.job is not None
    origin = origin_of(context)
    request, mode = None, default_mode(origin.run_type, job.automatic)
    with suppress(ZohoConfigError):
        request = request_of(context, job if of_job_dag else None)
        mode = request.mode
    window = request if of_job_dag else None
    operation = RELINK if origin.dag_id == RELINK_DAG_ID else DELINK
    return RunStart(
        run_key=operator.run_key_of(context),
        job=job.name,
        origin=origin,
        target=Target(
            relation=job.relation.as_relation(),
            data_center="",
            api_version="",
            strategy=job.strategy if operation == DELINK else "single",
            dry_run=mode == DRY_RUN,
            operation=operation,
        ),
        mode=mode,
        window_start=window.window_start if window else None,
        window_end=window.window_end if window else None,
        source_start=window.source_start if window else None,
        reason=request.reason if request else None,
        params=stored_params(context),
        texts=operator.texts_of(job),
    )


class PlanOperator(JobOperator):
    """
    A task that stores the plan of a run.

    :param preflight_task_id: ID of the task whose result says where the connection leads, with the group's prefix
    """

    def __init__(self, *, preflight_task_id: str = "preflight", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.preflight_task_id = preflight_task_id

    def pull_preflight(self, context: Context) -> dict[str, Any]:
        """Return the result of the preflight task; {} if it was skipped or marked as done."""
        return context["ti"].xcom_pull(task_ids=self.preflight_task_id) or {}


def delink_arguments(job: Job) -> dict[str, Any]:
    """Return the arguments of the delink operator that a job sets, all but the chunk."""
    return {
        **relink_arguments(job),
        "strategy": job.strategy,
        "snapshot_fields": list(job.snapshot_attributes),
    }


def relink_arguments(job: Job) -> dict[str, Any]:
    """Return the arguments of the relink operator that a job sets, all but the chunk."""
    relation = job.relation.as_relation()
    return {
        "module": relation.module,
        "external_field": relation.external_field,
        "related_list": relation.related_list,
        "related_module": relation.related_module,
        "related_external_field": relation.related_external_field,
        "zoho_conn_id": job.zoho_conn_id,
        "audit_conn_id": job.audit_conn_id,
        "task_concurrency": job.task_concurrency,
        "breaker_share": job.breaker_share,
        "credit_reserve": job.credit_reserve,
        "max_not_found_share": job.guards.max_not_found_share,
        "wait_patience": job.wait_patience,
        "max_plan_age": job.guards.max_plan_age,
        "execution_timeout": job.task_timeout,
    }


def origin_of(context: Context) -> Origin:
    """Return where in Airflow a task stands. Keys that a run does not have are left out by Airflow."""
    dag_run, task_instance = context["dag_run"], context["ti"]
    return Origin(
        dag_id=task_instance.dag_id,
        dag_run_id=task_instance.run_id,
        run_type=run_type_of(context),
        task_id=task_instance.task_id,
        logical_date=_utc(getattr(dag_run, "logical_date", None)),
        data_interval_start=_utc(context.get("data_interval_start")),
        data_interval_end=_utc(context.get("data_interval_end")),
        triggered_by=requester_of(context),
        map_index=-1 if task_instance.map_index is None else task_instance.map_index,
        try_number=task_instance.try_number,
    )


def requester_of(context: Context) -> str | None:
    """Return the user who requested the run, as Airflow names users; None if it names none: before 3.1.2, too."""
    return getattr(context["dag_run"], "triggering_user_name", None) or None


def run_type_of(context: Context) -> str:
    """Return Airflow's kind of the run as text: manual, scheduled, backfill, asset_triggered, ..."""
    run_type = context["dag_run"].run_type
    return str(getattr(run_type, "value", run_type))


def data_interval_of(context: Context) -> tuple[datetime, datetime] | None:
    """Return the run's data interval in UTC, or None for a run that has none."""
    start, end = _utc(context.get("data_interval_start")), _utc(context.get("data_interval_end"))
    return None if start is None or end is None else (start, end)


def asset_events_of(context: Context) -> list[AssetEvent]:
    """Return the updates of assets that started the run: none for a run that something else started."""
    found = context.get("triggering_asset_events") or {}
    return [
        AssetEvent(event.asset.name, event.timestamp, event.extra or {})
        for events in found.values()
        for event in events
    ]


def request_of(context: Context, job: Job | None = None) -> RunRequest:
    """
    Parse the trigger form and the run's window.

    :param job: says what its automatic runs do and read; None for runs that are never automatic
    :raises ZohoConfigError: a field of the trigger form is invalid or unknown; the message names it
    """
    dag = context.get("dag")
    return parse_run_request(
        context["params"],
        run_type=run_type_of(context),
        run_after=context["dag_run"].run_after,
        data_interval=data_interval_of(context),
        **_automatic_settings(job),
        asset_events=asset_events_of(context),
        fields=None if dag is None else list(dag.params),
    )


def _automatic_settings(job: Job | None) -> dict[str, Any]:
    """Return what a job says about its automatic runs, as arguments of ``parse_run_request``."""
    if job is None:
        return {}
    return {"automatic": job.automatic, "lookback": job.source.lookback or timedelta(0)}


def _utc(instant: Any) -> datetime | None:
    """Return a plain aware datetime: not every database driver takes pendulum's."""
    return None if instant is None else datetime.fromtimestamp(instant.timestamp(), UTC)


P = ParamSpec("P")
R = TypeVar("R")

THROTTLED_PAUSE = timedelta(minutes=11)
"""Zoho grants no access token for ten minutes; an earlier request extends that."""

FINAL_ERRORS = (GuardError, RunStoppedError, ZohoAuthError, ZohoConfigError)
"""Errors after which a retry would fail as well; a throttled token, which is one of them, passes by itself."""


def retry_arguments() -> dict[str, Any]:
    """Return the argument ``retry_policy`` of tasks; {} before Airflow 3.3, where :func:`final_errors` acts."""
    if not has_retry_policies():
        return {}
    from zoho_crm.airflow_compat import ExceptionRetryPolicy, RetryAction, RetryRule

    wait = RetryRule(
        exception=_path(ZohoTokenThrottledError),
        action=RetryAction.RETRY,
        retry_delay=THROTTLED_PAUSE,
        reason="Zoho grants no access token for ten minutes; an earlier request extends that",
    )
    fail = RetryRule(
        exception=[_path(error) for error in FINAL_ERRORS],
        action=RetryAction.FAIL,
        reason="A retry would fail as well; the message says what to change",
    )
    return {"retry_policy": ExceptionRetryPolicy(rules=[wait, fail])}


def final_errors(method: Callable[P, R]) -> Callable[P, R]:
    """
    Make a method of an operator that Airflow calls end the task, without a retry, after a final error.

    Airflow from 3.3 on does that by the retry policy of the Dag.
    """

    @wraps(method)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return method(*args, **kwargs)
        except Exception as error:
            context: Any = kwargs["context"] if "context" in kwargs else args[1]
            # For failure callbacks: ``dag.test()`` of Airflow 3.1 calls them without the error.
            context["exception"] = error
            final = isinstance(error, FINAL_ERRORS) and not isinstance(error, ZohoTokenThrottledError)
            if final and not has_retry_policies():
                forbid_retry(error)
            raise

    return call


def wait_in_triggerer(
    operator: BaseOperator,
    pause: timedelta,
    *,
    now: datetime,
    since: datetime,
    patience: timedelta,
    why: str | None,
) -> None:
    """
    Defer a task; return if the wait would exceed the patience.

    :param operator: has a method ``execute_after_wait``, which gets ``since`` as ``waiting_since``
    :param since: when the task began to wait
    """
    if now + pause > since + patience:
        operator.log.error("Not waiting any longer: wait_patience=%s", patience)
        return
    operator.log.warning("Waiting outside of a worker: pause=%s reason=%s", pause, why)
    operator.defer(
        trigger=TimeDeltaTrigger(pause),
        method_name="execute_after_wait",
        kwargs={"waiting_since": since.isoformat()},
    )


def _path(error: type[Exception]) -> str:
    """Return how a retry policy names an exception: Airflow stores the path with the Dag."""
    return f"{error.__module__}.{error.__qualname__}"
