"""The workflows in .github run what the project has."""

from __future__ import annotations

import re
from typing import Any

import pytest
import yaml

from tests.matrix import ROWS
from tests.support.deployment import PROJECT

TARGETS = set(re.findall(r"^([a-z-]+):.*## ", (PROJECT / "Makefile").read_text(), re.MULTILINE))
NAMES = ("ci", "release", "vulnerabilities")


def workflow(name: str) -> dict[str, Any]:
    text = (PROJECT / ".github" / "workflows" / f"{name}.yml").read_text()
    loaded: dict[str, Any] = yaml.load(text, yaml.BaseLoader)  # noqa: S506 - it is a safe one, and reads the key `on` as text
    return loaded


def test_ci_runs_every_command_of_ci_run() -> None:
    rows = workflow("ci")["jobs"]["make"]["strategy"]["matrix"]["include"]
    targets = {row["target"] for row in rows}
    commands = set(re.findall(r"^make ([a-z-]+)", (PROJECT / ".ci" / "run").read_text(), re.MULTILINE))
    assert commands - {"test-matrix"} <= targets <= TARGETS
    assert {"test", "test-matrix"} <= TARGETS


def test_ci_runs_every_row_of_the_matrix() -> None:
    job = workflow("ci")["jobs"]["airflow"]
    assert job["strategy"]["matrix"]["row"] == [row.name for row in ROWS]
    pythons = set(job["steps"][1]["with"]["python-version"].split())
    assert {row.python for row in ROWS} <= pythons


def test_every_workflow_is_checked_here_and_by_lint() -> None:
    assert {path.stem for path in (PROJECT / ".github" / "workflows").iterdir()} == set(NAMES)
    makefile = (PROJECT / "Makefile").read_text()
    assert re.search(r"^lint: .*\blint-workflows\b", makefile, re.MULTILINE)
    assert "zizmor --offline --no-progress --quiet .github" in makefile


@pytest.mark.parametrize("name", NAMES)
def test_jobs_end_and_have_few_permissions(name: str) -> None:
    loaded = workflow(name)
    assert loaded["permissions"] in ({}, {"contents": "read"})
    assert all(int(job["timeout-minutes"]) <= 90 for job in loaded["jobs"].values())


def test_only_the_step_that_publishes_has_an_identity_and_no_step_has_a_token() -> None:
    jobs = workflow("release")["jobs"]
    assert {name for name, job in jobs.items() if "id-token" in job["permissions"]} == {"publish"}
    assert jobs["publish"]["environment"] == "pypi"
    assert "secrets." not in (PROJECT / ".github" / "workflows" / "release.yml").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_actions_are_pinned_to_a_commit(name: str) -> None:
    steps = [step for job in workflow(name)["jobs"].values() for step in job["steps"]]
    used = [step["uses"] for step in steps if "uses" in step]
    assert used
    assert [one for one in used if not re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", one)] == []
