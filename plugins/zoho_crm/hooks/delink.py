"""
Take one link away: send, judge, wait, refresh, verify, until its outcome is known.

What an answer *means* is decided in :mod:`zoho_crm.core.verdict`; what to *do* about it, here.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from zoho_crm.core.lookup import Lookup, judge_lookup
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.records import LinkResult, PlannedLink
from zoho_crm.core.request import ZohoRequest, delete_related, get_record, get_related
from zoho_crm.core.told import is_out_of_credits, retry_after_s
from zoho_crm.core.verdict import (
    GONE_AFTER_AMBIGUITY,
    Action,
    StopReason,
    Verdict,
    judge,
    judge_no_answer,
)
from zoho_crm.errors import (
    UnsafeRequestError,
    ZohoAuthError,
    ZohoError,
    ZohoNotSentError,
    ZohoTokenThrottledError,
    ZohoUnansweredError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from zoho_crm.core.links import Relation
    from zoho_crm.hooks.answer import Answer


STILL_LINKED = "still linked after a request that was not clearly answered; not let in since"


class Sender(Protocol):
    """What this module needs of a client: see :class:`zoho_crm.hooks.async_client.AsyncZohoClient`."""

    async def send(self, request: ZohoRequest) -> Answer:
        """Send one request once; raises ZohoNotSentError, ZohoUnansweredError or UnsafeRequestError."""

    async def replace_token(self, rejected: Answer) -> None:
        """Get another access token in place of the one this answer was refused for."""


@dataclass(frozen=True, slots=True)
class Patience:
    """
    How long one link is worked on within one try.

    :param deletes: DELETE requests at the most
    :param waits: pauses for an overloaded Zoho at the most; they cost no DELETE
    :param verifications: rounds of asking whether the link is gone, before giving up
    :param first_pause_s: seconds of the first pause; each further one is twice as long, with jitter
    :param longest_pause_s: seconds no pause is longer than, Retry-After included
    """

    deletes: int = 4
    waits: int = 8
    verifications: int = 4
    first_pause_s: float = 0.5
    longest_pause_s: float = 60.0


class Presence(StrEnum):
    """What GET says about a link."""

    LINKED = "linked"
    GONE = "gone"
    PARENT_UNKNOWN = "parent_unknown"
    RELATED_UNKNOWN = "related_unknown"
    UNCLEAR = "unclear"


@dataclass
class Delinker:
    """
    Takes links of one relation away over one client. Many coroutines may share it.

    :param client: sends the requests
    :param sleep: for tests
    :param now: for tests
    :param jitter: from 0 to 1; for tests
    """

    client: Sender
    relation: Relation
    api_version: str
    patience: Patience = field(default_factory=Patience)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    jitter: Callable[[], float] = random.random
    unit_size: int = field(default=1, init=False)
    # Made anew for each: a function that is an attribute of the class would be taken for a method.
    observe: Callable[[Answer], None] = field(default_factory=lambda: lambda _: None, init=False)

    def watch(self, observe: Callable[[Answer], None]) -> None:
        """Have every answer shown to the caller, so that it can mind the org's limits."""
        self.observe = observe

    async def settle_unit(self, unit: Sequence[PlannedLink]) -> list[tuple[LinkResult, StopReason | None]]:
        """Take the links of a unit away: of one link, for this class."""
        return [await self.delink(planned) for planned in unit]

    async def delink(self, planned: PlannedLink) -> tuple[LinkResult, StopReason | None]:
        """
        Take one link away.

        A link that an earlier try may have sent is verified before anything is sent again.

        :return: what happened, and a reason to stop the whole run if the answer is one for every link
        """
        return await _OneLink(self, planned).run()

    async def ask(self, request: ZohoRequest) -> Answer:
        """
        Send a request that may be repeated while Zoho has not looked at it: refused for the token, or for the load.

        :raises ZohoError: see :meth:`Sender.send` and :meth:`Sender.replace_token`
        """
        refreshed = False
        for pauses in range(1, self.patience.waits + 1):
            answer = await self.client.send(request)
            self.observe(answer)
            if answer.token_rejected and not refreshed:
                refreshed = True
                await self.client.replace_token(answer)
            elif answer.status != 429 or is_out_of_credits(answer.headers, answer.body):
                return answer
            else:
                await self.pause(pauses, retry_after_s(answer.headers))
        return answer

    async def pause(self, pauses: int, asked_s: float | None) -> None:
        """
        Wait, each time twice as long, with jitter.

        :param pauses: how many pauses there have been with this one
        :param asked_s: seconds that Zoho asks to wait
        """
        patience = self.patience
        longest = min(patience.longest_pause_s, patience.first_pause_s * 2 ** (pauses - 1))
        seconds = longest * (0.5 + self.jitter() / 2)
        if asked_s is not None:
            seconds = min(max(seconds, asked_s), patience.longest_pause_s)
        await self.sleep(seconds)


def result_of(
    planned: PlannedLink,
    verdict: Verdict,
    *,
    attempts: int,
    sent_at: datetime | None,
    finished_at: datetime,
) -> LinkResult:
    """Return what happened to a link, as the ledger keeps it."""
    return LinkResult(
        planned=planned,
        outcome=verdict.outcome or Outcome.UNKNOWN,
        finished_at=finished_at,
        attempts=attempts,
        sent_at=sent_at,
        http_status=verdict.http_status,
        zoho_code=verdict.code,
        zoho_message=verdict.message,
        zoho_record_id=verdict.record_id,
        detail=verdict.detail,
    )


class _OneLink:
    """The course of one link: its counters, and whether any request of it may have been applied."""

    def __init__(self, delinker: Delinker, planned: PlannedLink) -> None:
        self._shared = delinker
        self._planned = planned
        self._ambiguous = planned.ambiguous_before
        self._attempts = 0
        self._deletes = 0
        self._waits = 0
        self._pauses = 0
        self._refreshes = 0
        self._sent_at: datetime | None = None

    async def run(self) -> tuple[LinkResult, StopReason | None]:
        try:
            if self._ambiguous:
                settled = await self._verify(
                    Verdict(
                        Action.VERIFY,
                        outcome=Outcome.UNKNOWN,
                        detail="sent by an earlier try, no answer kept",
                    )
                )
                if settled is not None:
                    return self._result(settled), settled.stop_reason
            verdict = await self._delete_until_known()
        except UnsafeRequestError as error:
            verdict = self._not_applied(Action.SETTLE, error)
        except ZohoTokenThrottledError as error:
            verdict = replace(self._not_applied(Action.STOP, error), stop_reason=StopReason.THROTTLED)
        except ZohoAuthError as error:
            verdict = replace(self._not_applied(Action.STOP, error), stop_reason=StopReason.NO_TOKEN)
        except ZohoError as error:
            # Getting another token failed for a reason that may pass; the request was refused for the old one.
            verdict = self._not_applied(Action.SETTLE, error)
        return self._result(verdict), verdict.stop_reason

    def _not_applied(self, action: Action, error: ZohoError) -> Verdict:
        """Judge an error that kept the request from leaving. What an earlier one did is another matter."""
        outcome = Outcome.UNKNOWN if self._ambiguous else Outcome.FAILED
        return Verdict(action, outcome=outcome, detail=str(error))

    async def _delete_until_known(self) -> Verdict:
        shared, patience = self._shared, self._shared.patience
        while True:
            verdict, answer = await self._delete()
            self._ambiguous |= verdict.ambiguous
            match verdict.action:
                case Action.SETTLE | Action.STOP:
                    return verdict
                case Action.REFRESH:
                    self._refreshes += 1
                    if answer is None or self._refreshes > 2:
                        detail = "refused with a fresh access token as well"
                        return replace(
                            verdict, action=Action.STOP, stop_reason=StopReason.REFUSED, detail=detail
                        )
                    self._deletes -= 1
                    await shared.client.replace_token(answer)
                case Action.LATER:
                    self._waits += 1
                    if self._waits > patience.waits:
                        return self._never_let_in(verdict)
                    self._deletes -= 1
                    await self._pause(verdict)
                case Action.VERIFY:
                    await self._pause(verdict)
                    settled = await self._verify(verdict)
                    if settled is not None:
                        return settled
                    if self._deletes >= patience.deletes:
                        return self._given_up(verdict)

    async def _delete(self) -> tuple[Verdict, Answer | None]:
        shared = self._shared
        request = delete_related(shared.api_version, shared.relation, self._planned.link)
        self._deletes += 1
        started_at = shared.now()
        try:
            answer = await shared.client.send(request)
        except ZohoNotSentError as error:
            return judge_no_answer(sent=False, why=str(error)), None
        except ZohoUnansweredError as error:
            self._count_sent(started_at)
            return judge_no_answer(sent=True, why=str(error)), None
        self._count_sent(started_at)
        shared.observe(answer)
        verdict = judge(
            answer.status,
            answer.headers,
            answer.body,
            relation=shared.relation,
            ambiguous_before=self._ambiguous,
        )
        return verdict, answer

    def _count_sent(self, at: datetime) -> None:
        self._attempts += 1
        self._sent_at = self._sent_at or at

    @staticmethod
    def _never_let_in(last: Verdict) -> Verdict:
        """Zoho has refused each request before looking at it: if with 429, every other link would fare the same."""
        if last.http_status != 429:
            return last
        return replace(
            last, action=Action.STOP, outcome=Outcome.NOT_ATTEMPTED, stop_reason=StopReason.CREDITS
        )

    def _given_up(self, last: Verdict) -> Verdict:
        """No DELETE is left, and the last one was verified: the link is known to be there still."""
        detail = f"still linked after {self._attempts} requests; the last: {last.detail}"
        return replace(last, outcome=Outcome.FAILED, detail=detail)

    async def _verify(self, unclear: Verdict) -> Verdict | None:
        """Ask Zoho what became of the link; None if it is still there and may be sent again."""
        for _ in range(self._shared.patience.verifications):
            presence = await self._look()
            match presence:
                case Presence.LINKED:
                    return None
                case Presence.GONE:
                    return self._gone(unclear)
                case Presence.PARENT_UNKNOWN:
                    return self._verified(unclear, Outcome.PARENT_NOT_FOUND)
                case Presence.RELATED_UNKNOWN:
                    return self._verified(unclear, Outcome.RELATED_NOT_FOUND)
            await self._pause(unclear)
        outcome = Outcome.UNKNOWN if self._ambiguous else Outcome.FAILED
        return self._verified(unclear, outcome, "and could not be verified")

    def _gone(self, unclear: Verdict) -> Verdict:
        if self._ambiguous:
            return self._verified(unclear, Outcome.REMOVED, GONE_AFTER_AMBIGUITY)
        return self._verified(
            unclear, Outcome.ALREADY_ABSENT, "verified: both records exist, the link does not"
        )

    @staticmethod
    def _verified(unclear: Verdict, outcome: Outcome, how: str = "verified") -> Verdict:
        detail = f"{unclear.detail}; {how}" if unclear.detail else how
        return replace(unclear, action=Action.SETTLE, outcome=outcome, detail=detail)

    async def _look(self) -> Presence:
        """
        Ask by GET what is there.

        Zoho answers 204 both for "not linked" and for an id it does not know, so each record is asked for as well.
        """
        relation, version, link = self._shared.relation, self._shared.api_version, self._planned.link
        linked = await self._look_up(get_related(version, relation, link))
        if linked is Lookup.FOUND:
            return Presence.LINKED
        if linked is Lookup.UNCLEAR:
            return Presence.UNCLEAR
        parent = get_record(version, relation.module, relation.external_field, link.external_id)
        related = get_record(
            version, relation.related_module, relation.related_external_field, link.related_external_id
        )
        for request, unknown in (
            (parent, Presence.PARENT_UNKNOWN),
            (related, Presence.RELATED_UNKNOWN),
        ):
            match await self._look_up(request):
                case Lookup.MISSING | Lookup.WRONG_ID:
                    return unknown
                case Lookup.UNCLEAR:
                    return Presence.UNCLEAR
        # Both records are there. That the link is not must be said, not concluded from an error.
        return Presence.GONE if linked is Lookup.MISSING else Presence.UNCLEAR

    async def _look_up(self, request: ZohoRequest) -> Lookup:
        for _ in range(2):
            try:
                answer = await self._shared.client.send(request)
            except (ZohoNotSentError, ZohoUnansweredError):
                return Lookup.UNCLEAR
            self._shared.observe(answer)
            if not answer.token_rejected:
                return judge_lookup(answer.status, answer.body)
            await self._shared.client.replace_token(answer)
        return Lookup.UNCLEAR

    async def _pause(self, verdict: Verdict) -> None:
        self._pauses += 1
        await self._shared.pause(self._pauses, verdict.retry_after_s)

    def _result(self, verdict: Verdict) -> LinkResult:
        if verdict.outcome is Outcome.NOT_ATTEMPTED and self._ambiguous:
            # It was attempted, and asked for since: nothing is sent again before Zoho says that it is there.
            verdict = replace(verdict, outcome=Outcome.FAILED, detail=STILL_LINKED)
        result = result_of(
            self._planned,
            verdict,
            attempts=self._attempts,
            sent_at=self._sent_at,
            finished_at=self._shared.now(),
        )
        return replace(result, ambiguous=self._ambiguous)
