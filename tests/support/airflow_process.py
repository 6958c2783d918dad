"""Programs that run Dags with a separate Airflow on SQLite. A pytest plugin."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Run = Callable[..., subprocess.CompletedProcess[str]]


MAKE_EXECUTION_API_ONCE = """
import functools
from airflow.sdk.execution_time import supervisor
supervisor.in_process_api_server = functools.cache(supervisor.in_process_api_server)
"""
"""First lines of a program with ``dag.test()``; before Airflow 3.3 each task makes the API, longer than it runs."""


def airflow_env(home: Path, **env: str) -> dict[str, str]:
    """Return the environment of a process whose Airflow lives in a folder."""
    return {
        **os.environ,
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home / 'airflow.db'}?timeout=60",
        "NO_PROXY": "127.0.0.1",
        **env,
    }


@pytest.fixture(scope="session")
def empty_airflow_db(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Airflow's database without Dags, to copy: creating its tables takes several seconds."""
    home = tmp_path_factory.mktemp("empty-airflow")
    migrate = [sys.executable, "-m", "airflow", "db", "migrate"]
    subprocess.run(migrate, env=airflow_env(home), check=True, capture_output=True, timeout=120)
    return home / "airflow.db"


@pytest.fixture
def run_with_airflow(tmp_path: Path, empty_airflow_db: Path) -> Run:
    """Run a Python program with Airflow's home in the test's folder: ``run_with_airflow("-c", code, **env)``."""
    shutil.copy(empty_airflow_db, tmp_path / "airflow.db")

    def run(*program: str, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-W", "ignore", *program],
            env=airflow_env(tmp_path, **env),
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )

    return run
