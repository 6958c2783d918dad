"""Dag runs through `dag.test()` in one process that waits between them: a test can change the world meanwhile."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.airflow_process import airflow_env

if TYPE_CHECKING:
    from collections.abc import Mapping

PROJECT = Path(__file__).parents[2]

_RUNNER = f"""
import json, sys
from zoho_crm.airflow_compat import DagBag
out = open(int(sys.argv[1]), "w", buffering=1)
for line in sys.stdin:
    wanted = json.loads(line)
    # Load again: Airflow keeps the values of one run in the Dag for the next.
    dag = DagBag(dag_folder={str(PROJECT / "dags")!r}).dags[wanted["dag_id"]]
    run = dag.test(run_conf=wanted["conf"])
    print(json.dumps({{"state": run.state.value, "run_id": run.run_id}}), file=out)
"""


class LiveDags:
    """
    The Dags of this repository, run on demand.

    :param home: folder for Airflow's database and the log
    :param empty_airflow_db: database to start from
    :param env: connections and settings beside those of this process
    """

    def __init__(self, home: Path, empty_airflow_db: Path, env: Mapping[str, str]) -> None:
        self._log = home / "runs.log"
        shutil.copy(empty_airflow_db, home / "airflow.db")
        self._env = airflow_env(home, **env)

    def __enter__(self) -> Self:
        read_end, write_end = os.pipe()
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", _RUNNER, str(write_end)],
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

    def run(self, dag_id: str, expected: str = "success", **conf: Any) -> str:
        """Run a Dag to its end and return the id of the run."""
        assert self._process.stdin
        self._process.stdin.write(json.dumps({"dag_id": dag_id, "conf": conf}) + "\n")
        self._process.stdin.flush()
        response = json.loads(self._responses.readline() or "{}")
        assert response.get("state") == expected, self._log.read_text()[-4000:]
        run_id: str = response["run_id"]
        return run_id
