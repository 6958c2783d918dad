"""The program on a machine without Airflow's configuration: it leaves nothing behind, and shows no noise."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from zoho_crm.cli.airflow_home import provide_airflow_home
from zoho_crm.cli.init_project import TEMPLATES

if TYPE_CHECKING:
    from tests.plugins.zoho_crm.cli.conftest import Jobs

PROGRAM = Path(sys.executable).with_name("zoho-delink")

pytestmark = pytest.mark.integration


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    return home


def run(home: Path, *args: object, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the program for a new user, whose folders for files and for temporary files are empty."""
    temporary = home.parent / "tmp"
    temporary.mkdir(exist_ok=True)
    return subprocess.run(
        [PROGRAM, *map(str, args)],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(temporary), **env},
        cwd=home.parent,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )


def files_of(*folders: Path) -> list[Path]:
    return [path for folder in folders for path in folder.rglob("*")]


@pytest.mark.parametrize(
    "args",
    ["--help", "--version", "init project", "check-job {job}", "audit show --help", "job-reference"],
)
def test_command_without_airflow_leaves_nothing_behind(home: Path, jobs: Jobs, args: str) -> None:
    jobs.write(schedule="0 2 * * *", timezone="Europe/Berlin")
    done = run(home, *args.format(job=jobs.file).split())
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert done.stderr == ""
    assert files_of(home, home.parent / "tmp") == []


def test_check_of_a_job_without_schedule_imports_no_airflow_that_is_not_configured(
    home: Path, jobs: Jobs
) -> None:
    code = (
        "import sys; from zoho_crm.cli.main import main\n"
        f"try: main(['check-job', {str(jobs.file)!r}])\n"
        "except SystemExit: print('imported', 'airflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home.parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "not checked: source.conn_id: connection 'warehouse' is not defined here\n" in done.stdout
    assert done.stdout.endswith("imported False\n")


def test_missing_connection_says_that_airflow_is_not_configured(home: Path) -> None:
    done = run(home, "check-connection")
    assert done.returncode == 2
    assert done.stderr == (
        "Error: Connection 'zoho_crm_default' (zoho_conn_id) does not exist: it is neither in "
        "AIRFLOW_CONN_ZOHO_CRM_DEFAULT nor in a secrets backend, and no Airflow is configured here (AIRFLOW_HOME is "
        "not set, and ~/airflow does not exist).\n"
    )
    assert files_of(home, home.parent / "tmp") == []


def test_unfilled_template_is_named_without_noise(home: Path) -> None:
    text = (TEMPLATES / "connections.env.example").read_text()
    done = run(
        home, "check-connection", **dict(word.split("=", 1) for word in shlex.split(text, comments=True))
    )
    assert done.returncode == 1
    assert done.stderr == ""
    (error,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert "(login is CLIENT_ID, password is CLIENT_SECRET, refresh_token is REFRESH_TOKEN)" in error
    assert files_of(home, home.parent / "tmp") == []


@pytest.mark.parametrize("setting", ["AIRFLOW_HOME", "AIRFLOW_CONFIG", "~/airflow"])
def test_configured_airflow_is_used(home: Path, monkeypatch: pytest.MonkeyPatch, setting: str) -> None:
    monkeypatch.delitem(sys.modules, "airflow", raising=False)
    monkeypatch.delenv("AIRFLOW_HOME", raising=False)
    monkeypatch.delenv("AIRFLOW_CONFIG", raising=False)
    monkeypatch.setenv("HOME", str(home))
    if setting == "~/airflow":
        (home / "airflow").mkdir()
    else:
        monkeypatch.setenv(setting, "/srv/airflow")
    before = dict(os.environ)
    provide_airflow_home()
    assert dict(os.environ) == before
