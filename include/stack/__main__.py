"""Run Airflow and a local Zoho until Ctrl-C: ``python -m include.stack``, which is what `make up` does."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Never

from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from include.demo.world import start_demo_world
from include.stack.local_airflow import LocalAirflow
from include.stack.processes import StackError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_PREFERRED_PORT = 8080
_CHECK_EVERY_S = 1.0
_SAMPLE_DAG = "zoho_delink__contacts_deals"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stack, and return the exit code: 0 after Ctrl-C, 1 when a part of it fails."""
    parser = argparse.ArgumentParser(prog="python -m include.stack", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".airflow"), help="folder for all files")
    parser.add_argument("--port", type=int, default=_PREFERRED_PORT, help="port of Airflow, if it is free")
    options = parser.parse_args(argv)
    console = Console(highlight=False)
    for number in (signal.SIGINT, signal.SIGTERM):  # a shell starts its background jobs with SIGINT ignored
        signal.signal(number, _interrupt)
    try:
        _run(options.home, options.port, console)
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 0
    except StackError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1


def _run(home: Path, port: int, console: Console) -> Never:
    airflow = LocalAirflow(home, preferred_port=port)
    airflow.lock()
    with ExitStack() as stack:
        airflow.env |= stack.enter_context(start_demo_world(home / "world")).env
        with console.status("Starting Airflow ..."):
            stack.enter_context(airflow)
            airflow.wait_until_healthy()
        console.print(_addresses(airflow))
        console.print(_next_steps_panel(airflow.url))
        stack.callback(console.print, "Stopping ...")
        while True:
            airflow.check()
            time.sleep(_CHECK_EVERY_S)


def _addresses(airflow: LocalAirflow) -> Panel:
    table = Table.grid(padding=(0, 2))
    table.add_row("Airflow", airflow.url)
    for user, password in airflow.passwords.items():
        table.add_row("User", f"{user} / {password}")
    table.add_row("Logs", os.path.relpath(airflow.home / "logs"))
    return Panel(table, title="Running until Ctrl-C", expand=False)


def next_steps(url: str) -> tuple[str, ...]:
    """Return the way from here to removed links, their outcomes, and a relink; ``test_user_journey.py`` follows it."""
    return (
        f"Sign in as admin and open {url}/dags/{_SAMPLE_DAG}",
        "Press Trigger and submit the form as it is: a dry run of everything pending. It also unpauses the Dag, which "
        "starts the scheduled run of last night: a dry run too, as the job file says 'automatic: dry_run'.",
        "Open the tab 'Zoho delinks' of the run: 'would remove' counts the links that a run would remove.",
        "Trigger the Dag again with the mode 'apply': this removes the links from the local Zoho.",
        "In the tab of that run, press 'Relink removed links', choose the mode 'apply' and press 'Start run'.",
        "Browse > Zoho delinks lists all runs. The page of a run exports its links as CSV and JSON Lines.",
    )


def _next_steps_panel(url: str) -> Panel:
    steps = Table.grid(padding=(0, 1))
    for number, step in enumerate(next_steps(url), start=1):
        steps.add_row(f"{number}.", step)
    return Panel(steps, title="Next steps", expand=False)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
