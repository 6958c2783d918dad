"""A run that breaches a limit: a person is asked, sees why, and decides by a click."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    from tests.support.airflow_world import Pair, World

pytest_plugins = ["tests.support.airflow_world"]

ASKS = "zoho_delink__asks"  # allows two links, and asks for more


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


def test_links_are_removed_once_a_person_approves(world: World, page: Page, picture: Callable[[str], None]):
    links = linked(world, "approved")
    before = world.look()
    run_id = ask(world, links, "they moved on")

    page.goto("/required_actions")
    page.get_by_role("link", name="Remove 3 links of asks?").click()
    page.wait_for_url("**/tasks/approve/**")
    expect(page.get_by_text("3 links planned, 2 allowed").first).to_be_visible()
    for text in (
        "they moved on",
        "approved-0",
        "Contacts.External_Contact_ID -> Deals (Deals.External_Deal_ID)",
    ):
        expect(page.get_by_text(text).first).to_be_visible()
    picture("approval")
    assert world.delinks(before) == []
    answer(page, "Approve")

    world.runs.finish(ASKS, run_id)
    run = world.check_run(ASKS, run_id, dict.fromkeys(links, "removed"), since=before)
    assert (run["status"], run["approval"], run["approved_by"]) == ("succeeded", "approved", "admin")


def test_nothing_is_removed_once_a_person_rejects(world: World, page: Page):
    links = linked(world, "rejected")
    before = world.look()
    run_id = ask(world, links, "a mistake")

    page.goto(f"/dags/{ASKS}/runs/{quote(run_id)}/tasks/approve/required_actions")
    expect(page.get_by_text("rejected-0").first).to_be_visible()
    answer(page, "Reject")

    world.runs.finish(ASKS, run_id)
    run = world.audit.run(ASKS, run_id)
    outcomes = {
        (row["external_id"], row["related_external_id"]): row["outcome"]
        for row in world.audit.latest(run["run_key"])
    }
    assert outcomes == dict.fromkeys(links, "not_attempted")
    world.check_crm(outcomes, since=before)
    assert (run["status"], run["approval"], run["approved_by"]) == ("rejected", "rejected", "admin")
    assert world.delinks(before) == []


def answer(page: Page, option: str) -> None:
    with page.expect_response(
        lambda it: it.request.method == "PATCH" and "hitlDetails" in it.url
    ) as response:
        page.get_by_role("button", name=option, exact=True).click()
    assert response.value.ok, response.value.text()


def linked(world: World, name: str) -> list[Pair]:
    """Link three records of the test's own."""
    links = [(f"{name}-{number}", f"deal-{number}") for number in range(3)]
    for parent, related in links:
        world.zoho.state.link("Contacts", parent, "Deals", related)
    return links


def ask(world: World, links: list[Pair], reason: str) -> str:
    """Start a run over the limit, and return its id once it waits for a person."""
    run_id = world.runs.trigger(ASKS, {"mode": "apply", "reason": reason, "links": links})
    world.runs.until(
        lambda: world.runs.states(ASKS, run_id).get("approve") == "awaiting_input", "a question to a person"
    )
    return run_id
