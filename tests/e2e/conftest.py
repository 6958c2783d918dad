"""
A running Airflow for the tests of this folder: one for them all, started by the first that asks.

Each test here is marked `e2e` and belongs to one group of `--dist loadgroup`, with which `make test` runs pytest: the
group runs in one process, however many there are, so there is one Airflow. A test elsewhere that starts an Airflow of
its own carries both marks itself, so that no two run at the same time.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from include.stack import LocalAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator

_FOLDER = Path(__file__).parent
_KEPT_LOGS = _FOLDER.parents[1] / ".cache" / "e2e-logs"


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_FOLDER):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.xdist_group("e2e"))


@pytest.fixture(scope="session")
def stack_env() -> dict[str, str]:
    """Return further environment of Airflow's processes, such as connections; override it to add some."""
    return {}


@pytest.fixture(scope="session")
def airflow_stack(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, stack_env: dict[str, str]
) -> Iterator[LocalAirflow]:
    """Yield a healthy Airflow with the Dags of this repository; its logs stay in .cache/e2e-logs when a test fails."""
    home = tmp_path_factory.mktemp("airflow")
    failed = True
    try:
        with LocalAirflow(home, env=stack_env) as airflow:
            airflow.wait_until_healthy(timeout_s=240)
            yield airflow
        failed = bool(request.session.testsfailed)
    finally:
        if failed and (home / "logs").exists():
            shutil.rmtree(_KEPT_LOGS, ignore_errors=True)
            shutil.copytree(home / "logs", _KEPT_LOGS, symlinks=True)
        shutil.rmtree(home, ignore_errors=True)
