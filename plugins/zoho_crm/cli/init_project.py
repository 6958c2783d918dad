"""``zoho-delink init``: write a Dag file, a sample job and a template of its connections."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from zoho_crm.cli.options import Exit, command, json_option, usage_error

if TYPE_CHECKING:
    from zoho_crm.cli.output import Output

TEMPLATES = Path(__file__).with_name("project")

JOB_FILE = "include/jobs/contacts_deals.yaml"
SQL_FILE = "include/sql/contacts_deals.sql"
DAG_FILE = "dags/zoho_delink.py"
CONNECTIONS_FILE = "connections.env.example"
FILES = (DAG_FILE, JOB_FILE, SQL_FILE, CONNECTIONS_FILE)


@click.command("init")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path())
@json_option
@command
def init_project(folder: Path, out: Output) -> Exit:
    """
    Write a sample project to FOLDER.

    It has a Dag file, a job with its SQL, and a template of the job's connections. FOLDER is the folder of the project,
    by default the current one. Existing files are never overwritten; if there are any, the exit code is 1.
    """
    written: list[str] = []
    kept: list[str] = []
    for name in FILES:
        try:
            (written if _write(folder, name) else kept).append(name)
        except OSError as error:
            usage_error(f"Cannot write {folder / name}: {error.strerror}.")
    steps = _next_steps(folder)
    if out.as_json:
        out.document(
            {"ok": not kept, "folder": folder, "written": written, "kept": kept, "next_steps": steps}
        )
    else:
        _show(out, folder, written, kept, steps)
    return Exit.CHECK_FAILED if kept else Exit.OK


def _write(folder: Path, name: str) -> bool:
    """Write one file; return False if something of that name exists."""
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        with target.open("xb") as file:
            file.write((TEMPLATES / name).read_bytes())
    except FileExistsError:
        return False
    return True


def _next_steps(folder: Path) -> list[str]:
    steps = [
        f"Copy {CONNECTIONS_FILE} to connections.env, fill in the copy, and load it where Airflow runs: "
        "set -a; . ./connections.env; set +a",
        f"Adapt {JOB_FILE} and {SQL_FILE} to your CRM and your warehouse.",
        f"Check the files: zoho-delink check-job {JOB_FILE}",
        "Check the connection: zoho-delink check-connection --job contacts_deals",
        "Preview the plan; nothing is sent: zoho-delink plan contacts_deals --all",
        "Start Airflow with the Dags folder dags, and trigger zoho_delink__contacts_deals: a manual run is a dry run "
        "unless its Mode is apply.",
    ]
    if folder != Path():
        steps.insert(0, f"Change to the folder: cd {shlex.quote(str(folder))}")
    return steps


def _show(out: Output, folder: Path, written: list[str], kept: list[str], steps: list[str]) -> None:
    for name in written:
        out.ok(f"wrote {folder / name}")
    for name in kept:
        out.error(f"{folder / name} exists and was not changed")
    out.title("Next steps")
    for number, step in enumerate(steps, start=1):
        out.say(f"{number}. {step}")
