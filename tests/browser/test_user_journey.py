"""The steps that `make up` prints, in the UI: dry run, apply, relink; progress, downloads, history of a link."""

from __future__ import annotations

import csv
import json
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest
from playwright.sync_api import Error as PlaywrightError
from playwright.sync_api import expect

from include.demo.cases import stale_links
from include.stack.__main__ import next_steps
from zoho_crm.core.formatting import safe_csv_cell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import FrameLocator, Page

    from tests.support.airflow_world import CrmSnapshot, Pair, World

pytest_plugins = ["tests.support.airflow_world"]

DAG = "zoho_delink__contacts_deals"
RELINK = "zoho_delink_relink"
RECORDS = "https://crm.zoho.com/"

_TRIGGER_MS = 120_000


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


@pytest.fixture
def stale(world: World) -> Iterator[set[Pair]]:
    """The stale links of the demo, linked in a local Zoho that responds slowly."""
    pairs = {(case.parent_id, case.related_id) for case in stale_links() if case.outcome == "removed"}
    for parent, related in pairs:
        world.zoho.state.link("Contacts", parent, "Deals", related)
    state = world.zoho.state
    before = {name: getattr(state.settings, name) for name in ("latency_s", "credit_limit")}
    # Zoho reports remaining credits once half of them are used.
    state.limits.charge(5_000, state.clock())
    state.configure(latency_s=0.2, credit_limit=2 * state.limits.credits_used)
    yield pairs
    state.configure(**before)


def test_printed_steps_remove_no_link_before_the_one_that_applies(
    page: Page, world: World, stale: set[Pair], picture: Callable[[str], None]
):
    world.runs.wait_for_dag(DAG)
    world.runs.wait_for_dag(RELINK)
    assert world.runs.get(DAG)["is_paused"], "a test that ran earlier has unpaused the sample Dag"
    before = world.snapshot()
    sign_in_and_open, dry_run, tab_of_run, apply, relink, list_of_runs = next_steps(world.airflow.url)

    assert sign_in_and_open.endswith(f"open {world.airflow.url}/dags/{DAG}")
    page.goto(f"/dags/{DAG}")
    assert dry_run.startswith("Press Trigger and submit the form as it is: a dry run")
    tried, frame = triggered(page, says="That run is a dry run too.")
    assert tab_of_run.startswith("Open the tab 'Zoho delinks' of the run: 'would remove'")
    watched(frame)
    expect(frame.get_by_text("dry run", exact=True)).to_be_visible()
    by_outcome = frame.locator("table.outcomes")
    expect(by_outcome.get_by_role("row", name="would remove")).to_be_visible()
    check_dry_runs(world, tried, before)

    assert apply.startswith("Trigger the Dag again with the mode 'apply'")
    frame.get_by_text("nothing was changed").get_by_role("link", name=DAG).click()
    page.wait_for_url(f"**/dags/{DAG}")
    applied, frame = triggered(page, "apply")
    seen = watched(frame, lambda: picture("delinks-live"))
    assert len(seen) > 2, "the page did not show the progress of the run"
    assert seen == sorted(seen)
    run = world.audit.run(DAG, applied)
    removed = {pair_of(row) for row in world.audit.latest(run["run_key"]) if row["outcome"] == "removed"}
    assert removed
    assert removed <= stale
    assert not any(linked(world, pair) for pair in stale)
    expect(by_outcome.get_by_role("row", name="removed")).to_contain_text(str(len(removed)))
    expect(frame.locator("[data-field=credits]")).to_have_text(str(run["credits"]))
    expect(frame.get_by_text("No record has this external ID").first).to_be_visible()

    picture("delinks-run")
    check_files(page, frame, world, run["run_key"])

    assert relink.endswith("press 'Relink removed links', choose the mode 'apply' and press 'Start run'.")
    frame.get_by_role("link", name="Relink removed links").click()
    expect(frame.get_by_label("Run", exact=True)).to_have_value(applied)
    frame.get_by_label("Mode").select_option("apply")
    frame.get_by_role("button", name="Start run").click()
    page.wait_for_url(f"**/dags/{RELINK}/runs/**")
    relink_id = run_id_of(page)
    frame = tab(page)
    watched(frame)
    expect(by_outcome.get_by_role("row", name="relinked")).to_contain_text(str(len(removed)))
    assert all(linked(world, pair) for pair in removed)
    world.runs.finish(RELINK, relink_id)

    assert list_of_runs.startswith("Browse > Zoho delinks lists all runs.")
    page.get_by_role("button", name="Browse").click()
    page.get_by_role("menuitem", name="Zoho delinks").click()
    frame = page.frame_locator("iframe[title='Zoho delinks']")
    for run_id in (tried, applied, relink_id):
        expect(frame.locator(f"a[title='{run_id}']")).to_be_visible()
    row = frame.get_by_role("row").filter(has=frame.locator(f"a[title='{applied}']"))
    expect(row).to_contain_text(str(run["credits"]))
    expect(frame.locator("canvas[data-chart]")).to_be_visible()
    picture("delinks-overview")

    row.locator(f"a[title='{applied}']").click()
    one = min(removed)
    searched(frame, one[0])
    frame.get_by_role("link", name=one[0], exact=True).first.click()
    outcomes = frame.locator("ol.history li .outcome")
    expect(outcomes.first).to_have_text("relinked")
    assert [text for text in outcomes.all_inner_texts() if text != "already linked"][:3] == [
        "relinked",
        "removed",
        "would remove",
    ]
    picture("delinks-link")


def test_task_links_to_the_page_and_the_page_to_the_record(page: Page, world: World):
    links = [["c-0001", "d-0001"]]
    world.zoho.state.link("Contacts", "c-0001", "Deals", "d-0001")
    run_id = world.runs.trigger("zoho_delink__manual", {"mode": "apply", "links": links})
    world.runs.finish("zoho_delink__manual", run_id)
    # Record links need a production environment; the local Zoho has no record pages.
    key = world.audit.run("zoho_delink__manual", run_id)["run_key"]
    world.audit.rows(
        "UPDATE zoho_delink_run SET environment = 'production' WHERE run_key = %s RETURNING run_key", key
    )
    page.context.route(f"{RECORDS}**", lambda route: route.fulfill(body="a record"))

    page.goto(f"/dags/zoho_delink__manual/runs/{run_id}/tasks/delink/mapped/0")
    page.get_by_role("tab", name="Details").or_(page.get_by_role("link", name="Details")).first.click()
    page.get_by_role("link", name="Zoho delinks", exact=True).click()
    page.wait_for_url("**/plugin/zoho-delink-run")
    frame = page.frame_locator("iframe[title='Zoho delinks']")
    with page.context.expect_page() as opened:
        frame.get_by_title("Open the record in Zoho").click()

    record = opened.value
    record.wait_for_load_state()
    assert record.url.startswith(f"{RECORDS}crm/org700000001/tab/Potentials/")
    assert record.evaluate("window.opener") is None


def pair_of(row: dict[str, Any]) -> Pair:
    return row["external_id"], row["related_external_id"]


def linked(world: World, pair: Pair) -> bool:
    return world.zoho.state.linked("Contacts", pair[0], "Deals", pair[1])


def check_dry_runs(world: World, manual: str, before: CrmSnapshot) -> None:
    """Check that the manual run, and the scheduled run that unpausing has started, have removed nothing."""
    world.runs.until(lambda: bool(scheduled_runs(world)), "the scheduled run of the last interval")
    (scheduled,) = scheduled_runs(world)
    for run_id in (manual, scheduled):
        world.runs.finish(DAG, run_id)
    assert [world.audit.run(DAG, run_id)["mode"] for run_id in (manual, scheduled)] == ["dry_run", "dry_run"]
    assert world.audit.run(DAG, scheduled)["would_remove"] > 0, "the last interval has no links"
    assert world.delinks(before) == []
    assert world.snapshot().links == before.links


def scheduled_runs(world: World) -> list[str]:
    return [run["dag_run_id"] for run in world.runs.get(DAG, "/dagRuns", run_type="scheduled")["dag_runs"]]


def triggered(page: Page, mode: str | None = None, says: str = "") -> tuple[str, FrameLocator]:
    """
    Trigger the Dag with the form; return the run id and the tab of the run.

    :param says: text that the form shows
    """
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog").filter(has_text="Trigger Dag")
    expect(form.get_by_role("button", name="Run Parameters")).to_be_visible()
    expect(form).to_contain_text(says)
    if mode:
        form.get_by_role("combobox").first.click()
        page.get_by_role("option", name=mode, exact=True).click()
    form.get_by_test_id("trigger-dag-submit").click()
    page.wait_for_url(
        "**/runs/**", timeout=_TRIGGER_MS
    )  # the Dag is unpaused first, and its scheduled run starts
    return run_id_of(page), tab(page)


def run_id_of(page: Page) -> str:
    return unquote(page.url.partition("/runs/")[2].partition("/")[0].partition("?")[0])


def tab(page: Page) -> FrameLocator:
    page.get_by_role("link", name="Zoho delinks").click()
    return page.frame_locator("iframe[title='Zoho delinks']")


def searched(frame: FrameLocator, external_id: str) -> None:
    """Search the links of a run; repeat if the page was reloaded meanwhile."""
    for _ in range(5):
        with suppress(AssertionError):
            frame.get_by_label("External ID starts with", exact=True).fill(external_id)
            frame.get_by_role("button", name="Filter").click()
            return expect(frame.get_by_role("link", name="Clear")).to_be_visible(timeout=5_000)
    raise AssertionError("the search result did not stay on the page")


def watched(frame: FrameLocator, half_way: Callable[[], None] | None = None) -> list[int]:
    """Watch the page until the run has finished; return the numbers of processed links that it showed."""
    seen: list[int] = []
    ended = frame.locator(".status.succeeded, .status.attention")
    for _ in range(1_200):
        with suppress(PlaywrightError):  # the page is reloading
            if ended.count():
                return seen
            shown = frame.locator("[data-field=done]").all_inner_texts()
            if shown and (done := int(shown[0].replace("\u202f", ""))) not in seen[-1:]:
                seen.append(done)
                if len(seen) == 4 and half_way:
                    half_way()
        frame.owner.page.wait_for_timeout(100)
    raise AssertionError(f"the page never showed that the run has finished; it showed: {seen}")


def check_files(page: Page, frame: FrameLocator, world: World, run_key: str) -> None:
    """Download the links in both formats, and compare them with the audit row by row."""
    audited = world.audit.latest(run_key)
    names = ("external_id", "related_external_id", "outcome", "zoho_code", "zoho_message", "detail")
    with page.expect_download() as download:
        frame.get_by_role("link", name="JSON Lines").click()
    objects = [json.loads(line) for line in Path(download.value.path()).read_text().splitlines()]
    assert [[row[name] for name in names] for row in objects] == [
        [row[name] for name in names] for row in audited
    ]
    with page.expect_download() as download:
        frame.get_by_role("link", name="CSV").click()
    with Path(download.value.path()).open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert [[row[name] for name in names] for row in lines] == [
        [safe_csv_cell(row[name]) for name in names] for row in audited
    ]
