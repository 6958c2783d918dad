from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.support.live_dags import PROJECT
from zoho_crm.ui import audit_databases
from zoho_crm.ui.audit_databases import AuditDatabases

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def dags_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project" / "dags"
    folder.mkdir(parents=True)
    monkeypatch.setattr(audit_databases, "dags_folder", lambda: str(folder))
    return folder


def add_job(project: Path, name: str = "contacts_deals", description: str = "") -> None:
    """Copy the sample job to ``include`` below a folder, with another name and description."""
    shutil.copytree(PROJECT / "include" / "sql", project / "include" / "sql", dirs_exist_ok=True)
    jobs = project / "include" / "jobs"
    jobs.mkdir(exist_ok=True)
    text = (PROJECT / "include" / "jobs" / "contacts_deals.yaml").read_text()
    lines = [line for line in text.splitlines() if not line.startswith("description:")]
    (jobs / f"{name}.yaml").write_text("\n".join([*lines, f"description: {description!r}"]))


@pytest.mark.parametrize("place", ["..", ".", "crm"], ids=["beside", "inside", "in a folder of it"])
def test_job_files_are_found_from_the_dags_folder(dags_folder: Path, place: str) -> None:
    databases = AuditDatabases()
    (dags_folder / place).mkdir(exist_ok=True)
    add_job(dags_folder / place)
    assert [job.name for job in databases.jobs()] == ["contacts_deals"]


def test_each_folder_counts_and_the_first_of_two_jobs_with_one_name(dags_folder: Path) -> None:
    for place, name in (("a", "first"), ("b", "second"), ("..", "first")):
        (dags_folder / place).mkdir(exist_ok=True)
        add_job(dags_folder / place, name, description=place)
    found = AuditDatabases().jobs()
    assert [(job.name, job.description) for job in found] == [("first", "a"), ("second", "b")]


def test_the_environment_names_another_folder(
    dags_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add_job(dags_folder)
    monkeypatch.setenv("ZOHO_CRM_JOBS_FOLDER", str(tmp_path / "elsewhere"))
    assert AuditDatabases().jobs() == []
    assert AuditDatabases().looked_in == [str(tmp_path / "elsewhere")]


def test_places_are_named(dags_folder: Path) -> None:
    project = dags_folder.parent
    assert AuditDatabases().looked_in == [
        f"{project}/dags/include/jobs",
        f"{project}/dags/*/include/jobs",
        f"{project}/include/jobs",
    ]


def test_nothing_is_looked_for_without_a_dags_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit_databases, "dags_folder", lambda: "")
    assert (AuditDatabases().jobs(), AuditDatabases().looked_in) == ([], [])
