"""A new project, from ``zoho-delink init`` to a whole run of its sample job."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.demo.world import connections, fill_crm
from zoho_crm.testing.local_zoho import LocalZoho

if TYPE_CHECKING:
    from tests.support.airflow_process import Run

PROGRAM = Path(sys.executable).with_name("zoho-delink")
RUN = """\
import sys
from zoho_crm.airflow_compat import DagBag
bag = DagBag(dag_folder=sys.argv[1])
print("errors", bag.import_errors)
print("dags", *sorted(bag.dags))
for mode in ("auto", "apply"):
    print("state", mode, bag.dags["zoho_delink__contacts_deals"].test(run_conf={"mode": mode}).state)
"""


def test_sample_job_runs_in_a_new_project(tmp_path: Path, run_with_airflow: Run) -> None:
    project, warehouse, audit = tmp_path / "project", tmp_path / "warehouse.db", tmp_path / "audit.db"
    subprocess.run([PROGRAM, "init", project], check=True, capture_output=True, timeout=60)
    stale = {(f"c-{number:04}", f"d-{number:04}") for number in range(3)}
    with closing(sqlite3.connect(warehouse)) as connection, connection:
        connection.execute("CREATE TABLE contacts_deals_to_remove (contact_id, deal_id, marked_at)")
        connection.executemany(
            "INSERT INTO contacts_deals_to_remove VALUES (?, ?, '2026-11-01 00:00:00.000000')", sorted(stale)
        )
    with LocalZoho() as zoho:
        fill_crm(zoho.state)
        for parent, related in stale:
            zoho.state.link("Contacts", parent, "Deals", related)
        before = zoho.state.links("Contacts", "Deals")
        env = {
            **connections(zoho.port, warehouse, audit),
            "AIRFLOW__CORE__DAGS_FOLDER": str(project / "dags"),
        }
        done = run_with_airflow("-c", RUN, str(project / "dags"), **env)
        after = zoho.state.links("Contacts", "Deals")
    said = [line for line in done.stdout.splitlines() if line.startswith(("errors ", "dags ", "state "))]
    assert said == [
        "errors {}",
        "dags zoho_delink__contacts_deals zoho_delink_relink zoho_delink_retention zoho_delink_retry",
        "state auto success",
        "state apply success",
    ], done.stdout[-3000:] + done.stderr[-3000:]
    assert before - after == stale
    with closing(sqlite3.connect(audit)) as connection:
        runs = connection.execute(
            "SELECT mode, planned, removed FROM zoho_delink_run ORDER BY mode"
        ).fetchall()
    assert runs == [("apply", 3, 3), ("dry_run", 3, 0)]


@pytest.mark.integration
def test_dag_processor_keeps_valid_jobs_beside_an_invalid_one(tmp_path: Path, run_with_airflow: Run) -> None:
    project = tmp_path / "project"
    subprocess.run([PROGRAM, "init", project], check=True, capture_output=True, timeout=60)
    (project / "include" / "jobs" / "broken.yaml").write_text("chunk_size: many")
    lost = project / "dags" / "lost.py"
    lost.write_text("from zoho_crm.dags import delink_dags  # for Airflow\ndelink_dags('include/nowhere')\n")
    run_with_airflow(
        *("-m", "airflow", "dag-processor", "--num-runs", "1"),
        AIRFLOW__CORE__DAGS_FOLDER=str(project / "dags"),
    )
    with closing(sqlite3.connect(tmp_path / "airflow.db")) as connection:
        dags = connection.execute("SELECT dag_id, is_stale, is_paused FROM dag ORDER BY dag_id").fetchall()
        errors = connection.execute("SELECT filename, stacktrace FROM import_error").fetchall()
    # Not stale: scheduled. The Dag that reports the invalid file is not paused.
    assert dags == [
        ("zoho_delink__contacts_deals", 0, 1),
        ("zoho_delink_invalid_jobs", 0, 0),
        ("zoho_delink_relink", 0, 1),
        ("zoho_delink_retention", 0, 1),
        ("zoho_delink_retry", 0, 1),
    ]
    ((file, error),) = errors
    assert file == "lost.py"
    assert f"'include/nowhere' does not exist; looked for {project}/dags/include/nowhere, " in error
