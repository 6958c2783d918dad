"""
Dag runs through `dag.test()` in one process for all tests: starting it costs more than a run. A pytest plugin.

The process waits between runs, so that a test can change the world meanwhile.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.support.airflow_process import MAKE_EXECUTION_API_ONCE, airflow_env

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PROJECT = Path(__file__).parents[2]

_RUNNER = (
    MAKE_EXECUTION_API_ONCE
    + """
import json, os, sys
from zoho_crm.airflow_compat import DagBag
out = open(int(sys.argv[1]), "w", buffering=1)
env = {}
for line in sys.stdin:
    wanted = json.loads(line)
    for name in env:
        del os.environ[name]
    env = wanted["env"]
    os.environ.update(env)
    # Airflow before 3.3 leaves the ID of the last run's Dag behind, and no other Dag would be made.
    os.environ.pop("_AIRFLOW_PARSING_CONTEXT_DAG_ID", None)
    # Load again: Airflow keeps the values of one run in the Dag for the next.
    dag = DagBag(dag_folder=sys.argv[2]).dags[wanted["dag_id"]]
    run = dag.test(run_conf=wanted["conf"], mark_success_pattern=wanted["mark_success"])
    print(json.dumps({"state": run.state.value, "run_id": run.run_id}), file=out)
"""
)


class LiveDags:
    """
    The Dags of this repository, run on demand.

    :param home: folder for Airflow's database, its Dag files and the log
    :param empty_airflow_db: database to start from
    """

    def __init__(self, home: Path, empty_airflow_db: Path) -> None:
        self._log = home / "runs.log"
        self.dags_folder = home / "dags"
        """A copy of the Dag files, to which a test may add its own."""
        self.database = home / "airflow.db"
        """Airflow's database, a SQLite file."""
        self.env: Mapping[str, str] = {}
        """Connections and settings of the next runs, set by each test."""
        shutil.copytree(PROJECT / "dags", self.dags_folder)
        shutil.copy(empty_airflow_db, self.database)
        self._env = airflow_env(home, AIRFLOW__CORE__DAGS_FOLDER=str(self.dags_folder))

    def __enter__(self) -> Self:
        read_end, write_end = os.pipe()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _RUNNER, str(write_end), str(self.dags_folder)],
                env=self._env,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=(write_end,),
                text=True,
            )
        os.close(write_end)
        self._responses = os.fdopen(read_end)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait(timeout=60)
        self._responses.close()

    def run(
        self, dag_id: str, expected: str = "success", *, mark_success: str | None = None, **conf: Any
    ) -> str:
        """
        Run a Dag to its end and return the ID of the run.

        :param expected: the state in which the run must end
        :param mark_success: regular expression of tasks that are marked as successful instead of run
        :param conf: values of the trigger form
        """
        assert self._process.stdin
        wanted = {"dag_id": dag_id, "conf": conf, "mark_success": mark_success, "env": dict(self.env)}
        self._process.stdin.write(json.dumps(wanted) + "\n")
        self._process.stdin.flush()
        response = json.loads(self._responses.readline() or "{}")
        assert response.get("state") == expected, self._log.read_text()[-4000:]
        run_id: str = response["run_id"]
        return run_id


@pytest.fixture(scope="session")
def live_dags(tmp_path_factory: pytest.TempPathFactory, empty_airflow_db: Path) -> Iterator[LiveDags]:
    with LiveDags(tmp_path_factory.mktemp("live-dags"), empty_airflow_db) as live:
        yield live
