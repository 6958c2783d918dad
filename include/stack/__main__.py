"""Run a local Zoho and a whole Airflow until Ctrl-C: ``python -m include.stack``, which is what `make up` does."""

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

from include.stack.local_airflow import LocalAirflow
from include.stack.processes import StackError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_PREFERRED_PORT = 8080
_CHECK_EVERY_S = 1.0
_SAMPLE_DAG = "zoho_delink__contacts_deals"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stack, and return the exit code: 0 when it was asked to stop, 1 when a part of it failed."""
    parser = argparse.ArgumentParser(prog="python -m include.stack", description=__doc__)
    parser.add_argument("--home", type=Path, default=Path(".airflow"), help="where all state is kept")
    parser.add_argument("--port", type=int, default=_PREFERRED_PORT, help="port of Airflow, if it is free")
    parser.add_argument("--without-zoho", action="store_true", help="no local Zoho and no connections")
    options = parser.parse_args(argv)
    console = Console()
    for number in (signal.SIGINT, signal.SIGTERM):  # a background job of a shell begins with SIGINT ignored
        signal.signal(number, _interrupt)
    try:
        _run(options.home, options.port, console, with_zoho=not options.without_zoho)
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 0
    except StackError as error:
        console.print(str(error), style="red", markup=False, highlight=False)
        return 1


def _run(home: Path, port: int, console: Console, *, with_zoho: bool) -> Never:
    home.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        env: dict[str, str] = {}
        if with_zoho:
            from include.demo.world import start_demo_world

            env = stack.enter_context(start_demo_world(home / "world")).env
        with console.status("Starting Airflow ..."):
            airflow = stack.enter_context(LocalAirflow(home, env=env, preferred_port=port))
            airflow.wait_until_healthy()
        console.print(_panel(airflow))
        if with_zoho:
            console.print(_first_steps(airflow))
        stack.callback(console.print, "Stopping ...")
        while True:
            airflow.check()
            time.sleep(_CHECK_EVERY_S)


def _panel(airflow: LocalAirflow) -> Panel:
    table = Table.grid(padding=(0, 2))
    table.add_row("Airflow", airflow.url)
    for user, password in airflow.passwords.items():
        table.add_row("user", f"{user} / {password}")
    table.add_row("logs", os.path.relpath(airflow.home / "logs"))
    return Panel(table, title="Running until Ctrl-C", expand=False)


def _first_steps(airflow: LocalAirflow) -> Panel:
    """Say how to get from here to links that were removed, read about, and put back."""
    sample = f"{airflow.url}/dags/{_SAMPLE_DAG}"
    steps = Table.grid(padding=(0, 1))
    for number, step in enumerate(
        (
            f"Sign in as admin and open {sample}",
            "Press Trigger, leave everything as it is, and press Trigger again: by hand it is a dry run.",
            "Open the run's tab 'Zoho delinks' and watch it; Browse > Zoho delinks lists all runs.",
            "Trigger once more with the mode 'apply': the links are removed, in the local Zoho alone.",
            "In the tab: what happened to each link, CSV and JSON Lines, 'Put removed links back'.",
        ),
        start=1,
    ):
        steps.add_row(f"{number}.", step)
    steps.add_row(
        "",
        "Switched on, the Dag also starts the run of last night by itself, as each night: that one removes.",
    )
    return Panel(steps, title="A first run", expand=False)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
