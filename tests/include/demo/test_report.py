"""What the demo prints: its example links, its totals, and the command for the next step."""

from __future__ import annotations

import io
import os
import re
import shutil
import sqlite3
import subprocess
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from rich.console import Console

from include.demo.cases import DUPLICATES, stale_links
from include.demo.report import RUN_COLUMNS, history_command, show_next_command, show_outcomes, show_run
from tests.plugins.zoho_crm.cli.story import write_story

if TYPE_CHECKING:
    from collections.abc import Callable

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def audit(tmp_path: Path) -> Path:
    """An audit database with the demo's outcomes, in which links with awkward IDs come first."""
    path = tmp_path / "it's a folder" / "audit.db"
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE zoho_delink_latest "
            "(outcome, external_id, related_external_id, zoho_message, detail, event_id)"
        )
        connection.executemany(
            "INSERT INTO zoho_delink_latest VALUES (?, ?, ?, NULL, 'because', ?)",
            [
                (case.outcome, case.parent_id, case.related_id, place)
                for place, case in enumerate(reversed(stale_links()))
            ],
        )
        connection.execute(f"CREATE TABLE zoho_delink_run ({', '.join(RUN_COLUMNS)})")
        values = [360 if column == "planned" else f"[{column}]" for column in RUN_COLUMNS]
        connection.execute(f"INSERT INTO zoho_delink_run VALUES ({', '.join('?' * len(values))})", values)  # noqa: S608 - question marks alone
    return path


def printed(show: Callable[[Console, Path], None], audit: Path) -> str:
    stream = io.StringIO()
    show(Console(file=stream, width=112, highlight=False), audit)
    return stream.getvalue()


def test_examples_have_ordinary_ids(audit: Path) -> None:
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in printed(show_outcomes, audit).splitlines()
        if line.startswith("│")
    ]
    examples = {row[0]: row[3] for row in rows if row[0]}
    assert examples == {
        "removed": "c-0000 → d-0000",
        "already_absent": "c-0240 → d-0060",
        "invalid": "c-0001 → .",
        "related_not_found": "c-0000 → no-deal-0",
        "parent_not_found": "no-contact-0 → d-0000",
        "planned": "",
    }
    assert {row[0]: row[1] for row in rows}["planned"] == "360"


def test_run_row_explains_its_totals(audit: Path) -> None:
    shown = printed(show_run, audit)
    assert re.search(r"planned +│ 360 +│ source_rows - duplicates: all outcomes", shown)
    assert "[reason]" in shown


@pytest.mark.integration
def test_printed_command_can_be_pasted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    write_story(sa.create_engine(f"sqlite:///{folder / 'audit.db'}")).close()
    monkeypatch.chdir(PROJECT)
    shown = printed(show_next_command, folder / "audit.db")
    (command,) = [line for line in shown.splitlines() if "zoho-delink" in line]
    bash = shutil.which("bash")
    assert bash
    done = subprocess.run(
        [bash, "-c", command],
        env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\tdelink\tremoved\tno\tcontacts_deals\t" in done.stdout


def test_command_quotes_ids(audit: Path) -> None:
    assert history_command(audit, "c-'; DROP TABLE Contacts; --", "d-1").endswith(
        """--link 'c-'"'"'; DROP TABLE Contacts; --' d-1"""
    )


def test_readme_shows_the_counts_of_the_demo() -> None:
    readme = (PROJECT / "README.md").read_text()
    block = readme.split("```text\nOutcomes\n")[1].split("```")[0]
    shown = {
        row[1].strip(): row[2].strip()
        for line in block.splitlines()
        if len(row := re.split("[│┃]", line)) > 3
    }
    counts = Counter(case.outcome for case in stale_links())
    assert {name: shown.get(name) for name in counts} == {name: str(count) for name, count in counts.items()}
    assert shown["planned"] == str(counts.total())
    assert f"{counts.total() + DUPLICATES} rows" in readme
