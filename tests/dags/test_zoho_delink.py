"""The Dag files: read by Airflow itself, with nothing configured."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from contextlib import closing
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from include.demo.world import connections, fill_crm
from tests.support.releases import DagSerialization
from zoho_crm.airflow_compat import CronDataIntervalTimetable, DagBag, has_retry_policies
from zoho_crm.dag_tasks import CHUNK_NAME, TIME_LIMITS
from zoho_crm.testing.local_zoho import LocalZoho

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airflow.sdk import DAG

    from tests.support.live_dags import LiveDags

PROJECT = Path(__file__).parents[2]
CONTACTS_DEALS = "zoho_delink__contacts_deals"

needs_retry_policies = pytest.mark.skipif(
    not has_retry_policies(), reason="Airflow has retry policies since 3.3"
)

# Airflow's own reading of .airflowignore and of plugins, while it reads Dags.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")


def read_dags() -> DagBag:
    return DagBag(dag_folder=PROJECT / "dags", bundle_path=PROJECT / "dags")


def jobs_of(found: DagBag) -> set[str]:
    """The Dags that are of one job each; those for all jobs are there beside them."""
    return {dag_id for dag_id in found.dags if dag_id.startswith("zoho_delink__")}


@pytest.fixture(scope="module")
def dag_bag() -> DagBag:
    return read_dags()


@pytest.fixture
def dag(dag_bag: DagBag) -> DAG:
    found: DAG = dag_bag.dags[CONTACTS_DEALS]
    return found


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of job files of the test's own, with the sample in it."""
    folder = tmp_path / "include" / "jobs"
    folder.mkdir(parents=True)
    (folder.parent / "sql").mkdir()
    for name in ("jobs/contacts_deals.yaml", "sql/contacts_deals.sql"):
        (folder.parent / name).write_text((PROJECT / "include" / name).read_text())
    monkeypatch.setenv("ZOHO_CRM_JOBS_FOLDER", str(folder))
    return folder


def test_all_dags_are_read_without_a_connection(dag_bag: DagBag) -> None:
    assert not [name for name in os.environ if name.startswith("AIRFLOW_CONN_")]
    assert dag_bag.import_errors == {}
    # Readers of the README add a job.
    written = {f"zoho_delink__{path.stem}" for path in (PROJECT / "include" / "jobs").glob("*.yaml")}
    assert jobs_of(dag_bag) == written >= {CONTACTS_DEALS, "zoho_delink__campaigns_leads"}


def test_reading_them_takes_less_than_two_seconds(dag_bag: DagBag) -> None:
    # What it imports is imported by now, as it is in Airflow's processes; processor time does not count other loads.
    started = time.process_time()
    read_dags()
    assert time.process_time() - started < 2


def test_dags_survive_being_stored(dag_bag: DagBag) -> None:
    for dag in dag_bag.dags.values():
        stored = json.loads(json.dumps(DagSerialization.serialize_dag(dag)))
        assert set(DagSerialization.deserialize_dag(stored).task_dict) == set(dag.task_dict)


def test_tasks_follow_each_other(dag: DAG) -> None:
    assert {task_id: task.downstream_task_ids for task_id, task in dag.task_dict.items()} == {
        "preflight": {"plan"},
        "plan": {"guard", "delink"},
        "guard": {"approve"},
        # Only what would send is skipped by a refusal: the report always runs.
        "approve": {"delink"},
        "delink": {"report"},
        "report": set(),
    }


def test_report_runs_whatever_happened_before(dag: DAG) -> None:
    assert dag.get_task("report").trigger_rule == "all_done"
    assert {dag.get_task(task_id).trigger_rule for task_id in ("plan", "guard", "delink")} == {"all_success"}


def test_every_task_has_a_time_limit(dag_bag: DagBag) -> None:
    # The plans of these Dags yield the arguments of their mapped tasks, with the time limit of the job.
    by_plan = {("zoho_delink_retry", "delink"), ("zoho_delink_relink", "relink")}
    for dag_id, dag in dag_bag.dags.items():
        for task in dag.tasks:
            if (dag_id, task.task_id) not in by_plan:
                limit = timedelta(hours=2) if task.task_id == "delink" else TIME_LIMITS[task.task_id]
                assert task.execution_timeout == limit, (dag_id, task.task_id)


def test_the_wait_for_an_approval_has_its_own_limit(dag: DAG) -> None:
    assert dag.get_task("approve").response_timeout is None


def test_approve_is_tried_again_soon_and_often(dag_bag: DagBag) -> None:
    approves = [task for dag in dag_bag.dags.values() for task in dag.tasks if task.task_id == "approve"]
    assert len(approves) > 2
    for task in approves:
        assert task.retries >= 20
        assert task.retry_delay <= timedelta(seconds=5)
        assert task.retry_exponential_backoff in {0, 1.0}


def test_a_scheduled_job_has_data_intervals(dag: DAG) -> None:
    assert isinstance(dag.timetable, CronDataIntervalTimetable)
    assert (dag.catchup, dag.max_active_runs) == (False, 1)


def test_page_and_form_of_a_job_say_that_its_automatic_runs_are_dry(dag: DAG) -> None:
    assert "| automatic runs | dry run, until the job file says `automatic: apply` |" in str(dag.doc_md)
    description = dag.params.get_param("mode").schema["description_md"]
    assert "so is a scheduled, asset-triggered or backfill run" in description
    assert (
        "the scheduled run of the last interval starts as well. That run is a **dry run** too." in description
    )


def test_page_and_form_of_a_job_say_that_its_automatic_runs_remove_links(jobs: Path) -> None:
    content = yaml.safe_load((jobs / "contacts_deals.yaml").read_text())
    (jobs / "contacts_deals.yaml").write_text(yaml.safe_dump({**content, "automatic": "apply"}))
    dag = read_dags().dags[CONTACTS_DEALS]
    assert "| automatic runs | **remove links** (`automatic: apply` in the job file) |" in str(dag.doc_md)
    description = dag.params.get_param("mode").schema["description_md"]
    assert "a scheduled, asset-triggered or backfill run **removes links**" in description
    assert "That run **removes links**: untick it to start only your run." in description


@pytest.mark.parametrize(
    ("guards", "limit"),
    [
        ({}, "1000 links per run (the default: `guards.max_links` is not set)"),
        ({"max_links": 7}, "7 links per run"),
        ({"max_links": None}, "none"),
    ],
)
def test_page_of_a_job_says_its_limit(jobs: Path, guards: dict[str, int | None], limit: str) -> None:
    content = yaml.safe_load((jobs / "contacts_deals.yaml").read_text())
    (jobs / "contacts_deals.yaml").write_text(yaml.safe_dump({**content, "guards": guards}))
    assert f"| limit | {limit} |" in str(read_dags().dags[CONTACTS_DEALS].doc_md)


def test_form_of_a_job_without_intervals_names_no_run_of_the_last_one(dag_bag: DagBag) -> None:
    dag = dag_bag.dags["zoho_delink__campaigns_leads"]
    assert "last interval" not in dag.params.get_param("mode").schema["description_md"]


def test_a_mapped_task_is_bounded_named_and_retried_with_care(dag: DAG) -> None:
    arguments: dict[str, Any] = dag.get_task("delink").partial_kwargs
    assert arguments["max_active_tis_per_dag"] == 2
    assert arguments["task_concurrency"] == 5
    assert arguments["execution_timeout"] == timedelta(hours=2)
    assert arguments["map_index_template"] == CHUNK_NAME
    assert (arguments["retries"], arguments["retry_delay"]) == (3, timedelta(seconds=30))


@needs_retry_policies
def test_a_throttled_token_pauses_the_retry_and_a_final_error_ends_it(dag: DAG) -> None:
    rules = dag.get_task("delink").partial_kwargs["retry_policy"].rules
    assert [(rule.action.value, rule.retry_delay) for rule in rules] == [
        ("retry", timedelta(minutes=11)),
        ("fail", None),
    ]


@needs_retry_policies
def test_every_class_of_the_retry_policy_is_there(dag: DAG) -> None:
    for rule in dag.get_task("delink").partial_kwargs["retry_policy"].rules:
        assert len(rule._resolve_exception_classes()) == len(rule._specs)


def test_the_form_has_safe_defaults(dag: DAG) -> None:
    assert {name: dag.params[name] for name in dag.params} == {
        "mode": "auto",
        "reason": None,
        "max_links": None,
        "verify": False,
        "window_start": None,
        "window_end": None,
        "links": None,
    }


def test_each_dag_has_a_form_of_its_own(dag_bag: DagBag) -> None:
    """Airflow keeps values in a field: one that two Dags share would carry them over."""
    fields = [id(dag.params.get_param(name)) for dag in dag_bag.dags.values() for name in dag.params]
    assert len(fields) == len(set(fields))


def test_a_dag_describes_itself(dag: DAG) -> None:
    assert dag.description == "Take contacts off deals they no longer belong to"
    assert dag.tags == {"zoho", "delink", "crm", "sample"}
    assert "Contacts.External_Contact_ID -> Deals (Deals.External_Deal_ID)" in str(dag.doc_md)
    assert "10000 links per run" in str(dag.doc_md)
    assert {task.owner for task in dag.tasks} == {"data-team"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(
            "audit_conn_id: [", "broken.yaml, line 1: not valid YAML: expected the node content", id="no YAML"
        ),
        pytest.param(
            "chunk_size: many", "broken.yaml, line 1: chunk_size: must be a whole number", id="a field"
        ),
        pytest.param(
            "scheduled: null",
            "broken.yaml, line 1: scheduled: unknown field; did you mean schedule?",
            id="an unknown key",
        ),
        pytest.param(
            "start_date: 2026-13-45",
            "broken.yaml, line 1: start_date: is not a date: write it like 2026-11-01",
            id="no such date",
        ),
        pytest.param("owner: a\nowner: b", "broken.yaml, line 2: owner: is there twice", id="a key twice"),
        pytest.param(
            f"tags: [{'x' * 101}]",
            "broken.yaml, line 1: tags.0: must have at most 100 characters",
            id="a long tag",
        ),
    ],
)
def test_a_broken_job_file_is_an_import_error_and_takes_no_job_down(jobs: Path, text: str, says: str) -> None:
    (jobs / "broken.yaml").write_text(text)
    found = read_dags()
    assert jobs_of(found) == {CONTACTS_DEALS}
    assert list(found.import_errors) == ["zoho_delink_broken_jobs.py"]
    trace = found.import_errors["zoho_delink_broken_jobs.py"]
    assert says in trace
    # The fault alone, at the end: neither the parser's error nor the frames that led to it.
    assert trace.count("Traceback") == 1
    assert "job_files.py" not in trace


ASSET = {"asset": "links_to_remove", "uri": "postgres://warehouse/crm/public/links"}


def test_an_asset_starts_a_job_that_names_it(jobs: Path) -> None:
    content = yaml.safe_load((jobs / "contacts_deals.yaml").read_text())
    (jobs / "contacts_deals.yaml").write_text(yaml.safe_dump({**content, "schedule": ASSET}))
    dag = read_dags().dags[CONTACTS_DEALS]
    # A URI of a kind that Airflow knows comes back as Airflow writes it.
    started_by = [(asset.name, asset.uri) for asset in dag.timetable.asset_condition.objects]
    assert started_by == [("links_to_remove", "postgres://warehouse:5432/crm/public/links")]
    assert "| schedule | whenever the asset `links_to_remove` is updated |" in str(dag.doc_md)


def test_an_asset_that_airflow_refuses_takes_no_other_job_down(jobs: Path) -> None:
    content = yaml.safe_load((jobs / "contacts_deals.yaml").read_text())
    (jobs / "by_asset.yaml").write_text(
        yaml.safe_dump({**content, "schedule": {**ASSET, "uri": "postgres://warehouse/crm"}})
    )
    found = read_dags()
    assert jobs_of(found) == {CONTACTS_DEALS}
    assert list(found.import_errors) == ["zoho_delink_broken_jobs.py"]
    assert "by_asset.yaml, line 15: schedule: " in found.import_errors["zoho_delink_broken_jobs.py"]


def test_a_pool_of_the_job_is_passed_on(jobs: Path) -> None:
    content = yaml.safe_load((jobs / "contacts_deals.yaml").read_text())
    (jobs / "contacts_deals.yaml").write_text(yaml.safe_dump({**content, "pool": "zoho"}))
    assert read_dags().dags[CONTACTS_DEALS].get_task("delink").partial_kwargs["pool"] == "zoho"


EXPECTED = {
    "notifier": "airflow.providers.apprise.notifications.apprise.AppriseNotifier",
    "args": {"title": "{{ zoho.job }} {{ zoho.event }}", "body": "{{ zoho.text }}"},
}


@pytest.fixture
def inbox() -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """The port of a real HTTP server, and what it gets."""
    got: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server.server_port, got
    server.shutdown()
    thread.join()
    server.server_close()


def test_whole_runs_end_as_they_must(
    jobs: Path, tmp_path: Path, inbox: tuple[int, list[dict[str, Any]]], live_dags: LiveDags
) -> None:
    """
    Runs end as their jobs demand.

    An empty plan; a breached limit; one that requests an approval, whose task is marked as done without a
    response; one whose guard is marked as well; more chunks than fit.
    """
    sample = yaml.safe_load((jobs / "contacts_deals.yaml").read_text())
    for name, changes in {
        "nothing": {"source": {"conn_id": "warehouse", "sql_file": "nothing.sql"}},
        "guarded": {"guards": {"max_links": 5}, "notify": [EXPECTED]},
        "asked": {"guards": {"max_links": 5, "on_breach": "approve"}, "retries": 0, "notify": [EXPECTED]},
        "undecided": {"guards": {"max_links": 5}, "retries": 0},
        "contacts_deals": {"chunk_size": 2},
    }.items():
        (jobs / f"{name}.yaml").write_text(yaml.safe_dump({**sample, **changes}))
    sql = (jobs.parent / "sql" / "contacts_deals.sql").read_text()
    (jobs.parent / "sql" / "nothing.sql").write_text(sql.replace("'contacts_deals'", "'nothing'"))
    warehouse, audit = tmp_path / "warehouse.db", tmp_path / "audit.db"
    with closing(sqlite3.connect(warehouse)) as connection, connection:
        connection.execute("CREATE TABLE crm_links_to_remove (relation, parent_id, related_id, marked_at)")
        connection.executemany(
            "INSERT INTO crm_links_to_remove VALUES ('contacts_deals', ?, ?, '2026-11-01 00:00:00.000000')",
            [(f"c-{number:04}", f"d-{number:04}") for number in range(30)],
        )
    with LocalZoho() as zoho:
        fill_crm(zoho.state)
        for number in range(30):
            zoho.state.link("Contacts", f"c-{number:04}", "Deals", f"d-{number:04}")
        before = zoho.state.links("Contacts", "Deals")
        live_dags.env = {
            **connections(zoho.port, warehouse, audit),
            "ZOHO_CRM_JOBS_FOLDER": str(jobs),
            "AIRFLOW_CONN_APPRISE_DEFAULT": json.dumps(
                {"conn_type": "apprise", "extra": {"config": {"path": f"json://127.0.0.1:{inbox[0]}"}}}
            ),
            "AIRFLOW__CORE__MAX_MAP_LENGTH": "4",
        }
        live_dags.run("zoho_delink__nothing", mode="apply")
        live_dags.run("zoho_delink__guarded", "failed", mode="apply")
        live_dags.run("zoho_delink__asked", "failed", mark_success="approve", mode="apply")
        live_dags.run("zoho_delink__undecided", "failed", mark_success="guard|approve", mode="apply")
        live_dags.run(CONTACTS_DEALS, mode="apply")
        after = zoho.state.links("Contacts", "Deals")
    assert before - after == {(f"c-{number:04}", f"d-{number:04}") for number in range(30)}
    with closing(sqlite3.connect(audit)) as connection:
        runs = {
            row[0]: row[1:]
            for row in connection.execute(
                "SELECT job, status, planned, removed, not_attempted, chunks, guard_decision FROM zoho_delink_run"
            )
        }
        not_sent = connection.execute(
            "SELECT job, outcome, attempts, count(DISTINCT seq) FROM zoho_delink_audit WHERE job <> 'contacts_deals' "
            "GROUP BY 1, 2, 3 ORDER BY 1"
        ).fetchall()
    with closing(sqlite3.connect(live_dags.database)) as connection:
        events = connection.execute(
            "SELECT asset.name, asset.uri, event.source_dag_id, event.source_task_id, event.extra "
            "FROM asset_event AS event JOIN asset ON asset.id = event.asset_id WHERE event.source_dag_id IN "
            "('zoho_delink__nothing', 'zoho_delink__guarded', 'zoho_delink__asked', 'zoho_delink__undecided', "
            "'zoho_delink__contacts_deals') "
            "ORDER BY event.id"
        ).fetchall()
    # A run that stopped or failed emits no asset event.
    relation = "zoho://zoho_crm_default/Contacts/Deals"
    assert [event[:4] for event in events] == [
        (relation, relation, f"zoho_delink__{name}", "report") for name in ("nothing", "contacts_deals")
    ]
    nothing, removed = (json.loads(event[4]) for event in events)
    assert nothing["outcomes"] == {}
    assert {name: removed[name] for name in ("job", "operation", "mode", "status", "outcomes")} == {
        "job": "contacts_deals",
        "operation": "delink",
        "mode": "apply",
        "status": "succeeded",
        "outcomes": {"removed": 30},
    }
    assert removed["window_start"] == "1970-01-01T00:00:00+00:00"
    assert removed["run_key"].startswith("contacts_deals:")
    assert runs["nothing"] == ("succeeded", 0, 0, 0, 0, "passed: 0 links planned, 10000 allowed")
    assert runs["guarded"] == ("stopped", 30, 0, 30, 1, "breached: 30 links planned, 5 allowed")
    assert runs["contacts_deals"] == ("succeeded", 30, 30, 0, 4, "passed: 30 links planned, 10000 allowed")
    assert runs["asked"] == ("stopped", 30, 0, 30, 1, "breached: 30 links planned, 5 allowed")
    assert runs["undecided"] == ("stopped", 30, 0, 30, 1, None)
    assert not_sent == [(name, "not_attempted", 0, 30) for name in ("asked", "guarded", "undecided")]
    # The report notifies of the guards' stop; an approval request at once, and later that no one responded.
    assert [message["title"] for message in inbox[1]] == ["guarded breach", "asked breach", "asked stopped"]
