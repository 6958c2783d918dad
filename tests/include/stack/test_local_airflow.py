from __future__ import annotations

import os
import signal
import stat

import pytest

from include.stack import ApiError, ComponentDiedError, LocalAirflow, StackError
from include.stack.guard import living_processes
from include.stack.network import listeners_of

# The same group as tests/e2e: no two Airflows at a time.
pytestmark = [pytest.mark.systems, pytest.mark.e2e, pytest.mark.xdist_group("e2e")]

_DAG = """
from airflow.sdk import BaseHook, dag, task

@dag(schedule=None, params={"times": 1})
def tiny():
    @task
    def numbers(params=None):
        return list(range(params["times"]))

    @task
    def one(number):
        return BaseHook.get_connection("from_outside").host

    one.expand(number=numbers())

tiny()
"""


def test_runs_dags_listens_on_the_loopback_address_alone_and_leaves_no_process(tmp_path):
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "tiny.py").write_text(_DAG)
    home = tmp_path / "home"
    connection = {"AIRFLOW_CONN_FROM_OUTSIDE": '{"conn_type": "generic", "host": "somewhere"}'}

    with LocalAirflow(home, dags_folder=dags, env=connection) as airflow:
        airflow.wait_until_healthy(timeout_s=240)
        airflow.wait_for_dag("tiny")
        airflow.unpause("tiny")
        run = airflow.trigger("tiny", {"times": 3})
        assert airflow.wait_for_run("tiny", run) == "success"
        tasks = airflow.api("GET", f"/api/v2/dags/tiny/dagRuns/{run}/taskInstances")
        assert [task["task_id"] for task in tasks["task_instances"]].count("one") == 3

        processes = airflow.processes()
        listeners = listeners_of(processes)
        assert len(listeners) >= 2
        assert {str(one.address) for one in listeners} == {"127.0.0.1"}
        assert {
            stat.S_IMODE((home / name).stat().st_mode) for name in ["secrets.json", "passwords.json"]
        } == {0o600}
        with pytest.raises(ApiError, match="403"):
            airflow.api("POST", "/api/v2/dags/tiny/dagRuns", {"logical_date": None}, user="viewer")
        with pytest.raises(StackError, match="Another Airflow runs"):
            LocalAirflow(home, dags_folder=dags).start()

        scheduler = next(each for each in airflow.components if each.name == "scheduler")
        os.kill(scheduler.process.pid, signal.SIGKILL)
        scheduler.process.wait()
        with pytest.raises(ComponentDiedError, match="scheduler ended"):
            airflow.wait_for_run("tiny", "no such run", timeout_s=60)

    assert not processes & {process.pid for process in living_processes()}
