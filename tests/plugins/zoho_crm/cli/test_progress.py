"""Long commands show their progress on a terminal, and nowhere else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.operators import pairs

if TYPE_CHECKING:
    import pytest

    from tests.plugins.zoho_crm.cli.conftest import Cli, Jobs
    from tests.support.databases import Audit, Warehouse

RUN = "scheduled__2026-11-21"


def check_progress(cli: Cli, args: tuple[object, ...], label: str, rows: int) -> None:
    shown = cli(*args, terminal=True).stderr
    assert label in shown
    assert re.search(rf"\b{rows} rows", shown)
    assert label not in cli(*args).stderr
    assert label not in cli(*args, "--json", terminal=True).stderr


def test_export_to_a_file_shows_its_progress(
    cli: Cli, story: Audit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path("rows.csv")
    check_progress(cli, ("audit", "export", RUN, "-o", file), "Writing ", 8)
    assert len(file.read_text().splitlines()) == 8


def test_export_to_the_terminal_shows_rows_alone(cli: Cli, story: Audit) -> None:
    assert "Writing" not in cli("audit", "export", RUN, terminal=True).stderr


def test_verify_shows_its_progress(cli: Cli, story: Audit) -> None:
    check_progress(cli, ("audit", "verify", RUN), "Verifying the audit", 8)


def test_plan_shows_its_progress(cli: Cli, jobs: Jobs, warehouse: Warehouse) -> None:
    warehouse.add(pairs(12), at="2026-11-21 00:00:00.000000")
    check_progress(cli, ("plan", "contacts_deals", "--all"), "Reading the source", 12)


def test_progress_ends_before_an_error(cli: Cli, jobs: Jobs, warehouse: Warehouse) -> None:
    jobs.write_sql("SELECT external_id, related_external_id FROM nowhere")
    done = cli("plan", "contacts_deals", "--all", terminal=True)
    assert done.exit_code == 2
    shown, error = done.stderr.split("Error: ")
    assert "Reading the source" in shown
    assert "nowhere" in error
    show_cursor = "\x1b[?25h"
    assert shown.rindex(show_cursor) > shown.rindex("Reading the source")
