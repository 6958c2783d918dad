"""When Airflow tries a task again: by a retry policy, or in the operators themselves where Airflow has none."""

from __future__ import annotations

from datetime import timedelta
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

from zoho_crm.airflow_compat import forbid_retry, has_retry_policies
from zoho_crm.errors import (
    GuardError,
    RunStoppedError,
    ZohoAuthError,
    ZohoConfigError,
    ZohoTokenThrottledError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from airflow.sdk import BaseOperator

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
        except ZohoTokenThrottledError:
            raise
        except FINAL_ERRORS as error:
            if not has_retry_policies():
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
