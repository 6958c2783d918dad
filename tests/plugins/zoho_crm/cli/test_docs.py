"""Commands, messages and links in the docs are valid."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from zoho_crm.cli.main import main

ROOT = Path(__file__).parents[4]
PAGES = ("cli", "deploy", "runbook", "job-file", "audit-queries", "jobs", "zoho-setup")
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
    package = ROOT / "plugins" / "zoho_crm"
    sources = (
        path.read_text(encoding="utf-8") for path in package.rglob("*.py") if path.parent.name != "cli"
    )
    # Join strings that are split over lines.
    assert any(said in re.sub(r'"\s*\n\s*f?"', "", source) for source in sources)
