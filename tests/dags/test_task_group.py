"""The tasks of a job as a task group inside another Dag."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
import yaml
from airflow.sdk import DAG

from include.demo.world import connections, fill_crm
from tests.support.live_dags import PROJECT
from tests.support.releases import DagSerialization
from zoho_crm.core.job_files import JobFileError
from zoho_crm.dags import delink_dag, delink_task_group
from zoho_crm.testing.local_zoho import LocalZoho

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.live_dags import LiveDags

SAMPLE = PROJECT / "include" / "jobs" / "contacts_deals.yaml"
USER_DAG = """\
from airflow.sdk import dag, task
from zoho_crm.dags import delink_task_group
from zoho_crm.trigger_forms import job_form

@dag(dag_id="nightly", schedule=None, params=job_form())
def nightly():
    @task
    def load(): ...

    @task
    def refresh(): ...

    load() >> delink_task_group({job!r}, group_id="stale_links") >> refresh()

nightly = nightly()
"""


def test_the_group_prefixes_its_tasks_and_keeps_their_order() -> None:
    with DAG("mine", schedule=None) as dag:
        delink_task_group(SAMPLE, group_id="stale_links")
    assert {task_id: task.downstream_task_ids for task_id, task in dag.task_dict.items()} == {
        "stale_links.preflight": {"stale_links.plan"},
        "stale_links.plan": {"stale_links.guard", "stale_links.delink"},
        "stale_links.guard": {"stale_links.approve"},
        "stale_links.approve": {"stale_links.delink"},
        "stale_links.delink": {"stale_links.report"},
        "stale_links.report": set(),
    }
    assert dag.get_task("stale_links.plan").preflight_task_id == "stale_links.preflight"
    assert dag.get_task("stale_links.approve").guard_task_id == "stale_links.guard"
    assert {task.owner for task in dag.tasks} == {"data-team"}
    stored = json.loads(json.dumps(DagSerialization.serialize_dag(dag)))
    assert set(DagSerialization.deserialize_dag(stored).task_dict) == set(dag.task_dict)


def test_delink_dag_is_the_dag_of_one_file() -> None:
    dag = delink_dag(SAMPLE)
    assert dag.dag_id == "zoho_delink__contacts_deals"
    assert list(dag.task_dict) == ["preflight", "plan", "guard", "approve", "report", "delink"]


@pytest.mark.parametrize("build", [delink_dag, delink_task_group])
def test_an_invalid_job_file_is_refused(tmp_path: Path, build: object) -> None:
    job = tmp_path / "broken.yaml"
    job.write_text("chunk_size: many")
    with pytest.raises(JobFileError, match=r"broken\.yaml, line 1: chunk_size: must be a whole number"):
        build(job)  # type: ignore[operator]


def test_the_group_removes_the_links_of_its_job_in_a_real_run(tmp_path: Path, live_dags: LiveDags) -> None:
    jobs, warehouse, audit = tmp_path / "include" / "jobs", tmp_path / "warehouse.db", tmp_path / "audit.db"
    for name in ("jobs/contacts_deals.yaml", "sql/contacts_deals.sql"):
        path = tmp_path / "include" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((PROJECT / "include" / name).read_text())
    sample = jobs / "contacts_deals.yaml"
    sample.write_text(yaml.safe_dump({**yaml.safe_load(sample.read_text()), "chunk_size": 5}))
    dag_file = live_dags.dags_folder / "nightly.py"
    dag_file.write_text(USER_DAG.format(job=str(sample)))
    stale = {(f"c-{number:04}", f"d-{number:04}") for number in range(12)}
    with closing(sqlite3.connect(warehouse)) as connection, connection:
        connection.execute("CREATE TABLE crm_links_to_remove (relation, parent_id, related_id, marked_at)")
        connection.executemany(
            "INSERT INTO crm_links_to_remove VALUES ('contacts_deals', ?, ?, '2026-11-01 00:00:00.000000')",
            sorted(stale),
        )
    with LocalZoho() as zoho:
        fill_crm(zoho.state)
        for parent, related in stale:
            zoho.state.link("Contacts", parent, "Deals", related)
        before = zoho.state.links("Contacts", "Deals")
        live_dags.env = {**connections(zoho.port, warehouse, audit), "ZOHO_CRM_JOBS_FOLDER": str(jobs)}
        run_id = live_dags.run("nightly", mode="apply")
        after = zoho.state.links("Contacts", "Deals")
    dag_file.unlink()
    with closing(sqlite3.connect(live_dags.database)) as connection:
        tasks = connection.execute(
            "SELECT task_id, state FROM task_instance WHERE run_id = ?", [run_id]
        ).fetchall()
    assert {state for _, state in tasks} == {"success"}
    assert [task_id for task_id, _ in tasks].count("stale_links.delink") == 3
    assert before - after == stale
    with closing(sqlite3.connect(audit)) as connection:
        runs = connection.execute(
            "SELECT job, dag_id, status, removed, org_id IS NULL FROM zoho_delink_run"
        ).fetchall()
    # The organization comes from the preflight task of the group.
    assert runs == [("contacts_deals", "nightly", "succeeded", 12, 0)]
