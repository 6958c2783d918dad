"""Every page meets WCAG 2 A and AA as far as axe-core can say, and works with the keyboard."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import expect

from tests.support.sample_pages import served_pages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Page

    from tests.support.sample_pages import ServedPages

# Airflow's API server imports deprecated names.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Using `httpx`")

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
IN_EVERY_FORM = ("run mixed", "run waiting", "run dry-run", "run failed-in-plan", "run hashed")
"""Pages of runs that are scanned in each theme and width; other states have the same parts."""
CLICKABLE = "a[href], button, input:not([type=hidden]), select, textarea, summary, [tabindex='0']"
WIDE, NARROW = 1280, 420


@pytest.fixture(scope="module")
def served(empty_sqlite_ledger: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedPages]:
    """The pages with a run in every state."""
    file = shutil.copy(empty_sqlite_ledger, tmp_path_factory.mktemp("pages") / "audit.db")
    with served_pages(file) as served:
        yield served


@pytest.fixture(scope="module")
def served_empty(
    empty_sqlite_ledger: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServedPages]:
    """The pages before the first run."""
    file = shutil.copy(empty_sqlite_ledger, tmp_path_factory.mktemp("no-runs") / "audit.db")
    with served_pages(file, with_runs=False) as served:
        yield served


@pytest.mark.parametrize("width", [WIDE, NARROW])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_no_page_violates_wcag(
    browser: Browser, served: ServedPages, served_empty: ServedPages, theme: str, width: int
):
    found = {}
    for pages in (served, served_empty):
        context = browser.new_context(
            base_url=pages.url,
            viewport={"width": width, "height": 900},
            color_scheme="dark" if theme == "dark" else "light",
        )
        page = context.new_page()
        for name, address in pages.addresses.items():
            if (theme, width) != ("light", WIDE) and name.startswith("run ") and name not in IN_EVERY_FORM:
                continue
            page.goto(address)
            if problems := violations(page):
                found[name] = problems
        context.close()
    assert found == {}


def violations(page: Page) -> list[str]:
    """Return what axe-core finds on a page, and whether the page is wider than its window."""
    page.evaluate("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    page.evaluate(AXE_SCRIPT)
    found: dict[str, Any] = page.evaluate(
        "(tags) => axe.run(document, { runOnly: tags, resultTypes: ['violations'] })", WCAG
    )
    problems = [
        f"{rule['id']}: {node['target']}: {node['failureSummary']}"
        for rule in found["violations"]
        for node in rule["nodes"][:3]
    ]
    if page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"):
        problems.append("the page is wider than its window")
    return problems


@pytest.fixture
def keyboard(browser: Browser, served: ServedPages) -> Iterator[Page]:
    """A page without a mouse."""
    context = browser.new_context(base_url=served.url, viewport={"width": WIDE, "height": 900})
    page = context.new_page()
    yield page
    context.close()


@pytest.mark.parametrize(
    "name", ["run mixed", "run waiting", "runs", "job", "link", "find a link", "relink form", "retry form"]
)
def test_tab_reaches_everything_that_can_be_clicked_in_the_order_of_the_page(
    keyboard: Page, served: ServedPages, name: str
):
    keyboard.goto(served.addresses[name])
    clickable: list[str] = keyboard.evaluate(
        """(selector) => [...document.querySelectorAll(selector)].filter((each) => each.checkVisibility())
          .map((each, place) => each.dataset.place = String(place))""",
        CLICKABLE,
    )

    reached: list[str] = []
    for _ in range(4 * len(clickable)):  # a date has several fields
        keyboard.keyboard.press("Tab")
        focused = keyboard.evaluate(
            """() => {
              const { outlineStyle, outlineWidth } = getComputedStyle(document.activeElement);
              return [document.activeElement.dataset.place, outlineStyle !== "none" && parseFloat(outlineWidth) > 0];
            }"""
        )
        place, has_outline = focused
        if place is None:
            break
        assert has_outline, f"no visible focus on number {place} of {clickable}"
        if reached[-1:] != [place]:
            reached.append(place)

    assert reached == clickable


def test_relink_form_works_with_the_keyboard(keyboard: Page, served: ServedPages):
    sent: list[str] = []
    keyboard.on(
        "request", lambda request: sent.append(request.post_data or "") if request.method == "POST" else 0
    )
    keyboard.goto(served.addresses["run mixed"])
    keyboard.get_by_role("link", name="Relink removed links…").press("Enter")
    expect(keyboard.get_by_role("heading", name="Relink removed links")).to_be_visible()

    keyboard.get_by_role("checkbox", name="Include presumed removed").press("Space")
    keyboard.get_by_label("External ID prefix", exact=True).press_sequentially("c-0")
    keyboard.get_by_text("Use Airflow's trigger form").press("Enter")

    shown = keyboard.locator("[data-conf]")
    expect(shown).to_be_visible()
    expect(shown).to_contain_text('"include_presumed": true')
    expect(shown).to_contain_text('"external_id_prefix": "c-0"')

    keyboard.get_by_role("button", name="Start run").press("Space")

    expect(keyboard.get_by_role("alert")).to_contain_text("Airflow has no such Dag")
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("name", "role", "label"),
    [
        ("runs", "img", "Links by outcome per day; the table below has the same data"),
        ("runs", "search", "Filter runs"),
        ("runs", "navigation", "Period"),
        ("runs", "navigation", "Pages of runs"),
        ("job", "img", "Removed: 30 in the last run, at most"),
        ("run mixed", "img", "246 done, 19 nothing to do, 40 not found or invalid, 18 rejected"),
        ("run mixed", "search", "Filter links"),
        ("run mixed", "button", "Next 50 links"),
    ],
)
def test_screen_readers_find_filters_charts_progress_and_paging_by_name(
    keyboard: Page, served: ServedPages, name: str, role: Any, label: str
):
    keyboard.goto(served.addresses[name])
    expect(keyboard.get_by_role(role, name=label)).to_have_count(1)
