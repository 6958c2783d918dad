"""One small run, and what it leaves behind beside its outcomes: metrics, spans, lines in the log, an asset's event."""

from __future__ import annotations

import logging
from collections import Counter
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import structlog
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from structlog.testing import LogCapture

from tests.support.databases import AUDIT, Audit, Warehouse
from tests.support.local_zoho import ZOHO, link_all
from tests.support.operators import context, delink, jobs_folder, make_job, pairs
from zoho_crm import telemetry
from zoho_crm.airflow_compat import TaskDeferred
from zoho_crm.errors import RunStoppedError
from zoho_crm.operators import chunk_run
from zoho_crm.operators.guard import GuardOperator
from zoho_crm.operators.plan_links import PlanLinksOperator
from zoho_crm.operators.report import ReportOperator, updates_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.statsd import StatsdServer
    from zoho_crm.core.models import ChunkRef
    from zoho_crm.testing.local_zoho import LocalZoho

pytestmark = pytest.mark.parametrize("audit", ["sqlite"], indirect=True)

REMOVED, ABSENT = 12, 2
PLANNED = REMOVED + ABSENT + 1
REFUSAL = '{"code":"NO_PERMISSION","details":{},"message":"no permission for c-00000","status":"error"}'
CHUNK = {
    "job": "contacts_deals",
    "chunk": 0,
    "operation": "delink",
    "relation": "Contacts.Deals",
    "strategy": "single",
    "links": REMOVED + ABSENT,
}


class OutletEvents:
    """The events of one alias. Not a dictionary: in Airflow 3.1 an alias has no hash."""

    def __init__(self, alias: Any, event: Any) -> None:
        self.alias = alias
        self.event = event

    def __getitem__(self, alias: Any) -> Any:
        assert alias == self.alias
        return self.event


class Run:
    """The tasks of one run, each created when it is executed, as in separate processes."""

    def __init__(self, sql_path: Path, mode: str) -> None:
        self.about = {"job": make_job(), "jobs_folder": jobs_folder(sql_path)}
        self.params = {"mode": mode}

    def plan(self) -> ChunkRef:
        (chunk,) = PlanLinksOperator(task_id="plan", **self.about).execute(
            context("plan", params=self.params)
        )
        GuardOperator(task_id="guard", **self.about).execute(context("guard", params=self.params))
        return chunk

    def delink(self, chunk: ChunkRef, try_number: int = 1) -> None:
        task = delink(chunk=chunk, audit_conn_id=AUDIT, task_concurrency=2)
        task.execute(context(map_index=0, try_number=try_number))

    def report(self) -> list[tuple[Any, dict[str, Any]]]:
        """Close the run and return the asset events that it emits."""
        reported: list[tuple[Any, dict[str, Any]]] = []
        alias = updates_of("a_dag")
        event = SimpleNamespace(add=lambda asset, extra: reported.append((asset, extra)))
        made = context("report", params=self.params)
        made["outlet_events"] = OutletEvents(alias, event)
        ReportOperator(task_id="report", outlets=[alias], **self.about).execute(made)
        return reported


@pytest.fixture
def run(zoho: LocalZoho, audit: Audit, warehouse: Warehouse, sql_path: Path) -> Run:
    """Twelve links that are there, two that are not, and one that cannot be."""
    audit.ledger()
    warehouse.add([*pairs(REMOVED + ABSENT), ("c-00000", "..")])
    link_all(zoho, pairs(REMOVED))
    for parent, related in pairs(ABSENT, start=REMOVED):
        zoho.state.add_record("Contacts", {"External_Contact_ID": parent})
        zoho.state.add_record("Deals", {"External_Deal_ID": related})
    return Run(sql_path, "apply")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """The spans of the test, kept in memory."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", provider.get_tracer("zoho_crm"))
    return exporter


@pytest.fixture
def lines(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """What is logged at the level asked for and above, as Airflow gets it."""
    before, capture = structlog.get_config(), LogCapture()
    structlog.configure(
        processors=[capture],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(request, "param", logging.INFO)),
        cache_logger_on_first_use=False,
    )
    monkeypatch.setattr(chunk_run, "events", structlog.get_logger("a fresh one"))
    yield capture.entries
    structlog.configure(**before)


# -- metrics


def test_links_are_counted_once_for_each_audit_row_in_whatever_task(
    run: Run, audit: Audit, statsd: StatsdServer
) -> None:
    run.delink(run.plan())
    run.report()
    rows = Counter(row["outcome"] for row in audit.events())
    assert rows == {"removed": REMOVED, "already_absent": ABSENT, "invalid": 1}
    statsd.until(lambda: bool(statsd.samples("zoho_crm.runs")))
    counted: Counter[str] = Counter()
    for one in statsd.samples("zoho_crm.links"):
        counted[one.tags.pop("outcome")] += int(one.value)
        assert one.tags == {
            "delink_job": "contacts_deals",
            "relation": "Contacts.Deals",
            "operation": "delink",
            "dry_run": "false",
        }
    assert counted == rows
    assert [one.tags["status"] for one in statsd.samples("zoho_crm.runs")] == ["succeeded"]


def test_links_that_no_task_has_sent_are_counted_by_the_report(
    run: Run, audit: Audit, statsd: StatsdServer
) -> None:
    run.plan()
    run.plan()
    with pytest.raises(Exception, match="stopped"):
        run.report()
    statsd.until(lambda: bool(statsd.samples("zoho_crm.runs")))
    found = {one.tags["outcome"]: one.value for one in statsd.samples("zoho_crm.links")}
    # The plan was made once, and found the second time.
    assert found == {"invalid": 1, "not_attempted": REMOVED + ABSENT}
    assert len(statsd.samples("zoho_crm.links")) == 2


def test_requests_are_timed_one_by_one_with_what_zoho_answered(
    run: Run, zoho: LocalZoho, statsd: StatsdServer
) -> None:
    zoho.state.faults.add(do="reset", when="after", match={"method": "DELETE", "path": "c-00003"}, times=1)
    zoho.state.faults.add(
        do="status", status=429, body="{}", match={"method": "DELETE", "path": "c-00005"}, times=1
    )
    run.delink(run.plan())
    asked = [one for one in zoho.state.journal.requests if one.path.startswith("/crm/")]
    statsd.until(lambda: len(statsd.samples("zoho_crm.request")) == len(asked))
    timed = statsd.samples("zoho_crm.request")
    assert {one.tags["connection"] for one in timed} == {ZOHO}
    assert all(0 < one.value < 60_000 for one in timed)
    by_status = Counter((one.tags["method"], one.tags["status"]) for one in timed)
    assert by_status["DELETE", "no_response"] == 1
    assert by_status["DELETE", "429"] == 1
    assert by_status["DELETE", "200"] >= REMOVED - 1
    assert [one.tags for one in statsd.samples("zoho_crm.throttled")] == [
        {"connection": ZOHO, "kind": "concurrency"}
    ]


def test_slots_are_measured_while_held_and_when_released(run: Run, statsd: StatsdServer) -> None:
    run.delink(run.plan())
    statsd.until(lambda: [one.value for one in statsd.samples("zoho_crm.in_flight")][-1:] == [0])
    assert max(one.value for one in statsd.samples("zoho_crm.in_flight")) == 2
    assert {one.value for one in statsd.samples("zoho_crm.in_flight_limit")} == {10}


def test_credits_are_measured_once_zoho_reports_them_and_so_is_their_end(
    run: Run, zoho: LocalZoho, statsd: StatsdServer
) -> None:
    zoho.state.configure(credit_limit=8)
    with pytest.raises(TaskDeferred):
        run.delink(run.plan())
    statsd.until(lambda: bool(statsd.samples("zoho_crm.throttled")))
    assert {one.tags["kind"] for one in statsd.samples("zoho_crm.throttled")} == {"credits"}
    reported = statsd.samples("zoho_crm.credits_remaining")
    # Once a second at the most, from half of them on.
    assert 1 <= len(reported) <= 3
    assert 0 <= reported[0].value <= 4
    assert reported[0].tags == {"connection": ZOHO}


def test_token_requests_are_counted_by_their_result(run: Run, zoho: LocalZoho, statsd: StatsdServer) -> None:
    chunk = run.plan()
    refusing = zoho.state.faults.add(
        do="status", status=400, body='{"error":"invalid_client"}', match={"path": "oauth"}, times=None
    )
    with pytest.raises(Exception, match="invalid_client"):
        run.delink(chunk)
    zoho.state.faults.rules.remove(refusing)
    run.delink(chunk, try_number=2)
    statsd.until(lambda: len(statsd.samples("zoho_crm.token_refreshes")) == 2)
    assert [one.tags["result"] for one in statsd.samples("zoho_crm.token_refreshes")] == ["refused", "ok"]


def test_no_metric_holds_an_id_a_secret_or_what_is_not_in_the_list(run: Run, statsd: StatsdServer) -> None:
    run.delink(run.plan())
    run.report()
    statsd.until(lambda: bool(statsd.samples("zoho_crm.runs")))
    everything = "\n".join(statsd.texts)
    for word in ("c-0", "d-0", "local-client", "local-secret", "refresh-token", "1000."):
        assert word not in everything


# -- spans


def test_a_chunk_is_a_span_with_its_counts_and_its_phases_below_it(
    run: Run, opened: InMemorySpanExporter
) -> None:
    run.delink(run.plan())
    found = {one.name: one for one in opened.get_finished_spans()}
    assert set(found) == {
        "zoho_crm.chunk",
        "zoho_crm.claim",
        "zoho_crm.wait_for_slots",
        "zoho_crm.send",
    }
    chunk = found.pop("zoho_crm.chunk")
    assert {one.parent.span_id for one in found.values()} == {chunk.context.span_id}
    attributes = dict(chunk.attributes)
    assert attributes.pop("zoho_crm.run_key").startswith("contacts_deals:")
    assert attributes == {
        **{f"zoho_crm.{name}": value for name, value in CHUNK.items()},
        "zoho_crm.dry_run": False,
        "zoho_crm.links.removed": REMOVED,
        "zoho_crm.links.already_absent": ABSENT,
    }
    assert chunk.status.is_unset


def test_a_span_of_a_chunk_that_stops_names_the_cause_and_nothing_of_its_text(
    run: Run, zoho: LocalZoho, opened: InMemorySpanExporter
) -> None:
    chunk = run.plan()
    zoho.state.faults.add(do="status", status=403, body=REFUSAL, match={"method": "DELETE"}, times=None)
    with pytest.raises(RunStoppedError, match="for c-00000"):
        run.delink(chunk)
    (span,) = [one for one in opened.get_finished_spans() if one.name == "zoho_crm.chunk"]
    assert (span.status.description, list(span.events)) == ("RunStoppedError", [])
    assert span.attributes is not None
    assert span.attributes["zoho_crm.stopped"] == "refused"
    assert "c-000" not in span.to_json()
    assert "d-0" not in span.to_json()


def test_spans_lie_below_the_one_that_is_open(opened: InMemorySpanExporter, run: Run) -> None:
    chunk = run.plan()
    with telemetry._tracer.start_as_current_span("the task") as task:
        run.delink(chunk)
    (span,) = [one for one in opened.get_finished_spans() if one.name == "zoho_crm.chunk"]
    assert span.parent is not None
    assert span.parent.span_id == task.get_span_context().span_id


# -- lines in the log


def test_each_step_logs_a_line_of_keys_and_values(run: Run, lines: list[Any]) -> None:
    run.delink(run.plan())
    run.report()
    reported = {one["event"]: one for one in lines}
    key = reported["Plan stored"]["run_key"]
    assert {
        name: reported["Plan stored"][name] for name in ("job", "mode", "planned", "chunks", "invalid")
    } == {
        "job": "contacts_deals",
        "mode": "apply",
        "planned": PLANNED,
        "chunks": 1,
        "invalid": 1,
    }
    assert reported["Guard decided"]["run_key"] == key
    assert reported["Guard decided"]["breaches"] == 0
    started, ended = reported["Chunk started"], reported["Chunk ended"]
    assert started == {
        "event": "Chunk started",
        "log_level": "info",
        "run_key": key,
        "dry_run": False,
        **CHUNK,
    }
    assert ended.pop("duration_s") > 0
    assert ended == {**started, "event": "Chunk ended", "removed": REMOVED, "already_absent": ABSENT}
    closed = reported["Run closed"]
    assert (closed["run_key"], closed["status"], closed["removed"]) == (key, "succeeded", REMOVED)
    assert [one["event"] for one in lines].count("Chunk ended") == 1


def test_a_chunk_that_stops_says_why_it_ended(run: Run, zoho: LocalZoho, lines: list[Any]) -> None:
    chunk = run.plan()
    zoho.state.faults.add(do="status", status=403, body=REFUSAL, match={"method": "DELETE"}, times=None)
    with pytest.raises(RunStoppedError):
        run.delink(chunk)
    (ended,) = [one for one in lines if one["event"] == "Chunk ended"]
    assert (ended["error"], ended["stopped"]) == ("RunStoppedError", "refused")
    assert "c-000" not in str(ended)


@pytest.mark.parametrize("lines", [logging.DEBUG], indirect=True)
def test_batches_are_logged_at_debug(run: Run, lines: list[Any]) -> None:
    run.delink(run.plan())
    batches = [one for one in lines if one["event"] == "Batch written"]
    assert {one["log_level"] for one in batches} == {"debug"}
    assert sum(one["settled"] for one in batches) == sum(one["taken"] for one in batches) == REMOVED + ABSENT


def test_no_line_holds_an_id(run: Run, lines: list[Any]) -> None:
    run.delink(run.plan())
    run.report()
    assert len(lines) >= 5
    assert not [one for one in lines if "c-0" in str(one) or "d-0" in str(one)]


# -- the asset


def test_a_run_that_applies_updates_the_asset_of_its_relation(run: Run) -> None:
    run.delink(run.plan())
    ((asset, extra),) = run.report()
    assert (asset.name, asset.uri) == ("zoho://zoho_crm_default/Contacts/Deals",) * 2
    assert extra.pop("run_key").startswith("contacts_deals:")
    assert extra == {
        "job": "contacts_deals",
        "operation": "delink",
        "mode": "apply",
        "status": "succeeded",
        "outcomes": {"removed": REMOVED, "already_absent": ABSENT, "invalid": 1},
        "window_start": "1970-01-01T00:00:00+00:00",
        "window_end": "2026-11-22T02:00:00+00:00",
    }


def test_a_dry_run_updates_nothing(run: Run) -> None:
    run.params = {"mode": "dry_run"}
    run.delink(run.plan())
    assert run.report() == []
