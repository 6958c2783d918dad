"""
The course of one link: send, judge, wait, refresh, verify, until its outcome is known.

Taking a link out and putting one back take the same course; they differ in the request, in what its answer means, and
in what it means that the link is there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.verdict import (
    Action,
    StopReason,
    Verdict,
    judge_no_answer,
    overloaded,
    rejected_with_new_token,
)
from zoho_crm.errors import ZohoError, ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.presence import LinkClient, Presence, judge_error, result_of

if TYPE_CHECKING:
    from datetime import datetime

    from zoho_crm.core.models import LinkResult, PlannedLink
    from zoho_crm.core.request import ZohoRequest
    from zoho_crm.hooks.zoho_response import ZohoResponse


class LinkOperation(ABC):
    """
    The course of one link: its counters, and whether any request of it may have been applied.

    :param caller: sends the requests, and knows how long to be patient
    """

    still: ClassVar[str]
    """What is said of a link that was sent and is known to be as before."""

    def __init__(self, caller: LinkClient, planned: PlannedLink) -> None:
        self._caller = caller
        self._planned = planned
        self._ambiguous = planned.ambiguous_before
        self._attempts = 0
        self._sends = 0
        self._waits = 0
        self._pauses = 0
        self._sent_at: datetime | None = None

    @abstractmethod
    def _request(self) -> ZohoRequest:
        """Build the request that changes the link; raises UnsafeRequestError."""

    @abstractmethod
    def _judge(self, answer: ZohoResponse) -> Verdict:
        """Judge the answer to that request."""

    @abstractmethod
    def _seen(self, presence: Presence, unclear: Verdict) -> Verdict | None:
        """Return the verdict where a link is seen LINKED or GONE; None if it is still to be sent."""

    async def _look_first(self) -> Verdict | None:
        """Return the verdict on a link that need not be sent; None if it must be."""
        return None

    async def run(self) -> tuple[LinkResult, StopReason | None]:
        """Find out the outcome; a link that an earlier try may have sent is verified before anything is sent."""
        try:
            if self._ambiguous:
                earlier = Verdict(
                    Action.VERIFY, outcome=Outcome.UNKNOWN, detail="sent by an earlier try, no answer kept"
                )
                verdict = await self._verify(earlier)
            else:
                verdict = await self._look_first()
            verdict = verdict or await self._send_until_known()
        except ZohoError as error:
            # It kept the request from leaving. What an earlier one did is another matter.
            verdict = judge_error(error, Outcome.UNKNOWN if self._ambiguous else Outcome.FAILED)
        return self._result(verdict), verdict.stop_reason

    async def _send_until_known(self) -> Verdict:
        patience = self._caller.patience
        while True:
            verdict = await self._send()
            self._ambiguous |= verdict.ambiguous
            match verdict.action:
                case Action.SETTLE | Action.STOP:
                    return verdict
                case Action.REFRESH:
                    return rejected_with_new_token(verdict)
                case Action.LATER:
                    self._waits += 1
                    if self._waits > patience.waits:
                        return overloaded(verdict)
                    self._sends -= 1
                    await self._pause(verdict)
                case Action.VERIFY:
                    await self._pause(verdict)
                    settled = await self._verify(verdict)
                    if settled is not None:
                        return settled
                    if self._sends >= patience.sends:
                        return self._given_up(verdict)

    async def _send(self) -> Verdict:
        caller = self._caller
        request = self._request()
        self._sends += 1
        started_at = caller.now()
        try:
            response = await caller.client.send(request)
        except ZohoNotSentError as error:
            return judge_no_answer(sent=False, why=str(error))
        except ZohoUnansweredError as error:
            self._count_sent(started_at)
            return judge_no_answer(sent=True, why=str(error))
        self._count_sent(started_at, response.sends)
        caller.observe(response)
        return self._judge(response)

    def _count_sent(self, at: datetime, sends: int = 1) -> None:
        self._attempts += sends
        self._sent_at = self._sent_at or at

    def _given_up(self, last: Verdict) -> Verdict:
        """No request is left, and the last one was verified: the link is known to be as before."""
        detail = f"{self.still} after {self._attempts} requests; the last: {last.detail}"
        return replace(last, outcome=Outcome.FAILED, detail=detail)

    async def _verify(self, unclear: Verdict) -> Verdict | None:
        """Ask Zoho what became of the link; None if it is as before and may be sent again."""
        for _ in range(self._caller.patience.verifications):
            presence = (await self._caller.look(self._planned.link)).presence
            match presence:
                case Presence.LINKED | Presence.GONE:
                    return self._seen(presence, unclear)
                case Presence.PARENT_UNKNOWN:
                    return self._verified(unclear, Outcome.PARENT_NOT_FOUND)
                case Presence.RELATED_UNKNOWN:
                    return self._verified(unclear, Outcome.RELATED_NOT_FOUND)
            await self._pause(unclear)
        outcome = Outcome.UNKNOWN if self._ambiguous else Outcome.FAILED
        return self._verified(unclear, outcome, "and could not be verified")

    @staticmethod
    def _verified(unclear: Verdict, outcome: Outcome, how: str = "verified") -> Verdict:
        detail = f"{unclear.detail}; {how}" if unclear.detail else how
        return replace(unclear, action=Action.SETTLE, outcome=outcome, detail=detail)

    async def _pause(self, verdict: Verdict) -> None:
        self._pauses += 1
        await self._caller.pause(self._pauses, verdict.retry_after_s)

    def _result(self, verdict: Verdict) -> LinkResult:
        if verdict.outcome is Outcome.NOT_ATTEMPTED and self._ambiguous:
            # It was attempted, and verified since: nothing is sent again before Zoho says that it is as before.
            detail = (
                f"{self.still} after a request without a clear response; Zoho throttled all requests since"
            )
            verdict = replace(verdict, outcome=Outcome.FAILED, detail=detail)
        result = result_of(
            self._planned,
            verdict,
            attempts=self._attempts,
            sent_at=self._sent_at,
            finished_at=self._caller.now(),
        )
        return replace(result, ambiguous=True) if self._ambiguous else result
