"""Asking a person: who is asked what, what the answer does, and what stands on the run row."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pkgutil import resolve_name
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from airflow.providers.standard.triggers import hitl
from airflow.sdk import DAG, BaseOperator
from airflow.sdk.execution_time import task_runner
from airflow.sdk.execution_time.comms import CreateHITLDetailPayload

from tests.support.databases import AUDIT
from tests.support.local_zoho import link_all, linked
from tests.support.operators import context, delink, jobs_folder, make_job, pairs
from tests.support.releases import WaitsForResponse
from zoho_crm.airflow_compat import TaskDeferred, has_awaiting_input
from zoho_crm.errors import GuardError, PlanError, RunStoppedError
from zoho_crm.operators.guard import ApproveOperator, GuardOperator
from zoho_crm.operators.plan_links import PlanLinksOperator
from zoho_crm.triggers import LateResponseTrigger

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.databases import Audit, Warehouse
    from zoho_crm.testing.local_zoho import LocalZoho

ANSWERED = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
REQUESTER = "bob"
TASK_INSTANCE_ID = "018f0000-0000-7000-8000-000000000000"
ASKING = {"max_links": 5, "on_breach": "approve", "approvers": ["ada", "7"], "approval_timeout": "36h"}


# What the ledger does with an approval is tested on every database beside it.
pytestmark = [
    pytest.mark.parametrize("audit", ["sqlite"], indirect=True),
    # Airflow 3.1 itself, when a task reads a connection.
    pytest.mark.filterwarnings("ignore:Using Connection.from_json:DeprecationWarning"),
]


class Comms:
    """What the task says to Airflow."""

    def __init__(self) -> None:
        self.sent: list[Any] = []

    def send(self, msg: Any) -> Any:
        """Keep the first question, as Airflow does, and return it."""
        # Reading a connection makes Airflow speak of its secrets as well.
        if isinstance(msg, CreateHITLDetailPayload):
            self.sent.append(msg)
            return self.sent[0]
        return None


@pytest.fixture
def comms(monkeypatch: pytest.MonkeyPatch) -> Comms:
    comms = Comms()
    monkeypatch.setattr(task_runner, "SUPERVISOR_COMMS", comms, raising=False)
    return comms


@pytest.fixture
def asked(audit: Audit, warehouse: Warehouse, sql_path: Path) -> dict[str, Any]:
    """What guard leaves for a run of ten links of which five are allowed."""
    audit.ledger()
    warehouse.add(pairs(10))
    job, params = make_job(guards=ASKING), {"mode": "apply"}
    folder = jobs_folder(sql_path)
    PlanLinksOperator(task_id="plan", job=job, jobs_folder=folder).execute(
        context("plan", params=params, requester=REQUESTER)
    )
    found = GuardOperator(task_id="guard", job=job, jobs_folder=folder).execute(
        context("guard", params=params, requester=REQUESTER)
    )
    # As the task approve, once people are shown the question.
    audit.ledger().runs.ask_approval(audit.run()["run_key"], "an earlier digest")
    return dict(found)


@pytest.mark.parametrize(
    ("guards", "is_guard_run", "reason"),
    [
        pytest.param(ASKING, False, "its guard has not decided", id="guard marked"),
        pytest.param({"approvals": "always"}, False, "its guard has not decided", id="always, guard marked"),
        pytest.param({"approvals": "always"}, True, "the run waits for an approval", id="always"),
        pytest.param(ASKING, True, "the run waits for an approval", id="breach that asks"),
        pytest.param(
            {"max_links": 5, "on_breach": "stop"}, True, "the run exceeds a limit of its guards", id="stop"
        ),
    ],
)
def test_plan_is_not_sent_if_guard_or_approve_are_marked_as_success(
    zoho: LocalZoho,
    audit: Audit,
    warehouse: Warehouse,
    sql_path: Path,
    guards: dict[str, Any],
    is_guard_run: bool,
    reason: str,
) -> None:
    audit.ledger()
    link_all(zoho, pairs(10))
    warehouse.add(pairs(10))
    known = {"org_id": "700000001", "data_center": "us", "api_version": "v7"}
    arguments: dict[str, Any] = {"job": make_job(guards=guards), "jobs_folder": jobs_folder(sql_path)}
    params = {"mode": "apply"}
    (chunk,) = PlanLinksOperator(task_id="plan", **arguments).execute(
        context("plan", params=params, preflight=known)
    )
    if is_guard_run:
        with suppress(GuardError):
            GuardOperator(task_id="guard", **arguments).execute(context("guard", params=params))
    with pytest.raises(RunStoppedError, match=reason):
        delink(chunk=chunk, audit_conn_id=AUDIT).execute(context())
    assert linked(zoho) == set(pairs(10))
    assert {row["state"] for row in audit.links()} == {"planned"}


def task(sql_path: Path) -> ApproveOperator:
    with DAG("zoho_delink__contacts_deals", schedule=None):
        made = ApproveOperator(
            task_id="approve", job=make_job(guards=ASKING), jobs_folder=jobs_folder(sql_path)
        )
        made >> BaseOperator(task_id="delink") >> BaseOperator(task_id="report")
    return made


def ask(sql_path: Path, guard: dict[str, Any] | None, max_tries: int = 1) -> Any:
    made = context("approve", guard=guard, max_tries=max_tries, requester=REQUESTER)
    made["task_instance"] = made["ti"]
    made["ti"].id = TASK_INSTANCE_ID
    return task(sql_path).execute(made)


def wait(sql_path: Path, guard: dict[str, Any] | None, max_tries: int = 1) -> None:
    with pytest.raises(WaitsForResponse):
        ask(sql_path, guard, max_tries)


def answer(
    sql_path: Path,
    option: str,
    *,
    requester: str | None = REQUESTER,
    guard: dict[str, Any] | None = None,
    **changes: Any,
) -> tuple[Any, list[Any]]:
    """Resume the task as Airflow does after a response; return its result and what it skipped."""
    approve = task(sql_path)
    made = context("approve", guard=guard, requester=requester)
    made["ti"].id = TASK_INSTANCE_ID
    pushed: list[Any] = []
    made["ti"].xcom_push = lambda key, value: pushed.append(value)
    made["task"] = approve
    event = {
        "chosen_options": [option],
        "params_input": {},
        "responded_at": ANSWERED,
        "responded_by_user": {"id": "ada", "name": "ada"},
        "timedout": False,
        **changes,
    }
    return approve.execute_complete(made, event), pushed


def test_without_a_question_it_succeeds_at_once(audit: Audit, sql_path: Path, comms: Comms) -> None:
    nothing = {"decision": "passed: 1 link planned, 5 allowed", "ask": False, "subject": None, "body": None}
    assert ask(sql_path, nothing) is None
    assert comms.sent == []


def test_a_guard_that_was_marked_as_done_is_no_decision(audit: Audit, sql_path: Path) -> None:
    with pytest.raises(PlanError, match="guard has no result"):
        ask(sql_path, None)


def test_the_job_says_who_is_asked_and_how_long_and_no_answer_means_no(
    audit: Audit, sql_path: Path, asked: dict[str, Any], comms: Comms
) -> None:
    with pytest.raises(WaitsForResponse) as waits:
        ask(sql_path, asked)
    if has_awaiting_input():
        assert waits.value.timeout == timedelta(hours=36)
    else:
        assert isinstance(waits.value.trigger, LateResponseTrigger)
        left = waits.value.trigger.timeout_datetime - datetime.now(UTC)
        assert timedelta(hours=35) < left <= timedelta(hours=36)
    request = comms.sent[0]
    assert (request.subject, request.body) == (asked["subject"], asked["body"])
    assert (request.options, request.defaults) == (["Approve", "Reject"], ["Reject"])
    assert [user.id for user in request.assigned_users] == ["ada", "7"]
    assert audit.run()["approval"] == "asked"


def test_a_question_is_not_read_as_a_template(
    audit: Audit, sql_path: Path, asked: dict[str, Any], comms: Comms
) -> None:
    hostile = {**asked, "body": "{{ conn.zoho_crm_default.password }} {% raw %}"}
    with pytest.raises(WaitsForResponse):
        ask(sql_path, hostile)
    assert comms.sent[0].body == hostile["body"]


@pytest.mark.parametrize(
    ("user", "by"),
    [
        ({"id": "ada", "name": "ada"}, "ada"),
        ({"id": "7", "name": "Ada Lovelace"}, "Ada Lovelace (7)"),
    ],
)
def test_a_yes_stands_on_the_run_row_and_lets_it_go_on(
    audit: Audit, sql_path: Path, asked: dict[str, Any], user: Any, by: str
) -> None:
    result, skipped = answer(sql_path, "Approve", responded_by_user=user)
    assert result == {"approval": "approved", "by": by, "at": "2026-11-22T09:30:00+00:00"}
    assert skipped == []
    run = audit.ledger().runs.get(audit.run()["run_key"])
    assert run is not None
    assert (run.approval, run.approved_by, run.approved_at) == ("approved", by, ANSWERED)
    assert audit.ledger().runs.stop_reason(run.run_key) is None


@pytest.fixture
def skips(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The tasks that Airflow is asked to skip."""
    reported: list[str] = []
    monkeypatch.setattr(
        ApproveOperator, "skip", lambda self, ti, tasks: reported.extend(one.task_id for one in tasks)
    )
    return reported


def test_a_no_skips_what_would_send_and_stands_on_the_run_row(
    audit: Audit, sql_path: Path, asked: dict[str, Any], skips: list[str]
) -> None:
    result, _ = answer(sql_path, "Reject")
    assert (result["approval"], result["by"]) == ("rejected", "ada")
    assert skips == ["delink"]
    run = audit.run()
    assert (run["approval"], run["approved_by"]) == ("rejected", "ada")
    assert audit.ledger().runs.stop_reason(run["run_key"]) == "the run was rejected"


def test_no_response_in_time_is_a_rejection_without_an_approver(
    audit: Audit, sql_path: Path, asked: dict[str, Any], skips: list[str]
) -> None:
    answer(sql_path, "Reject", responded_by_user=None, timedout=True)
    run = audit.run()
    assert (run["approval"], run["approved_by"]) == ("rejected: no response within 1 day 12 hours", None)
    assert run["approved_at"] is not None
    assert skips == ["delink"]


def test_a_clear_asks_again_and_takes_the_answer_back(
    audit: Audit, sql_path: Path, asked: dict[str, Any], comms: Comms
) -> None:
    answer(sql_path, "Approve")
    wait(sql_path, asked, max_tries=2)
    run = audit.run()
    assert (run["approval"], run["approved_by"], run["approved_at"]) == ("asked", None, None)
    assert "waits for an approval" in str(audit.ledger().runs.stop_reason(run["run_key"]))


def test_a_retry_keeps_the_question_and_a_clear_asks_again(
    audit: Audit, sql_path: Path, asked: dict[str, Any], comms: Comms
) -> None:
    """Airflow discards a stored response when a question is registered, and resumes a task with it otherwise."""
    wait(sql_path, asked)
    with pytest.raises(TaskDeferred):
        ask(sql_path, asked)
    answer(sql_path, "Approve")
    # The response is on the run row, and its task was lost before it ended.
    with pytest.raises(TaskDeferred) as waits:
        ask(sql_path, asked)
    assert waits.value.method_name == "execute_complete"
    assert len(comms.sent) == 1
    assert audit.run()["approval"] == "approved"
    wait(sql_path, asked, max_tries=21)
    assert len(comms.sent) == 2
    assert audit.run()["approval"] == "asked"


def test_a_retry_looks_for_a_stored_response_after_a_pause(
    audit: Audit, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = SimpleNamespace(id="ada", name="ada")
    stored = SimpleNamespace(
        response_received=True,
        chosen_options=["Approve"],
        params_input={},
        responded_at=ANSWERED,
        responded_by_user=user,
    )
    monkeypatch.setattr(hitl, "get_hitl_detail_content_detail", lambda ti_id: stored)
    path, arguments = LateResponseTrigger(
        ti_id=UUID(int=1),
        options=["Approve", "Reject"],
        params={},
        defaults=["Reject"],
        timeout_datetime=datetime.now(UTC) + timedelta(hours=1),
        pause_s=0.2,
        poke_interval=60,
    ).serialize()
    trigger = resolve_name(path)(**arguments)

    async def events() -> list[Any]:
        return [event async for event in trigger.run()]

    before = time.monotonic()
    (event,) = asyncio.run(events())
    assert time.monotonic() - before >= 0.2
    assert (event.payload["chosen_options"], event.payload["responded_by_user"]["id"]) == (["Approve"], "ada")


def test_a_new_decision_of_the_guards_asks_again(
    audit: Audit, sql_path: Path, asked: dict[str, Any], comms: Comms
) -> None:
    wait(sql_path, asked)
    audit.ledger().runs.record_guard(audit.run()["run_key"], asked["decision"])
    wait(sql_path, asked)
    assert len(comms.sent) == 2


@pytest.mark.parametrize(
    ("guards", "reason"),
    [
        pytest.param(ASKING, "the run waits for an approval", id="asks again"),
        pytest.param(
            {"max_links": 5, "on_breach": "stop"}, "the run exceeds a limit of its guards", id="stops"
        ),
    ],
)
@pytest.mark.parametrize("option", ["Approve", "Reject"])
def test_response_to_a_question_that_guard_has_withdrawn_does_not_count(
    audit: Audit,
    sql_path: Path,
    asked: dict[str, Any],
    comms: Comms,
    guards: dict[str, Any],
    reason: str,
    option: str,
) -> None:
    wait(sql_path, asked)
    job, folder = make_job(guards=guards), jobs_folder(sql_path)
    with suppress(GuardError):
        GuardOperator(task_id="guard", job=job, jobs_folder=folder).execute(
            context("guard", params={"mode": "apply"}, requester=REQUESTER)
        )
    with pytest.raises(PlanError, match="guard has decided again since this question was asked"):
        answer(sql_path, option)
    run = audit.run()
    assert (run["approved_by"], run["approved_at"]) == (None, None)
    assert str(audit.ledger().runs.stop_reason(run["run_key"])).startswith(reason)


@pytest.mark.parametrize(
    "changed", [{"body": "other figures"}, {"subject": "Remove 9 links of contacts_deals?"}]
)
def test_a_first_question_that_is_no_longer_true_is_not_asked_again(
    audit: Audit, sql_path: Path, asked: dict[str, Any], comms: Comms, changed: dict[str, str]
) -> None:
    wait(sql_path, asked)
    with pytest.raises(PlanError, match="first question of this run, and it is no longer true"):
        ask(sql_path, {**asked, **changed})
    assert audit.ledger().runs.stop_reason(audit.run()["run_key"]) is not None


def test_people_who_may_no_longer_decide_are_not_asked_again(
    audit: Audit, sql_path: Path, asked: dict[str, Any], comms: Comms, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait(sql_path, asked)
    monkeypatch.setitem(ASKING, "approvers", ["ada"])
    with pytest.raises(PlanError, match="approvers"):
        ask(sql_path, asked)


@pytest.mark.parametrize("options", [[], ["Approve", "Reject"], ["approve"]])
def test_whatever_is_not_a_plain_yes_is_a_no(
    audit: Audit, sql_path: Path, asked: dict[str, Any], skips: list[str], options: list[str]
) -> None:
    result, _ = answer(sql_path, "", chosen_options=options)
    assert result["approval"] == audit.run()["approval"] == "rejected"
    assert skips == ["delink"]


SELF = "this user requested the run, and guards.forbid_self_approval is set"


@pytest.mark.parametrize(
    ("user", "requester", "note"),
    [
        pytest.param(
            {"id": "ada", "name": "ada"},
            "ada",
            f"The approval by ada does not count: {SELF}",
            id="same name",
        ),
        pytest.param(
            {"id": "7", "name": "Ada Lovelace"},
            "Ada Lovelace",
            f"The approval by Ada Lovelace (7) does not count: {SELF}",
            id="ID is a number",
        ),
        pytest.param(
            {"id": "ada", "name": "Ada Lovelace"},
            "ada",
            f"The approval by Ada Lovelace (ada) does not count: {SELF}",
            id="ID is the user name",
        ),
        pytest.param(
            {"id": "eve", "name": "eve"},
            "bob",
            "The approval by eve does not count: guards.approvers does not list this user",
            id="not an approver",
        ),
        pytest.param(
            None,
            "bob",
            "The approval by no user does not count: Airflow names no user for it",
            id="no user",
        ),
    ],
)
def test_approval_that_does_not_count_is_discarded_and_asked_for_again(
    audit: Audit,
    sql_path: Path,
    asked: dict[str, Any],
    comms: Comms,
    user: Any,
    requester: str,
    note: str,
) -> None:
    wait(sql_path, asked)
    until = audit.ledger().runs.existing(audit.run()["run_key"]).approval_until
    with pytest.raises(WaitsForResponse) as waits:
        answer(sql_path, "Approve", guard=asked, requester=requester, responded_by_user=user)
    # Airflow discards the response when the question is registered again.
    assert [request.body for request in comms.sent] == [asked["body"], asked["body"]]
    run = audit.ledger().runs.existing(audit.run()["run_key"])
    assert (run.approval, run.approved_by, run.approved_at) == ("asked", None, None)
    assert (run.approval_note, run.approval_until) == (note, until)
    assert audit.ledger().runs.stop_reason(run.run_key) == "the run waits for an approval"
    if has_awaiting_input():
        assert timedelta(hours=35) < waits.value.timeout < timedelta(hours=36)
    else:
        assert waits.value.trigger.timeout_datetime == until

    other = {"id": "7", "name": "Grace Hopper"}
    result, skipped = answer(sql_path, "Approve", requester=requester, responded_by_user=other)
    assert (result["approval"], result["by"], skipped) == ("approved", "Grace Hopper (7)", [])
    assert audit.ledger().runs.stop_reason(run.run_key) is None


def test_lost_task_finds_the_refused_approval_again(
    audit: Audit, sql_path: Path, asked: dict[str, Any], comms: Comms
) -> None:
    """The task may be lost between the note on the run row and the discarding of the response."""
    wait(sql_path, asked)
    audit.ledger().runs.refuse_approval(audit.run()["run_key"], "The approval by bob does not count")
    with pytest.raises(TaskDeferred):
        ask(sql_path, asked)
    assert len(comms.sent) == 1
    assert (audit.run()["approval"], audit.run()["approval_note"]) == (
        "asked",
        "The approval by bob does not count",
    )


def test_refused_approval_after_the_time_to_respond_rejects_the_run(
    audit: Audit, sql_path: Path, asked: dict[str, Any], comms: Comms, skips: list[str]
) -> None:
    wait(sql_path, asked)
    key = audit.run()["run_key"]
    question = audit.run()["question"]
    audit.ledger().runs.ask_approval(key, question, until=datetime.now(UTC) - timedelta(seconds=1))
    result, _ = answer(sql_path, "Approve", guard=asked, requester="ada")
    assert (result["approval"], result["by"]) == ("rejected: no response within 1 day 12 hours", None)
    assert len(comms.sent) == 1
    assert skips == ["delink"]


def test_requester_may_reject_the_own_run(
    audit: Audit, sql_path: Path, asked: dict[str, Any], skips: list[str]
) -> None:
    result, _ = answer(sql_path, "Reject", requester="ada")
    assert (result["approval"], result["by"]) == ("rejected", "ada")


@pytest.mark.parametrize(
    ("requester", "guards"),
    [
        pytest.param("ada", {"forbid_self_approval": False}, id="allowed by the job"),
        pytest.param(None, {}, id="requester unknown"),
    ],
)
def test_own_approval_counts_if_the_job_allows_it_or_airflow_names_no_requester(
    audit: Audit,
    sql_path: Path,
    asked: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    requester: str | None,
    guards: dict[str, Any],
) -> None:
    for name, value in guards.items():
        monkeypatch.setitem(ASKING, name, value)
    result, _ = answer(sql_path, "Approve", requester=requester)
    assert (result["approval"], result["by"]) == ("approved", "ada")


def test_question_of_a_clear_has_no_note_of_an_earlier_approval(
    audit: Audit, sql_path: Path, asked: dict[str, Any], comms: Comms
) -> None:
    wait(sql_path, asked)
    audit.ledger().runs.refuse_approval(audit.run()["run_key"], "The approval by bob does not count")
    wait(sql_path, asked, max_tries=2)
    assert audit.run()["approval_note"] is None
