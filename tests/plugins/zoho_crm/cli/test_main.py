from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest
import requests
import sqlalchemy as sa

from zoho_crm import errors
from zoho_crm.cli.main import COMMANDS, main
from zoho_crm.cli.options import Exit, exit_of, message_of
from zoho_crm.cli.output import json_line, shown

if TYPE_CHECKING:
    from tests.plugins.zoho_crm.cli.conftest import Cli, Jobs
    from tests.support.databases import Audit, Warehouse
    from zoho_crm.testing.local_zoho import LocalZoho

PROGRAM = Path(sys.executable).with_name("zoho-delink")
PAGE = Path(__file__).parents[4] / "docs" / "cli.md"


def run(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [PROGRAM, *map(str, args)], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.integration
def test_program_prints_plain_text_to_a_pipe_and_json_on_request(jobs: Jobs) -> None:
    plain = run("check-job", jobs.file)
    assert plain.returncode == 0
    assert plain.stdout.startswith("# zoho_delink__contacts_deals\n")
    assert plain.stdout.isascii()
    assert plain.stderr == ""
    assert json.loads(run("check-job", jobs.file, "--json").stdout)["ok"] is True


@pytest.mark.integration
def test_program_exits_with_1_2_or_3(
    jobs: Jobs, warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs.write(chunk_size=0)
    assert run("check-job", jobs.file).returncode == 1
    misused = run("check-job")
    assert misused.returncode == 2
    assert "Missing argument" in misused.stderr
    jobs.write()
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", '{"conn_type": "sqlite", "host": "/nowhere/warehouse.db"}')
    away = run("plan", "contacts_deals", "--all")
    assert away.returncode == 3
    assert away.stderr.startswith("Error: The database of connection 'warehouse'")
    assert "Traceback" not in away.stderr


@pytest.mark.integration
def test_logs_of_airflow_do_not_mix_with_json(zoho: LocalZoho, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__LOGGING__LOGGING_LEVEL", "INFO")
    done = run("check-connection", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["ok"] is True
    assert "Access token renewed" in done.stderr
    monkeypatch.delenv("AIRFLOW__LOGGING__LOGGING_LEVEL")
    assert run("check-connection").stderr == ""


@pytest.mark.integration
def test_closed_pipe_leaves_no_stack_trace(story: Audit) -> None:
    command = f"'{PROGRAM}' audit export scheduled__2026-11-21 | true"
    done = subprocess.run(  # noqa: S602 - a pipe is what this is about
        command, shell=True, capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.integration
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("zoho-delink check-j", "check-job"),
        ("zoho-delink audit ver", "verify"),
        ("zoho-delink plan --win", "--window"),
    ],
)
def test_documented_completion_works_in_bash(words: str, expected: str) -> None:
    bash = shutil.which("bash")
    assert bash
    (line,) = re.findall(r'^eval "\$\(_ZOHO_DELINK_COMPLETE=bash_source .*$', PAGE.read_text(), re.MULTILINE)
    script = (
        f"{line}\nset -e\ncomplete -p zoho-delink >&2\n"
        f"COMP_WORDS=({words}); COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))\n"
        # The function that the line registers, as bash calls it.
        """function=$(complete -p zoho-delink | sed 's/.*-F \\([^ ]*\\).*/\\1/')\n"""
        """"$function" zoho-delink; printf '%s\\n' "${COMPREPLY[@]}"\n"""
    )
    done = subprocess.run(
        [bash, "--norc", "-c", script],
        env={"PATH": f"{PROGRAM.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.stdout.splitlines() == [expected], done.stderr


@pytest.mark.integration
def test_airflow_is_not_imported_without_need() -> None:
    commands = [["--help"], ["job-reference"], ["audit", "show", "--help"]]
    code = (
        "import sys; from zoho_crm.cli.main import main\n"
        f"for args in {commands!r}:\n"
        "    try: main(args)\n"
        "    except SystemExit: pass\n"
        "    if 'airflow' in sys.modules: sys.exit(f'imported by {args}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout


def test_every_command_has_json_and_is_documented() -> None:
    context = click.Context(main)
    page = PAGE.read_text(encoding="utf-8")
    for name in COMMANDS:
        found = main.get_command(context, name)
        assert found is not None
        commands = found.commands if isinstance(found, click.Group) else {name: found}
        for sub_name, command in commands.items():
            options = {option for parameter in command.params for option in parameter.opts}
            assert "--json" in options, sub_name
            assert command.help, sub_name
            title = name if sub_name == name else f"{name} {sub_name}"
            assert re.search(rf"^## `{title}`", page, re.MULTILINE), title
            section = page.split(f"## `{title}`")[1].split("\n## ")[0]
            for option in options - {"--json", "--jobs-folder", "--audit-conn-id"}:
                assert option in section or not option.startswith("--"), f"{title} {option}"


def test_help_lists_each_command_with_a_whole_sentence(cli: Cli) -> None:
    for args in ((), ("audit",)):
        shown = cli(*args, "--help", env={"COLUMNS": "80"}).stdout.split("Commands:")[1]
        assert "..." not in shown


def test_exit_codes_are_documented(cli: Cli) -> None:
    codes = [str(int(code)) for code in Exit]
    assert re.findall(r"^\| (\d+) \|", PAGE.read_text(), re.MULTILINE) == codes
    assert re.findall(r"(\d+) ", cli("--help").stdout.split("Exit codes:")[1]) == codes


def test_interrupt_is_no_failed_check(cli: Cli, jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("zoho_crm.core.job_files.load_job", interrupt)
    result = cli("check-job", jobs.file)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "Error: interrupted\n")
    assert cli.document("check-job", jobs.file, code=130) == {"error": "interrupted", "exit_code": 130}


def test_unknown_command_is_a_usage_error(cli: Cli) -> None:
    result = cli("remove-everything")
    assert result.exit_code == 2
    assert "No such command" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.ZohoConfigError("x"), Exit.USAGE_ERROR),
        (errors.PlanError("x"), Exit.USAGE_ERROR),
        (errors.ZohoAuthError("x"), Exit.CHECK_FAILED),
        (errors.ZohoResponseError("x"), Exit.CHECK_FAILED),
        (errors.GuardError("x"), Exit.CHECK_FAILED),
        (errors.ZohoTokenThrottledError("x", retry_after_s=1), Exit.UNREACHABLE),
        (errors.ZohoNotSentError("x"), Exit.UNREACHABLE),
        (errors.ZohoUnansweredError("x"), Exit.UNREACHABLE),
        (errors.ZohoError("x"), Exit.UNREACHABLE),
        (sa.exc.OperationalError("SELECT secret", {}, Exception("gone")), Exit.UNREACHABLE),
        (requests.ConnectionError("x"), None),
        (ValueError("x"), None),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_each_error_has_its_exit_code(error: Exception, code: Exit | None) -> None:
    assert exit_of(error) is code


def test_database_error_is_shown_without_its_sql() -> None:
    error = sa.exc.OperationalError("SELECT secret", {}, Exception("server\nclosed"))
    assert message_of(error) == "Database error: server closed"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\x1b[2Jb", "a\\u001b[2Jb"),
        ("a\nb\tc", "a\\u000ab\\u0009c"),
        ("\u202eabc\u2066", "\\u202eabc\\u2066"),
        ("Zoë [bold]", "Zoë [bold]"),
        (None, ""),
        (True, "yes"),
        (7, "7"),
    ],
)
def test_shown_value_is_one_line_without_control_characters(value: object, text: str) -> None:
    assert shown(value) == text


def test_json_line_is_one_line() -> None:
    assert json_line({"a": "x\ny", "b": None}) == '{"a":"x\\ny","b":null}'
