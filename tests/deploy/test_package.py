"""The package's metadata: what it declares, and what it imports."""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

from tests.support.deployment import PROJECT
from zoho_crm import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PYPROJECT = tomllib.loads((PROJECT / "pyproject.toml").read_text())
METADATA = PYPROJECT["project"]
PACKAGE = PROJECT / "plugins" / "zoho_crm"

DRIVERS = {"psycopg": "postgres", "mysql": "mysql"}
"""Modules of drivers, looked for only where their database is in use; their providers require a driver."""

USED_BY_CONNECTIONS = {"apache-airflow-providers-common-sql", "apache-airflow-providers-sqlite"}
"""Dependencies that no module imports: Airflow imports them for connections to warehouse and audit database."""


def name_of(requirement: str) -> str:
    """Return the normalized name of a requirement such as ``uvicorn[standard]>=1``."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\[<>=!~; ]", requirement)[0]).lower()


DEPENDENCIES = {name_of(one) for one in METADATA["dependencies"]}
EXTRAS = {
    name: {name_of(one) for one in requirements}
    for name, requirements in METADATA["optional-dependencies"].items()
}


NAMES = metadata.packages_distributions()


def imported_modules() -> Iterator[str]:
    """Yield the third-party modules that the package imports, also inside of functions."""
    for file in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield node.module


def distribution_of(module: str) -> str | None:
    """Return the distribution that a module belongs to; None for this package and the standard library."""
    top = module.split(".")[0]
    if top in sys.stdlib_module_names or top == "zoho_crm":
        return None
    if module.startswith("airflow.providers."):
        parts = module.split(".")[2:]
        name = "-".join(parts[:2] if parts[0] == "common" else parts[:1])
        return f"apache-airflow-providers-{name}"
    if top == "airflow":
        return "apache-airflow"
    if top in DRIVERS:
        return None
    if top == "opentelemetry":  # a namespace of several distributions
        return "opentelemetry-api"
    return name_of(NAMES.get(top, [top])[0])


IMPORTED = {name for module in imported_modules() if (name := distribution_of(module))}


def test_every_import_is_declared() -> None:
    # Only lineage, a workaround for DuckDB, and the pytest fixture use packages of extras.
    extras = {"openlineage", "duckdb", "testing"}
    # Airflow 3.1 has WTForms, or imitates it, while it reads the forms of connections.
    undeclared = IMPORTED - DEPENDENCIES - {"wtforms"}
    assert undeclared == {
        "apache-airflow-providers-common-compat",
        "apache-airflow-providers-openlineage",
        "duckdb-engine",
        "pytest",
    }
    assert undeclared <= set().union(*(EXTRAS[extra] for extra in extras))
    assert set(DRIVERS.values()) <= EXTRAS.keys()


def test_every_dependency_is_used() -> None:
    assert set() == DEPENDENCIES - IMPORTED - USED_BY_CONNECTIONS


def test_extras_are_for_users() -> None:
    assert set(EXTRAS) == {"duckdb", "mysql", "openlineage", "postgres", "testing"}
    assert set(PYPROJECT["dependency-groups"]) == {"deploy", "dev", "package", "systems"}


def test_version_has_one_source() -> None:
    assert METADATA["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "plugins/zoho_crm/__init__.py"
    assert (
        f"zoho-delink, version {__version__}"
        in subprocess.run(
            [sys.executable, "-m", "zoho_crm.cli.main", "--version"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout
    )


def test_classifiers_name_the_supported_releases_of_python() -> None:
    versions = {
        one.removeprefix("Programming Language :: Python :: ")
        for one in METADATA["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", one)
    }
    low, high = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", METADATA["requires-python"]).groups()  # type: ignore[union-attr]
    assert versions == {f"3.{minor}" for minor in range(int(low), int(high))}
    # An SPDX expression and a classifier of a license exclude each other.
    assert not [one for one in METADATA["classifiers"] if one.startswith("License ::")]


@pytest.mark.parametrize("pattern", METADATA["license-files"])
def test_license_files_exist(pattern: str) -> None:
    assert (PROJECT / pattern).is_file()


def test_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_tools_of_a_release_are_pinned_with_hashes() -> None:
    text = (PROJECT / "requirements-package.txt").read_text()
    pinned = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:]
    assert all("--hash=sha256:" in one for one in pinned)
    assert {name_of(one) for one in PYPROJECT["dependency-groups"]["package"]} <= {
        name_of(one) for one in pinned
    }
    assert "://" not in text


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The wheel, built twice from copies of the project that differ in place and time."""
    built = []
    for name in ("first", "second"):
        copy = tmp_path_factory.mktemp(name)
        for file in ("pyproject.toml", "README.md", "LICENSE"):
            shutil.copyfile(PROJECT / file, copy / file)
        shutil.copytree(PACKAGE, copy / "plugins" / "zoho_crm", ignore=shutil.ignore_patterns("__pycache__"))
        (copy / ".gitignore").write_text("__pycache__/\n")
        subprocess.run(
            [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", "dist"],
            cwd=copy,
            env={**os.environ, "SOURCE_DATE_EPOCH": "1764201600"},
            check=True,
            capture_output=True,
            timeout=120,
        )
        built += (copy / "dist").glob("*.whl")
    return built


def test_wheel_is_reproducible(wheels: list[Path]) -> None:
    first, second = wheels
    assert first.name == second.name == f"zoho_crm_delink-{__version__}-py3-none-any.whl"
    assert first.read_bytes() == second.read_bytes()


def test_wheel_has_the_package_with_its_data_and_nothing_else(wheels: list[Path]) -> None:
    with zipfile.ZipFile(wheels[0]) as wheel:
        names = set(wheel.namelist())
    info = f"zoho_crm_delink-{__version__}.dist-info"
    assert {name.split("/")[0] for name in names} == {"zoho_crm", info}
    package = {
        str(file.relative_to(PACKAGE.parent))
        for file in PACKAGE.rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.name != "chart.LICENSE.md"
    }
    assert {name for name in names if name.startswith("zoho_crm/")} == package
    assert {
        f"{info}/licenses/LICENSE",
        f"{info}/licenses/plugins/zoho_crm/ui/static/chart.LICENSE.md",
    } <= names
