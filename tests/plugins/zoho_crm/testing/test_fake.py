"""FakeZoho, through the code of docs/testing.md."""

from __future__ import annotations

import ast
import json
import re
import shutil
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner

from zoho_crm.cli.main import main
from zoho_crm.testing import Call, FakeZoho

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.airflow_process import Run

PROJECT = Path(__file__).parents[4]
PACKAGE = PROJECT / "plugins" / "zoho_crm"
PYTEST = """
import os, sys, pytest
os.chdir(sys.argv[1])
sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", "tests"]))
"""
CONFTEST, JOB_TEST, RELATION, FAULTS = re.findall(
    r"^```python\n(.*?)^```", (PROJECT / "docs" / "testing.md").read_text(), re.MULTILINE | re.DOTALL
)


def test_the_documented_test_of_a_job_passes(tmp_path: Path, run_with_airflow: Run) -> None:
    for name in ("include/jobs/contacts_deals.yaml", "include/sql/contacts_deals.sql"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / name, tmp_path / name)
    # Not the settings of this project, if the folder is below it.
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "conftest.py").write_text(CONFTEST)
    (tmp_path / "tests" / "test_contacts_deals.py").write_text(JOB_TEST)
    shutil.copytree(PACKAGE / "cli" / "project" / "dags", tmp_path / "dags")
    done = run_with_airflow("-c", PYTEST, str(tmp_path), AIRFLOW__CORE__DAGS_FOLDER=str(tmp_path / "dags"))
    assert "1 passed" in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]


@pytest.fixture
def fake() -> Iterator[FakeZoho]:
    with FakeZoho() as running:
        yield running


def test_the_documented_relation_links_records_by_the_fields_of_the_org(fake: FakeZoho) -> None:
    exec(RELATION, {"fake_zoho": fake})  # noqa: S102  # the code of a page of this repository
    assert fake.links("Contacts", "Deals") == {("4711", "O-1")}
    contact = fake.state.crm.records("Contacts")[0]
    assert contact["ERP_Customer_No"] == "4711"
    assert "External_Contact_ID" not in contact


@pytest.mark.parametrize(
    ("module", "related_list"), [("Contacts", "Deals"), ("Contacts", "Machines"), ("Projects", "Deals")]
)
def test_a_job_on_an_added_relation_passes_the_checks_of_preflight(
    fake: FakeZoho, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, related_list: str
) -> None:
    relation = {
        "module": module,
        "external_field": "ERP_Customer_No",
        "related_list": related_list,
        "related_external_field": "ERP_Order_No",
    }
    fake.add_relation(**relation)
    job = yaml.safe_load((PROJECT / "include" / "jobs" / "contacts_deals.yaml").read_text())
    job |= {"relation": relation, "allow_undocumented_relation": True}
    shutil.copytree(PROJECT / "include" / "sql", tmp_path / "sql")
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "orders.yaml").write_text(yaml.safe_dump(job))
    monkeypatch.setenv("AIRFLOW_CONN_ZOHO_CRM_DEFAULT", fake.connection)
    checked = CliRunner().invoke(
        main, ["check-connection", "--job", "orders", "--jobs-folder", str(tmp_path / "jobs")]
    )
    assert checked.exit_code == 0, checked.output
    assert "suffices for orders" in checked.output


def test_the_documented_faults_exist(fake: FakeZoho) -> None:
    fake.add_record("Contacts", "c-1")
    exec(FAULTS, {"fake_zoho": fake})  # noqa: S102  # the code of a page of this repository
    assert len(fake.state.crm.locked) == 1
    assert [rule.do for rule in fake.state.faults.rules] == ["reset"]


def test_a_relation_is_refused_once_its_module_has_records(fake: FakeZoho) -> None:
    fake.add_record("Contacts", "c-1")
    with pytest.raises(ValueError, match="Contacts has records already"):
        exec(RELATION, {"fake_zoho": fake})  # noqa: S102  # the code of a page of this repository


@pytest.mark.parametrize("module", ["Cases", "Unknown"])
def test_a_record_needs_an_external_field(fake: FakeZoho, module: str) -> None:
    with pytest.raises(ValueError, match=f"{module} has no external field; add it with add_relation"):
        fake.add_record(module, "x-1")


def test_calls_are_those_to_the_crm(fake: FakeZoho) -> None:
    token = fake.state.issue_token()
    send(fake, "POST", "/oauth/v2/token", token)
    send(fake, "GET", "/crm/v7/org", token)
    assert fake.calls == [Call("GET", "/crm/v7/org", 200)]


def send(fake: FakeZoho, method: str, path: str, token: str) -> None:
    with opened(fake) as connection:
        connection.request(method, path, headers={"Authorization": f"Zoho-oauthtoken {token}"})
        connection.getresponse().read()


@contextmanager
def opened(fake: FakeZoho) -> Iterator[Any]:
    values = json.loads(fake.connection)
    connection = HTTPConnection(values["host"], values["port"], timeout=10)
    try:
        yield connection
    finally:
        connection.close()


def imported_modules(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.Import):
            found.update(name.name for name in node.names)
    return found


def test_the_local_zoho_and_the_product_import_nothing_of_each_other() -> None:
    testing = PACKAGE / "testing"
    for path in PACKAGE.rglob("*.py"):
        ours = {name for name in imported_modules(path) if name.split(".")[0] == "zoho_crm"}
        if path.is_relative_to(testing):
            assert all(name.startswith("zoho_crm.testing.") for name in ours), path
        else:
            assert not any(name.startswith("zoho_crm.testing") for name in ours), path
