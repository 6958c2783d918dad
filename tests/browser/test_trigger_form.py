"""The trigger form, filled in and sent by a person."""

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

BY_HAND = "zoho_delink__by_hand"  # the sample job without its schedule


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


def test_links_pasted_as_columns_are_planned_and_nothing_is_removed(
    world: World, page: Page, picture: Callable[[str], None]
):
    before = world.look()
    form = open_form(world, page, BY_HAND)
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

    world.runs.finish(BY_HAND, run_id)
    expect(page.get_by_text("Success", exact=True).first).to_be_visible()
    planned = dict.fromkeys([("c-0001", "d-0001"), ("c-0002", "d-0002")], "would_remove")
    run = world.check_run(BY_HAND, run_id, planned, since=before)
    assert (run["mode"], run["status"], run["triggered_by"]) == ("dry_run", "succeeded", "admin")
    assert "links" not in json.loads(run["params"])
    assert world.delinks(before) == []


def test_nonsense_for_a_window_is_refused_by_the_first_task_with_the_name_of_the_field(
    world: World, page: Page, picture: Callable[[str], None]
):
    before = world.look()
    form = open_form(world, page, BY_HAND)
    form.get_by_role("button", name="Window", exact=True).click()
    form.get_by_text("Select date and time").first.click()
    page.get_by_placeholder("YYYY/MM/DD").fill("next friday")
    page.get_by_placeholder("YYYY/MM/DD").press("Tab")
    expect(page.get_by_text("Invalid date format.")).to_be_visible()
    page.keyboard.press("Escape")

    # The picker lets no nonsense through; the JSON beside it does.
    form.get_by_role("button", name="Advanced Options", exact=True).click()
    window = {"window_start": "next friday", "window_end": "2026-11-22T00:00:00Z"}
    others = {"mode": "auto", "reason": None, "max_links": None, "verify": False, "links": None}
    replace_json(page, form, window | others)
    run_id = send(page, form)

    world.runs.finish(BY_HAND, run_id, "failed")
    states = {task: state for task, state in world.runs.states(BY_HAND, run_id).items() if task != "report"}
    assert states.pop("preflight") == "failed"
    assert set(states.values()) == {"upstream_failed"}
    page.goto(f"/dags/{BY_HAND}/runs/{quote(run_id)}/tasks/preflight")
    expect(page.get_by_text("window_start: 'next friday' is not a time; write it like").first).to_be_visible()
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
    """Press the button and return the id of the run, whose page Airflow shows then."""
    form.get_by_test_id("trigger-dag-submit").click()
    page.wait_for_url("**/runs/**")
    return unquote(page.url.partition("/runs/")[2].partition("/")[0].partition("?")[0])


def replace_json(page: Page, form: Locator, values: dict[str, object]) -> None:
    """Put other values into the editor, which adds the last bracket by itself."""
    form.locator(".monaco-editor .view-line").first.click()
    page.keyboard.press("Control+A")
    page.keyboard.press("Delete")
    page.keyboard.insert_text(json.dumps(values).removesuffix("}"))
