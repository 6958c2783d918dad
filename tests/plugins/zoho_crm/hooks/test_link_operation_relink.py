from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.scripted_link import LINKED, PARENT, PUT, RELATED, START, ScriptedLink
from tests.support.zoho_responses import (
    BAD_TOKEN,
    BROKEN,
    BUSY,
    FOUND,
    HTML,
    LOCKED,
    MISSING,
    NOT_SENT,
    OUT_OF_CREDITS,
    SCOPE,
    UNANSWERED,
    UNSAID,
    WRONG_ID,
    refusal,
    response,
)
from zoho_crm.core.links import Link
from zoho_crm.core.models import PlannedLink
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.relink_verdict import LINKED_AND_NOT_SEEN_GONE, SEEN_GONE_THEN_LINKED
from zoho_crm.core.verdict import StopReason
from zoho_crm.errors import ZohoAuthError, ZohoError, ZohoTokenThrottledError
from zoho_crm.hooks.link_operation import RelinkClient
from zoho_crm.hooks.presence import RetryLimits

if TYPE_CHECKING:
    from zoho_crm.hooks.zoho_response import ZohoResponse


def success(message: str = "relation added") -> ZohoResponse:
    details = {"External_Deal_ID": "d 1", "id": "77"}
    return response(
        200, {"data": [{"code": "SUCCESS", "details": details, "message": message, "status": "success"}]}
    )


def wrong(field_name: str) -> ZohoResponse:
    return refusal(400, "INVALID_DATA", "invalid data", api_name=field_name)


class World(ScriptedLink):
    async def relink(self, *, ambiguous: bool = False, snapshot: str | None = None) -> Any:
        planned = PlannedLink(3, Link("c/1", "d 1"), "key", ambiguous_before=ambiguous, snapshot=snapshot)
        result = await self.process(self.client(RelinkClient), planned)
        assert result.planned is planned
        return result


async def test_verifies_first_and_relinks() -> None:
    world = World([MISSING, success()])
    result = await world.relink()
    assert world.seen == [LINKED, PUT]
    assert (result.outcome, result.zoho_code, result.zoho_message) == (
        Outcome.RELINKED,
        "SUCCESS",
        "relation added",
    )
    assert (result.attempts, result.sent_at, result.ambiguous, result.detail) == (
        1,
        START + timedelta(seconds=1),
        False,
        None,
    )
    assert (result.zoho_record_id, world.stop_reason) == ("77", None)


async def test_gives_the_attributes_back() -> None:
    world = World([MISSING, success()])
    await world.relink(snapshot='{"Contact_Role":{"name":"Buyer","id":"7"},"id":"8","External_Deal_ID":"x"}')
    assert world.seen[1] == PUT.replace('"d 1"', '"d 1","Contact_Role":"7"')


async def test_a_link_that_is_there_is_left_as_it_is() -> None:
    world = World([FOUND])
    result = await world.relink(snapshot='{"Contact_Role":"7"}')
    assert world.seen == [LINKED]
    assert (result.outcome, result.attempts, result.sent_at) == (Outcome.ALREADY_LINKED, 0, None)
    assert result.detail == "exists already; nothing was sent"


@pytest.mark.parametrize(
    ("script", "outcome", "attempts"),
    [
        pytest.param([WRONG_ID, MISSING], Outcome.PARENT_NOT_FOUND, 0, id="parent-by-get"),
        pytest.param([WRONG_ID, FOUND, MISSING], Outcome.RELATED_NOT_FOUND, 0, id="related-by-get"),
        pytest.param([MISSING, wrong("External_Contact_ID")], Outcome.PARENT_NOT_FOUND, 1, id="parent"),
        pytest.param([MISSING, wrong("External_Deal_ID")], Outcome.RELATED_NOT_FOUND, 1, id="related"),
        pytest.param(
            [MISSING, UNSAID, MISSING, FOUND, MISSING], Outcome.RELATED_NOT_FOUND, 1, id="not-said-which"
        ),
        pytest.param([MISSING, LOCKED], Outcome.REJECTED, 1, id="locked"),
        pytest.param([MISSING, UNSAID, FOUND], Outcome.ALREADY_LINKED, 1, id="linked-by-another-user"),
    ],
)
async def test_clear_responses_settle(script: list[Any], outcome: Outcome, attempts: int) -> None:
    world = World(script)
    result = await world.relink()
    assert (result.outcome, result.attempts, result.ambiguous) == (outcome, attempts, False)
    assert world.stop_reason is None


@pytest.mark.parametrize(
    "unclear", [UNANSWERED, BROKEN, HTML, response(302), response(200, b"{}"), response(204)]
)
async def test_an_unclear_response_is_verified_and_never_believed(unclear: Any) -> None:
    world = World([MISSING, unclear, FOUND])
    result = await world.relink()
    assert world.seen == [LINKED, PUT, "pause", LINKED]
    assert (result.outcome, result.attempts, result.ambiguous) == (Outcome.RELINKED, 1, True)
    assert (result.detail or "").endswith(f"; {SEEN_GONE_THEN_LINKED}")


async def test_what_was_not_applied_is_put_again() -> None:
    world = World([MISSING, UNANSWERED, MISSING, FOUND, FOUND, success("relation updated")])
    result = await world.relink()
    assert world.seen == [LINKED, PUT, "pause", LINKED, PARENT, RELATED, PUT]
    assert (result.outcome, result.attempts) == (Outcome.RELINKED, 2)


async def test_what_is_not_applied_after_unclear_requests_is_unknown() -> None:
    not_there = [MISSING, FOUND, FOUND]
    world = World([MISSING, BROKEN, *not_there, BROKEN, *not_there], RetryLimits(sends=2))
    result = await world.relink()
    assert (result.outcome, result.attempts, result.ambiguous) == (Outcome.UNKNOWN, 2, True)
    assert (result.detail or "").startswith("still not linked after 2 requests; the last: status 500")


async def test_what_cannot_be_verified_is_unknown() -> None:
    world = World([MISSING, UNANSWERED, BROKEN, BROKEN], RetryLimits(verifications=2))
    result = await world.relink()
    assert (result.outcome, result.ambiguous) == (Outcome.UNKNOWN, True)


@pytest.mark.parametrize(
    ("script", "outcome", "seen"),
    [
        pytest.param([FOUND], Outcome.PRESUMED_RELINKED, [LINKED], id="linked"),
        pytest.param(
            [MISSING, FOUND, FOUND, success()],
            Outcome.RELINKED,
            [LINKED, PARENT, RELATED, PUT],
            id="not-linked",
        ),
        pytest.param(
            [MISSING, FOUND, FOUND, UNANSWERED, FOUND],
            Outcome.RELINKED,
            [LINKED, PARENT, RELATED, PUT, "pause", LINKED],
            id="seen-not-linked-first",
        ),
        pytest.param([MISSING, MISSING], Outcome.PARENT_NOT_FOUND, [LINKED, PARENT], id="no-parent"),
        pytest.param(
            [MISSING, FOUND, FOUND, LOCKED, FOUND],
            Outcome.RELINKED,
            [LINKED, PARENT, RELATED, PUT, LINKED],
            id="refused-and-linked",
        ),
        pytest.param(
            [MISSING, FOUND, FOUND, LOCKED, MISSING, FOUND, FOUND],
            Outcome.REJECTED,
            [LINKED, PARENT, RELATED, PUT, LINKED, PARENT, RELATED],
            id="refused-and-not-linked",
        ),
    ],
)
async def test_a_link_that_an_earlier_try_may_have_relinked_is_verified_first(
    script: list[Any], outcome: Outcome, seen: list[str]
) -> None:
    world = World(script)
    result = await world.relink(ambiguous=True)
    assert (result.outcome, world.seen) == (outcome, seen)
    if script == [FOUND]:
        assert (
            result.detail
            == f"an earlier try or run may have sent it, without a recorded response; {LINKED_AND_NOT_SEEN_GONE}"
        )


@pytest.mark.parametrize(
    "script",
    [
        pytest.param([MISSING, UNANSWERED, MISSING, MISSING], id="by-get"),
        pytest.param(
            [MISSING, UNANSWERED, MISSING, FOUND, FOUND, wrong("External_Contact_ID")], id="by-response"
        ),
    ],
)
async def test_a_record_that_is_gone_after_an_unclear_request_names_that_request(script: list[Any]) -> None:
    result = await World(script).relink()
    assert result.outcome is Outcome.PARENT_NOT_FOUND
    assert (result.detail or "").endswith("an earlier request may have linked it before the record was gone")


async def test_an_unclear_first_look_sends_nothing() -> None:
    world = World([BROKEN, UNANSWERED, NOT_SENT], RetryLimits(verifications=3))
    result = await world.relink()
    assert world.seen == [LINKED, "pause", LINKED, "pause", LINKED]
    assert (result.outcome, result.attempts, result.ambiguous) == (Outcome.FAILED, 0, False)
    assert result.detail == "no connection"


@pytest.mark.parametrize(
    ("said", "reason", "outcome"),
    [
        pytest.param(OUT_OF_CREDITS, StopReason.CREDITS, Outcome.NOT_ATTEMPTED, id="credits"),
        pytest.param(SCOPE, StopReason.REFUSED, Outcome.FAILED, id="scope"),
        pytest.param(
            refusal(403, "NO_PERMISSION", "no"), StopReason.REFUSED, Outcome.FAILED, id="permission"
        ),
        pytest.param(
            refusal(400, "INVALID_DATA", "the relation name given seems to be invalid"),
            StopReason.REFUSED,
            Outcome.FAILED,
            id="list",
        ),
    ],
)
@pytest.mark.parametrize("first", [[], [MISSING]], ids=["first-look", "put"])
async def test_a_refusal_of_every_link_stops_the_run(
    first: list[Any], said: ZohoResponse, reason: StopReason, outcome: Outcome
) -> None:
    world = World([*first, said])
    result = await world.relink()
    assert (world.stop_reason, result.outcome, result.ambiguous) == (reason, outcome, False)


async def test_waits_while_zoho_is_overloaded_at_no_cost_of_a_put() -> None:
    world = World([BUSY, MISSING, BUSY, BUSY, success()], RetryLimits(sends=1))
    result = await world.relink()
    assert world.seen == [LINKED, "pause", LINKED, PUT, "pause", PUT, "pause", PUT]
    assert (result.outcome, result.attempts) == (Outcome.RELINKED, 3)


@pytest.mark.parametrize("first", [[], [MISSING]], ids=["first-look", "put"])
async def test_overload_to_the_end_of_the_retries_stops(first: list[Any]) -> None:
    world = World([*first, *[BUSY] * 3], RetryLimits(waits=2))
    result = await world.relink()
    assert (world.stop_reason, result.outcome) == (StopReason.OVERLOADED, Outcome.NOT_ATTEMPTED)


@pytest.mark.parametrize("script", [[BAD_TOKEN], [MISSING, BAD_TOKEN]], ids=["first-look", "put"])
async def test_a_token_rejected_after_all_renewals_stops_the_run(script: list[Any]) -> None:
    world = World(script)
    result = await world.relink()
    assert (world.stop_reason, result.outcome) == (StopReason.REFUSED, Outcome.FAILED)
    assert result.detail == "Zoho rejects new access tokens too"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ZohoTokenThrottledError("throttled", retry_after_s=600.0), StopReason.THROTTLED),
        (ZohoAuthError("revoked"), StopReason.NO_TOKEN),
        (ZohoError("the store is away"), None),
    ],
    ids=["throttled", "no-token", "passing"],
)
async def test_without_an_access_token_the_link_fails(error: ZohoError, reason: StopReason | None) -> None:
    world = World([error])
    result = await world.relink()
    assert (world.stop_reason, result.outcome, result.detail) == (reason, Outcome.FAILED, str(error))


async def test_attributes_that_cannot_be_read_send_nothing_but_the_question() -> None:
    world = World([MISSING])
    result = await world.relink(snapshot="sha256:0011")
    assert world.seen == [LINKED]
    assert (result.outcome, result.attempts) == (Outcome.FAILED, 0)
    assert "cannot be read" in (result.detail or "")
