"""
One running Airflow for all tests of a session that need one, started on first use.

A pytest plugin of the test modules that use it. They belong to one group of
`--dist loadgroup` (see conftest.py), so that there is one Airflow.
"""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.stack import LocalAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator

# The Dag files do not change: reading them again would take a good part of a core.
_SETTINGS = {"AIRFLOW__DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "300"}
_KEPT = Path(__file__).parents[2] / ".cache"


@pytest.fixture(scope="session")
def stack_env() -> dict[str, str]:
    """Return additional environment variables of Airflow's processes; override it to add some."""
    return {}


@pytest.fixture(scope="session")
def airflow_stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stack_env: dict[str, str]
) -> Iterator[LocalAirflow]:
    """Yield a healthy Airflow with the Dags of this repository; its logs stay in .cache/e2e-logs when a test fails."""
    home = tmp_path_factory.mktemp("airflow")
    # Only tasks of system tests wait in the triggerer.
    triggerer = any(item.get_closest_marker("systems") for item in request.session.items)
    airflow = LocalAirflow(home, env={**_SETTINGS, **stack_env}, triggerer=triggerer)
    with logs_kept(home, "e2e-logs", request.session), airflow:
        airflow.wait_until_healthy()
        yield airflow


@contextmanager
def logs_kept(home: Path, name: str, session: pytest.Session) -> Iterator[None]:
    """Remove an Airflow's home at the end, and if a test has failed, keep its logs in .cache/<name>."""
    failed = True
    try:
        yield
        failed = bool(session.testsfailed)
    finally:
        if failed and (home / "logs").exists():
            shutil.rmtree(_KEPT / name, ignore_errors=True)
            shutil.copytree(home / "logs", _KEPT / name, symlinks=True)
        shutil.rmtree(home, ignore_errors=True)
