from __future__ import annotations

import os
import signal
import stat

import pytest

from include.stack import ApiError, LocalAirflow, StackError
from include.stack.client import unhealthy_components
from include.stack.processes import living_processes
from tests.support.airflow_stack import logs_kept

_DAG = """
from airflow.sdk import BaseHook, dag, task

@dag(schedule=None, params={"times": 1})
def tiny():
    @task
    def numbers(params=None):
        return list(range(params["times"]))

    @task
    def one(number):
        return BaseHook.get_connection("from_environment").host

    one.expand(number=numbers())

tiny()
"""


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        pytest.param({"scheduler": {"status": "healthy"}}, [], id="healthy"),
        pytest.param({"scheduler": {"status": "unhealthy"}}, ["scheduler: unhealthy"], id="unhealthy"),
        pytest.param({"scheduler": {"status": None}}, ["scheduler: not started"], id="no heartbeat yet"),
        pytest.param({"scheduler": None}, ["scheduler: not started"], id="null"),
        pytest.param({}, ["scheduler: not started"], id="absent"),
    ],
)
def test_reports_unhealthy_components(health, expected):
    assert unhealthy_components(health, ["scheduler"]) == expected


@pytest.mark.systems
@pytest.mark.e2e
@pytest.mark.xdist_group("e2e")  # the group of tests/e2e: no two Airflows at a time
def test_runs_dags_on_loopback_alone_and_leaves_no_process(request, tmp_path, listening_addresses):
    dags = tmp_path / "dags"
    dags.mkdir()
    (dags / "tiny.py").write_text(_DAG)
    home = tmp_path / "home"
    connection = {"AIRFLOW_CONN_FROM_ENVIRONMENT": '{"conn_type": "generic", "host": "somewhere"}'}

    airflow = LocalAirflow(home, dags_folder=dags, env=connection)
    with logs_kept(home, "stack-logs", request.session), airflow:
        airflow.wait_until_healthy()
        airflow.wait_for_dag("tiny")
        airflow.unpause("tiny")
        run = airflow.trigger("tiny", {"times": 3})
        assert airflow.wait_for_run("tiny", run) == "success"
        tasks = airflow.api("GET", f"/api/v2/dags/tiny/dagRuns/{run}/taskInstances")
        assert [task["task_id"] for task in tasks["task_instances"]].count("one") == 3

        processes = airflow.processes()
        assert listening_addresses(processes) == {"127.0.0.1"}
        assert stat.S_IMODE((home / "passwords.json").stat().st_mode) == 0o600
        for log in (home / "logs").rglob("*.log"):
            assert airflow.passwords["admin"] not in log.read_text(errors="replace")
        with pytest.raises(ApiError, match="403"):
            airflow.api("POST", "/api/v2/dags/tiny/dagRuns", {"logical_date": None}, user="viewer")
        with pytest.raises(StackError, match="already running"):
            LocalAirflow(home, dags_folder=dags).start()

        scheduler = airflow.component("scheduler")
        os.kill(scheduler.process.pid, signal.SIGKILL)
        scheduler.process.wait()
        with pytest.raises(StackError, match="scheduler ended"):
            airflow.wait_for_run("tiny", "no such run", timeout_s=60)

    assert not processes & living_processes().keys()
