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

from include.demo.cases import DUPLICATES, kept_links, stale_links
from include.demo.report import show_next_command, show_outcomes, show_run
from include.demo.world import DAG_ID, DemoWorld, start_demo_world

if TYPE_CHECKING:
    from zoho_crm.testing.local_zoho.state import LocalState

PROJECT = Path(__file__).resolve().parents[2]
HOME = PROJECT / ".airflow" / "demo"


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
        console.print(
            f"Warehouse {_short(world.warehouse)}: {len(stale_links())} links to remove, "
            f"{DUPLICATES} of them in two rows"
        )
        console.print(f'[bold]airflow dags test {DAG_ID} --conf \'{{"mode": "apply"}}\'[/] ...')
        started = time.monotonic()
        code = _run_dag(world)
        console.print(f"Finished in {time.monotonic() - started:.0f} s. Log: {_short(HOME / 'run.log')}\n")
        if not world.audit.exists():
            console.print(f"[red]error: the run wrote no audit database; see {_short(HOME / 'run.log')}[/]")
            return 1
        show_outcomes(console, world.audit)
        show_run(console, world.audit)
        mismatches = _mismatches(world, before, records)
    if code != 0:
        mismatches.insert(0, f"the Dag run failed (exit status {code})")
    for mismatch in mismatches:
        console.print(f"[red]✗ {mismatch}[/]")
    if not mismatches:
        console.print("[green]✓ exactly the planned links were removed; no record was deleted[/]")
        console.print("[green]✓ each planned link has exactly one latest outcome, the expected one[/]")
    show_next_command(console, world.audit)
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


def _short(path: Path) -> str:
    return os.path.relpath(path)


if __name__ == "__main__":
    sys.exit(main())
