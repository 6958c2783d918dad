from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from zoho_crm.ui import audit_databases
from zoho_crm.ui.audit_databases import default_jobs_folder

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def dags_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "project" / "dags"
    folder.mkdir(parents=True)
    monkeypatch.setattr(audit_databases, "dags_folder", lambda: str(folder))
    return folder


def test_job_files_are_beside_the_dags_folder(dags_folder: Path) -> None:
    assert default_jobs_folder() == dags_folder.parent / "include" / "jobs"


def test_job_files_inside_the_dags_folder_come_first(dags_folder: Path) -> None:
    jobs = dags_folder / "include" / "jobs"
    jobs.mkdir(parents=True)
    assert default_jobs_folder() == jobs


def test_the_environment_names_another_folder(dags_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (dags_folder / "include" / "jobs").mkdir(parents=True)
    monkeypatch.setenv("ZOHO_CRM_JOBS_FOLDER", "/elsewhere")
    assert str(default_jobs_folder()) == "/elsewhere"
