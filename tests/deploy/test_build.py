"""The first stage of the Dockerfile, run in a folder without a container engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from typing import TYPE_CHECKING

import pytest

from tests.deploy.test_settings import commands
from tests.support.deployment import PROJECT, instructions

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.systems

_PROBE = """
import importlib, json, sys
from importlib.metadata import entry_points
from airflow.cli.cli_parser import get_parser
for module in sys.argv[2:]:
    importlib.import_module(module)
for words in json.loads(sys.argv[1]):
    get_parser().parse_args(words)
print(json.dumps([each.value for each in entry_points(group="airflow.plugins")]))
"""
_EXECUTORS = (
    "airflow.providers.celery.executors.celery_executor",
    "airflow.providers.cncf.kubernetes.executors.kubernetes_executor",
    "airflow.providers.fab.auth_manager.fab_auth_manager",
    "asyncpg",
    "psycopg2",
    "redis",
    "statsd",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that becomes /opt/venv in the image."""
    folder = tmp_path_factory.mktemp("image")
    context, made = folder / "context", folder / "venv"
    for line in (PROJECT / ".dockerignore").read_text().splitlines():
        if line.startswith("!"):
            source, target = PROJECT / line[1:], context / line[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
    venv.create(folder / "base", with_pip=True)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("AIRFLOW", "PYTEST"))
    }
    environment |= {
        "PATH": f"{folder / 'base' / 'bin'}:/usr/bin:/bin",
        "UV_CACHE_DIR": os.environ.get("UV_CACHE_DIR", str(PROJECT / ".cache" / "uv")),
        "UV_PYTHON_DOWNLOADS": "never",
    }
    # Skip byte-compiling, which takes three quarters of the time, and the system packages of the second stage.
    for step in instructions("RUN")[:2]:
        command = step.replace("/opt/venv", str(made)).replace("--compile-bytecode", "")
        done = subprocess.run(
            ["/bin/sh", "-ec", command],
            cwd=context,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=400,
        )
        assert done.returncode == 0, done.stderr[-2000:]
    return made


def test_image_has_the_package_both_executors_and_every_command(built: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [built / "bin" / "python", "-W", "ignore", "-c", _PROBE, json.dumps(commands()), *_EXECUTORS],
        env={"PATH": f"{built / 'bin'}:/usr/bin:/bin", "AIRFLOW_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "zoho_crm.ui.plugin:ZohoDelinkPlugin" in json.loads(done.stdout.splitlines()[-1])


def test_package_is_copied_with_its_pages_and_no_build_tool_is_left(built: Path) -> None:
    (package,) = built.glob("lib/python3.*/site-packages/zoho_crm")
    assert not package.is_symlink()
    assert (package / "ui" / "templates" / "run.html").is_file()
    assert (package / "ui" / "static" / "chart.umd.min.js").is_file()
    assert sys.version_info[:2] == tuple(
        map(int, package.parent.parent.name.removeprefix("python").split("."))
    )
    for tool in ("pip", "uv", "hatchling", "pytest"):
        assert not (package.parent / tool).exists()
