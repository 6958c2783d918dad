"""
The marks of the tests that need a running Airflow, which is in _stack.py.

Each test here is marked `e2e` and belongs to one group of `--dist loadgroup`, with which `make test` runs pytest: the
group runs in one process, however many there are, so there is one Airflow. A test elsewhere that starts an Airflow of
its own carries both marks itself, so that no two run at the same time.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_FOLDER = Path(__file__).parent


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.is_relative_to(_FOLDER):
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.xdist_group("e2e"))
