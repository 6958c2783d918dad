"""
Every private or version-dependent API of Airflow that the package uses.

Written for Airflow 3.3. The names below are imported on first use, so that a task does not load the API server's
modules and the API server not those of a task.
"""

from __future__ import annotations

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from airflow.api_fastapi.app import get_auth_manager
    from airflow.api_fastapi.auth.managers.base_auth_manager import ResourceMethod
    from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity, DagDetails
    from airflow.api_fastapi.core_api.security import GetUserDep, requires_access_dag, requires_authenticated
    from airflow.models.dag import DagModel
    from airflow.sdk import (
        BaseAsyncOperator,
        ExceptionRetryPolicy,
        RetryAction,
        RetryRule,
    )
    from airflow.sdk.definitions.mappedoperator import OperatorPartial
    from airflow.sdk.exceptions import (
        AirflowException,
        AirflowFailException,
        AirflowNotFoundException,
        TaskAwaitingInput,
        TaskDeferred,
    )
    from airflow.sdk.observability import stats
    from airflow.timetables.base import DataInterval, TimeRestriction
    from airflow.timetables.interval import CronDataIntervalTimetable as CoreCronTimetable

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "BaseAsyncOperator",
    "CoreCronTimetable",
    "DagAccessEntity",
    "DagDetails",
    "DagModel",
    "DataInterval",
    "ExceptionRetryPolicy",
    "GetUserDep",
    "OperatorPartial",
    "ResourceMethod",
    "RetryAction",
    "RetryRule",
    "TaskAwaitingInput",
    "TaskDeferred",
    "TimeRestriction",
    "base_url",
    "dags_folder",
    "get_auth_manager",
    "max_map_length",
    "partial_of",
    "register_question",
    "requires_access_dag",
    "requires_authenticated",
    "stats",
]

_NAMES = {
    # Exceptions of the Task SDK; the last two are not part of its public names.
    "AirflowException": "airflow.sdk.exceptions.AirflowException",
    "AirflowFailException": "airflow.sdk.exceptions.AirflowFailException",
    "AirflowNotFoundException": "airflow.sdk.exceptions.AirflowNotFoundException",
    "TaskDeferred": "airflow.sdk.exceptions.TaskDeferred",
    "TaskAwaitingInput": "airflow.sdk.exceptions.TaskAwaitingInput",
    # New in Airflow 3.2 (async operators) and 3.3 (retry policies).
    "BaseAsyncOperator": "airflow.sdk.BaseAsyncOperator",
    "ExceptionRetryPolicy": "airflow.sdk.ExceptionRetryPolicy",
    "RetryAction": "airflow.sdk.RetryAction",
    "RetryRule": "airflow.sdk.RetryRule",
    "stats": "airflow.sdk.observability.stats",
    "OperatorPartial": "airflow.sdk.definitions.mappedoperator.OperatorPartial",
    # The scheduler's side of timetables, of which the Task SDK has the parameters alone.
    "CoreCronTimetable": "airflow.timetables.interval.CronDataIntervalTimetable",
    "DataInterval": "airflow.timetables.base.DataInterval",
    "TimeRestriction": "airflow.timetables.base.TimeRestriction",
    # API server: users and permissions of the plugin's pages.
    "DagAccessEntity": "airflow.api_fastapi.auth.managers.models.resource_details.DagAccessEntity",
    "DagDetails": "airflow.api_fastapi.auth.managers.models.resource_details.DagDetails",
    "DagModel": "airflow.models.dag.DagModel",
    "GetUserDep": "airflow.api_fastapi.core_api.security.GetUserDep",
    "ResourceMethod": "airflow.api_fastapi.auth.managers.base_auth_manager.ResourceMethod",
    "get_auth_manager": "airflow.api_fastapi.app.get_auth_manager",
    "requires_access_dag": "airflow.api_fastapi.core_api.security.requires_access_dag",
    "requires_authenticated": "airflow.api_fastapi.core_api.security.requires_authenticated",
}


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return resolve_name(_NAMES[name])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def base_url() -> str | None:
    """Return the URL of Airflow's UI, if it is configured."""
    from airflow.sdk import conf

    url = conf.get("api", "base_url", fallback=None)
    return str(url) if url else None


def dags_folder() -> str:
    """Return the configured folder of the Dag files."""
    from airflow.sdk import conf

    return str(conf.get("core", "dags_folder"))


def max_map_length() -> int:
    """Return how many mapped tasks Airflow allows for one task."""
    from airflow.sdk import conf

    return int(conf.getint("core", "max_map_length"))


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
