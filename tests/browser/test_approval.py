"""A run that exceeds a limit: the approver sees why, and decides with a click."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from playwright.sync_api import expect

from tests.support.approvals import WAITING

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Page

    from tests.support.airflow_world import Pair, World

pytest_plugins = ["tests.support.airflow_world"]

NEEDS_APPROVAL = "zoho_delink__needs_approval"  # allows two links; more need an approval


@pytest.fixture(scope="session")
def stack_env(jobs_env: dict[str, str]) -> dict[str, str]:
    return jobs_env


def test_links_are_removed_after_approval(world: World, page: Page, picture: Callable[[str], None]):
    links = linked(world, "approved")
    before = world.snapshot()
    run_id = start(world, links, "they moved on")

    page.goto("/required_actions")
    page.get_by_role("link", name="Remove 3 links of needs_approval?").click()
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
    respond(page, "Approve")

    world.runs.finish(NEEDS_APPROVAL, run_id)
    run = world.check_run(NEEDS_APPROVAL, run_id, dict.fromkeys(links, "removed"), since=before)
    assert (run["status"], run["approval"], run["approved_by"]) == ("succeeded", "approved", "admin")


def test_nothing_is_removed_after_rejection(world: World, page: Page):
    links = linked(world, "rejected")
    before = world.snapshot()
    run_id = start(world, links, "a mistake")

    page.goto(f"/dags/{NEEDS_APPROVAL}/runs/{quote(run_id)}/tasks/approve/required_actions")
    expect(page.get_by_text("rejected-0").first).to_be_visible()
    respond(page, "Reject")

    world.runs.finish(NEEDS_APPROVAL, run_id)
    run = world.audit.run(NEEDS_APPROVAL, run_id)
    outcomes = {
        (row["external_id"], row["related_external_id"]): row["outcome"]
        for row in world.audit.latest(run["run_key"])
    }
    assert outcomes == dict.fromkeys(links, "not_attempted")
    world.check_crm(outcomes, since=before)
    assert (run["status"], run["approval"], run["approved_by"]) == ("rejected", "rejected", "admin")
    assert world.delinks(before) == []


def respond(page: Page, option: str) -> None:
    with page.expect_response(
        lambda it: it.request.method == "PATCH" and "hitlDetails" in it.url
    ) as response:
        page.get_by_role("button", name=option, exact=True).click()
    assert response.value.ok, response.value.text()


def linked(world: World, name: str) -> list[Pair]:
    """Link three pairs of records for one test."""
    links = [(f"{name}-{number}", f"deal-{number}") for number in range(3)]
    for parent, related in links:
        world.zoho.state.link("Contacts", parent, "Deals", related)
    return links


def start(world: World, links: list[Pair], reason: str) -> str:
    """Start a run over the limit, and return its ID once it waits for approval."""
    conf = {"mode": "apply", "reason": reason, "links": links}
    # The browser's user is admin, who could not approve a run of admin.
    run_id = world.runs.trigger(NEEDS_APPROVAL, conf, user="approver")
    world.runs.until(
        lambda: world.runs.states(NEEDS_APPROVAL, run_id).get("approve") in WAITING,
        "an approval request",
    )
    return run_id
