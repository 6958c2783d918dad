"""The Dag files: read by Airflow itself, with nothing configured."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from airflow.dag_processing.dagbag import DagBag
from airflow.sdk import CronDataIntervalTimetable
from airflow.serialization.serialized_objects import DagSerialization

from include.demo.world import connections, fill_crm
from include.local_zoho import LocalZoho

if TYPE_CHECKING:
    from airflow.sdk import DAG

PROJECT = Path(__file__).parents[2]
CONTACTS_DEALS = "zoho_delink__contacts_deals"

# Airflow's own reading of .airflowignore and of plugins, while it reads Dags.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")


def read_dags() -> DagBag:
    return DagBag(dag_folder=PROJECT / "dags", bundle_path=PROJECT / "dags")


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
    assert set(dag_bag.dags) == {CONTACTS_DEALS, "zoho_delink__campaigns_leads"}


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
        "guard": {"delink"},
        "delink": {"report"},
        "report": set(),
    }


def test_report_runs_whatever_happened_before(dag: DAG) -> None:
    assert dag.get_task("report").trigger_rule == "all_done"
    assert {dag.get_task(task_id).trigger_rule for task_id in ("plan", "guard", "delink")} == {"all_success"}


def test_a_scheduled_job_has_data_intervals(dag: DAG) -> None:
    assert isinstance(dag.timetable, CronDataIntervalTimetable)
    assert (dag.catchup, dag.max_active_runs) == (False, 1)


def test_a_mapped_task_is_bounded_named_and_retried_with_care(dag: DAG) -> None:
    arguments: dict[str, Any] = dag.get_task("delink").partial_kwargs
    assert arguments["max_active_tis_per_dag"] == 2
    assert arguments["task_concurrency"] == 5
    assert arguments["execution_timeout"] == timedelta(hours=2)
    assert arguments["map_index_template"] == "{{ task.chunk['label'] }}"
    assert (arguments["retries"], arguments["retry_delay"]) == (3, timedelta(seconds=30))
    rules = arguments["retry_policy"].rules
    assert [(rule.action.value, rule.retry_delay) for rule in rules] == [
        ("retry", timedelta(minutes=11)),
        ("fail", None),
    ]


def test_every_class_of_the_retry_policy_is_there(dag: DAG) -> None:
    for rule in dag.get_task("delink").partial_kwargs["retry_policy"].rules:
        assert len(rule._resolve_exception_classes()) == len(rule._specs)


def test_the_form_has_safe_defaults(dag: DAG) -> None:
    assert {name: dag.params[name] for name in dag.params} == {
        "mode": "auto",
        "window_start": None,
        "window_end": None,
        "links": None,
        "max_links": None,
        "reason": None,
    }


def test_a_dag_tells_people_about_itself(dag: DAG) -> None:
    assert dag.description == "Take contacts off deals they no longer belong to"
    assert dag.tags == {"zoho", "delink", "crm", "sample"}
    assert "Contacts.External_Contact_ID -> Deals (Deals.External_Deal_ID)" in str(dag.doc_md)
    assert "10000 links a run" in str(dag.doc_md)
    assert {task.owner for task in dag.tasks} == {"data-team"}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("audit_conn_id: [", "broken.yaml: while parsing", id="no YAML"),
        pytest.param(
            "chunk_size: many", "broken.yaml: chunk_size: Input should be a valid integer", id="a field"
        ),
        pytest.param(
            "shedule: null", "broken.yaml: shedule: Extra inputs are not permitted", id="an unknown key"
        ),
        pytest.param(
            "start_date: 2026-13-45",
            "broken.yaml: start_date: Input should be a valid date",
            id="no such date",
        ),
        pytest.param("owner: a\nowner: b", "broken.yaml: owner: is there twice", id="a key twice"),
        pytest.param(
            f"tags: [{'x' * 101}]", "broken.yaml: tags.0: String should have at most", id="a long tag"
        ),
    ],
)
def test_a_broken_job_file_is_an_import_error_and_takes_no_job_down(jobs: Path, text: str, says: str) -> None:
    (jobs / "broken.yaml").write_text(text)
    found = read_dags()
    assert set(found.dags) == {CONTACTS_DEALS}
    assert list(found.import_errors) == ["zoho_delink_broken_jobs.py"]
    assert says in found.import_errors["zoho_delink_broken_jobs.py"]


def test_a_pool_of_the_job_is_passed_on(jobs: Path) -> None:
    content = yaml.safe_load((jobs / "contacts_deals.yaml").read_text())
    (jobs / "contacts_deals.yaml").write_text(yaml.safe_dump({**content, "pool": "zoho"}))
    assert read_dags().dags[CONTACTS_DEALS].get_task("delink").partial_kwargs["pool"] == "zoho"


RUNS = f"""
import sys
from airflow.dag_processing.dagbag import DagBag
for job, conf in (
    ("nothing", {{"mode": "apply"}}),
    ("guarded", {{"mode": "apply"}}),
    ("contacts_deals", {{"mode": "apply"}}),
):
    dag = DagBag(dag_folder={str(PROJECT / "dags")!r}).dags["zoho_delink__" + job]
    print(job, dag.test(run_conf=conf).state.value, flush=True)
"""


@pytest.mark.integration
def test_whole_runs_end_as_they_must(jobs: Path, tmp_path: Path) -> None:
    """Three runs in one process, which costs less than three: an empty plan, a breached limit, more chunks than fit."""
    sample = yaml.safe_load((jobs / "contacts_deals.yaml").read_text())
    for name, changes in {
        "nothing": {"source": {"conn_id": "warehouse", "sql_file": "nothing.sql"}},
        "guarded": {"guards": {"max_links": 5}},
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
        env = {
            **os.environ,
            **connections(zoho.port, warehouse, audit),
            "AIRFLOW_HOME": str(tmp_path),
            "AIRFLOW__CORE__MAX_MAP_LENGTH": "4",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path / 'airflow.db'}?timeout=60",
            "NO_PROXY": "127.0.0.1",
        }
        airflow = str(Path(sys.executable).with_name("airflow"))
        subprocess.run([airflow, "db", "migrate"], env=env, check=True, capture_output=True, timeout=120)
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", RUNS],
            env=env,
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        after = zoho.state.links("Contacts", "Deals")
    states = dict(line.split() for line in done.stdout.splitlines() if line.count(" ") == 1)
    assert {name: states.get(name) for name in ("nothing", "guarded", "contacts_deals")} == {
        "nothing": "success",
        "guarded": "failed",
        "contacts_deals": "success",
    }, done.stdout[-3000:] + done.stderr[-3000:]
    assert before - after == {(f"c-{number:04}", f"d-{number:04}") for number in range(30)}
    with closing(sqlite3.connect(audit)) as connection:
        runs = {
            row[0]: row[1:]
            for row in connection.execute(
                "SELECT job, status, planned, removed, not_attempted, chunks, guard_decision FROM zoho_delink_run"
            )
        }
        guarded = connection.execute(
            "SELECT outcome, attempts, count(*) FROM zoho_delink_audit WHERE job = 'guarded' GROUP BY 1, 2"
        ).fetchall()
    assert runs["nothing"] == ("succeeded", 0, 0, 0, 0, "passed: 0 links planned, 10000 allowed")
    assert runs["guarded"] == ("stopped", 30, 0, 30, 1, "breached: 30 links planned, 5 allowed")
    assert runs["contacts_deals"] == ("succeeded", 30, 30, 0, 4, "passed: 30 links planned, 10000 allowed")
    assert guarded == [("not_attempted", 0, 30)]
