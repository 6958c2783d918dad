"""
Remove or restore single links: the request/verify/retry state machine of one link.

Delinking and relinking share it. They differ in the request, in what its response means, and in what it means that
the link exists.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from zoho_crm.core.links import sendable_attributes
from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES, Outcome
from zoho_crm.core.relink_verdict import detail_of_missing, judge_linked, judge_relink
from zoho_crm.core.request import delete_related, put_related
from zoho_crm.core.verdict import (
    Action,
    StopReason,
    Verdict,
    judge,
    judge_gone,
    judge_missing,
    judge_no_answer,
    overloaded,
    rejected_with_new_token,
)
from zoho_crm.errors import ZohoError, ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.presence import LinkClient, Presence, judge_error, link_result

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from zoho_crm.core.models import LinkResult, PlannedLink
    from zoho_crm.core.request import ZohoRequest
    from zoho_crm.hooks.zoho_response import ZohoResponse


EARLIER_TRY = "an earlier try or run may have sent it, without a recorded response"
REFUSED_IN_DOUBT = "refused; an earlier request had no clear response"


class DelinkClient(LinkClient):
    """Removes links of one relation, each by its own request."""

    async def process_unit(self, unit: Sequence[PlannedLink]) -> list[tuple[LinkResult, StopReason | None]]:
        """
        Remove the links of a unit: one link, for this class.

        :return: the result of each link, and a reason to stop the whole run if every link would get its response
        """
        return [await DelinkOperation(self, planned).run() for planned in unit]


class RelinkClient(LinkClient):
    """Restores links of one relation, with the attributes of their snapshots. An existing link stays as it is."""

    async def process_unit(self, unit: Sequence[PlannedLink]) -> list[tuple[LinkResult, StopReason | None]]:
        """Restore the links of a unit; see :meth:`DelinkClient.process_unit`."""
        return [await RelinkOperation(self, planned).run() for planned in unit]


class LinkOperation(ABC):
    """
    The request/verify/retry state machine of one link.

    :param client: sends the requests, and knows the retry limits
    :param doubt: where ``ambiguous_before`` is set, why, for the detail of the result
    """

    unchanged: ClassVar[str]
    """How the detail of a result describes a link that was sent and did not change."""
    sent_from: ClassVar[Presence]
    """What a link is when it is sent. Seeing it so before a request is evidence that the request changed it."""

    def __init__(self, client: LinkClient, planned: PlannedLink, *, doubt: str = EARLIER_TRY) -> None:
        self._client = client
        self._doubt = doubt
        self._planned = planned
        self._ambiguous = planned.ambiguous_before
        self._is_evident = False
        self._is_verified = False
        self._attempts = 0
        self._sends = 0
        self._waits = 0
        self._pauses = 0
        self._sent_at: datetime | None = None

    @abstractmethod
    def _request(self) -> ZohoRequest:
        """Build the request that changes the link; raises UnsafeRequestError."""

    @abstractmethod
    def _judge(self, response: ZohoResponse) -> Verdict:
        """Judge the response to that request."""

    @abstractmethod
    def _judge_changed(self) -> tuple[Outcome, str]:
        """Return the outcome of a link that is as the request would leave it, and what is known about that."""

    @abstractmethod
    def _judge_missing(self, missing: Outcome) -> tuple[Outcome, str]:
        """Return the outcome of a link of which a record does not exist, and what is known about that."""

    async def _check_first(self) -> Verdict | None:
        """Return the verdict on a link that need not be sent; None if it must be."""
        return None

    async def run(self) -> tuple[LinkResult, StopReason | None]:
        """Find out the outcome; a link that may have been sent before is verified before anything is sent."""
        try:
            if self._ambiguous and not self._is_verified:
                verdict = await self._verify(
                    Verdict(Action.VERIFY, outcome=Outcome.UNKNOWN, detail=self._doubt)
                )
            else:
                verdict = None if self._is_verified else await self._check_first()
            verdict = verdict or await self._send_until_known()
        except ZohoError as error:
            verdict = judge_error(error)
        return self._result(verdict), verdict.stop_reason

    async def _send_until_known(self) -> Verdict:
        limits = self._client.limits
        while True:
            verdict = await self._send()
            self._ambiguous |= verdict.ambiguous
            match verdict.action:
                case Action.SETTLE if self._ambiguous and verdict.outcome is Outcome.REJECTED:
                    return await self._verify_refused(verdict)
                case Action.SETTLE | Action.STOP:
                    return verdict
                case Action.REFRESH:
                    return rejected_with_new_token(verdict)
                case Action.LATER:
                    if not self._may_wait():
                        return overloaded(verdict)
                    self._sends -= 1
                    await self._pause(verdict)
                case Action.VERIFY:
                    await self._pause(verdict)
                    settled = await self._verify(verdict)
                    if settled is not None:
                        return settled
                    if self._sends >= limits.sends:
                        return self._retries_used_up(verdict)

    async def _send(self) -> Verdict:
        request = self._request()
        self._sends += 1
        started_at = self._client.now()
        try:
            response = await self._client.client.send(request)
        except ZohoNotSentError as error:
            self._count_sent(started_at, error.sends)
            return judge_no_answer(sent=False, why=str(error))
        except ZohoUnansweredError as error:
            self._count_sent(started_at, error.sends + 1)
            return judge_no_answer(sent=True, why=str(error))
        except ZohoError as error:
            self._count_sent(started_at, error.sends)
            raise
        self._count_sent(started_at, response.sends)
        self._client.observe(response)
        return self._judge(response)

    def _count_sent(self, at: datetime, sends: int) -> None:
        if sends:
            self._attempts += sends
            self._sent_at = self._sent_at or at

    def _retries_used_up(self, last: Verdict) -> Verdict:
        """Return the verdict after the last request: its verification has shown that the link did not change yet."""
        detail = f"{self.unchanged} after {self._attempts} requests; the last: {last.detail}"
        return replace(last, outcome=Outcome.FAILED, detail=detail)

    async def _verify_refused(self, refusal: Verdict) -> Verdict:
        """Verify a link that Zoho refuses: an earlier request, without a clear response, may have changed it."""
        unclear = replace(refusal, detail=REFUSED_IN_DOUBT)
        return await self._verify(unclear) or self._verified(unclear, Outcome.REJECTED, self.unchanged)

    async def _verify(self, unclear: Verdict) -> Verdict | None:
        """Verify the link; None if it did not change and may be sent again."""
        rounds = 0
        while rounds < self._client.limits.verifications:
            check = await self._client.check_presence(self._planned.link)
            match check.presence:
                case Presence.LINKED | Presence.GONE:
                    return self._judge_presence(check.presence, unclear)
                case Presence.PARENT_UNKNOWN:
                    return self._verified(unclear, *self._judge_missing(Outcome.PARENT_NOT_FOUND))
                case Presence.RELATED_UNKNOWN:
                    return self._verified(unclear, *self._judge_missing(Outcome.RELATED_NOT_FOUND))
            why = check.why or unclear
            is_throttled = why.action is Action.LATER
            if is_throttled and not self._may_wait():
                why = overloaded(why)
            if why.stop_reason in {StopReason.CREDITS, StopReason.OVERLOADED}:
                stopped = self._verified(unclear, self._unverified, "Zoho throttled its verification")
                return replace(why, outcome=stopped.outcome, detail=stopped.detail)
            rounds += not is_throttled
            await self._pause(why if is_throttled else unclear)
        return self._verified(unclear, self._unverified, "could not be verified")

    @property
    def _unverified(self) -> Outcome:
        return Outcome.UNKNOWN if self._ambiguous else Outcome.FAILED

    def _may_wait(self) -> bool:
        """Count a wait while Zoho is overloaded; return whether the link may still wait."""
        self._waits += 1
        return self._waits <= self._client.limits.waits

    def _judge_presence(self, presence: Presence, unclear: Verdict) -> Verdict | None:
        """Return the verdict on a link that is LINKED or GONE; None if it is still to be sent."""
        if presence is self.sent_from:
            self._is_evident = True
            return None
        return self._verified(unclear, *self._judge_changed())

    @staticmethod
    def _verified(unclear: Verdict, outcome: Outcome, how: str = "verified") -> Verdict:
        detail = f"{unclear.detail}; {how}" if unclear.detail else how
        return replace(unclear, action=Action.SETTLE, outcome=outcome, detail=detail)

    async def _pause(self, verdict: Verdict) -> None:
        self._pauses += 1
        await self._client.pause(self._pauses, verdict.retry_after_s)

    def _result(self, verdict: Verdict) -> LinkResult:
        if self._ambiguous and verdict.outcome in RETRYABLE_OUTCOMES - {Outcome.UNKNOWN}:
            # Zoho may apply a request after its time-out. What happened to later requests does not change that.
            verdict = replace(verdict, outcome=Outcome.UNKNOWN, detail=self._explain_unknown(verdict))
        result = link_result(
            self._planned,
            verdict,
            attempts=self._attempts,
            sent_at=self._sent_at,
            finished_at=self._client.now(),
        )
        return replace(result, ambiguous=True) if self._ambiguous else result

    def _explain_unknown(self, verdict: Verdict) -> str:
        if verdict.outcome is Outcome.NOT_ATTEMPTED:
            return f"{self.unchanged} after a request that may be applied late; Zoho throttled all requests since"
        return "; ".join(filter(None, (verdict.detail, "an earlier request may be applied late")))


class DelinkOperation(LinkOperation):
    """
    The removal of one link.

    :param record_id: Zoho's id of the related record, where it is known: a success for another one is verified
    :param seen_linked: whether this run has seen the link, after an earlier try may have sent it
    :param is_verified: whether it was seen after the last request for it: it is sent without another verification
    """

    unchanged = "still linked"
    sent_from = Presence.LINKED

    def __init__(
        self,
        client: LinkClient,
        planned: PlannedLink,
        record_id: str | None = None,
        *,
        doubt: str = EARLIER_TRY,
        seen_linked: bool = False,
        is_verified: bool = False,
    ) -> None:
        super().__init__(client, planned, doubt=doubt)
        self._record_id = record_id
        self._is_evident = seen_linked or planned.seen_linked_at is not None
        self._is_verified = is_verified

    def _request(self) -> ZohoRequest:
        return delete_related(self._client.api_version, self._client.relation, self._planned.link)

    def _judge(self, response: ZohoResponse) -> Verdict:
        return judge(
            response.classified,
            relation=self._client.relation,
            ambiguous_before=self._ambiguous,
            seen_linked=self._is_evident,
            seen_at=self._planned.seen_linked_at,
            record_id=self._record_id,
        )

    def _judge_changed(self) -> tuple[Outcome, str]:
        outcome, detail = judge_gone(
            ambiguous=self._ambiguous, seen_linked=self._is_evident, seen_at=self._planned.seen_linked_at
        )
        return outcome, detail or "verified: both records exist, the link does not"

    def _judge_missing(self, missing: Outcome) -> tuple[Outcome, str]:
        outcome, detail = judge_missing(missing, ambiguous=self._ambiguous)
        return outcome, detail or "verified"


_NOT_SENT = Verdict(Action.SETTLE)


class RelinkOperation(LinkOperation):
    """The restoration of one link, verified first: an existing link is not sent."""

    unchanged = "still not linked"
    sent_from = Presence.GONE

    @cached_property
    def _attributes(self) -> dict[str, Any]:
        return sendable_attributes(self._planned.snapshot, self._client.relation)

    async def _check_first(self) -> Verdict | None:
        # The response to the PUT says whether both records exist, for one call less.
        check = await self._client.check_presence_until_clear(self._planned.link, check_records=False)
        match check.presence:
            case Presence.LINKED | Presence.GONE:
                return self._judge_presence(check.presence, _NOT_SENT)
            case Presence.PARENT_UNKNOWN:
                return self._verified(_NOT_SENT, Outcome.PARENT_NOT_FOUND)
            case Presence.RELATED_UNKNOWN:
                return self._verified(_NOT_SENT, Outcome.RELATED_NOT_FOUND)
        return check.why

    def _request(self) -> ZohoRequest:
        client = self._client
        return put_related(client.api_version, client.relation, self._planned.link, self._attributes)

    def _judge(self, response: ZohoResponse) -> Verdict:
        return judge_relink(
            response.classified,
            relation=self._client.relation,
            link=self._planned.link,
            attributes=self._attributes.keys(),
            ambiguous_before=self._ambiguous,
        )

    def _judge_changed(self) -> tuple[Outcome, str]:
        outcome, detail = judge_linked(ambiguous=self._ambiguous, seen_gone=self._is_evident)
        return outcome, detail if self._attempts or self._ambiguous else f"{detail}; nothing was sent"

    def _judge_missing(self, missing: Outcome) -> tuple[Outcome, str]:
        return missing, detail_of_missing(ambiguous=self._ambiguous) or "verified"
