from __future__ import annotations

from typing import TYPE_CHECKING

from tests.support.databases import AUDIT, set_connection

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from tests.plugins.zoho_crm.cli.conftest import Cli, Jobs
    from tests.support.databases import Audit


def test_jobs_are_listed_with_their_last_runs(cli: Cli, story: Audit, jobs: Jobs) -> None:
    jobs.write(schedule="0 2 * * *", automatic="apply")
    text = jobs.file.read_text()
    (jobs.folder / "other_job.yaml").write_text(text.replace("apply", "dry_run").replace("0 2", "30 4"))
    lines = cli("list").stdout.splitlines()
    assert lines[0] == "job\tDag\tschedule\tautomatic runs\tlast run"
    last = cli.document("audit", "show", "--job", "contacts_deals", "--limit", 1)["runs"][0]
    action = last["operation"] if last["mode"] == "apply" else "dry run"
    shown = f"{last['started_at'][:16].replace('T', ' ')} UTC, {action}: {last['ending']}"
    assert lines[1] == f"contacts_deals\tzoho_delink__contacts_deals\t0 2 * * * (UTC)\tremove links\t{shown}"
    assert lines[2:] == ["other_job\tzoho_delink__other_job\t30 4 * * * (UTC)\tdry run\t-"]


def test_json_has_the_keys_of_the_last_run(cli: Cli, story: Audit, jobs: Jobs) -> None:
    document = cli.document("list", jobs.folder)
    last = cli.document("audit", "show", "--job", "contacts_deals", "--limit", 1)["runs"][0]
    assert document["ok"] is True
    assert (document["errors"], document["notes"]) == ([], [])
    (job,) = document["jobs"]
    names = ("run_key", "dag_id", "started_at", "operation", "mode", "status", "ending")
    assert job["last_run"] == {name: last[name] for name in names}
    assert (job["schedule"], job["automatic"]) == ("none: manual runs only", "dry_run")


def test_audit_database_that_cannot_be_read_is_a_note(cli: Cli, jobs: Jobs) -> None:
    jobs.write(audit_conn_id="missing")
    done = cli("list")
    assert done.exit_code == 0
    row, note = done.stdout.splitlines()[1:]
    assert row.endswith("\t-")
    assert note.startswith("Last runs are not shown: Connection 'missing' (audit_conn_id) does not exist")
    document = cli.document("list")
    assert document["jobs"][0]["last_run"] is None
    assert document["notes"] == [note]


def test_no_run_yet_is_no_fault(
    cli: Cli, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_connection(monkeypatch, AUDIT, conn_type="sqlite", host=str(tmp_path / "audit.db"))
    document = cli.document("list")
    assert (document["jobs"][0]["last_run"], document["notes"]) == (None, [])
    assert not (tmp_path / "audit.db").exists()
    done = cli("audit", "show", "--job", "contacts_deals")
    assert done.exit_code == 2
    assert f"the first run of a job creates the file {tmp_path}/audit.db" in done.stderr


def test_invalid_job_file_is_an_error_beside_the_others(cli: Cli, story: Audit, jobs: Jobs) -> None:
    (jobs.folder / "broken.yaml").write_text("chunk_size: 0\n")
    done = cli("list")
    assert done.exit_code == 1
    assert "contacts_deals\tzoho_delink__contacts_deals" in done.stdout
    assert "error: broken.yaml: " in done.stdout
    assert any("chunk_size" in error for error in cli.document("list", code=1)["errors"])


def test_missing_folder_is_a_usage_error(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOHO_CRM_JOBS_FOLDER", str(tmp_path / "jobs"))
    done = cli("list")
    assert done.exit_code == 2
    assert f"Folder {tmp_path}/jobs does not exist" in done.stderr


def test_empty_folder_names_init(cli: Cli, tmp_path: Path) -> None:
    done = cli("list", tmp_path)
    assert done.exit_code == 0
    assert done.stdout == f"{tmp_path} has no job file. Write a sample with zoho-delink init.\n"
