"""What the demo prints of its run: outcomes, the row of the run, and a command that shows a link's history."""

from __future__ import annotations

import json
import os
import shlex
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from include.demo.cases import AWKWARD_IDS, CASES

if TYPE_CHECKING:
    from rich.console import Console

COLORS = {"removed": "green", "already_absent": "cyan", "invalid": "yellow"}

RUN_COLUMNS = {
    "run_key": "key of the run in all audit tables",
    "dag_run_id": "Airflow's ID of the run",
    "mode": "apply: remove links; dry_run: send none",
    "reason": "from the trigger form, or --conf",
    "status": "succeeded: no link failed or is unknown",
    "window_start": "from the beginning: no window was given",
    "window_end": "end of the window, not included",
    "source_rows": "rows of the SQL",
    "duplicates": "rows that repeat a link",
    "planned": "source_rows - duplicates: all outcomes",
    "guard_decision": "the plan checked against the job's limits",
    "started_at": "start of preflight, UTC",
    "finished_at": "end of the report, UTC",
}
"""Columns of the run row that are shown, with their meaning."""

_EXAMPLE = """\
SELECT external_id, related_external_id, coalesce(zoho_message, detail, '')
FROM zoho_delink_latest WHERE outcome = ?
ORDER BY external_id NOT GLOB 'c-[0-9][0-9][0-9][0-9]', related_external_id = '',
    length(related_external_id), external_id, related_external_id
LIMIT 1"""
"""An example with ordinary IDs, if there is one."""


def show_outcomes(console: Console, audit: Path) -> None:
    """Print the number of links of each outcome, with an example."""
    table = Table(title="Outcomes", title_justify="left", show_footer=True)
    with closing(sqlite3.connect(audit)) as connection:
        counts = connection.execute(
            "SELECT outcome, count(*) FROM zoho_delink_latest GROUP BY outcome ORDER BY count(*) DESC, outcome"
        ).fetchall()
        examples = {outcome: connection.execute(_EXAMPLE, (outcome,)).fetchone() for outcome, _ in counts}
    table.add_column("outcome", "planned", no_wrap=True)
    table.add_column("links", str(sum(count for _, count in counts)), justify="right")
    table.add_column("meaning", "each planned link has one outcome", overflow="fold")
    table.add_column("example (contact → deal)", overflow="fold")
    table.add_column("message or reason", overflow="fold")
    for outcome, count in counts:
        contact, deal, message = examples[outcome]
        color = COLORS.get(outcome, "magenta")
        table.add_row(
            f"[{color}]{outcome}[/]",
            str(count),
            CASES.get(outcome, ""),
            escape(f"{contact} → {deal}"),
            escape(message),
        )
    console.print(table)
    console.print(
        f"{len(AWKWARD_IDS)} of the removed links have IDs like {AWKWARD_IDS[1]!r} or {AWKWARD_IDS[4]!r}, which a "
        "careless client would send\nto another address.\n",
        markup=False,
    )


def show_run(console: Console, audit: Path) -> None:
    """Print the row of the run, if it started, and what its columns mean."""
    table = Table(title="Run (table zoho_delink_run)", title_justify="left")
    for header in ("column", "value", "meaning"):
        table.add_column(header, overflow="fold", no_wrap=header != "meaning")
    with closing(sqlite3.connect(audit)) as connection:
        connection.row_factory = sqlite3.Row
        run = connection.execute("SELECT * FROM zoho_delink_run").fetchone()
    if run is None:
        return
    for column, meaning in RUN_COLUMNS.items():
        table.add_row(column, escape(str(run[column])), meaning)
    console.print(table)


def show_next_command(console: Console, audit: Path) -> None:
    """Print a command that shows the history of one removed link, if there is one."""
    with closing(sqlite3.connect(audit)) as connection:
        example = connection.execute(_EXAMPLE, ("removed",)).fetchone()
    if example is None:
        return
    console.print(f"\nThe audit is in {os.path.relpath(audit)}. What happened to one link:", markup=False)
    console.print(history_command(audit, *example[:2]), soft_wrap=True, markup=False)


def history_command(audit: Path, contact: str, deal: str) -> str:
    """Return a shell command that shows the history of a link, to be run in the current folder."""
    connection = json.dumps({"conn_type": "sqlite", "host": str(audit.resolve())})
    program = os.path.relpath(Path(sys.executable).with_name("zoho-delink"))
    args = ("audit", "show", "--audit-conn-id", "zoho_delink_audit", "--link", contact, deal)
    return f"AIRFLOW_CONN_ZOHO_DELINK_AUDIT={shlex.quote(connection)} {shlex.join([program, *args])}"
