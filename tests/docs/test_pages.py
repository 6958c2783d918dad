"""Every page of the documentation: its length, and the targets of its links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from zoho_crm.core.links import DOCUMENTED_RELATIONS, Relation
from zoho_crm.data_centers import DATA_CENTERS
from zoho_crm.hooks.zoho_checks import needed_scopes

PROJECT = Path(__file__).parents[2]
DOCS = sorted((PROJECT / "docs").glob("*.md"))

_LINK = re.compile(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)")
_HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = _HEADING.findall(page.read_text())
    return {re.sub(r"[^a-z0-9 _-]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [*DOCS, *sorted(PROJECT.glob("*.md"))], ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text()):
        if "://" in target:
            continue
        file = page.parent / target if target else page
        assert file.exists(), target
        if anchor and file.suffix == ".md":
            assert anchor in anchors_of(file), f"{target}#{anchor}"


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_a_page_of_docs_has_at_most_200_lines(page: Path) -> None:
    assert len(page.read_text().splitlines()) <= 200


@pytest.mark.parametrize("page", DOCS, ids=lambda page: page.name)
def test_the_index_names_every_page(page: Path) -> None:
    index = (PROJECT / "docs" / "index.md").read_text()
    assert page.name == "index.md" or f"({page.name}" in index


@pytest.mark.parametrize("page", ["connection", "zoho-setup"])
def test_scopes_on_a_page_are_those_that_are_checked(page: str) -> None:
    (listed,) = re.findall(r"```text\n\s*(ZohoCRM[^`]*)```", (PROJECT / "docs" / f"{page}.md").read_text())
    relation = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
    assert "".join(listed.split()).split(",") == needed_scopes(relation)


def test_the_page_on_jobs_lists_the_documented_relations() -> None:
    table = (PROJECT / "docs" / "jobs.md").read_text().split("## Relations")[1].split("\n\n")[1]
    rows = [row.split("|")[1:3] for row in table.splitlines()[2:]]
    listed = {
        (module, name)
        for modules, lists in rows
        for module in re.findall(r"`(\w+)`", modules)
        for name in re.findall(r"`(\w+)`", lists)
    }
    # Either spelling of a module goes with the same spelling of its list.
    listed -= {("Appointments", "Services__s"), ("Appointments__s", "Services")}
    assert listed == set(DOCUMENTED_RELATIONS)


def test_the_page_on_zoho_lists_the_data_centers() -> None:
    page = (PROJECT / "docs" / "zoho-setup.md").read_text()
    listed = re.findall(r"^\| `(\w\w)` \| (\S+) \| \S+ \| (\S+) \|$", page, re.MULTILINE)
    assert listed == [(name, hosts.crm, hosts.accounts) for name, hosts in DATA_CENTERS.items()]
