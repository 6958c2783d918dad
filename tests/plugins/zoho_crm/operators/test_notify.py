"""Telling people: what of, how often, and by real notifiers to real servers."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any

import pytest
from aiosmtpd.controller import Controller
from airflow.sdk import BaseNotifier

from tests.support.databases import Audit, Warehouse, set_connection
from tests.support.ledger import take
from tests.support.operators import context, jobs_folder, make_job, pairs
from zoho_crm.airflow_compat import AirflowFailException
from zoho_crm.core.models import LinkResult, Target
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import GuardError, ZohoConfigError
from zoho_crm.operators import notify
from zoho_crm.operators.guard import GuardOperator
from zoho_crm.operators.job_operator import origin_of
from zoho_crm.operators.plan_links import PlanLinksOperator
from zoho_crm.operators.report import ReportOperator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.integration,
    # Who wins a change of state is tested on every database beside the ledger.
    pytest.mark.parametrize("audit", ["sqlite"], indirect=True),
    # Apprise reads pictures with it.
    pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning"),
]

SECRET = "hunter2-in-the-path"
APPRISE = "airflow.providers.apprise.notifications.apprise.AppriseNotifier"
SMTP = "airflow.providers.smtp.notifications.smtp.SmtpNotifier"
HERE = "tests.plugins.zoho_crm.operators.test_notify"
BY_APPRISE = {
    "notifier": APPRISE,
    "args": {"title": "{{ zoho.job }}: {{ zoho.event }}", "body": "{{ zoho.text }} {{ zoho.link }}"},
}


class Breaks(BaseNotifier):
    def notify(self, context: Any) -> None:
        raise RuntimeError(f"no route to https://example/{SECRET}")


class Hangs(BaseNotifier):
    ends = threading.Event()

    def notify(self, context: Any) -> None:
        self.ends.wait(60)


class Keeps(BaseNotifier):
    kept: list[dict[str, Any]] = []  # noqa: RUF012 - emptied by each test that looks at it

    def notify(self, context: Any) -> None:
        self.kept.append(context["zoho"])


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What a real HTTP server gets from Apprise."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    url = f"json://127.0.0.1:{server.server_port}/{SECRET}"
    set_connection(
        monkeypatch, "apprise_default", conn_type="apprise", extra={"config": {"path": url, "tag": "all"}}
    )
    yield got
    server.shutdown()
    thread.join()
    server.server_close()


class Run:
    """Runs of one job, as notifications see them."""

    def __init__(self, audit: Audit, sql_path: Path, **job: Any) -> None:
        self.audit, self.folder = audit, jobs_folder(sql_path)
        self.job = make_job(**{"notify": [BY_APPRISE], **job})
        self.count = 0

    def plan(self, mode: str = "apply") -> str:
        self.count += 1
        run_id = f"manual__{self.count}"
        PlanLinksOperator(task_id="plan", job=self.job, jobs_folder=self.folder).execute(
            context("plan", run_id=run_id, params={"mode": mode})
        )
        return run_id

    def guard(self, run_id: str) -> None:
        GuardOperator(task_id="guard", job=self.job, jobs_folder=self.folder).execute(
            context("guard", run_id=run_id)
        )

    def end(self, run_id: str, *outcomes: str) -> None:
        """Give the first links outcomes and report the run, whatever comes of it."""
        ledger = self.audit.ledger()
        (key,) = [row["run_key"] for row in self.audit.runs() if row["dag_run_id"] == run_id]
        run = ledger.runs.get(key)
        assert run is not None
        if outcomes:
            claim = ledger.claims.claim(key, 0, "test")
            taken = take(ledger, claim, len(outcomes), in_flight=not run.dry_run)
            results = [
                LinkResult(link, Outcome(outcome), run.started_at)
                for link, outcome in zip(taken, outcomes, strict=True)
            ]
            target = Target(run.relation, "us", "v7", dry_run=run.dry_run)
            origin = origin_of(context(run_id=run_id))
            ledger.claims.settle(
                claim, results, origin=origin, target=target, job=run.job, in_flight=not run.dry_run
            )
        self.report(run_id)

    def report(self, run_id: str, **changes: Any) -> BaseException | None:
        try:
            ReportOperator(task_id="report", job=self.job, jobs_folder=self.folder).execute(
                context("report", run_id=run_id, **changes)
            )
        except Exception as error:
            return error
        return None

    def go(self, *outcomes: str, mode: str = "apply") -> None:
        self.end(self.plan(mode), *outcomes)

    def state(self) -> str | None:
        rows = self.audit.rows("zoho_delink_job", "job")
        return rows[0]["state"] if rows else None


@pytest.fixture(autouse=True)
def two_links(audit: Audit, warehouse: Warehouse) -> None:
    audit.ledger()
    warehouse.add(pairs(2))


def titles(inbox: list[dict[str, Any]]) -> list[str]:
    return [message["title"] for message in inbox]


def test_only_changes_are_notified(audit: Audit, sql_path: Path, inbox: list[Any]) -> None:
    run = Run(audit, sql_path)
    run.go("removed", "removed")
    assert inbox == []
    run.go("removed", "failed")
    run.go("removed", "failed")
    assert titles(inbox) == ["contacts_deals: failed"]
    assert inbox[0]["message"] == (
        "contacts_deals: the run ended as failed: 1 removed, 1 failed (1 failed) "
        "/dags/zoho_delink__contacts_deals/runs/manual__2"
    )
    run.go("removed", "already_absent")
    run.go("removed", "removed")
    assert titles(inbox)[1:] == ["contacts_deals: recovered"]
    run.go("removed")
    run.go("removed", "unknown")
    assert titles(inbox)[2:] == ["contacts_deals: stopped", "contacts_deals: failed"]
    assert run.state() == "failed"


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_anchor_that_cannot_be_written_is_notified_and_the_run_is_closed(
    audit: Audit, sql_path: Path, inbox: list[Any], tmp_path: Path
) -> None:
    place = tmp_path / "anchors"
    place.write_text("a file where the folder belongs")
    run = Run(audit, sql_path, audit_anchor=f"file://{place}")
    run.go("removed", "removed")
    assert [row["status"] for row in audit.runs()] == ["succeeded"]
    assert titles(inbox) == ["contacts_deals: failed"]
    assert "Its seal is not anchored: file://" in inbox[0]["message"]

    place.unlink()
    run.go("removed", "removed")
    assert titles(inbox)[1:] == ["contacts_deals: recovered"]
    assert len(list(place.iterdir())) == 2


def test_a_repeated_report_notifies_of_nothing(audit: Audit, sql_path: Path, inbox: list[Any]) -> None:
    run = Run(audit, sql_path)
    run.go("removed", "failed")
    assert isinstance(run.report("manual__1"), AirflowFailException)
    assert titles(inbox) == ["contacts_deals: failed"]


def test_dry_runs_notify_no_one_and_change_no_state(audit: Audit, sql_path: Path, inbox: list[Any]) -> None:
    run = Run(audit, sql_path, guards={"max_links": 1, "on_breach": "approve"})
    run.go("failed", mode="dry_run")
    run_id = run.plan("dry_run")
    run.guard(run_id)
    run.end(run_id)
    assert (inbox, run.state()) == ([], None)


def test_a_run_that_its_guards_stop_is_notified_once(audit: Audit, sql_path: Path, inbox: list[Any]) -> None:
    run = Run(audit, sql_path, guards={"max_links": 1})
    for _ in range(2):
        run_id = run.plan()
        with pytest.raises(GuardError):
            run.guard(run_id)
        run.end(run_id)
    assert titles(inbox) == ["contacts_deals: breach"]
    assert "was stopped before the first link: breached: 2 links planned, 1 allowed" in inbox[0]["message"]


def test_a_question_is_reported_at_once_and_then_what_came_of_it(
    audit: Audit, sql_path: Path, inbox: list[Any]
) -> None:
    run = Run(audit, sql_path, guards={"max_links": 1, "on_breach": "approve"})
    approved = run.plan()
    run.guard(approved)
    run.guard(approved)
    assert titles(inbox) == ["contacts_deals: breach"]
    assert "contacts_deals asks for approval until 20" in inbox[0]["message"]
    assert " UTC: 2 links planned, 1 allowed" in inbox[0]["message"]
    ledger = audit.ledger()
    now = audit.runs()[0]["run_key"]
    stored = ledger.runs.get(now)
    assert stored is not None
    ledger.runs.record_approval(now, approval="approved", approved_by="ada", approved_at=stored.started_at)
    run.end(approved, "removed", "removed")
    assert titles(inbox)[1:] == ["contacts_deals: recovered"]
    rejected = run.plan()
    run.guard(rejected)
    (key,) = [row["run_key"] for row in audit.runs() if row["dag_run_id"] == rejected]
    ledger.runs.record_approval(key, approval="rejected", approved_by="ada", approved_at=stored.started_at)
    run.end(rejected)
    assert titles(inbox)[2:] == ["contacts_deals: breach", "contacts_deals: rejected"]
    assert "the run was rejected; 2 not_attempted, by ada" in inbox[-1]["message"]


@pytest.mark.parametrize(
    ("run_type", "automatic", "params", "reported"),
    [
        ("scheduled", "apply", {}, ["contacts_deals: failed"]),
        ("scheduled", "dry_run", {}, []),
        ("manual", "apply", {"mode": "apply"}, ["contacts_deals: failed"]),
        ("manual", "apply", {}, []),
        ("manual", "apply", {"window_start": "nonsense", "mode": "apply"}, []),
        ("scheduled", "apply", {"window_start": "nonsense"}, ["contacts_deals: failed"]),
        ("scheduled", "dry_run", {"window_start": "nonsense"}, []),
    ],
)
def test_a_run_that_never_had_a_plan_is_notified_unless_it_was_a_dry_run(
    audit: Audit,
    sql_path: Path,
    inbox: list[Any],
    run_type: str,
    automatic: str,
    params: dict[str, Any],
    reported: list[str],
) -> None:
    run = Run(audit, sql_path, automatic=automatic)
    for _ in range(2):
        failed = run.report("x__1", run_type=run_type, params=params)
        assert isinstance(failed, AirflowFailException)
    assert titles(inbox) == reported


def test_without_its_database_the_last_try_of_the_report_notifies(
    audit: Audit, sql_path: Path, inbox: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(audit, sql_path, automatic="apply")
    set_connection(monkeypatch, "audit", conn_type="postgres", host="127.0.0.1", port=1, schema="gone")
    for number in (1, 2):
        failed = run.report("scheduled__1", run_type="scheduled", try_number=number)
        assert type(failed).__name__ == "OperationalError"
        assert titles(inbox) == ["contacts_deals: failed"] * (number - 1)
    assert "its report as well: OperationalError" in inbox[0]["message"]


def test_a_database_that_cannot_be_the_right_one_is_reported_at_once(
    audit: Audit, sql_path: Path, inbox: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(audit, sql_path, automatic="apply")
    set_connection(monkeypatch, "audit", conn_type="http", host="example.com")
    assert isinstance(run.report("scheduled__1", run_type="scheduled"), ZohoConfigError)
    assert titles(inbox) == ["contacts_deals: failed"]


def test_run_that_always_needs_an_approval_notifies_each_time_and_changes_no_state(
    audit: Audit, sql_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Keeps, "kept", [])
    notices = [{"notifier": f"{HERE}.Keeps"}, {"notifier": f"{HERE}.Keeps", "on": ["breach", "recovered"]}]
    run = Run(audit, sql_path, notify=notices, guards={"approvals": "always"})
    for _ in range(2):
        run.guard(run.plan())
    assert [news["event"] for news in Keeps.kept] == ["approval", "approval"]
    assert re.fullmatch(
        r"contacts_deals asks for approval until \d{4}-\d\d-\d\d \d\d:\d\d UTC: each of its runs needs one",
        Keeps.kept[0]["text"],
    )
    assert audit.rows("zoho_delink_job", "job") == []


def test_each_notifier_hears_of_its_events_alone(
    audit: Audit, sql_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Keeps, "kept", [])
    run = Run(audit, sql_path, notify=[{"notifier": f"{HERE}.Keeps", "on": ["recovered"]}])
    run.go("removed", "failed")
    assert Keeps.kept == []
    run_id = run.plan()
    run.end(run_id, "removed", "removed")
    (reported,) = Keeps.kept
    (key,) = [row["run_key"] for row in audit.runs() if row["dag_run_id"] == run_id]
    assert {name: reported[name] for name in reported if name not in {"text", "window"}} == {
        "job": "contacts_deals",
        "state": "ok",
        "event": "recovered",
        "status": "succeeded",
        "counts": {"removed": 2},
        "link": f"/dags/zoho_delink__contacts_deals/runs/{run_id}",
        "run_key": key,
    }
    assert "2026-11-22 02:00:00+00:00" in reported["window"]


def test_who_wants_to_hear_of_stops_hears_of_those_by_a_guard(
    audit: Audit, sql_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Keeps, "kept", [])
    notice = {"notifier": f"{HERE}.Keeps", "on": ["stopped"]}
    run = Run(audit, sql_path, guards={"max_links": 1}, notify=[notice])
    run_id = run.plan()
    with pytest.raises(GuardError):
        run.guard(run_id)
    run.end(run_id)
    assert [(reported["event"], reported["status"]) for reported in Keeps.kept] == [("breach", "stopped")]


def test_a_notifier_that_fails_fails_nothing_keeps_its_secret_and_takes_no_other_down(
    audit: Audit, sql_path: Path, inbox: list[Any], caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    run = Run(audit, sql_path, notify=[{"notifier": f"{HERE}.Breaks"}, BY_APPRISE])
    with caplog.at_level("INFO"):
        run.go("removed", "failed")
    assert titles(inbox) == ["contacts_deals: failed"]
    assert audit.runs()[0]["status"] == "failed"
    assert f"Notification failed: notifier={HERE}.Breaks event=failed error=RuntimeError" in caplog.text
    printed = capfd.readouterr()
    assert SECRET not in caplog.text + printed.out + printed.err


def test_a_notifier_that_hangs_keeps_nothing_from_ending(
    audit: Audit,
    sql_path: Path,
    inbox: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(notify, "PATIENCE_S", 0.5)
    started = time.monotonic()
    run = Run(audit, sql_path, notify=[{"notifier": f"{HERE}.Hangs"}])
    try:
        run.go("removed", "failed")
        assert time.monotonic() - started < 30
    finally:
        Hangs.ends.set()
    assert f"Notification not sent in time: notifier={HERE}.Hangs event=failed timeout_s=0.5" in caplog.text


def test_mail_reaches_a_real_server(audit: Audit, sql_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mails: list[Any] = []

    class Handler:
        async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
            mails.append(message_from_bytes(envelope.content, policy=policy.default))
            return "250 OK"

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    controller = Controller(Handler(), hostname="127.0.0.1", port=port)
    controller.start()
    try:
        set_connection(
            monkeypatch,
            "smtp_default",
            conn_type="smtp",
            host="127.0.0.1",
            port=port,
            extra={"disable_ssl": True, "disable_tls": True},
        )
        args = {
            "to": "crm@example.com",
            "from_email": "airflow@example.com",
            "subject": "{{ zoho.job }} {{ zoho.event }}",
            "html_content": "{{ zoho.text }}",
        }
        Run(audit, sql_path, notify=[{"notifier": SMTP, "args": args}]).go("removed", "failed")
    finally:
        controller.stop()
    (mail,) = mails
    assert (mail["to"], mail["subject"]) == ("crm@example.com", "contacts_deals failed")
    assert "the run ended as failed: 1 removed, 1 failed" in mail.get_body(("html",)).get_content()


@pytest.mark.parametrize(
    ("notice", "says"),
    [
        (BY_APPRISE, None),
        ({"notifier": SMTP, "args": {"to": "crm@example.com"}}, None),
        ({"notifier": "no.such.Notifier"}, "notify.0.notifier: 'no.such.Notifier' cannot be used: No module"),
        ({"notifier": "pathlib.Path"}, "not a notifier"),
        ({"notifier": "json.dumps"}, "not a notifier"),
        ({"notifier": "airflow.sdk.NoSuchThing"}, "cannot be used"),
        ({"notifier": APPRISE}, "notify.0.args: .* does not take them: missing a required argument: 'body'"),
    ],
)
def test_a_notifier_that_cannot_be_used_is_reported_in_a_sentence(
    audit: Audit, notice: dict[str, Any], says: str | None
) -> None:
    faults = notify.notifier_faults(make_job(notify=[notice]))
    if says is None:
        assert faults == []
    else:
        (fault,) = faults
        assert re.search(says, fault)


@pytest.mark.parametrize(
    ("before", "state", "event"),
    [
        (None, "failed", None),
        (None, "ok", None),
        ("", "ok", None),
        ("", "failed", "failed"),
        ("ok", "failed", "failed"),
        ("ok", "breach", "breach"),
        ("failed", "stopped", "stopped"),
        ("breach", "rejected", "rejected"),
        ("failed", "ok", "recovered"),
        ("breach", "ok", "recovered"),
        ("rejected", "ok", "recovered"),
        ("stopped", "ok", "recovered"),
    ],
)
def test_notification_follows_from_the_change(
    audit: Audit, before: str | None, state: str, event: str | None
) -> None:
    assert notify.event_of(before, state) == event
