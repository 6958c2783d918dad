"""The routes of docs/install.md and docs/install-managed.md: the built wheel in new environments with Airflow 3.1.8."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.airflow_process import airflow_env

if TYPE_CHECKING:
    from collections.abc import Callable

PROJECT = Path(__file__).parents[2]
AIRFLOW = "apache-airflow==3.1.8"
RELEASE_DAY = "2026-03-12"

RUN_SAMPLE_JOB = """\
import os, sqlite3, sys
from zoho_crm.testing import FakeZoho
with FakeZoho() as fake, sqlite3.connect(sys.argv[1]) as warehouse:
    os.environ["AIRFLOW_CONN_ZOHO_CRM_DEFAULT"] = fake.connection
    warehouse.execute("CREATE TABLE contacts_deals_to_remove (contact_id, deal_id, marked_at)")
    warehouse.execute("INSERT INTO contacts_deals_to_remove VALUES ('c-1', 'd-1', '2026-11-01 12:00:00')")
    warehouse.commit()
    fake.link("Contacts", "c-1", "Deals", "d-1")
    fake.link("Contacts", "c-2", "Deals", "d-1")
    from zoho_crm.airflow_compat import DagBag
    bag = DagBag(dag_folder="dags")
    print("errors", bag.import_errors)
    print("state", bag.dags["zoho_delink__contacts_deals"].test(run_conf={"mode": "apply"}).state)
    print("links", fake.links("Contacts", "Deals"))
"""
READ_JOBS = """\
from zoho_crm.airflow_compat import DagBag
from zoho_crm.ui.audit_databases import AuditDatabases
bag = DagBag(dag_folder="dags")
print("errors", bag.import_errors)
print("dags", *sorted(bag.dags))
print("jobs of the pages", *[job.name for job in AuditDatabases().jobs()])
"""


@pytest.fixture(scope="module")
def wheel(uv: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    uv("build", "--quiet", "--wheel", "--out-dir", folder, PROJECT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def constraints(uv: Callable[..., None], wheel: Path) -> Path:
    """Versions of all packages as of the release day, as Airflow's own constraints have them."""
    file = wheel.with_name("constraints.txt")
    uv(
        *("pip", "compile", "--quiet", "--python", sys.executable, "--exclude-newer", RELEASE_DAY),
        *("--no-emit-index-url", "--no-emit-package", "zoho-crm-delink", "--output-file", file, "-"),
        stdin=f"{AIRFLOW}\n{wheel}\n",
    )
    return file


@pytest.fixture(scope="module")
def new_environment(
    uv: Callable[..., None], constraints: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Path]:
    """Make an environment with Airflow, as an image or a managed service has it; return its folder of programs."""

    def make(*packages: str | Path) -> Path:
        folder = tmp_path_factory.mktemp("environment")
        uv("venv", "--quiet", "--seed", "--python", sys.executable, folder / "venv")
        python = folder / "venv" / "bin" / "python"
        uv(
            *("pip", "install", "--quiet", "--python", python, "--constraint", constraints),
            *(AIRFLOW, *packages),
        )
        return python.parent

    return make


def run(programs: Path, home: Path, *command: str, **env: str) -> str:
    """Run a command of an environment in a folder, which is Airflow's home as well; return what it prints."""
    done = subprocess.run(
        [programs / command[0], *command[1:]],
        cwd=home,
        env={**airflow_env(home, **env), "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags")},
        capture_output=True,
        text=True,
        check=False,
        timeout=400,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def test_new_project_runs_its_sample_job(
    new_environment: Callable[..., Path], wheel: Path, tmp_path: Path
) -> None:
    programs = new_environment(wheel)
    run(programs, tmp_path, "zoho-delink", "init", str(tmp_path))
    assert "is valid" in run(
        programs, tmp_path, "zoho-delink", "check-job", "include/jobs/contacts_deals.yaml"
    )
    run(programs, tmp_path, "airflow", "db", "migrate")
    connections = {
        "AIRFLOW_CONN_WAREHOUSE": f"sqlite:///{tmp_path}/warehouse.db",
        "AIRFLOW_CONN_ZOHO_DELINK_AUDIT": f"sqlite:///{tmp_path}/audit.db",
    }
    said = run(programs, tmp_path, "python", "-c", RUN_SAMPLE_JOB, "warehouse.db", **connections)
    lines = [line for line in said.splitlines() if line.startswith(("errors ", "state ", "links "))]
    assert lines == ["errors {}", "state success", "links {('c-2', 'd-1')}"], said[-3000:]
    assert "zoho-crm-delink" in run(programs, tmp_path, "airflow", "providers", "list")
    assert "zoho_delinks" in run(programs, tmp_path, "airflow", "plugins")


def test_wheel_and_job_files_of_mwaas_plugins_folder_are_used(
    new_environment: Callable[..., Path], wheel: Path, constraints: Path, tmp_path: Path
) -> None:
    programs = new_environment()
    plugins, dags = tmp_path / "plugins", tmp_path / "dags"
    plugins.mkdir()
    dags.mkdir()
    shutil.copy(wheel, plugins)
    shutil.copytree(PROJECT / "plugins/zoho_crm/cli/project/include", plugins / "include")
    shutil.copy(constraints, dags)
    blocks = (
        (PROJECT / "docs" / "install-managed.md").read_text().replace("/usr/local/airflow", str(tmp_path))
    )
    (tmp_path / "requirements.txt").write_text(block_with(blocks, "--find-links"))
    (dags / "zoho_delink.py").write_text(block_with(blocks, "delink_dags"))
    run(programs, tmp_path, "python", "-m", "pip", "install", "--quiet", "--requirement", "requirements.txt")

    jobs = block_with(blocks, "export ZOHO_CRM_JOBS_FOLDER").strip().rpartition("=")[2]
    said = run(programs, tmp_path, "python", "-c", READ_JOBS, ZOHO_CRM_JOBS_FOLDER=jobs)
    lines = [line for line in said.splitlines() if line.startswith(("errors ", "dags ", "jobs "))]
    past_runs = "zoho_delink_relink zoho_delink_retention zoho_delink_retry"
    assert lines == [
        "errors {}",
        f"dags zoho_delink__contacts_deals {past_runs}",
        "jobs of the pages contacts_deals",
    ], said[-3000:]
    assert "zoho_delinks" in run(programs, tmp_path, "airflow", "plugins")


def block_with(page: str, text: str) -> str:
    """Return the first code block with a text, without its indentation."""
    blocks = [block.partition("\n")[2] for block in page.split("```")[1::2]]
    found = next(block for block in blocks if text in block)
    return "\n".join(line.removeprefix("   ") for line in found.splitlines()) + "\n"
