from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.scripted_link import DELETE, LINKED, PARENT, RELATED, START, ScriptedLink
from tests.support.zoho_responses import (
    BAD_TOKEN,
    BROKEN,
    BUSY,
    FOUND,
    GONE,
    HTML,
    LOCKED,
    MISSING,
    NOT_SENT,
    OUT_OF_CREDITS,
    REMOVED,
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
from zoho_crm.core.request import find_records
from zoho_crm.core.verdict import (
    GONE_AND_NOT_SEEN_LINKED,
    GONE_WITH_ITS_RECORD,
    SEEN_LINKED_THEN_GONE,
    StopReason,
)
from zoho_crm.errors import (
    UnsafeRequestError,
    ZohoAuthError,
    ZohoError,
    ZohoNotSentError,
    ZohoResponseError,
    ZohoTokenThrottledError,
    ZohoUnansweredError,
)
from zoho_crm.hooks.link_operation import DelinkClient
from zoho_crm.hooks.presence import RetryLimits

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from zoho_crm.hooks.zoho_response import ZohoResponse


class World(ScriptedLink):
    def __post_init__(self) -> None:
        super().__post_init__()
        self.delinker: DelinkClient = self.client(DelinkClient)

    async def delink(
        self, *, ambiguous: bool = False, snapshot: str | None = None, seen_at: datetime | None = None
    ) -> Any:
        planned = PlannedLink(
            3,
            Link("c/1", "d 1"),
            "key",
            ambiguous_before=ambiguous,
            snapshot=snapshot,
            seen_linked_at=seen_at,
        )
        result = await self.process(self.delinker, planned)
        assert result.planned is planned
        return result


# -- what one clear answer leads to


@pytest.mark.parametrize(
    ("said", "outcome", "code", "message", "record_id"),
    [
        pytest.param(REMOVED, Outcome.REMOVED, "SUCCESS", "relation removed", "77", id="success"),
        pytest.param(GONE, Outcome.ALREADY_ABSENT, "INVALID_DATA", "relation not found", "77", id="absent"),
        pytest.param(
            refusal(400, "INVALID_DATA", "invalid", External_Contact_ID="x"),
            Outcome.PARENT_NOT_FOUND,
            "INVALID_DATA",
            "invalid",
            None,
            id="parent",
        ),
        pytest.param(
            refusal(400, "INVALID_DATA", "invalid", api_name="External_Deal_ID"),
            Outcome.RELATED_NOT_FOUND,
            "INVALID_DATA",
            "invalid",
            None,
            id="related",
        ),
        pytest.param(LOCKED, Outcome.REJECTED, "RECORD_LOCKED", "record is locked", "77", id="locked"),
        *(
            pytest.param(refusal(400, code, "no", data=True), Outcome.REJECTED, code, "no", None, id=code)
            for code in ("DUPLICATE_DATA", "LIMIT_EXCEEDED", "MULTIPLE_OR_MULTI_ERRORS")
        ),
    ],
)
async def test_a_clear_response_settles_with_one_request(
    said: ZohoResponse, outcome: Outcome, code: str, message: str, record_id: str | None
) -> None:
    world = World([said])
    result = await world.delink()
    assert world.seen == [DELETE]
    assert (result.outcome, result.zoho_code, result.zoho_message) == (outcome, code, message)
    assert (result.zoho_record_id, result.http_status, result.detail) == (record_id, said.status, None)
    assert (result.attempts, result.sent_at) == (1, START + timedelta(seconds=1))
    assert result.finished_at == START + timedelta(seconds=2)
    assert world.stop_reason is None


@pytest.mark.parametrize(
    ("said", "reason", "outcome"),
    [
        pytest.param(OUT_OF_CREDITS, StopReason.CREDITS, Outcome.NOT_ATTEMPTED, id="credits"),
        pytest.param(SCOPE, StopReason.REFUSED, Outcome.FAILED, id="scope"),
        pytest.param(
            refusal(
                400, "INVALID_DATA", "the relation name given seems to be invalid", resource_path_index=2
            ),
            StopReason.REFUSED,
            Outcome.FAILED,
            id="related-list",
        ),
        pytest.param(
            refusal(400, "MANDATORY_NOT_FOUND", "missing", param_name="ids"),
            StopReason.REFUSED,
            Outcome.FAILED,
            id="a-segment-less",
        ),
    ],
)
async def test_a_response_that_waits_for_every_link_stops_at_once(
    said: ZohoResponse, reason: StopReason, outcome: Outcome
) -> None:
    world = World([said])
    result = await world.delink()
    assert world.seen == [DELETE]
    assert (result.outcome, world.stop_reason, result.attempts) == (outcome, reason, 1)


async def test_a_unit_is_its_links_one_after_the_other() -> None:
    world = World([REMOVED, OUT_OF_CREDITS])
    unit = [PlannedLink(n, Link("c/1", "d 1"), "key") for n in range(2)]
    settled = await world.delinker.process_unit(unit)
    assert world.delinker.unit_size == 1
    assert [(one.planned.seq, one.outcome, why) for one, why in settled] == [
        (0, Outcome.REMOVED, None),
        (1, Outcome.NOT_ATTEMPTED, StopReason.CREDITS),
    ]


async def test_every_response_is_observed() -> None:
    world, shown = World([BUSY, BROKEN, FOUND, UNANSWERED, MISSING, FOUND, FOUND]), []
    world.delinker.watch(shown.append, lambda: False)
    await world.delink()
    assert [one.status for one in shown] == [429, 500, 200, 204, 200, 200]
    assert world.seen.count(DELETE) == 3


# -- ambiguous requests


AMBIGUOUS = [
    pytest.param(UNANSWERED, id="unanswered"),
    pytest.param(BROKEN, id="500"),
    pytest.param(HTML, id="html"),
    pytest.param(response(200, b'{"data": [{"code": "SUC'), id="truncated"),
    pytest.param(response(200, b""), id="empty"),
    pytest.param(response(302, b""), id="redirect"),
    pytest.param(response(204), id="204"),
    pytest.param(refusal(400, "SOMETHING_NEW", "what"), id="unknown-code"),
    pytest.param(refusal(400, "INTERNAL_ERROR", "oops"), id="internal-error"),
]


@pytest.mark.parametrize("unclear", AMBIGUOUS)
async def test_an_unclear_request_that_did_nothing_is_repeated(unclear: ZohoResponse | ZohoError) -> None:
    world = World([unclear, FOUND, REMOVED])
    result = await world.delink()
    assert world.seen == [DELETE, "pause", LINKED, DELETE]
    assert (result.outcome, result.attempts, result.detail) == (Outcome.REMOVED, 2, None)
    assert result.sent_at == START + timedelta(seconds=1)


@pytest.mark.parametrize("unclear", AMBIGUOUS)
async def test_a_link_gone_after_an_unclear_request_is_presumed_removed(
    unclear: ZohoResponse | ZohoError,
) -> None:
    world = World([unclear, MISSING, FOUND, FOUND])
    result = await world.delink()
    assert world.seen == [DELETE, "pause", LINKED, PARENT, RELATED]
    assert (result.outcome, result.attempts) == (Outcome.PRESUMED_REMOVED, 1)
    assert result.detail.endswith(f"; {GONE_AND_NOT_SEEN_LINKED}")
    assert len(result.detail) > len(GONE_AND_NOT_SEEN_LINKED) + 2


@pytest.mark.parametrize("unclear", AMBIGUOUS)
async def test_a_link_seen_linked_and_gone_after_an_unclear_request_is_removed(
    unclear: ZohoResponse | ZohoError,
) -> None:
    world = World([unclear, FOUND, UNANSWERED, MISSING, FOUND, FOUND])
    result = await world.delink()
    assert world.seen == [DELETE, "pause", LINKED, DELETE, "pause", LINKED, PARENT, RELATED]
    assert (result.outcome, result.attempts) == (Outcome.REMOVED, 2)
    assert result.detail == f"sent, not answered; {SEEN_LINKED_THEN_GONE}"


@pytest.mark.parametrize("ambiguous", [False, True], ids=["this-try", "earlier-try"])
async def test_a_snapshot_of_an_existing_link_is_evidence(ambiguous: bool) -> None:
    sent: list[Any] = [] if ambiguous else [UNANSWERED]
    world = World([*sent, MISSING, FOUND, FOUND])
    result = await world.delink(ambiguous=ambiguous, snapshot='{"Contact_Role":"7"}', seen_at=START)
    assert result.outcome is Outcome.REMOVED
    assert result.detail.endswith(
        "; in its snapshot of 2026-11-22 02:00:00 UTC, this run saw it linked; gone after a request that may have been "
        "applied"
    )


@pytest.mark.parametrize("snapshot", ['{"Contact_Role":"7"}', "{}", None])
@pytest.mark.parametrize("ambiguous", [False, True], ids=["this-try", "earlier-try"])
async def test_attributes_of_another_run_or_of_a_later_time_are_no_evidence(
    snapshot: str | None, ambiguous: bool
) -> None:
    sent: list[Any] = [] if ambiguous else [UNANSWERED]
    world = World([*sent, MISSING, FOUND, FOUND])
    result = await world.delink(ambiguous=ambiguous, snapshot=snapshot)
    assert result.outcome is Outcome.PRESUMED_REMOVED


async def test_a_link_of_the_snapshot_that_the_first_request_finds_gone_is_absent() -> None:
    world = World([GONE])
    result = await world.delink(snapshot='{"Contact_Role":"7"}', seen_at=START)
    assert (result.outcome, result.detail) == (Outcome.ALREADY_ABSENT, None)


@pytest.mark.parametrize(
    ("looks", "requests", "which"),
    [
        pytest.param([WRONG_ID, MISSING], [LINKED, PARENT], "parent", id="parent-204"),
        pytest.param([MISSING, WRONG_ID], [LINKED, PARENT], "parent", id="parent-400"),
        pytest.param([MISSING, FOUND, MISSING], [LINKED, PARENT, RELATED], "related", id="related-204"),
        pytest.param([WRONG_ID, FOUND, WRONG_ID], [LINKED, PARENT, RELATED], "related", id="related-400"),
    ],
)
@pytest.mark.parametrize("seen_at", [None, START], ids=["not-seen-linked", "seen-linked"])
async def test_a_link_whose_record_is_gone_after_an_unclear_request_is_presumed_removed(
    looks: list[ZohoResponse], requests: list[str], which: str, seen_at: datetime | None
) -> None:
    world = World([UNANSWERED, *looks])
    result = await world.delink(seen_at=seen_at)
    assert world.seen == [DELETE, "pause", *requests]
    assert (result.outcome, result.detail) == (
        Outcome.PRESUMED_REMOVED,
        f"sent, not answered; the {which} external ID {GONE_WITH_ITS_RECORD}",
    )


UNCLEAR_LOOKS = [
    pytest.param([UNANSWERED], [LINKED], id="unanswered"),
    pytest.param([NOT_SENT], [LINKED], id="not-sent"),
    pytest.param([BROKEN], [LINKED], id="500"),
    pytest.param([response(200, {"data": [{"code": "X", "status": "error"}]})], [LINKED], id="error-in-data"),
    pytest.param([MISSING, HTML], [LINKED, PARENT], id="parent-unclear"),
    pytest.param([MISSING, FOUND, UNANSWERED], [LINKED, PARENT, RELATED], id="related-unclear"),
    pytest.param([WRONG_ID, FOUND, FOUND], [LINKED, PARENT, RELATED], id="contradiction"),
]


@pytest.mark.parametrize(("looks", "requests"), UNCLEAR_LOOKS)
async def test_what_never_becomes_clear_is_unknown(looks: list[Any], requests: list[str]) -> None:
    world = World([UNANSWERED, *looks * 3], RetryLimits(verifications=3))
    result = await world.delink()
    assert world.seen == [DELETE, "pause", *[*requests, "pause"] * 3]
    assert (result.outcome, result.attempts) == (Outcome.UNKNOWN, 1)
    assert result.detail == "sent, not answered; could not be verified"
    assert world.stop_reason is None


@pytest.mark.parametrize(("looks", "requests"), UNCLEAR_LOOKS)
async def test_verification_asks_again_until_it_is_clear(looks: list[Any], requests: list[str]) -> None:
    world = World([UNANSWERED, *looks, FOUND, REMOVED])
    assert (await world.delink()).outcome is Outcome.REMOVED
    assert world.seen == [DELETE, "pause", *requests, "pause", LINKED, DELETE]


@pytest.mark.parametrize(("ambiguous", "outcome"), [(False, Outcome.FAILED), (True, Outcome.UNKNOWN)])
async def test_an_error_that_does_not_say_which_id_is_wrong_is_looked_up(
    ambiguous: bool, outcome: Outcome
) -> None:
    first: list[Any] = [UNANSWERED, FOUND] if ambiguous else []
    world = World([*first, UNSAID, BROKEN], RetryLimits(verifications=1))
    result = await world.delink()
    # Zoho has refused this one; only an earlier one may have been applied.
    assert result.outcome is outcome
    assert result.zoho_code == "INVALID_DATA"


@pytest.mark.parametrize(
    ("looks", "outcome"),
    [
        pytest.param([MISSING, FOUND, FOUND], Outcome.ALREADY_ABSENT, id="absent"),
        pytest.param([WRONG_ID, WRONG_ID], Outcome.PARENT_NOT_FOUND, id="parent"),
    ],
)
async def test_an_error_without_a_name_is_settled_by_what_is_there(
    looks: list[ZohoResponse], outcome: Outcome
) -> None:
    world = World([UNSAID, *looks])
    result = await world.delink()
    assert result.outcome is outcome
    assert "Zoho does not say which id is wrong; verified" in result.detail


@pytest.mark.parametrize(
    ("before", "outcome"),
    [
        pytest.param([], Outcome.ALREADY_ABSENT, id="clear-before"),
        pytest.param([UNANSWERED, FOUND], Outcome.REMOVED, id="unanswered-before"),
        pytest.param([BROKEN, FOUND], Outcome.REMOVED, id="500-before"),
        pytest.param([BUSY, NOT_SENT], Outcome.ALREADY_ABSENT, id="never-applied-before"),
        pytest.param([UNSAID, FOUND], Outcome.ALREADY_ABSENT, id="refused-before"),
    ],
)
async def test_relation_not_found_means_removed_only_when_seen_linked_after_an_unclear_request(
    before: list[Any], outcome: Outcome
) -> None:
    world = World([*before, GONE])
    result = await world.delink()
    assert world.seen[-1] == DELETE
    assert result.outcome is outcome
    assert result.detail == (SEEN_LINKED_THEN_GONE if outcome is Outcome.REMOVED else None)


# -- a link that an earlier try may have sent


async def test_a_link_of_an_earlier_try_is_verified_before_anything_is_sent() -> None:
    world = World([MISSING, FOUND, FOUND])
    result = await world.delink(ambiguous=True)
    assert world.seen == [LINKED, PARENT, RELATED]
    assert (result.outcome, result.attempts, result.sent_at) == (Outcome.PRESUMED_REMOVED, 0, None)
    assert (
        result.detail
        == f"an earlier try or run may have sent it, without a recorded response; {GONE_AND_NOT_SEEN_LINKED}"
    )


async def test_a_link_of_an_earlier_try_that_is_still_there_is_sent() -> None:
    world = World([FOUND, REMOVED])
    result = await world.delink(ambiguous=True)
    assert world.seen == [LINKED, DELETE]
    assert (result.outcome, result.attempts, result.detail) == (Outcome.REMOVED, 1, None)


async def test_a_link_of_an_earlier_try_that_is_seen_linked_first_can_be_removed_by_evidence() -> None:
    world = World([FOUND, UNANSWERED, MISSING, FOUND, FOUND])
    result = await world.delink(ambiguous=True)
    assert world.seen == [LINKED, DELETE, "pause", LINKED, PARENT, RELATED]
    assert (result.outcome, result.attempts) == (Outcome.REMOVED, 1)
    assert result.detail == f"sent, not answered; {SEEN_LINKED_THEN_GONE}"


async def test_a_link_of_an_earlier_try_that_cannot_be_verified_is_not_sent() -> None:
    world = World([BROKEN] * 4)
    result = await world.delink(ambiguous=True)
    assert DELETE not in world.seen
    assert (result.outcome, result.attempts) == (Outcome.UNKNOWN, 0)


async def test_a_link_of_an_earlier_try_stays_unknown_when_there_is_no_token() -> None:
    world = World([ZohoAuthError("refused")])
    result = await world.delink(ambiguous=True)
    assert (result.outcome, world.stop_reason) == (Outcome.UNKNOWN, StopReason.NO_TOKEN)


# -- tokens


async def test_requests_with_a_rejected_token_count_as_attempts() -> None:
    world = World([replace(REMOVED, sends=2)], RetryLimits(sends=1))
    result = await world.delink()
    assert (result.outcome, result.attempts) == (Outcome.REMOVED, 2)
    assert world.slept == []


@pytest.mark.parametrize(
    ("error", "attempts"),
    [
        (ZohoAuthError("invalid_code"), 1),
        (ZohoTokenThrottledError("wait", retry_after_s=600), 1),
        (ZohoNotSentError("no connection"), 1),
        (ZohoUnansweredError("sent, not answered"), 2),
    ],
    ids=["refused", "throttled", "not-sent", "unanswered"],
)
async def test_a_rejected_request_counts_although_none_follows(error: ZohoError, attempts: int) -> None:
    error.sends = 1
    verification = [BROKEN] if isinstance(error, ZohoUnansweredError) else []
    world = World([error, *verification], RetryLimits(sends=1, waits=0, verifications=1))
    result = await world.delink()
    assert (result.attempts, result.sent_at) == (attempts, START + timedelta(seconds=1))


async def test_a_token_rejected_after_all_renewals_stops_the_run() -> None:
    world = World([replace(BAD_TOKEN, sends=3)])
    result = await world.delink()
    assert world.seen == [DELETE]
    assert (result.outcome, world.stop_reason) == (Outcome.FAILED, StopReason.REFUSED)
    assert (result.detail, result.attempts) == ("Zoho rejects new access tokens too", 3)
    assert result.zoho_code == "INVALID_TOKEN"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        pytest.param(ZohoAuthError("invalid_code"), StopReason.NO_TOKEN, id="refused"),
        pytest.param(
            ZohoTokenThrottledError("stay away", retry_after_s=600), StopReason.THROTTLED, id="throttled"
        ),
        pytest.param(ZohoResponseError("unreadable"), None, id="unreadable"),
    ],
)
@pytest.mark.parametrize("ambiguous", [False, True], ids=["clear", "ambiguous"])
async def test_a_link_ends_when_there_is_no_access_token(
    error: ZohoError, reason: StopReason | None, ambiguous: bool
) -> None:
    before: list[Any] = [UNANSWERED, FOUND] if ambiguous else []
    world = World([*before, error])
    result = await world.delink()
    assert world.seen[-1] == DELETE
    assert result.outcome is (Outcome.UNKNOWN if ambiguous else Outcome.FAILED)
    late = "; an earlier request may be applied late" if ambiguous else ""
    assert (world.stop_reason, result.detail) == (reason, f"{error}{late}")


async def test_a_token_rejected_after_all_renewals_leaves_a_verification_unclear() -> None:
    world = World([UNANSWERED, BAD_TOKEN], RetryLimits(verifications=1))
    assert (await world.delink()).outcome is Outcome.UNKNOWN
    assert world.seen == [DELETE, "pause", LINKED, "pause"]


@pytest.mark.parametrize(
    ("replies", "reason", "sent"),
    [
        pytest.param([OUT_OF_CREDITS], StopReason.CREDITS, [LINKED], id="credits"),
        pytest.param(
            [BUSY] * 3,
            StopReason.OVERLOADED,
            [LINKED, "pause", LINKED, "pause", LINKED],
            id="overloaded",
        ),
    ],
)
async def test_a_verification_that_zoho_throttles_stops_the_run(
    replies: list[ZohoResponse], reason: StopReason, sent: list[str]
) -> None:
    world = World([UNANSWERED, *replies], RetryLimits(waits=2, verifications=1))
    result = await world.delink()
    assert world.seen == [DELETE, "pause", *sent]
    assert (result.outcome, world.stop_reason, result.attempts) == (Outcome.UNKNOWN, reason, 1)
    assert result.detail == "sent, not answered; Zoho throttled its verification"
    assert (result.http_status, result.zoho_code) == (429, "TOO_MANY_REQUESTS")


async def test_an_overload_uses_up_no_verification() -> None:
    world = World([UNANSWERED, BUSY, BUSY, MISSING, FOUND, FOUND], RetryLimits(verifications=1))
    result = await world.delink()
    assert world.seen.count(LINKED) == 3
    assert result.outcome is Outcome.PRESUMED_REMOVED


# -- waiting


async def test_waits_while_too_much_is_in_flight_and_longer_each_time() -> None:
    world = World([BUSY] * 4 + [REMOVED])
    result = await world.delink()
    assert world.slept == [0.5, 1.0, 2.0, 4.0]
    assert (result.outcome, result.attempts) == (Outcome.REMOVED, 5)


@pytest.mark.parametrize(("jitter", "share"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
async def test_pauses_are_spread_at_random(jitter: float, share: float) -> None:
    world = World([BUSY, BUSY, REMOVED], jitter=jitter)
    await world.delink()
    assert world.slept == [0.5 * share, 1.0 * share]


@pytest.mark.parametrize(
    ("asked", "slept"),
    [
        pytest.param("7", 7.0, id="honoured"),
        pytest.param("0", 0.5, id="no-less-than-its-own"),
        pytest.param("3600", 60.0, id="capped"),
        pytest.param("soon", 0.5, id="unreadable"),
    ],
)
async def test_honours_retry_after_up_to_the_longest_pause(asked: str, slept: float) -> None:
    busy = response(429, {"code": "TOO_MANY_REQUESTS", "status": "error"}, Retry_After=asked)
    world = World([busy, REMOVED])
    await world.delink()
    assert world.slept == [slept]


async def test_pauses_have_an_end() -> None:
    world = World([BUSY] * 8 + [REMOVED], RetryLimits(first_pause_s=10.0, longest_pause_s=25.0))
    await world.delink()
    assert world.slept == [10.0, 20.0, *[25.0] * 6]


async def test_overload_to_the_end_of_the_retries_stops_the_run_as_overloaded() -> None:
    world = World([BUSY] * 4, RetryLimits(waits=3, sends=1))
    result = await world.delink()
    assert world.seen == [*[DELETE, "pause"] * 3, DELETE]
    assert (result.outcome, result.attempts, result.http_status) == (Outcome.NOT_ATTEMPTED, 4, 429)
    assert not result.ambiguous
    assert world.stop_reason is StopReason.OVERLOADED


@pytest.mark.parametrize(
    ("refusals", "reason"),
    [
        pytest.param([BUSY] * 9, StopReason.OVERLOADED, id="overloaded"),
        pytest.param([OUT_OF_CREDITS], StopReason.CREDITS, id="credits"),
    ],
)
async def test_a_link_whose_later_requests_are_throttled_after_an_unclear_one_is_unknown(
    refusals: list[ZohoResponse], reason: StopReason
) -> None:
    world = World([UNANSWERED, FOUND, *refusals])
    result = await world.delink()
    assert (result.outcome, result.ambiguous) == (Outcome.UNKNOWN, True)
    assert (
        result.detail
        == "still linked after a request that may be applied late; Zoho throttled all requests since"
    )
    assert world.stop_reason is reason


@pytest.mark.parametrize(
    ("refusal", "reason"),
    [
        pytest.param([SCOPE], StopReason.REFUSED, id="refused"),
        pytest.param([replace(BAD_TOKEN, sends=3)], StopReason.REFUSED, id="token"),
        pytest.param([NOT_SENT] * 9, None, id="no-connection"),
        pytest.param([UNSAID, BROKEN, BROKEN, BROKEN, BROKEN], None, id="refused-and-not-verified"),
        pytest.param([UNSAID, FOUND] * 3, None, id="refused-to-the-end"),
    ],
)
@pytest.mark.parametrize("ambiguous", [False, True], ids=["this-try", "earlier-try"])
async def test_a_link_with_an_unclear_request_never_fails(
    refusal: list[Any], reason: StopReason | None, ambiguous: bool
) -> None:
    before: list[Any] = [FOUND] if ambiguous else [UNANSWERED, FOUND]
    world = World([*before, *refusal], RetryLimits(sends=3 if ambiguous else 4))
    result = await world.delink(ambiguous=ambiguous)
    assert (result.outcome, result.ambiguous, world.stop_reason) == (Outcome.UNKNOWN, True, reason)
    assert result.detail


@pytest.mark.parametrize(
    ("looks", "outcome", "detail"),
    [
        pytest.param([FOUND], Outcome.REJECTED, "still linked", id="linked"),
        pytest.param([MISSING, FOUND, FOUND], Outcome.REMOVED, SEEN_LINKED_THEN_GONE, id="gone"),
        pytest.param([BROKEN] * 3, Outcome.UNKNOWN, "could not be verified", id="unclear"),
        pytest.param(
            [MISSING, MISSING],
            Outcome.PRESUMED_REMOVED,
            f"the parent external ID {GONE_WITH_ITS_RECORD}",
            id="no-parent",
        ),
    ],
)
@pytest.mark.parametrize("ambiguous", [False, True], ids=["this-try", "earlier-try"])
async def test_a_link_that_zoho_refuses_after_an_unclear_request_is_verified(
    looks: list[Any], outcome: Outcome, detail: str, ambiguous: bool
) -> None:
    before: list[Any] = [FOUND] if ambiguous else [UNANSWERED, FOUND]
    world = World([*before, LOCKED, *looks], RetryLimits(verifications=3))
    result = await world.delink(ambiguous=ambiguous)
    assert (result.outcome, result.zoho_code) == (outcome, "RECORD_LOCKED")
    assert result.detail == f"refused; an earlier request had no clear response; {detail}"
    assert result.attempts == (1 if ambiguous else 2)


async def test_a_link_that_zoho_refuses_at_once_is_rejected_without_a_verification() -> None:
    world = World([LOCKED])
    assert (await world.delink()).outcome is Outcome.REJECTED


async def test_a_request_that_was_never_sent_does_not_count() -> None:
    world = World([NOT_SENT] * 9)
    result = await world.delink()
    assert len(world.slept) == 8
    assert (result.outcome, result.attempts, result.sent_at) == (Outcome.FAILED, 0, None)
    assert (result.detail, world.stop_reason) == ("no connection", None)


async def test_the_first_request_that_was_sent_counts_as_the_time_of_sending() -> None:
    world = World([NOT_SENT, BUSY, REMOVED])
    result = await world.delink()
    # The clock was asked once for each of the requests.
    assert (result.attempts, result.sent_at) == (2, START + timedelta(seconds=2))


# -- giving up


async def test_a_link_that_stays_linked_after_unclear_requests_is_unknown() -> None:
    world = World([UNANSWERED, FOUND] * 4)
    result = await world.delink()
    assert world.seen == [DELETE, "pause", LINKED] * 4
    assert (result.outcome, result.attempts) == (Outcome.UNKNOWN, 4)
    assert result.detail == (
        "still linked after 4 requests; the last: sent, not answered; an earlier request may be applied late"
    )
    assert result.ambiguous


async def test_a_link_that_stays_linked_after_refused_requests_has_failed() -> None:
    world = World([UNSAID, FOUND] * 4)
    result = await world.delink()
    assert (result.outcome, result.attempts, result.ambiguous) == (Outcome.FAILED, 4, False)


async def test_a_link_whose_last_request_cannot_be_verified_is_unknown() -> None:
    world = World([UNANSWERED, FOUND, UNANSWERED, BROKEN, BROKEN], RetryLimits(sends=2, verifications=2))
    result = await world.delink()
    assert (result.outcome, result.attempts) == (Outcome.UNKNOWN, 2)


@pytest.mark.parametrize("ambiguous", [False, True], ids=["clear", "ambiguous"])
async def test_a_request_that_would_be_another_is_never_sent(ambiguous: bool) -> None:
    script: list[Any] = [FOUND] if ambiguous else []
    world = World([*script, UnsafeRequestError("another address")])
    result = await world.delink(ambiguous=ambiguous)
    assert (result.outcome, result.attempts) == (Outcome.UNKNOWN if ambiguous else Outcome.FAILED, 0)
    late = "; an earlier request may be applied late" if ambiguous else ""
    assert (result.detail, world.stop_reason) == (f"another address{late}", None)


@pytest.mark.parametrize(
    "bad", [Link("..", "d"), Link("c", "."), Link("", "d"), Link("c", "a/../..")], ids=repr
)
async def test_ids_that_cannot_be_sent_lead_to_no_request(bad: Link) -> None:
    world = World([])
    ((result, why),) = await world.delinker.process_unit([PlannedLink(0, bad, "key")])
    assert world.zoho.seen == []
    assert (result.outcome, result.attempts, why) == (Outcome.FAILED, 0, None)


# -- requests for others


def read(world: World) -> Callable[[], Any]:
    return lambda: world.delinker.send(find_records("v7", "Deals", "External_Deal_ID", ["d-1"]))


async def test_a_get_is_repeated_only_while_zoho_is_overloaded() -> None:
    world = World([BUSY, BUSY, FOUND])
    assert await read(world)() == replace(FOUND, sends=3)
    assert [one for one in world.seen if not one.startswith("GET")] == ["pause", "pause"]


@pytest.mark.parametrize(
    "said",
    [BROKEN, MISSING, OUT_OF_CREDITS, SCOPE, BAD_TOKEN],
    ids=["500", "204", "credits", "scope", "token"],
)
async def test_any_other_response_to_a_get_is_the_response(said: ZohoResponse) -> None:
    world = World([said])
    assert await read(world)() is said
    assert world.slept == []


async def test_a_get_gives_up_with_the_last_response() -> None:
    world = World([BUSY] * 3, RetryLimits(waits=3))
    assert (await read(world)()).status == 429
