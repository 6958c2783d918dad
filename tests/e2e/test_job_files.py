"""A folder with one invalid job file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.airflow_world import Home, World

pytest_plugins = ["tests.support.airflow_world"]


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


def test_invalid_job_file_is_reported_by_field_and_leaves_other_jobs_running(world: World, delink_home: Home):
    def errors() -> list[dict[str, str]]:
        found: list[dict[str, str]] = world.airflow.api("GET", "/api/v2/importErrors")["import_errors"]
        return found

    jobs = {file.stem for file in delink_home.jobs.iterdir()} - {"broken"}
    world.runs.until(lambda: bool(errors()), "the import error")
    world.runs.until(lambda: len(_dags(world)) >= len(jobs), "the Dags")

    (error,) = errors()
    assert error["filename"].endswith("zoho_delink_broken_jobs.py")
    lines = error["stack_trace"].splitlines()
    assert any(
        "broken.yaml, line 2: schedule: 'every night' has 2 fields; a cron expression has five" in line
        for line in lines
    )
    assert "broken.yaml, line 11: chunksize: unknown field; did you mean chunk_size?" in lines
    dags = _dags(world)
    assert dags == {f"zoho_delink__{job}": False for job in jobs}


def _dags(world: World) -> dict[str, bool]:
    """Return whether each job's Dag has import errors."""
    # Underscores in the pattern match any character.
    found = world.airflow.api("GET", "/api/v2/dags?dag_id_pattern=zoho_delink__%25&limit=50")["dags"]
    return {
        dag["dag_id"]: dag["has_import_errors"] for dag in found if dag["dag_id"].startswith("zoho_delink__")
    }
