"""Two runs on a real Airflow, and every signal of them read where it was sent: none is made up by the tests."""

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
from tests.support.airflow_world import Audit, World, postgres_connection
from tests.support.dag_runs import Runs
from tests.support.statsd import StatsdServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType

    from opentelemetry.proto.trace.v1.trace_pb2 import Span

# The same group as tests/e2e: no two Airflows at a time.
pytestmark = [pytest.mark.systems, pytest.mark.xdist_group("e2e")]
pytest.importorskip("airflow.providers.openlineage", reason="needs the extra `systems`: make test-systems")

PROJECT = Path(__file__).parents[2]
JOB = "signals"
DAG_ID = f"zoho_delink__{JOB}"
AUDIT = "zoho_delink_audit"
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
    """Takes spans by OTLP over HTTP, as a collector of OpenTelemetry does; ``with TraceCollector() as collector``."""

    def __init__(self) -> None:
        self.spans: list[Span] = []
        spans = self.spans

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                asked = ExportTraceServiceRequest.FromString(body)
                for resource in asked.resource_spans:
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
    """What the runs have sent, each where it was sent to."""

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
    """The two runs, one that applied and one that did not, once they are over."""

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
            **{name: value for name, value in demo.env.items() if not name.endswith(AUDIT.upper())},
            **statsd.environment(),
            **traces.environment(),
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(lineage), "append": True}
            ),
            "ZOHO_CRM_JOBS_FOLDER": str(folder / "include" / "jobs"),
        }
        with LocalAirflow(home, dags_folder=folder / "dags", env=env) as airflow:
            airflow.wait_until_healthy()
            airflow.postgres.create_database(AUDIT)
            audit = Audit(airflow.postgres.url(AUDIT))
            airflow.api(
                "POST", "/api/v2/connections", {"connection_id": AUDIT, **postgres_connection(audit.url)}
            )
            world = World(
                airflow=airflow,
                runs=Runs(airflow),
                zoho=demo.zoho,
                warehouse=demo.warehouse,
                audit=audit,
                unused_audit=audit,
                day_ends=datetime.now(UTC),
            )
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


def test_metrics_say_of_links_and_requests_what_audit_and_zoho_say(done: Done) -> None:
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
    asked = Counter(
        (one.method, str(one.status))
        for one in done.world.zoho.state.journal.requests
        if one.path.startswith("/crm/")
    )
    timed = Counter((one.tags["method"], one.tags["status"]) for one in statsd.samples("zoho_crm.request"))
    assert timed == asked
    assert timed["DELETE", "200"] + timed["DELETE", "400"] >= LINKS
    assert [one.value for one in statsd.samples("zoho_crm.in_flight")][-1] == 0
    issued = [one for one in statsd.samples("zoho_crm.token_refreshes") if one.tags["result"] == "ok"]
    assert len(issued) == done.world.zoho.state.tokens.issued == 1
    assert sorted((one.tags["status"], one.tags["dry_run"]) for one in statsd.samples("zoho_crm.runs")) == [
        ("succeeded", "false"),
        ("succeeded", "true"),
    ]


def test_spans_of_chunks_lie_below_airflows_own_spans_of_their_tasks(done: Done) -> None:
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
    for span, told in zip(chunks, attributes, strict=True):
        below = {one.name for one in spans.values() if one.parent_span_id == span.span_id}
        sent = set() if told["dry_run"] else {"zoho_crm.wait_for_slots", "zoho_crm.send"}
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


def test_the_asset_is_updated_by_the_run_that_applied_and_starts_whoever_waits_for_it(done: Done) -> None:
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


def test_logs_hold_a_line_of_keys_and_values_for_each_step(done: Done) -> None:
    told: dict[str, dict[str, Any]] = {}
    for task_id, map_index in (("plan", None), ("guard", None), ("delink", 0), ("report", None)):
        for line in done.signals.lines(done.applied, task_id, map_index):
            told.setdefault(line["event"], line)
    run_key = done.world.audit.run(DAG_ID, done.applied)["run_key"]
    steps = ("Plan stored", "Guard decided", "Chunk started", "Chunk ended", "Run closed")
    assert {told[step]["run_key"] for step in steps} == {run_key}
    assert {told[step]["level"] for step in steps} == {"info"}
    assert (told["Plan stored"]["planned"], told["Plan stored"]["chunks"]) == (LINKS + ABSENT, 2)
    assert (told["Chunk ended"]["chunk"], told["Chunk ended"]["links"]) == (0, CHUNK)
    assert told["Chunk ended"]["removed"] + told["Chunk ended"]["already_absent"] == CHUNK
    assert (told["Run closed"]["status"], told["Run closed"]["removed"]) == ("succeeded", LINKS)
    assert "Batch written" not in told


def test_no_signal_holds_an_external_id_or_a_secret(done: Done) -> None:
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
