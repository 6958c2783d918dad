"""The example Dags that the package contains."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import zoho_crm
from include.demo.world import connections
from tests.support.releases import DagSerialization
from zoho_crm.airflow_compat import DagBag

if TYPE_CHECKING:
    from tests.support.airflow_process import Run

# Airflow's own reading of .airflowignore and of plugins, while it reads Dags.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

EXAMPLES = Path(zoho_crm.__file__).with_name("example_dags")
DAG_IDS = {"example_zoho_delink", "example_zoho_delink_batches"}
RUN = """\
import sys
from zoho_crm.airflow_compat import DagBag
for dag_id, dag in sorted(DagBag(dag_folder=sys.argv[1]).dags.items()):
    print("state", dag_id, dag.test().state)
"""


def test_they_are_read_without_a_connection_and_survive_being_stored() -> None:
    found = DagBag(dag_folder=EXAMPLES, bundle_path=EXAMPLES)
    assert found.import_errors == {}
    assert set(found.dags) == DAG_IDS
    for dag in found.dags.values():
        stored = json.loads(json.dumps(DagSerialization.serialize_dag(dag)))
        assert set(DagSerialization.deserialize_dag(stored).task_dict) == set(dag.task_dict)


def test_they_remove_nothing(tmp_path: Path, run_with_airflow: Run) -> None:
    audit, dags = tmp_path / "audit.db", tmp_path / "dags"
    shutil.copytree(EXAMPLES, dags)
    # Nothing listens on the port: a dry run sends no request.
    env = {**connections(1, tmp_path / "warehouse.db", audit), "AIRFLOW__CORE__DAGS_FOLDER": str(dags)}
    done = run_with_airflow("-c", RUN, str(dags), **env)
    states = [line for line in done.stdout.splitlines() if line.startswith("state ")]
    assert states == [f"state {dag_id} success" for dag_id in sorted(DAG_IDS)], (
        done.stdout[-3000:] + done.stderr[-3000:]
    )
    with closing(sqlite3.connect(audit)) as connection:
        outcomes = connection.execute(
            "SELECT dag_id, outcome, count(*) FROM zoho_delink_latest GROUP BY 1, 2 ORDER BY 1"
        ).fetchall()
    assert outcomes == [
        ("example_zoho_delink", "would_remove", 2),
        ("example_zoho_delink_batches", "would_remove", 400),
    ]
