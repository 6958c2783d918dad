from __future__ import annotations

import csv
import io
import json
import os
import stat
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from tests.plugins.zoho_crm.cli.conftest import check_golden
from tests.support.databases import AUDIT, Audit, set_connection
from zoho_crm.ledger.tables import audit as audit_table

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugins.zoho_crm.cli.conftest import Cli, Jobs

REAL = "scheduled__2026-11-21"


@pytest.mark.parametrize("name", [REAL, f"contacts_deals:{REAL}"], ids=["run id", "run key"])
def test_run_is_shown_with_counts_and_reasons(cli: Cli, any_story: Audit, name: str) -> None:
    run = cli.document("audit", "show", name)
    assert run["run_key"] == f"contacts_deals:{REAL}"
    assert run["status"] == "failed"
    assert run["outcomes"] == {
        "removed": 2,
        "already_absent": 1,
        "rejected": 2,
        "failed": 1,
        "unknown": 1,
        "invalid": 1,
    }
    assert run["unfinished_links"] == 2
    first = run["reasons"][0]
    assert (first["outcome"], first["zoho_code"], first["links"]) == ("rejected", "RECORD_LOCKED", 2)
    assert run["window_start"] == "2026-11-20T02:00:00Z"


def test_terminal_shows_a_run(cli: Cli, story: Audit) -> None:
    check_golden("audit_show.terminal.txt", cli("audit", "show", REAL, terminal=True).stdout)


def test_run_is_shown_with_the_last_approval_that_did_not_count(cli: Cli, story: Audit) -> None:
    runs = story.ledger().runs
    note = "The approval by ada does not count: this user requested the run"
    runs.refuse_approval(f"contacts_deals:{REAL}", note)
    assert f"approval: asked. {note}\n" in cli("audit", "show", REAL).stdout
    at = datetime(2026, 11, 21, 9, tzinfo=UTC)
    runs.record_approval(f"contacts_deals:{REAL}", approval="approved", approved_by="grace", approved_at=at)
    shown = cli("audit", "show", REAL).stdout
    assert f"approval: approved, by grace, 2026-11-21 09:00:00 UTC. {note}\n" in shown


def test_control_characters_in_zoho_messages_are_escaped(cli: Cli, story: Audit) -> None:
    shown = cli("audit", "show", REAL).stdout
    assert "\x1b" not in shown
    assert "=internal\\u001b[31m error" in shown


def test_history_of_a_link_shows_who_removed_it(cli: Cli, any_story: Audit) -> None:
    args = ("audit", "show", "--link", "c-1", "d-1")
    by_ids = cli.document(*args)["history"]
    assert [(event["outcome"], event["dag_run_id"], event["triggered_by"]) for event in by_ids] == [
        ("would_remove", "manual__2026-11-20", "ada"),
        ("removed", REAL, None),
        ("relinked", "manual__2026-11-23", "grace"),
    ]
    assert by_ids[2]["reason"] == "a mistake of sales"
    assert cli.document(*args, "--job", "contacts_deals")["history"] == by_ids
    assert "Last relinked by manual__2026-11-23 (manual, grace)." in cli(*args).stdout


def test_link_without_history_exits_with_1(cli: Cli, story: Audit) -> None:
    document = cli.document("audit", "show", "--link", "c-1", "d-2", code=1)
    says = "no history for this link: no run has processed it"
    assert (document["history"], document["error"]) == ([], says)
    assert says in cli("audit", "show", "--link", "c-1", "d-2").stdout


@pytest.mark.parametrize(
    ("link", "reason"),
    [
        (("c-1\u200b", "d-1"), "external_id holds the invisible character U+200B"),
        (("c-1", "d-1 "), "related_external_id has leading or trailing spaces"),
    ],
)
def test_what_no_external_id_can_contain_is_named(
    cli: Cli, story: Audit, link: tuple[str, str], reason: str
) -> None:
    shown = cli("audit", "show", "--link", *link)
    assert (shown.exit_code, shown.stdout) == (1, f"error: no history for this link: {reason}\n")


def test_last_runs_of_a_job_are_newest_first(cli: Cli, any_story: Audit) -> None:
    shown = cli.document("audit", "show", "--job", "contacts_deals", "--limit", 3)["runs"]
    assert [run["dag_run_id"] for run in shown] == [
        "manual__2026-11-24",
        "manual__2026-11-23",
        "manual__2026-11-22",
    ]
    assert [run["dag_run_id"] for run in cli.document("audit", "show")["runs"]][-1] == "manual__2026-11-20"
    assert cli("audit", "show").stdout.splitlines()[0].split("\t")[:3] == ["started_at", "job", "dag_run_id"]


def test_unknown_run_is_a_usage_error(cli: Cli, story: Audit) -> None:
    result = cli("audit", "show", "nothing")
    assert result.exit_code == 2
    assert "has no run 'nothing'" in result.stderr


def test_csv_holds_every_row_and_no_formula(cli: Cli, any_story: Audit) -> None:
    result = cli("audit", "export", REAL)
    assert result.exit_code == 0
    rows = list(csv.DictReader(io.StringIO(result.stdout)))
    events = [row for row in any_story.events() if row["dag_run_id"] == REAL]
    assert len(rows) == len(events) == 8
    assert {row["event_id"] for row in rows} == {event["event_id"] for event in events}
    assert list(rows[0]) == [column.name for column in audit_table.c]
    (formula,) = (row for row in rows if row["related_external_id"] == "d-7")
    assert formula["external_id"] == "'=1+1"
    for row in rows:
        for name, cell in row.items():
            assert not cell.startswith(("=", "+", "@", "\t", "\r")), name
            assert not cell.startswith("-") or name in {"map_index", "chunk_no"}
    assert f"8 rows of contacts_deals:{REAL}" in result.stderr


def test_json_lines_hold_unchanged_values(cli: Cli, any_story: Audit) -> None:
    for args in (["--json"], ["--format", "jsonl"]):
        lines = cli("audit", "export", REAL, *args).stdout.splitlines()
        rows = [json.loads(line) for line in lines]
        assert [row["seq"] for row in rows] == list(range(8))
        assert "=1+1" in {row["external_id"] for row in rows}
        assert rows[0]["finished_at"] == "2026-11-21T02:00:05Z"


def test_only_the_latest_rows_are_one_for_each_link(cli: Cli, any_story: Audit) -> None:
    lines = cli("audit", "export", REAL, "--latest", "--json").stdout.splitlines()
    assert len({json.loads(line)["pair_key"] for line in lines}) == len(lines) == 8


def test_file_is_readable_by_its_owner_alone(cli: Cli, story: Audit, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    result = cli("audit", "export", REAL, "-o", path)
    assert result.stdout == ""
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600  # noqa: PTH116 - the mode, as the system has it
    assert path.read_text(encoding="utf-8") == cli("audit", "export", REAL).stdout
    assert cli("audit", "export", REAL, "-o", tmp_path / "no" / "rows.csv").exit_code == 2


def test_unchanged_audit_passes(cli: Cli, story: Audit) -> None:
    assert cli.document("audit", "verify", REAL) == {
        "ok": True,
        "run_key": f"contacts_deals:{REAL}",
        "findings": [],
        "more": False,
    }
    assert cli("audit", "verify").stdout == "ok: the audit is unchanged\n"


def test_altered_row_is_reported_and_exits_with_1(cli: Cli, any_story: Audit) -> None:
    event = next(row for row in any_story.events() if row["outcome"] == "rejected")
    with any_story.engine.begin() as connection:
        connection.exec_driver_sql(
            f"UPDATE zoho_delink_audit SET outcome = 'removed' WHERE event_id = '{event['event_id']}'"  # noqa: S608
        )
    document = cli.document("audit", "verify", code=1)
    assert document["ok"] is False
    assert [(one["kind"], one["event_id"]) for one in document["findings"]] == [
        ("altered", event["event_id"])
    ]
    result = cli("audit", "verify", REAL)
    assert result.exit_code == 1
    assert "error: 1 finding:" in result.stdout
    assert cli("audit", "verify", "manual__2026-11-22").exit_code == 0


def test_job_files_that_name_two_audits_need_an_option(cli: Cli, story: Audit, jobs: Jobs) -> None:
    other = jobs.file.with_name("other.yaml")
    other.write_text(jobs.file.read_text().replace(f"audit_conn_id: {AUDIT}", "audit_conn_id: elsewhere"))
    result = cli("audit", "show")
    assert result.exit_code == 2
    assert f"name {AUDIT}, elsewhere" in result.stderr
    assert cli("audit", "show", "--audit-conn-id", AUDIT).exit_code == 0
    assert cli("audit", "show", "--job", "contacts_deals").exit_code == 0


def test_database_without_tables_is_a_usage_error_and_stays_empty(
    cli: Cli, audit_without_tables: Audit, jobs: Jobs
) -> None:
    result = cli("audit", "show")
    assert result.exit_code == 2
    assert "has no audit tables yet" in result.stderr
    with pytest.raises(Exception, match="zoho_delink_run"):
        audit_without_tables.runs()


def test_migrate_creates_the_tables(cli: Cli, audit_without_tables: Audit, jobs: Jobs) -> None:
    for _twice in range(2):
        assert cli.document("audit", "migrate") == {"audit_conn_id": AUDIT, "ok": True}
    assert "has the tables of this version" in cli("audit", "migrate").stdout
    assert cli("audit", "show").exit_code == 0


def test_unreachable_audit_database_exits_with_3(
    cli: Cli, jobs: Jobs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    set_connection(monkeypatch, AUDIT, conn_type="postgres", host=str(tmp_path), schema="x", login="x")
    result = cli("audit", "show", "--json")
    assert result.exit_code == 3
    assert "cannot be reached" in json.loads(result.stdout)["error"]


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_anchors_are_written_and_verified(cli: Cli, story: Audit, jobs: Jobs, tmp_path: Path) -> None:
    job = jobs.write(audit_anchor=f"file://{tmp_path}/anchors").stem

    assert cli("audit", "anchor", "--job", job).stdout == "ok: anchors written: 4\n"
    assert cli("audit", "verify", "--job", job).exit_code == 0
    with story.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM zoho_delink_seal WHERE seal_no = 4")

    shown = cli("audit", "verify", "--anchor", f"file://{tmp_path}/anchors")
    assert shown.exit_code == 1
    assert "seal 4 is anchored, and the database does not have it" in shown.stdout


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_folder_that_cannot_be_read_hides_no_finding(
    cli: Cli, story: Audit, jobs: Jobs, tmp_path: Path
) -> None:
    command = ("audit", "verify", "--anchor", f"file://{tmp_path}/no such folder")
    assert cli(*command).exit_code == 3
    with story.engine.begin() as connection:
        connection.exec_driver_sql("DELETE FROM zoho_delink_seal WHERE seal_no = 1")

    shown, document = cli(*command), cli(*command, "--json")

    assert (shown.exit_code, document.exit_code) == (1, 1)
    assert "seal 1 is missing before seal 2" in shown.stdout
    assert "the anchors cannot be read or written" in shown.output
    assert "the anchors cannot be read or written" in json.loads(document.stdout)["error"]
