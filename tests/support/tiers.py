"""
The tier of each test, by its fixtures and folder. A pytest plugin.

`make test-unit` runs the tests without any of these marks, `make test` all but `systems`, and `make test-systems` only
those:

- `integration`: uses a server or a process that the test session starts, or lies in tests/include, tests/proofs or
  tests/plugins/zoho_crm/testing
- `e2e`: uses a running Airflow, or lies in tests/e2e
- `browser`: lies in tests/browser
- `systems`: lies in tests/browser or tests/systems, or the test says so

Only a test that starts something without a fixture, or takes seconds, carries `@pytest.mark.integration` itself.

Tests that share something expensive belong to one group of `--dist loadgroup`: a group runs in one process, so that
there is one running Airflow, and one process that runs Dags.
"""

from __future__ import annotations

from pathlib import Path

import pytest

_TESTS = Path(__file__).parents[1]

INTEGRATION = {
    "empty_airflow_db",
    "mariadb_server",
    "postgres_server",
    "processes",  # a pool of them
    "zoho_server",
}
SERVER_DATABASES = {"mariadb", "postgres", "psycopg", "psycopg2"}
"""Values of a parametrized fixture that lead to a server, whose fixture is requested only when the test runs."""

FOLDERS = {
    "browser": ("browser", "systems", "e2e"),
    "e2e": ("e2e",),
    "include": ("integration",),
    "plugins/zoho_crm/testing": ("integration",),
    "proofs": ("integration",),
    "systems": ("systems",),
}


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in _marks(item):
            item.add_marker(mark)
        if group := _group(item):
            item.add_marker(pytest.mark.xdist_group(group))


def _group(item: pytest.Item) -> str | None:
    if item.get_closest_marker("e2e"):
        return "e2e"
    fixtures = getattr(item, "fixturenames", ())
    if "empty_airflow_db" in fixtures:
        return "dag_runs"
    is_proof = item.path.is_relative_to(_TESTS / "proofs") and not item.get_closest_marker("systems")
    return "killed_processes" if is_proof and "processes" in fixtures else None


def _marks(item: pytest.Item) -> set[str]:
    marks = {
        mark
        for folder, names in FOLDERS.items()
        if item.path.is_relative_to(_TESTS / folder)
        for mark in names
    }
    fixtures = set(getattr(item, "fixturenames", ()))
    if "airflow_stack" in fixtures:
        marks.add("e2e")
    if fixtures & INTEGRATION or SERVER_DATABASES & _parameters(item):
        marks.add("integration")
    return marks


def _parameters(item: pytest.Item) -> set[str]:
    callspec = getattr(item, "callspec", None)
    return {value for value in callspec.params.values() if isinstance(value, str)} if callspec else set()
