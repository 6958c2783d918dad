from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support.scripted_link import LINKED, PARENT, RELATED, ScriptedLink
from tests.support.zoho_responses import (
    BROKEN,
    BUSY,
    FOUND,
    HTML,
    MISSING,
    OUT_OF_CREDITS,
    SCOPE,
    UNANSWERED,
    WRONG_ID,
    response,
)
from zoho_crm.core.links import Link
from zoho_crm.core.models import PlannedLink
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.verdict import StopReason
from zoho_crm.errors import ZohoAuthError
from zoho_crm.hooks.presence import PresenceClient, RetryLimits

ROLES = "GET /crm/v7/Contacts/c%2F1/Deals/d%201?fields=id%2CContact_Role%2CNote"
FIELDS = ("Contact_Role", "Note")


class Probing(ScriptedLink):
    async def probe(self, **options: Any) -> Any:
        planned = PlannedLink(3, Link("c/1", "d 1"), "key")
        result = await self.process(self.client(PresenceClient, **options), planned)
        assert all(line.startswith("GET ") or line == "pause" for line in self.seen)
        assert (result.attempts, result.sent_at, result.ambiguous) == (0, None, False)
        return result


@pytest.mark.parametrize(
    ("script", "outcome", "seen"),
    [
        pytest.param([FOUND], Outcome.WOULD_REMOVE, [LINKED], id="linked"),
        pytest.param([MISSING, FOUND, FOUND], Outcome.ALREADY_ABSENT, [LINKED, PARENT, RELATED], id="absent"),
        pytest.param([MISSING, MISSING], Outcome.PARENT_NOT_FOUND, [LINKED, PARENT], id="parent"),
        pytest.param([WRONG_ID, WRONG_ID], Outcome.PARENT_NOT_FOUND, [LINKED, PARENT], id="parent-400"),
        pytest.param(
            [MISSING, FOUND, MISSING], Outcome.RELATED_NOT_FOUND, [LINKED, PARENT, RELATED], id="related"
        ),
        pytest.param([BUSY, FOUND], Outcome.WOULD_REMOVE, [LINKED, "pause", LINKED], id="load"),
        pytest.param([HTML, FOUND], Outcome.WOULD_REMOVE, [LINKED, "pause", LINKED], id="unclear-once"),
    ],
)
async def test_returns_the_outcome_of_a_dry_run(script: list[Any], outcome: Outcome, seen: list[str]) -> None:
    world = Probing(script)
    result = await world.probe()
    assert (result.outcome, world.seen, world.stop_reason) == (outcome, seen, None)


async def test_returns_the_outcome_of_a_dry_run_of_a_relink() -> None:
    outcomes = {"linked": Outcome.ALREADY_LINKED, "gone": Outcome.WOULD_RELINK}
    assert (await Probing([FOUND]).probe(**outcomes)).outcome is Outcome.ALREADY_LINKED
    assert (await Probing([MISSING, FOUND, FOUND]).probe(**outcomes)).outcome is Outcome.WOULD_RELINK


@pytest.mark.parametrize("fields", [(), FIELDS], ids=["dry-run", "snapshot"])
@pytest.mark.parametrize(
    ("said", "detail"),
    [
        pytest.param(BROKEN, "status 500, which does not say", id="500"),
        pytest.param(UNANSWERED, "sent, not answered", id="unanswered"),
        pytest.param(response(200, {"data": []}), "status 200, which does not say", id="no-record"),
        pytest.param(response(302), "status 302, which does not say", id="redirect"),
    ],
)
async def test_what_stays_unclear_fails_with_the_reason(fields: Any, said: Any, detail: str) -> None:
    world = Probing([said] * 3, RetryLimits(verifications=3))
    result = await world.probe(fields=fields)
    assert result.outcome is Outcome.FAILED
    assert detail in (result.detail or "")
    assert result.planned.snapshot is None
    assert world.stop_reason is None


@pytest.mark.parametrize(
    ("said", "reason", "outcome"),
    [
        pytest.param(OUT_OF_CREDITS, StopReason.CREDITS, Outcome.NOT_ATTEMPTED, id="credits"),
        pytest.param(SCOPE, StopReason.REFUSED, Outcome.FAILED, id="scope"),
    ],
)
async def test_a_refusal_of_every_link_stops_the_run(said: Any, reason: StopReason, outcome: Outcome) -> None:
    world = Probing([said])
    result = await world.probe(fields=FIELDS)
    assert (world.stop_reason, result.outcome, result.planned.snapshot) == (reason, outcome, None)


async def test_no_token_stops() -> None:
    world = Probing([ZohoAuthError("revoked")])
    assert (await world.probe()).outcome is Outcome.FAILED
    assert world.stop_reason is StopReason.NO_TOKEN


@pytest.mark.parametrize(
    ("record", "kept"),
    [
        pytest.param(
            {"id": "1", "Contact_Role": {"id": "7", "name": "Buyer"}, "Note": None, "Other": 1},
            {"Contact_Role": {"id": "7", "name": "Buyer"}},
            id="role",
        ),
        pytest.param({"id": "1", "Contact_Role": None, "Note": None}, {}, id="none"),
    ],
)
async def test_reads_the_attributes_of_a_link(record: dict[str, Any], kept: dict[str, Any]) -> None:
    world = Probing([response(200, {"data": [record]})])
    result = await world.probe(fields=FIELDS)
    assert world.seen == [ROLES]
    assert json.loads(result.planned.snapshot) == kept
    assert result.outcome is Outcome.WOULD_REMOVE


@pytest.mark.parametrize(
    "script",
    [[MISSING], [WRONG_ID, MISSING], [WRONG_ID, FOUND, WRONG_ID]],
    ids=["gone", "parent-unknown", "related-unknown"],
)
async def test_what_is_not_there_has_an_empty_snapshot(script: list[Any]) -> None:
    world = Probing(script)
    assert (await world.probe(fields=FIELDS)).planned.snapshot == "{}"


@pytest.mark.parametrize(
    "said",
    [
        response(200, {"data": [{"id": "1", "Contact_Role": "7"}]}),
        response(200, {"data": [{"id": "1"}]}),
        response(200, {"data": [{"id": "1", "Contact_Role": 1, "Note": 2}] * 2}),
    ],
    ids=["a-field-missing", "all-missing", "two-records"],
)
async def test_attributes_that_zoho_does_not_show_are_not_taken_for_none(said: Any) -> None:
    world = Probing([said])
    result = await world.probe(fields=FIELDS)
    assert (result.outcome, result.planned.snapshot) == (Outcome.FAILED, None)
    assert "does not return all" in (result.detail or "")


async def test_an_unexpected_error_is_no_request_that_may_have_been_applied() -> None:
    world = Probing([RuntimeError("a mistake of ours")])
    result = await world.probe()
    assert (result.outcome, result.detail) == (Outcome.FAILED, "unexpected RuntimeError")
