"""
Every private or version-dependent API of Airflow that the package uses, for Airflow 3.1 to 3.4.

The names below are imported on first use, so that a task does not load the API server's modules and the API server
not those of a task.
"""

from __future__ import annotations

from functools import cache
from importlib import metadata
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from zoho_crm.core.models import DELETED

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime, timedelta
    from uuid import UUID

    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
    from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag, requires_authenticated
    from airflow.dag_processing.dagbag import DagBag
    from airflow.models.dag import DagModel
    from airflow.sdk import CronDataIntervalTimetable, ExceptionRetryPolicy, RetryAction, RetryRule
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        TaskDeferred,
    )
    from airflow.sdk.observability import stats
    from airflow.timetables.base import DataInterval, TimeRestriction
    from airflow.timetables.interval import CronDataIntervalTimetable as CoreCronTimetable

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "CoreCronTimetable",
    "CronDataIntervalTimetable",
    "DagAccessEntity",
    "DagBag",
    "DagDetails",
    "DagModel",
    "DagRunEnding",
    "DataInterval",
    "ExceptionRetryPolicy",
    "GetUserDep",
    "GivenResponse",
    "OperatorPartial",
    "ResourceMethod",
    "RetryAction",
    "RetryRule",
    "TaskDeferred",
    "TimeRestriction",
    "add_connection_form",
    "await_response",
    "backoff",
    "base_url",
    "dag_run_endings",
    "dag_run_state",
    "dags_folder",
    "first_available",
    "forbid_retry",
    "get_auth_manager",
    "given_responses",
    "has_awaiting_input",
    "has_retry_policies",
    "max_map_length",
    "partial_of",
    "register_question",
    "requires_access_dag",
    "requires_authenticated",
    "stats",
]

_NAMES: dict[str, tuple[str, ...]] = {
    # The Task SDK has these exceptions since 3.2.
    "AirflowException": ("airflow.sdk.exceptions.AirflowException", "airflow.exceptions.AirflowException"),
    "AirflowFailException": (
        "airflow.sdk.exceptions.AirflowFailException",
        "airflow.exceptions.AirflowFailException",
    ),
    "AirflowNotFoundException": (
        "airflow.sdk.exceptions.AirflowNotFoundException",
        "airflow.exceptions.AirflowNotFoundException",
    ),
    "TaskDeferred": ("airflow.sdk.exceptions.TaskDeferred", "airflow.exceptions.TaskDeferred"),
    # New in Airflow 3.3; see has_retry_policies.
    "ExceptionRetryPolicy": ("airflow.sdk.ExceptionRetryPolicy",),
    "RetryAction": ("airflow.sdk.RetryAction",),
    "RetryRule": ("airflow.sdk.RetryRule",),
    "CronDataIntervalTimetable": (
        "airflow.sdk.CronDataIntervalTimetable",
        "airflow.timetables.interval.CronDataIntervalTimetable",
    ),
    "OperatorPartial": ("airflow.sdk.definitions.mappedoperator.OperatorPartial",),
    # The scheduler's side of timetables, of which the Task SDK has the parameters alone.
    "CoreCronTimetable": ("airflow.timetables.interval.CronDataIntervalTimetable",),
    "DataInterval": ("airflow.timetables.base.DataInterval",),
    "TimeRestriction": ("airflow.timetables.base.TimeRestriction",),
    "DagBag": ("airflow.dag_processing.dagbag.DagBag", "airflow.models.dagbag.DagBag"),
    # API server: users and permissions of the plugin's pages.
    "DagAccessEntity": ("airflow.api_fastapi.auth.managers.models.resource_details.DagAccessEntity",),
    "DagDetails": ("airflow.api_fastapi.auth.managers.models.resource_details.DagDetails",),
    "DagModel": ("airflow.models.dag.DagModel",),
    "GetUserDep": ("airflow.api_fastapi.core_api.security.GetUserDep",),
    "ResourceMethod": ("airflow.api_fastapi.auth.managers.base_auth_manager.ResourceMethod",),
    "get_auth_manager": ("airflow.api_fastapi.app.get_auth_manager",),
    "requires_access_dag": ("airflow.api_fastapi.core_api.security.requires_access_dag",),
    "requires_authenticated": ("airflow.api_fastapi.core_api.security.requires_authenticated",),
}
"""Where each name is, in the order in which releases are tried."""


def __getattr__(name: str) -> Any:
    if name == "stats":
        return _stats()
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return first_available(_NAMES[name])


def auth_manager() -> str:
    """Return the path of the class of Airflow's auth manager; empty if it is not configured."""
    return str(_conf().get("core", "auth_manager", fallback="") or "")


def base_url() -> str | None:
    """Return the URL of Airflow's UI, if it is configured."""
    url = _conf().get("api", "base_url", fallback=None)
    return str(url) if url else None


def dags_folder() -> str:
    """Return the configured folder of the Dag files."""
    return str(_conf().get("core", "dags_folder"))


def max_map_length() -> int:
    """Return how many mapped tasks Airflow allows for one task."""
    return int(_conf().getint("core", "max_map_length"))


def has_retry_policies() -> bool:
    """Return whether tasks take a ``retry_policy``: since Airflow 3.3."""
    return _release() >= (3, 3)


def has_awaiting_input() -> bool:
    """Return whether a task can wait for a person without a triggerer: since Airflow 3.3."""
    return _release() >= (3, 3)


def await_response(method_name: str, timeout: timedelta | None) -> NoReturn:
    """
    Wait for a person's response to the registered question, without a triggerer.

    :param method_name: method of the operator that Airflow calls with the response
    :raises TaskAwaitingInput: always; only where :func:`has_awaiting_input`
    """
    from airflow.sdk.exceptions import TaskAwaitingInput

    raise TaskAwaitingInput(method_name=method_name, timeout=timeout)


def backoff(factor: float) -> float | bool:
    """Return ``retry_exponential_backoff`` for a factor; Airflow 3.1 knows 1 and 2 alone, as a boolean."""
    return factor if _release() >= (3, 2) else factor > 1


def forbid_retry(error: Exception) -> None:
    """Make an error an ``AirflowFailException`` as well, after which Airflow never retries a task."""
    kind, fail = type(error), first_available(_NAMES["AirflowFailException"])
    error.__class__ = type(kind.__name__, (kind, fail), {"__module__": kind.__module__})


def add_connection_form(hook_class: type[Any], connection_type: Mapping[str, Any]) -> None:
    """
    Give a hook the form of its connection, where Airflow takes it from the hook: before 3.2.

    :param connection_type: of the provider's metadata, where later releases read it
    """
    if _release() >= (3, 2):
        return
    behavior = {
        name.replace("-", "_"): value for name, value in connection_type["ui-field-behaviour"].items()
    }
    hook_class.get_ui_field_behaviour = staticmethod(lambda: behavior)
    hook_class.get_connection_form_widgets = staticmethod(
        lambda: _form_fields(connection_type["conn-fields"])
    )


def _form_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a connection form as Airflow 3.1 takes them: as those of WTForms, or imitations of them."""
    from wtforms import IntegerField, PasswordField, StringField  # type: ignore[import-untyped]
    from wtforms.validators import any_of  # type: ignore[import-untyped]

    found = {}
    for name, field in fields.items():
        schema = field["schema"]
        kind = StringField
        if schema.get("format") == "password":
            kind = PasswordField
        elif schema["type"] == "integer":
            kind = IntegerField
        found[name] = kind(
            field["label"],
            validators=[any_of(schema["enum"])] if "enum" in schema else [],
            description=field.get("description", ""),
            default=schema.get("default"),
        )
    return found


def partial_of(operator_class: type[Any], arguments: dict[str, Any]) -> OperatorPartial:
    """
    Call the ``partial`` of Airflow's ``BaseOperator`` for a class that overrides it.

    Airflow's own is a descriptor, which ``super()`` does not reach. It rejects ``task_concurrency``, once its own
    argument, and presets ``execution_timeout``, which it then refuses in ``expand_kwargs``.
    """
    from airflow.sdk import BaseOperator

    own = {name: arguments.pop(name) for name in ("task_concurrency",) if name in arguments}
    partial: OperatorPartial = vars(BaseOperator)["partial"].__get__(None, operator_class)(**arguments)
    partial.kwargs.update(own)
    if partial.kwargs.get("execution_timeout") is None:
        partial.kwargs.pop("execution_timeout", None)
    return partial


class GivenResponse(NamedTuple):
    """
    A question that a person has responded to, and the response.

    :param approvers: IDs of the users who may respond
    :param max_tries: of the task that asks
    :param by: ID and name of the user; None after a timeout
    """

    subject: str
    body: str | None
    approvers: list[str]
    max_tries: int
    chosen_options: list[str]
    at: datetime
    by: Mapping[str, str] | None


def given_responses(dag_id: str, dag_run_id: str) -> list[GivenResponse]:
    """Return the responses to questions of a Dag run, from Airflow's metadata database; for the API server alone."""
    import sqlalchemy as sa
    from airflow.models.hitl import HITLDetail
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    query = (
        sa.select(HITLDetail, TaskInstance.max_tries)
        .join(TaskInstance, TaskInstance.id == HITLDetail.ti_id)
        .where(TaskInstance.dag_id == dag_id, TaskInstance.run_id == dag_run_id)
        .where(HITLDetail.responded_at.is_not(None))
    )
    with create_session() as session:
        return [
            GivenResponse(
                subject=detail.subject,
                body=detail.body,
                approvers=[user["id"] for user in detail.assigned_users],
                max_tries=max_tries,
                chosen_options=list(detail.chosen_options or ()),
                at=detail.responded_at,
                by=detail.responded_by_user,
            )
            for detail, max_tries in session.execute(query)
        ]


def dag_run_state(dag_id: str, dag_run_id: str) -> str | None:
    """Return the state of a Dag run, for tasks; ``deleted`` if there is none, None if Airflow does not say."""
    from airflow.sdk.exceptions import AirflowRuntimeError
    from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

    try:
        return str(RuntimeTaskInstance.get_dagrun_state(dag_id, dag_run_id))
    except AirflowRuntimeError as error:
        detail = error.error.detail or {}
        return DELETED if detail.get("status_code") == 404 else None
    except (AttributeError, ImportError, NameError):
        # Outside of a task.
        return None


class DagRunEnding(NamedTuple):
    """
    The state of a Dag run in Airflow.

    :param state: ``deleted`` if Airflow has no such run
    :param failed_tasks: IDs of its failed tasks
    """

    state: str
    failed_tasks: list[str]


def dag_run_endings(dag_runs: Collection[tuple[str, str]]) -> dict[tuple[str, str], DagRunEnding]:
    """Return the states of Dag runs, by Dag and run ID, from Airflow's metadata database; for the API server alone."""
    import sqlalchemy as sa
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session

    def one_of(table: Any) -> Any:
        return sa.or_(
            sa.false(), *(sa.and_(table.dag_id == dag, table.run_id == run) for dag, run in dag_runs)
        )

    failed: dict[tuple[str, str], list[str]] = {}
    tasks = sa.select(TaskInstance.dag_id, TaskInstance.run_id, TaskInstance.task_id).distinct()
    with create_session() as session:
        states = {
            (dag_id, run_id): str(getattr(state, "value", state))
            for dag_id, run_id, state in session.execute(
                sa.select(DagRun.dag_id, DagRun.run_id, DagRun.state).where(one_of(DagRun))
            )
        }
        for dag_id, run_id, task_id in session.execute(
            tasks.where(one_of(TaskInstance), TaskInstance.state == "failed")
        ):
            failed.setdefault((dag_id, run_id), []).append(task_id)
    return {each: DagRunEnding(states.get(each, DELETED), sorted(failed.get(each, []))) for each in dag_runs}


def register_question(operator: Any, task_instance_id: UUID) -> tuple[str, str | None, Sequence[str]]:
    """
    Register the question of a human-in-the-loop operator, as it does itself, and return what people are shown.

    Airflow 3.3 keeps the first question of a task when the task is cleared, and discards only the response to it.

    :param operator: a ``HITLOperator``
    :return: subject, body, and IDs of the users who may respond
    """
    from airflow.sdk.api.datamodels._generated import HITLUser
    from airflow.sdk.execution_time.comms import CreateHITLDetailPayload
    from airflow.sdk.execution_time.task_runner import SUPERVISOR_COMMS

    shown: Any = SUPERVISOR_COMMS.send(
        CreateHITLDetailPayload(
            ti_id=task_instance_id,
            options=operator.options,
            subject=operator.subject,
            body=operator.body,
            defaults=operator.defaults,
            multiple=operator.multiple,
            params={},
            assigned_users=[HITLUser(**user) for user in operator.assigned_users or ()],
        )
    )
    return shown.subject, shown.body, [user.id for user in shown.assigned_users or ()]


def first_available(paths: Sequence[str]) -> Any:
    """Return what the first path leads to that this release of Airflow has."""
    *earlier, last = paths
    for path in earlier:
        try:
            return resolve_name(path)
        except (AttributeError, ImportError):
            continue
    return resolve_name(last)


def _conf() -> Any:
    """Return Airflow's configuration, as tasks see it."""
    return first_available(("airflow.sdk.conf", "airflow.configuration.conf"))


def _stats() -> Any:
    """Return what counts metrics: a module with functions since Airflow 3.3, a class before."""
    module = first_available(("airflow.sdk.observability.stats", "airflow.stats"))
    return module if hasattr(module, "incr") else module.Stats


@cache
def _release() -> tuple[int, int]:
    """Return major and minor version of Airflow."""
    major, minor, *_ = metadata.version("apache-airflow-core").split(".")
    return int(major), int(minor)
