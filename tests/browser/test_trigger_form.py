"""The trigger form in the browser."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Locator, Page

    from tests.support.airflow_world import World

pytest_plugins = ["tests.support.airflow_world"]

MANUAL = "zoho_delink__manual"  # the sample job without its schedule


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


def test_links_pasted_as_columns_are_planned_and_nothing_is_removed(
    world: World, page: Page, picture: Callable[[str], None]
):
    before = world.snapshot()
    form = open_form(world, page, MANUAL)
    for section in ("Run Parameters", "Window", "Links"):
        expect(form.get_by_role("button", name=section, exact=True)).to_be_visible()
    for field in ("Mode", "Reason", "Maximum links", "Verify each link"):
        expect(form.get_by_text(re.compile(f"^{field}")).first).to_be_visible()
    expect(form.get_by_text("a manual run is a dry run")).to_be_visible()
    picture("trigger-form")

    form.get_by_role("button", name="Window", exact=True).click()
    expect(form.get_by_text("Select date and time")).to_have_count(2)
    expect(form.get_by_text("Without a time zone it is UTC").first).to_be_visible()
    form.get_by_role("button", name="Links", exact=True).click()
    form.locator("[name=element_links]").fill(
        'external_id;related_external_id\nc-0001;d-0001\n"c-0002";d-0002\n'
    )
    expect(form.get_by_text("At most 10,000")).to_be_visible()
    picture("trigger-form-links")
    run_id = send(page, form)

    world.runs.finish(MANUAL, run_id)
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    planned = dict.fromkeys([("c-0001", "d-0001"), ("c-0002", "d-0002")], "would_remove")
    run = world.check_run(MANUAL, run_id, planned, since=before)
    assert (run["mode"], run["status"], run["triggered_by"]) == ("dry_run", "succeeded", "admin")
    assert "links" not in json.loads(run["params"])
    assert world.delinks(before) == []


def test_invalid_window_fails_preflight_with_the_name_of_the_field(
    world: World, page: Page, picture: Callable[[str], None]
):
    before = world.snapshot()
    form = open_form(world, page, MANUAL)
    form.get_by_role("button", name="Window", exact=True).click()
    form.get_by_text("Select date and time").first.click()
    page.get_by_placeholder("YYYY/MM/DD").fill("next friday")
    page.get_by_placeholder("YYYY/MM/DD").press("Tab")
    expect(page.get_by_text("Invalid date format.")).to_be_visible()
    page.keyboard.press("Escape")

    # The picker accepts only dates; the JSON editor accepts anything.
    form.get_by_role("button", name="Advanced Options", exact=True).click()
    window = {"window_start": "next friday", "window_end": "2026-11-22T00:00:00Z"}
    others = {"mode": "auto", "reason": None, "max_links": None, "verify": False, "links": None}
    replace_json(page, form, window | others)
    run_id = send(page, form)

    world.runs.finish(MANUAL, run_id, "failed")
    states = {task: state for task, state in world.runs.states(MANUAL, run_id).items() if task != "report"}
    assert states.pop("preflight") == "failed"
    assert set(states.values()) == {"upstream_failed"}
    page.goto(f"/dags/{MANUAL}/runs/{quote(run_id)}/tasks/preflight")
    expect(page.get_by_text("window_start: 'next friday' is not a time; write it like").first).to_be_visible()
    page.goto(f"/dags/{MANUAL}/runs/{quote(run_id)}")
    page.get_by_role("link", name="Zoho delinks").click()
    frame = page.frame_locator("iframe[title='Zoho delinks']")
    failed = "Task preflight failed: window_start: 'next friday' is not a time"
    expect(frame.locator(".notice", has_text=failed)).to_be_visible()
    picture("wrong-window")
    assert world.delinks(before) == []


def open_form(world: World, page: Page, dag_id: str) -> Locator:
    world.runs.switch_on(dag_id)
    page.goto(f"/dags/{dag_id}")
    page.get_by_role("button", name="Trigger").first.click()
    form = page.get_by_role("dialog").filter(has_text="Trigger Dag")
    expect(form.get_by_role("button", name="Run Parameters")).to_be_visible()
    return form


def send(page: Page, form: Locator) -> str:
    """Submit the form, and return the ID of the run whose page Airflow shows."""
    form.get_by_test_id("trigger-dag-submit").click()
    page.wait_for_url("**/runs/**")
    return unquote(page.url.partition("/runs/")[2].partition("/")[0].partition("?")[0])


def replace_json(page: Page, form: Locator, values: dict[str, object]) -> None:
    """Replace the JSON in the editor, which adds the closing bracket."""
    form.locator(".monaco-editor .view-line").first.click()
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.insert_text(json.dumps(values).removesuffix("}"))
