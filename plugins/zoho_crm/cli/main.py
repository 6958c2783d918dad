"""
The program ``zoho-delink``. Each command is a module that is imported when the command is called.

Importing Airflow takes seconds, so only commands that need it do so.
"""

from __future__ import annotations

from importlib import import_module
from typing import cast

import click

from zoho_crm import __version__

COMMANDS = {
    "audit": "zoho_crm.cli.audit_commands:audit",
    "check-connection": "zoho_crm.cli.check_connection:check_connection",
    "check-job": "zoho_crm.cli.check_job:check_job",
    "init": "zoho_crm.cli.init_project:init_project",
    "job-reference": "zoho_crm.cli.job_reference:job_reference",
    "list": "zoho_crm.cli.list_jobs:list_jobs",
    "plan": "zoho_crm.cli.plan_command:plan",
}

EPILOG = """\
Exit codes: 0 ok; 1 a check failed; 2 usage or configuration error; 3 a service cannot be reached; 130 interrupted.
"""


class LazyGroup(click.Group):
    """A group that imports a command when it is called or listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a command; None if the name is unknown."""
        if cmd_name not in COMMANDS:
            return None
        module, name = COMMANDS[cmd_name].split(":")
        return cast(click.Command, getattr(import_module(module), name))


@click.group(cls=LazyGroup, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="zoho-delink")
def main() -> None:
    """Start a project, list and check jobs, check connections, preview plans, and read the audit."""


if __name__ == "__main__":
    main()
