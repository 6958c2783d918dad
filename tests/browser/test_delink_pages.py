"""The pages inside Airflow: navigation, search, download, theme, phone, and the relink form."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import FrameLocator, Page

    from tests.support.airflow_world import Pair, World

pytest_plugins = ["tests.support.airflow_world"]

MANUAL = "zoho_delink__manual"
RELINK = "zoho_delink_relink"
MARKUP = "<img src=x onerror=document.title='taken'>"
SEEN: list[Pair] = [(f"pages-{number // 2}", f"pages-deal-{number}") for number in range(6)]
PHONE = {"width": 390, "height": 844}


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


@pytest.fixture(scope="module")
def run_id(world: World) -> str:
    """A run that removed six links; one was absent, two had no parent record, one was invalid."""
    for parent, related in SEEN:
        world.zoho.state.link("Contacts", parent, "Deals", related)
    others = [
        ("pages-0", "pages-deal-3"),
        ("missing-contact", "pages-deal-0"),
        (MARKUP, "pages-deal-0"),
        ("", "blank"),
    ]
    conf = {"mode": "apply", "reason": "they moved on", "links": [list(pair) for pair in SEEN + others]}
    started = world.runs.trigger(MANUAL, conf)
    world.runs.finish(MANUAL, started)
    return started


@pytest.fixture(autouse=True)
def browser_errors(page: Page) -> Iterator[list[str]]:
    """Errors of scripts and of the Content-Security-Policy; a test fails on any of them."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "console",
        lambda message: errors.append(message.text) if "Content Security Policy" in message.text else None,
    )
    yield errors
    assert [each for each in errors if "zoho-delinks" in each or "Security" in each] == []


def frame_of(page: Page) -> FrameLocator:
    return page.frame_locator("iframe[title='Zoho delinks']")


def open_run(page: Page, run_id: str) -> FrameLocator:
    page.goto(f"/dags/{MANUAL}/runs/{quote(run_id)}")
    page.get_by_role("link", name="Zoho delinks").click()
    frame = frame_of(page)
    expect(frame.get_by_role("heading", name="manual")).to_be_visible()
    return frame


def test_navigation_leads_from_runs_to_the_history_of_a_link(page: Page, run_id: str):
    page.goto("/")
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Zoho delinks").click()
    frame = frame_of(page)
    expect(frame.get_by_role("heading", name="Zoho delinks")).to_be_visible()
    frame.get_by_role("combobox", name="Job").select_option("manual")
    frame.get_by_role("button", name="Filter").click()
    expect(frame.get_by_role("link", name="Clear")).to_be_visible()
    expect(frame.locator("canvas[data-chart]")).to_be_visible()
    frame.locator(f"a[title='{run_id}']").click()
    outcomes = frame.locator("table.outcomes")
    for outcome, count in (
        ("removed", "6"),
        ("already absent", "1"),
        ("parent not found", "2"),
        ("invalid", "1"),
    ):
        expect(outcomes.get_by_role("row", name=outcome)).to_contain_text(count)
    expect(frame.locator("dl.facts")).to_contain_text("they moved on")
    expect(frame.get_by_text("No record has this external ID").first).to_be_visible()
    expect(frame.get_by_text(MARKUP, exact=True)).to_be_visible()
    assert page.title() != "taken"
    # Airflow copies the URL of the frame into its own.
    page.wait_for_url("**/plugin/zoho-delinks/zoho-delinks/dags/**")
    frame.get_by_label("External ID starts with", exact=True).fill("pages-1")
    frame.get_by_role("button", name="Filter").press("Enter")
    expect(frame.get_by_role("link", name="pages-1")).to_have_count(2)
    expect(frame.get_by_role("link", name="pages-0")).to_have_count(0)
    assert "pages-1" not in page.url
    frame.get_by_role("link", name="pages-1").first.click()
    expect(frame.get_by_role("heading", name="History")).to_be_visible()
    expect(frame.locator("ol.history li")).to_have_count(1)
    expect(frame.locator("ol.history li")).to_contain_text("started by admin")

    frame.get_by_role("link", name="Find a link").click()
    frame.get_by_role("combobox", name="Job").select_option("manual")
    frame.get_by_label("External ID", exact=True).fill("pages-2")
    frame.get_by_label("Related external ID").fill("pages-deal-5")
    frame.get_by_role("button", name="Find").click()
    expect(frame.locator("dl.facts").first).to_contain_text("pages-deal-5")


def test_tab_of_a_run_downloads_its_links(page: Page, run_id: str):
    frame = open_run(page, run_id)

    with page.expect_download() as download:
        frame.get_by_role("link", name="CSV").click()

    with Path(download.value.path()).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert download.value.suggested_filename.endswith(".csv")
    assert {
        (row["external_id"], row["related_external_id"]) for row in rows if row["outcome"] == "removed"
    } == set(SEEN)
    assert len(rows) == 10


def test_page_follows_the_theme_of_airflow(page: Page, run_id: str, picture: Callable[[str], None]):
    page.add_init_script("localStorage.setItem('theme', 'dark')")
    frame = open_run(page, run_id)
    expect(frame.locator("html[data-theme=dark]")).to_have_count(1)
    picture("delinks-run-dark")

    page.evaluate("document.documentElement.classList.replace('dark', 'light')")

    expect(frame.locator("html[data-theme=light]")).to_have_count(1)


def test_pages_fit_a_phone_and_work_with_the_keyboard(
    page: Page, world: World, run_id: str, picture: Callable[[str], None]
):
    page.set_viewport_size(PHONE)
    run = f"/zoho-delinks/dags/{MANUAL}/runs/{quote(run_id)}"
    for address in ("/zoho-delinks/", "/zoho-delinks/links", run, f"{run}/start/relink"):
        page.goto(address)
        width = page.evaluate("document.documentElement.scrollWidth")
        assert width <= PHONE["width"], address
    page.goto(run)
    picture("delinks-phone")

    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    page.get_by_role("combobox", name="Outcome").focus()
    page.keyboard.type("rem")
    page.keyboard.press("Tab")
    page.keyboard.type("pages-2")
    page.keyboard.press("Enter")
    expect(page.locator("tbody th a[href*='/zoho-delinks/links/']")).to_have_count(2)


def test_relink_from_the_page_of_a_run_opens_the_new_run(
    page: Page, world: World, run_id: str, picture: Callable[[str], None]
):
    assert not any(world.zoho.state.linked("Contacts", one, "Deals", other) for one, other in SEEN)
    world.runs.switch_on(RELINK)
    world.runs.switch_off(RELINK)
    frame = open_run(page, run_id)
    frame.get_by_role("link", name="Relink removed links").click()
    expect(frame.get_by_label("Job")).to_have_value("manual")
    expect(frame.get_by_label("Run", exact=True)).to_have_value(run_id)
    expect(frame.get_by_label("unpause it")).to_be_checked()
    frame.get_by_label("Mode").select_option("apply")
    frame.get_by_label("Reason").fill("it was a mistake")
    frame.get_by_role("heading", name="Relink removed links").scroll_into_view_if_needed()
    picture("delinks-relink")

    frame.get_by_role("button", name="Start run").click()

    page.wait_for_url(f"**/dags/{RELINK}/runs/**")
    relink_id = unquote(page.url.partition("/runs/")[2].partition("?")[0].partition("/")[0])
    query = "SELECT 1 FROM zoho_delink_run WHERE dag_run_id = %s"
    world.runs.until(lambda: bool(world.audit.rows(query, relink_id)), "the new run's row", poll_s=0.05)
    page.goto(f"/zoho-delinks/dags/{RELINK}/runs/{quote(relink_id)}")
    expect(page.locator("[data-poll]")).to_have_count(1)
    expect(page.locator(".status.succeeded")).to_be_visible(timeout=120_000)
    expect(page.locator("tr[data-outcome=relinked]")).to_contain_text("6")
    world.runs.finish(RELINK, relink_id)
    assert all(world.zoho.state.linked("Contacts", one, "Deals", other) for one, other in SEEN)
    stored = world.audit.run(RELINK, relink_id)
    assert (stored["operation"], stored["reason"], stored["relinked"]) == ("relink", "it was a mistake", 6)

    frame = open_run(page, run_id)
    expect(frame.get_by_text("Later runs")).to_be_visible()
