"""What ends a task without a retry, and what waits, also in a release of Airflow without retry policies."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.operators import context, jobs_folder, make_job
from zoho_crm.airflow_compat import AirflowFailException, TaskDeferred, has_retry_policies
from zoho_crm.errors import (
    ClaimLostError,
    GuardError,
    PlanError,
    RunStoppedError,
    UnfinishedLinksError,
    ZohoAuthError,
    ZohoConfigError,
    ZohoError,
    ZohoResponseError,
    ZohoTokenThrottledError,
)
from zoho_crm.operators import job_operator, preflight
from zoho_crm.operators.audit_tasks import RetentionOperator
from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator
from zoho_crm.operators.guard import ApproveOperator, GuardOperator
from zoho_crm.operators.plan_links import PlanLinksOperator
from zoho_crm.operators.preflight import PreflightOperator
from zoho_crm.operators.relink import RelinkByExternalIdOperator
from zoho_crm.operators.report import ReportOperator
from zoho_crm.operators.reprocess_plan import PlanRelinkOperator, PlanRetryOperator

if TYPE_CHECKING:
    from pathlib import Path

OPERATORS = [
    ApproveOperator,
    DeleteRelatedByExternalIdOperator,
    GuardOperator,
    PlanLinksOperator,
    PlanRelinkOperator,
    PlanRetryOperator,
    RelinkByExternalIdOperator,
    ReportOperator,
    RetentionOperator,
]
"""All but preflight, whose errors are final in every release."""

FINAL = [
    GuardError("too many links"),
    RunStoppedError("Zoho refuses every link"),
    ZohoAuthError("invalid_client", http_status=400),
    ZohoConfigError("schedule: not valid"),
    PlanError("The run has no plan"),
]

RETRIED = [
    ClaimLostError("a newer try works on this chunk"),
    UnfinishedLinksError("1 failed"),
    ZohoResponseError("no response"),
    ZohoTokenThrottledError("later", retry_after_s=600),
]


@pytest.fixture
def without_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the operators find an Airflow before 3.3."""
    for module in (job_operator, preflight):
        monkeypatch.setattr(module, "has_retry_policies", lambda: False)


def raised_by(error: ZohoError) -> ZohoError:
    @job_operator.final_errors
    def execute(self: Any, context: Any) -> None:
        raise error

    context: dict[str, Any] = {}
    with pytest.raises(type(error)) as caught:
        execute(None, context=context)
    assert context == {"exception": error}
    return caught.value


def copy_of(error: ZohoError) -> Any:
    made = type(error).__new__(type(error), *error.args)
    made.__dict__.update(error.__dict__)
    return made


@pytest.mark.usefixtures("without_policies")
@pytest.mark.parametrize("error", FINAL, ids=lambda error: type(error).__name__)
def test_a_final_error_ends_the_task_without_retry_policies(error: ZohoError) -> None:
    raised = raised_by(copy_of(error))
    assert isinstance(raised, AirflowFailException)
    assert (type(raised).__name__, str(raised)) == (type(error).__name__, str(error))
    assert vars(raised) == vars(error)


@pytest.mark.usefixtures("without_policies")
@pytest.mark.parametrize("error", RETRIED, ids=lambda error: type(error).__name__)
def test_other_errors_are_retried_without_retry_policies(error: ZohoError) -> None:
    assert not isinstance(raised_by(copy_of(error)), AirflowFailException)


@pytest.mark.skipif(not has_retry_policies(), reason="Airflow has retry policies since 3.3")
@pytest.mark.parametrize("error", FINAL + RETRIED, ids=lambda error: type(error).__name__)
def test_the_retry_policy_decides_alike(error: ZohoError) -> None:
    decision = job_operator.retry_arguments()["retry_policy"].evaluate(error, 1, 3)
    assert (decision.action.value == "fail") is (error in FINAL)
    assert not isinstance(raised_by(copy_of(error)), AirflowFailException)


@pytest.mark.usefixtures("without_policies")
def test_tasks_get_no_policy_where_airflow_has_none() -> None:
    assert job_operator.retry_arguments() == {}


@pytest.mark.usefixtures("without_policies")
@pytest.mark.parametrize("operator", OPERATORS)
def test_every_operator_ends_after_a_final_error(
    operator: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever an operator looks at first, of itself or of its context, raises a final error."""

    class NoContext(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            raise PlanError("no such run")

    def no_attribute(self: Any, name: str) -> Any:
        raise PlanError("no such run")

    monkeypatch.setattr(operator, "__getattr__", no_attribute, raising=False)
    with pytest.raises(AirflowFailException, match="no such run"):
        operator.execute.__wrapped__(operator.__new__(operator), NoContext())


@pytest.mark.usefixtures("without_policies")
def test_preflight_waits_for_an_access_token_outside_of_a_worker(
    sql_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = PreflightOperator(task_id="preflight", job=make_job(), jobs_folder=jobs_folder(sql_path))

    def throttled(self: Any, context: Any) -> None:
        raise ZohoTokenThrottledError("no access tokens for now", retry_after_s=600)

    monkeypatch.setattr(PreflightOperator, "_check", throttled)
    with pytest.raises(TaskDeferred) as waits:
        task.execute(context("preflight"))
    assert (waits.value.method_name, waits.value.trigger.moment > datetime.now(UTC)) == (
        "execute_after_wait",
        True,
    )
    kwargs = waits.value.kwargs
    assert kwargs is not None
    with pytest.raises(TaskDeferred) as again:
        task.execute_after_wait(context("preflight"), **kwargs)
    assert again.value.kwargs == kwargs
    long_ago = datetime.now(UTC) - timedelta(hours=24)
    with pytest.raises(ZohoTokenThrottledError, match="no access tokens"):
        task.execute_after_wait(context("preflight"), waiting_since=long_ago.isoformat())
