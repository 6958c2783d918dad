"""Run the sample job against a local Zoho and show the outcome of each link: ``make demo``."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from include.demo.cases import CASES, kept_links, stale_links
from include.demo.world import DAG_ID, DemoWorld, start_demo_world

if TYPE_CHECKING:
    from zoho_crm.testing.local_zoho.state import LocalState

PROJECT = Path(__file__).resolve().parents[2]
HOME = PROJECT / ".airflow" / "demo"
COLOURS = {"removed": "green", "already_absent": "cyan", "invalid": "yellow"}
RUN_COLUMNS = (
    "run_key",
    "dag_run_id",
    "mode",
    "reason",
    "status",
    "window_start",
    "window_end",
    "source_rows",
    "duplicates",
    "planned",
    "guard_decision",
    "started_at",
    "finished_at",
)
SAMPLE_QUERY = """\
python3 -c "import sqlite3
for row in sqlite3.connect('%s').execute(
    'SELECT outcome, external_id, related_external_id, zoho_message FROM zoho_delink_latest LIMIT 5'): print(row)"
"""


def main() -> int:
    """Return 0 only if exactly the planned links are gone and each link has its expected outcome."""
    console = Console(highlight=False)
    console.width = max(console.width, 112)  # a narrower pipe would fold the tables
    shutil.rmtree(HOME, ignore_errors=True)
    with start_demo_world(HOME) as world:
        before = _links(world.zoho.state)
        records = _records(world.zoho.state)
        console.print(
            f"Local Zoho (an imitation for demo and tests) at {world.zoho.url}: {len(before)} links"
        )
        console.print(f"Warehouse {_short(world.warehouse)}: {len(stale_links())} links to remove")
        console.print(f'[bold]airflow dags test {DAG_ID} --conf \'{{"mode": "apply"}}\'[/] ...')
        started = time.monotonic()
        code = _run_dag(world)
        console.print(f"Finished in {time.monotonic() - started:.0f} s. Log: {_short(HOME / 'run.log')}\n")
        if not world.audit.exists():
            console.print(f"[red]error: the run wrote no audit database; see {_short(HOME / 'run.log')}[/]")
            return 1
        _show_outcomes(console, world.audit)
        _show_run(console, world.audit)
        mismatches = _mismatches(world, before, records)
    if code != 0:
        mismatches.insert(0, f"the Dag run failed (exit status {code})")
    for mismatch in mismatches:
        console.print(f"[red]✗ {mismatch}[/]")
    if not mismatches:
        console.print("[green]✓ exactly the planned links were removed; no record was deleted[/]")
        console.print("[green]✓ each planned link has exactly one latest outcome, the expected one[/]")
    _show_query(console, world.audit)
    return 1 if mismatches else 0


def _run_dag(world: DemoWorld) -> int:
    """Run the Dag in one process, as `airflow dags test` does."""
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
        **world.env,
        "AIRFLOW_HOME": str(HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(PROJECT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(PROJECT / "plugins"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{HOME / 'airflow.db'}?timeout=60",
        "NO_PROXY": "127.0.0.1",
    }
    airflow = str(Path(sys.executable).with_name("airflow"))
    commands = (
        [airflow, "db", "migrate"],
        [airflow, "dags", "test", DAG_ID, "--conf", '{"mode": "apply", "reason": "make demo"}'],
    )
    with (HOME / "run.log").open("w") as log:
        for command in commands:
            done = subprocess.run(  # noqa: S603 - both commands stand above
                command, env=env, stdout=log, stderr=subprocess.STDOUT, check=False
            )
            if done.returncode != 0:
                return done.returncode
    return 0


def _show_outcomes(console: Console, audit: Path) -> None:
    table = Table(title="Outcomes", title_justify="left")
    table.add_column("outcome", no_wrap=True)
    table.add_column("links", justify="right")
    for column in ("meaning", "example", "message"):
        table.add_column(column, overflow="fold")
    with closing(sqlite3.connect(audit)) as connection:
        counts = connection.execute(
            "SELECT outcome, count(*) FROM zoho_delink_latest GROUP BY outcome ORDER BY count(*) DESC"
        ).fetchall()
        for outcome, count in counts:
            example = connection.execute(
                "SELECT external_id, related_external_id, coalesce(zoho_message, detail, '') "
                "FROM zoho_delink_latest WHERE outcome = ? ORDER BY length(external_id) DESC, event_id LIMIT 1",
                (outcome,),
            ).fetchone()
            pair = f"{_clipped(example[0])} - {_clipped(example[1])}"
            colour = COLOURS.get(outcome, "magenta")
            table.add_row(f"[{colour}]{outcome}[/]", str(count), CASES.get(outcome, ""), pair, example[2])
    console.print(table)


def _show_run(console: Console, audit: Path) -> None:
    table = Table(title="Run (table zoho_delink_run)", title_justify="left", show_header=False)
    with closing(sqlite3.connect(audit)) as connection:
        connection.row_factory = sqlite3.Row
        (run,) = connection.execute("SELECT * FROM zoho_delink_run").fetchall()
    for column in RUN_COLUMNS:
        table.add_row(column, str(run[column]))
    console.print(table)


def _show_query(console: Console, audit: Path) -> None:
    console.print(f"\nThe audit table is [bold]zoho_delink_audit[/] in {_short(audit)}. A sample query:")
    console.print(SAMPLE_QUERY % _short(audit), soft_wrap=True, markup=False)


def _mismatches(world: DemoWorld, before: set[tuple[str, str]], records: dict[str, int]) -> list[str]:
    """Compare the local Zoho's state and the audit table with what is expected."""
    expected = {(case.parent_id, case.related_id): case.outcome for case in stale_links()}
    planned = {pair for pair, outcome in expected.items() if outcome == "removed"}
    after = _links(world.zoho.state)
    mismatches = []
    if lost := before - after - planned:
        mismatches.append(f"{len(lost)} links are gone that are not in the warehouse, e.g. {min(lost)}")
    if remaining := planned & after:
        mismatches.append(f"{len(remaining)} planned links are still there, e.g. {min(remaining)}")
    if not set(kept_links()) <= after:
        mismatches.append("links are gone that must stay")
    if _records(world.zoho.state) != records:
        mismatches.append("records were deleted")
    if harm := world.zoho.state.to_json(include_links=False)["harm"]:
        mismatches.append(f"the local Zoho recorded a harmful request: {harm[0]}")
    with closing(sqlite3.connect(world.audit)) as connection:
        rows = connection.execute(
            "SELECT external_id, related_external_id, outcome FROM zoho_delink_latest"
        ).fetchall()
    outcomes = {(row[0], row[1]): row[2] for row in rows}
    sendable = {pair: outcome for pair, outcome in expected.items() if outcome != "invalid"}
    if wrong := {pair for pair, outcome in sendable.items() if outcomes.get(pair) != outcome}:
        mismatches.append(f"{len(wrong)} links have an unexpected outcome, e.g. {min(wrong)}")
    if Counter(row[2] for row in rows) != Counter(expected.values()):
        mismatches.append("the number of links by outcome differs from the expected one")
    return mismatches


def _links(state: LocalState) -> set[tuple[str, str]]:
    return set(state.links("Contacts", "Deals"))


def _records(state: LocalState) -> dict[str, int]:
    records: dict[str, int] = state.to_json(include_links=False)["records"]
    return records


def _clipped(text: str) -> str:
    shown = text.replace("[", "\\[")
    return shown if len(shown) <= 28 else f"{shown[:27]}…"


def _short(path: Path) -> str:
    return os.path.relpath(path)


if __name__ == "__main__":
    sys.exit(main())
