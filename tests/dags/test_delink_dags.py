"""All Dags of a project by one line of a Dag file, wherever the Dag file and the job files are."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.support.live_dags import PROJECT
from tests.support.releases import DagSerialization
from zoho_crm.airflow_compat import DagBag
from zoho_crm.core.job_files import JobFileError
from zoho_crm.dags import delink_dag, delink_dags, delink_task_group, report_invalid_jobs

if TYPE_CHECKING:
    from pathlib import Path

# Airflow's own reading of .airflowignore and of plugins, while it reads Dags.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")

JOB_DAG = "zoho_delink__contacts_deals"
EXPORT_DAG_ID = "zoho_delink_export"
PAST_RUN_DAGS = {"zoho_delink_retry", "zoho_delink_relink", "zoho_delink_retention"}
ONE_LINE = """\
from zoho_crm.dags import delink_dags  # for Airflow

globals().update(delink_dags({folder!r}))
"""
TASK_GROUP = """\
from airflow.sdk import DAG
from zoho_crm.dags import delink_task_group

with DAG("nightly", schedule=None):
    delink_task_group("include/jobs/contacts_deals.yaml")
"""


def add_job(folder: Path) -> Path:
    """Copy the sample job to the folder ``include`` below a folder; return the folder of the job files."""
    for name in ("jobs/contacts_deals.yaml", "sql/contacts_deals.sql"):
        target = folder / "include" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(PROJECT / "include" / name, target)
    return folder / "include" / "jobs"


def read_dag_file(bundle: Path, name: str, text: str) -> DagBag:
    file = bundle / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    return DagBag(dag_folder=bundle, bundle_path=bundle)


@pytest.mark.parametrize(
    ("bundle", "dag_file", "jobs_in"),
    [
        pytest.param("dags", "zoho.py", ".", id="jobs beside the Dags folder"),
        pytest.param("dags", "team/crm/zoho.py", ".", id="a Dag file in a subfolder"),
        pytest.param("dags", "zoho.py", "dags", id="jobs inside the Dags folder"),
        pytest.param("dags", "crm/zoho.py", "dags/crm", id="jobs beside a Dag file in a subfolder"),
        pytest.param("bundles/zoho/versions/4f1c", "dags/zoho.py", "bundles/zoho/versions/4f1c", id="bundle"),
    ],
)
def test_one_line_is_a_whole_project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bundle: str, dag_file: str, jobs_in: str
) -> None:
    monkeypatch.chdir(PROJECT)  # has include/jobs too, which must not matter
    jobs = add_job(tmp_path / jobs_in)
    found = read_dag_file(tmp_path / bundle, dag_file, ONE_LINE.format(folder="include/jobs"))
    assert found.import_errors == {}
    assert set(found.dags) == {JOB_DAG, *PAST_RUN_DAGS}
    assert found.dags[JOB_DAG].get_task("plan").jobs_folder == jobs
    assert found.dags["zoho_delink_retry"].get_task("plan").jobs_folder == jobs


def test_each_version_of_a_bundle_has_its_jobs(tmp_path: Path) -> None:
    found = {}
    for version in ("first", "second"):
        jobs = add_job(tmp_path / version)
        content = yaml.safe_load((jobs / "contacts_deals.yaml").read_text())
        (jobs / "contacts_deals.yaml").write_text(yaml.safe_dump({**content, "description": version}))
        bag = read_dag_file(tmp_path / version, "dags/zoho.py", ONE_LINE.format(folder="include/jobs"))
        found[version] = bag.dags[JOB_DAG].description
    assert found == {"first": "first", "second": "second"}


def test_a_link_that_git_sync_swaps_is_not_followed(tmp_path: Path) -> None:
    add_job(tmp_path / "worktrees" / "4f1c")
    (tmp_path / "current").symlink_to(tmp_path / "worktrees" / "4f1c")
    found = read_dag_file(tmp_path / "current", "dags/zoho.py", ONE_LINE.format(folder="include/jobs"))
    assert found.dags[JOB_DAG].get_task("plan").jobs_folder == tmp_path / "current" / "include" / "jobs"


def test_a_task_group_finds_its_job_from_the_dag_file(tmp_path: Path) -> None:
    jobs = add_job(tmp_path)
    found = read_dag_file(tmp_path / "dags", "team/nightly.py", TASK_GROUP)
    assert found.import_errors == {}
    assert found.dags["nightly"].get_task("delink.plan").jobs_folder == jobs


def test_a_missing_jobs_folder_is_an_import_error_that_names_it(tmp_path: Path) -> None:
    found = read_dag_file(tmp_path / "dags", "zoho.py", ONE_LINE.format(folder="include/job"))
    (error,) = found.import_errors.values()
    assert "JobFileError: jobs folder 'include/job' does not exist; looked for " in error
    for place in (tmp_path / "dags", tmp_path):
        assert f"{place}/include/job," in error


def test_a_missing_absolute_jobs_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match=r"does not exist; looked for /nowhere/jobs$"):
        delink_dags("/nowhere/jobs")
    with pytest.raises(JobFileError, match=r"does not exist; looked for /nowhere/jobs$"):
        report_invalid_jobs("/nowhere/jobs")


def test_a_missing_job_file_of_a_task_group_is_an_import_error_that_names_it(tmp_path: Path) -> None:
    # No folder above the tests has this file.
    found = read_dag_file(tmp_path / "dags", "nightly.py", TASK_GROUP.replace("contacts_deals", "missing"))
    (error,) = found.import_errors.values()
    assert "job file 'include/jobs/missing.yaml' does not exist; looked for " in error
    assert f"{tmp_path}/include/jobs/missing.yaml," in error


def test_a_project_without_a_job_has_the_other_dags(tmp_path: Path) -> None:
    assert set(delink_dags(tmp_path)) == PAST_RUN_DAGS


def test_audit_export_is_included_if_a_warehouse_is_named(tmp_path: Path) -> None:
    project = add_job(tmp_path)
    assert EXPORT_DAG_ID not in delink_dags(project)

    dag = delink_dags(project, export_conn_id="warehouse", export_schema="zoho")[EXPORT_DAG_ID]

    task = dag.get_task("export")
    assert task.partial_kwargs["warehouse_conn_id"] == "warehouse"
    assert task.partial_kwargs["schema"] == "zoho"
    assert task.expand_input.value == {"audit_conn_id": ["zoho_delink_audit"]}


@pytest.mark.parametrize("left_out", ["retry", "relink", "retention"])
def test_each_dag_on_past_runs_can_be_left_out(tmp_path: Path, left_out: str) -> None:
    dags = delink_dags(add_job(tmp_path), **{left_out: False})
    assert set(dags) == {JOB_DAG, *PAST_RUN_DAGS} - {f"zoho_delink_{left_out}"}


@pytest.fixture
def half_broken(tmp_path: Path) -> Path:
    """A folder with one valid and two invalid job files."""
    jobs = add_job(tmp_path)
    content = yaml.safe_load((jobs / "contacts_deals.yaml").read_text())
    (jobs / "broken.yaml").write_text("chunk_size: many")
    refused = {"asset": "links", "uri": "postgres://warehouse/crm"}
    (jobs / "refused.yaml").write_text(yaml.safe_dump({**content, "schedule": refused}))
    return jobs


def test_invalid_job_files_are_reported_by_a_dag_that_fails(half_broken: Path) -> None:
    dags = delink_dags(half_broken)
    assert set(dags) == {JOB_DAG, *PAST_RUN_DAGS, "zoho_delink_invalid_jobs"}
    reporting = dags["zoho_delink_invalid_jobs"]
    assert reporting.is_paused_upon_creation is False
    assert "broken.yaml, line 1: chunk_size: " in str(reporting.doc_md)
    (task,) = reporting.tasks
    assert task.retries == 0
    with pytest.raises(JobFileError) as raised:
        task.python_callable()
    lines = str(raised.value).splitlines()
    assert any(line.startswith("broken.yaml, line 1: chunk_size: ") for line in lines)
    assert any(line.startswith("refused.yaml, line 15: schedule: ") for line in lines)
    stored = json.loads(json.dumps(DagSerialization.serialize_dag(reporting)))
    assert set(DagSerialization.deserialize_dag(stored).task_dict) == {"report"}


def test_invalid_sql_is_reported_with_file_and_line(tmp_path: Path) -> None:
    jobs = add_job(tmp_path)
    (jobs / "contacts_deals.yaml").rename(jobs / "contacts_deals.yml")
    sql = next((tmp_path / "include" / "sql").iterdir())
    sql.write_text("DELETE FROM pairs")
    line = (jobs / "contacts_deals.yml").read_text().partition("sql_file:")[0].count("\n") + 1
    says = (
        f"contacts_deals.yml, line {line}: source.sql_file: {sql.name} contains DELETE, but must only read: it must be "
        "one SELECT"
    )
    assert says in str(delink_dags(jobs)["zoho_delink_invalid_jobs"].doc_md).splitlines()
    for build in (delink_dag, delink_task_group):
        with pytest.raises(JobFileError) as raised:
            build(jobs / "contacts_deals.yml")
        assert str(raised.value) == says


def test_the_report_can_be_left_out(half_broken: Path) -> None:
    assert set(delink_dags(half_broken, invalid_jobs=False)) == {JOB_DAG, *PAST_RUN_DAGS}


def test_a_worker_builds_only_the_dag_of_its_task(half_broken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_AIRFLOW_PARSING_CONTEXT_DAG_ID", "zoho_delink_retry")
    assert set(delink_dags(half_broken)) == {"zoho_delink_retry"}
