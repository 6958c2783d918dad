"""Two runs on a real Airflow: their metrics, traces, lineage and logs, read where they were sent."""

from __future__ import annotations

import gzip
import json
import shutil
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest
import yaml
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from include.demo.world import start_demo_world
from include.stack import LocalAirflow
from tests.support.airflow_stack import logs_kept
from tests.support.airflow_world import AUDIT, build_world, without_audit
from tests.support.statsd import StatsdServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

    from tests.support.airflow_world import World

# One at a time, beside that of tests/e2e: each needs an Airflow of its kind.
pytestmark = [pytest.mark.systems, pytest.mark.xdist_group("other_airflows")]
pytest.importorskip(
    "airflow.providers.openlineage", reason="needs the dependency group `systems`: make test-systems"
)

PROJECT = Path(__file__).parents[2]
JOB = "signals"
DAG_ID = f"zoho_delink__{JOB}"
ASSET = "zoho://zoho_crm_default/Contacts/Deals"
LINKS, ABSENT, CHUNK = 30, 3, 20
PASTED = [("pasted-parent-7", "pasted-deal-7")]

CONSUMER = f"""\
from airflow.sdk import Asset, dag, task

@dag(schedule=[Asset("{ASSET}")])
def after_delinks():
    @task
    def read(triggering_asset_events):
        return [event.extra["outcomes"] for event in triggering_asset_events[Asset("{ASSET}")]]
    read()

after_delinks()
"""


class TraceCollector:
    """Receives spans by OTLP over HTTP, like an OpenTelemetry collector; ``with TraceCollector() as collector``."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                request = ExportTraceServiceRequest.FromString(body)
                for resource in request.resource_spans:
                    for scope in resource.scope_spans:
                        spans.extend(scope.spans)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        return {
            "AIRFLOW__TRACES__OTEL_ON": "True",
            "OTEL_TRACES_EXPORTER": "otlp_proto_http",
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": f"http://127.0.0.1:{self._server.server_port}/v1/traces",
        }


@dataclass
class Signals:
    """The receivers of the signals of the runs."""

    statsd: StatsdServer
    traces: TraceCollector
    lineage: Path
    logs: Path

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lineage.read_text().splitlines()]

    def lines(self, run_id: str, task_id: str, map_index: int | None = None) -> list[dict[str, Any]]:
        """Return the log of a task's first try, as Airflow wrote it to its file."""
        place = f"run_id={run_id}/task_id={task_id}" + (
            "" if map_index is None else f"/map_index={map_index}"
        )
        (file,) = self.logs.glob(f"dag_id={DAG_ID}/{place}/attempt=1.log")
        return [json.loads(line) for line in file.read_text().splitlines()]


@dataclass
class Done:
    """The two finished runs, an apply and a dry run."""

    world: World
    signals: Signals
    applied: str
    dry: str
    outcomes: Counter[str] = field(default_factory=Counter)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("signals")
    home = folder / "airflow"
    _write_job(folder)
    with (
        start_demo_world(folder / "demo") as demo,
        logs_kept(home, "signals-logs", request.session),
        StatsdServer() as statsd,
        TraceCollector() as traces,
    ):
        lineage = folder / "lineage.jsonl"
        env = {
            **without_audit(demo.env),
            **statsd.environment(),
            **traces.environment(),
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(lineage), "append": True}
            ),
            "ZOHO_CRM_JOBS_FOLDER": str(folder / "include" / "jobs"),
        }
        with LocalAirflow(home, dags_folder=folder / "dags", env=env) as airflow:
            airflow.wait_until_healthy()
            world = build_world(airflow, demo, datetime.now(UTC))
            yield _run(world, Signals(statsd, traces, lineage, home / "logs"))


def _write_job(folder: Path) -> None:
    shutil.copytree(PROJECT / "dags", folder / "dags", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "dags" / "after_delinks.py").write_text(CONSUMER)
    for name in ("jobs", "sql"):
        (folder / "include" / name).mkdir(parents=True)
    job = yaml.safe_load((PROJECT / "include" / "jobs" / "contacts_deals.yaml").read_text())
    job |= {
        "schedule": None,
        "source": {"conn_id": "warehouse", "sql_file": f"{JOB}.sql"},
        "chunk_size": CHUNK,
    }
    (folder / "include" / "jobs" / f"{JOB}.yaml").write_text(yaml.safe_dump(job))
    sql = (PROJECT / "include" / "sql" / "contacts_deals.sql").read_text()
    (folder / "include" / "sql" / f"{JOB}.sql").write_text(sql.replace("contacts_deals", JOB))


def _run(world: World, signals: Signals) -> Done:
    at = datetime.now(UTC) - timedelta(hours=1)
    linked = [(f"s-{n:03}", f"their-{n % 7}") for n in range(LINKS)]
    absent = [(f"s-{n:03}", f"their-{n % 7 + 1}") for n in range(ABSENT)]
    world.mark(JOB, [(pair, at) for pair in linked])
    world.mark(JOB, [(pair, at) for pair in absent], linked=False)
    world.runs.switch_on("after_delinks")
    dry = world.runs.trigger(DAG_ID, {"mode": "dry_run", "links": PASTED})
    applied = world.runs.trigger(DAG_ID, {"mode": "apply"})
    world.runs.finish(DAG_ID, dry)
    world.runs.finish(DAG_ID, applied)
    rows = world.audit.rows("SELECT outcome, count(*) AS links FROM zoho_delink_audit GROUP BY outcome")
    outcomes = Counter({row["outcome"]: row["links"] for row in rows})
    assert outcomes == {"removed": LINKS, "already_absent": ABSENT, "would_remove": len(PASTED)}
    return Done(world, signals, applied, dry, outcomes)


def test_metrics_match_the_audit_and_the_requests_of_the_local_zoho(done: Done) -> None:
    statsd = done.signals.statsd
    counted: Counter[tuple[str, str]] = Counter()
    for one in statsd.samples("zoho_crm.links"):
        assert (one.tags["delink_job"], one.tags["relation"]) == (JOB, "Contacts.Deals")
        counted[one.tags["outcome"], one.tags["dry_run"]] += int(one.value)
    assert counted == {
        ("removed", "false"): LINKS,
        ("already_absent", "false"): ABSENT,
        ("would_remove", "true"): len(PASTED),
    }
    requests = Counter(
        (one.method, str(one.status))
        for one in done.world.zoho.state.journal.requests
        if one.path.startswith("/crm/")
    )
    timed = Counter((one.tags["method"], one.tags["status"]) for one in statsd.samples("zoho_crm.request"))
    assert timed == requests
    assert timed["DELETE", "200"] + timed["DELETE", "400"] >= LINKS
    assert [one.value for one in statsd.samples("zoho_crm.in_flight")][-1] == 0
    issued = [one for one in statsd.samples("zoho_crm.token_refreshes") if one.tags["result"] == "ok"]
    assert len(issued) == done.world.zoho.state.tokens.issued == 1
    assert sorted((one.tags["status"], one.tags["dry_run"]) for one in statsd.samples("zoho_crm.runs")) == [
        ("succeeded", "false"),
        ("succeeded", "true"),
    ]


def test_spans_of_chunks_are_children_of_the_task_spans_of_airflow(done: Done) -> None:
    spans = {span.span_id: span for span in done.signals.traces.spans}
    chunks = [span for span in spans.values() if span.name == "zoho_crm.chunk"]
    attributes = [
        {one.key.removeprefix("zoho_crm."): _value(one.value) for one in span.attributes} for span in chunks
    ]
    assert sorted((one["dry_run"], one["chunk"], one["links"]) for one in attributes) == [
        (False, 0, CHUNK),
        (False, 1, LINKS + ABSENT - CHUNK),
        (True, 0, len(PASTED)),
    ]
    assert sum(one.get("links.removed", 0) for one in attributes) == LINKS
    assert {spans[span.parent_span_id].name for span in chunks} <= {"worker.delink[0]", "worker.delink[1]"}
    assert len({span.trace_id for span in chunks}) == 2, "one trace for each run"
    for span, tags in zip(chunks, attributes, strict=True):
        below = {one.name for one in spans.values() if one.parent_span_id == span.span_id}
        sent = set() if tags["dry_run"] else {"zoho_crm.wait_for_slots", "zoho_crm.send"}
        assert below == {"zoho_crm.claim"} | sent


def test_lineage_leads_from_the_warehouse_to_zoho_and_the_audit(done: Done) -> None:
    warehouse = f"sqlite://{done.world.warehouse} crm_links_to_remove"
    url = done.world.audit.url.rpartition("@")[2].partition("/")[0]
    plan, audit, run = (
        f"postgres://{url} {AUDIT}.public.zoho_delink_{table}" for table in ("link", "audit", "run")
    )
    relation = f"zoho://us/{done.world.audit.run(DAG_ID, done.applied)['org_id']} Contacts.Deals"
    found: dict[str, Any] = {}
    for event in done.signals.events():
        about = event["run"]["facets"].get("airflow")
        if event["eventType"] == "COMPLETE" and about and about["dagRun"]["run_id"] == done.applied:
            inputs, outputs = found.setdefault(
                event["job"]["name"].removeprefix(f"{DAG_ID}."), (set(), Counter())
            )
            inputs |= {f"{one['namespace']} {one['name']}" for one in event["inputs"]}
            for one in event["outputs"]:
                statistics = one.get("outputFacets", {}).get("outputStatistics", {})
                outputs[f"{one['namespace']} {one['name']}"] += statistics.get("rowCount", 0)
    assert found["plan"] == ({warehouse}, {plan: LINKS + ABSENT})
    assert found["delink"] == ({plan}, {audit: LINKS + ABSENT, relation: LINKS})
    assert found["report"] == ({audit}, {run: 0})


def test_apply_updates_the_asset_and_starts_the_dag_that_waits_for_it(done: Done) -> None:
    found = done.world.airflow.api("GET", f"/api/v2/assets/events?source_dag_id={DAG_ID}")["asset_events"]
    ((uri, run_id, extra),) = [(one["uri"], one["source_run_id"], one["extra"]) for one in found]
    assert (uri, run_id, extra["mode"]) == (ASSET, done.applied, "apply")
    assert extra["outcomes"] == {"removed": LINKS, "already_absent": ABSENT}
    runs = done.world.runs
    runs.until(lambda: bool(runs.get("after_delinks", "/dagRuns")["dag_runs"]), "the Dag that waits")
    (after,) = runs.get("after_delinks", "/dagRuns")["dag_runs"]
    runs.finish("after_delinks", after["dag_run_id"])
    path = f"/dagRuns/{after['dag_run_id']}/taskInstances/read/xcomEntries/return_value"
    assert runs.get("after_delinks", path, deserialize="true")["value"] == [extra["outcomes"]]


def test_logs_have_a_structured_line_for_each_step(done: Done) -> None:
    logged: dict[str, dict[str, Any]] = {}
    for task_id, map_index in (("plan", None), ("guard", None), ("delink", 0), ("report", None)):
        for line in done.signals.lines(done.applied, task_id, map_index):
            logged.setdefault(line["event"], line)
    run_key = done.world.audit.run(DAG_ID, done.applied)["run_key"]
    steps = ("Plan stored", "Guard decided", "Chunk started", "Chunk ended", "Run closed")
    assert {logged[step]["run_key"] for step in steps} == {run_key}
    assert {logged[step]["level"] for step in steps} == {"info"}
    assert (logged["Plan stored"]["planned"], logged["Plan stored"]["chunks"]) == (LINKS + ABSENT, 2)
    assert (logged["Chunk ended"]["chunk"], logged["Chunk ended"]["links"]) == (0, CHUNK)
    assert logged["Chunk ended"]["removed"] + logged["Chunk ended"]["already_absent"] == CHUNK
    assert (logged["Run closed"]["status"], logged["Run closed"]["removed"]) == ("succeeded", LINKS)
    assert "Batch written" not in logged


def test_no_signal_contains_an_external_id_or_a_secret(done: Done) -> None:
    signals = done.signals
    everything = {
        "metrics": "\n".join(signals.statsd.texts),
        "traces": "\n".join(str(span) for span in signals.traces.spans),
        "lineage": signals.lineage.read_text(),
        "logs": "\n".join(
            file.read_text() for file in signals.logs.glob(f"dag_id={DAG_ID}/run_id=*/**/*.log")
        ),
    }
    words = ["s-00", "their-", "pasted-", "local-secret", "local-refresh-token", "local-client"]
    for kind, text in everything.items():
        assert text, kind
        assert [word for word in words if word in text] == [], kind


def _value(value: Any) -> Any:
    return getattr(value, value.WhichOneof("value"))
