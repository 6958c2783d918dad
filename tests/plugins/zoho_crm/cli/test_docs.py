"""Commands, messages and links in the docs are valid."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from zoho_crm.cli.main import main

ROOT = Path(__file__).parents[4]
PAGES = ("cli", "deploy", "runbook", "job-file", "audit-queries", "jobs", "zoho-setup", "troubleshooting")
PROMPT = re.compile(r"^ *\$ (zoho-delink .*)$", re.MULTILINE)
LINK = re.compile(r"\]\((?P<page>[\w.-]+\.md)?(?:#(?P<anchor>[\w-]+))?\)")


def text_of(page: str) -> str:
    return (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")


def commands() -> list[str]:
    return [command for page in PAGES for command in PROMPT.findall(text_of(page))]


def anchors_of(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("line", commands())
def test_documented_command_is_valid(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    args = shlex.split(line.split(" | ")[0], comments=True)[1:]
    group: click.Command = main
    context = click.Context(main)
    while isinstance(group, click.Group):
        name = args.pop(0)
        found = group.get_command(context, name)
        assert found is not None, f"unknown command {name}"
        group = found
    group.make_context("zoho-delink", args)


def test_docs_have_commands() -> None:
    assert len(commands()) > 20


@pytest.mark.parametrize("page", PAGES)
def test_links_between_pages_are_valid(page: str) -> None:
    for match in LINK.finditer(text_of(page)):
        target = ROOT / "docs" / (match["page"] or f"{page}.md")
        assert target.is_file(), match[0]
        assert not match["anchor"] or match["anchor"] in anchors_of(target), match[0]


@pytest.mark.parametrize(
    "said",
    [
        "outside of a worker",
        "the org's API credits are used up",
        "API credits of the org are left",
        "there is no access token",
        "the refresh token is revoked or wrong, or belongs to another data center",
        "Zoho issues no access tokens for now",
        "Unfinished links are left",
        "links failed, were refused or are unknown, above the breaker's share",
        "Zoho refuses every link with",
        "the audit database (",
        "cannot be reached",
        "asks for approval",
        "ClaimLostError",
    ],
)
def test_messages_quoted_by_the_runbook_are_in_the_code(said: str) -> None:
    assert said in " ".join(text_of("runbook").split())
    assert is_in_the_code(said)


def quoted_by_troubleshooting() -> list[str]:
    """Return the parts of the messages in the first column: between the backticks, and around what varies."""
    cells = re.findall(r"^\| ([^|]+) \|", text_of("troubleshooting"), re.MULTILINE)
    messages = [text for cell in cells for text in re.findall(r"`([^`]+)`", cell) if " " in text]
    return [part.strip() for message in messages for part in message.split("…") if part.strip()]


def is_in_the_code(said: str) -> bool:
    package = ROOT / "plugins" / "zoho_crm"
    files = [*package.rglob("*.py"), *package.rglob("*.html")]
    # Join strings that are split over lines.
    return any(said in re.sub(r'"\s*\n\s*f?"', "", file.read_text(encoding="utf-8")) for file in files)


@pytest.mark.parametrize("said", quoted_by_troubleshooting())
def test_messages_quoted_by_troubleshooting_are_in_the_code(said: str) -> None:
    # The one message of Airflow.
    assert is_in_the_code(said) or said == "is not a respondent for the task"
