"""
Ask Zoho by GET whether a link is there: what delinking, relinking, dry runs and snapshots share.

What a response *means* is decided in :mod:`zoho_crm.core.response`; what to *do* about it, here.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from zoho_crm.core.models import LinkResult, PlannedLink
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.request import ZohoRequest, get_record, get_related
from zoho_crm.core.response import Lookup, ResponseKind, found_record, judge_lookup
from zoho_crm.core.verdict import Action, StopReason, Verdict, judge_unclear_lookup, overloaded
from zoho_crm.errors import (
    ZohoAuthError,
    ZohoError,
    ZohoNotSentError,
    ZohoTokenThrottledError,
    ZohoUnansweredError,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from zoho_crm.core.links import Link, Relation
    from zoho_crm.hooks.zoho_response import ZohoResponse


class Sender(Protocol):
    """What this module needs of a client: see :class:`zoho_crm.hooks.async_client.AsyncZohoClient`."""

    async def send(self, request: ZohoRequest) -> ZohoResponse:
        """Send one request, with other access tokens while Zoho rejects them; raises ZohoError."""


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """
    How long one link is worked on within one try.

    :param sends: DELETE or PUT requests at the most
    :param waits: pauses for an overloaded Zoho at the most; they cost no request
    :param verifications: rounds of asking whether the link is there, before giving up
    :param first_pause_s: seconds of the first pause; each further one is twice as long, with jitter
    :param longest_pause_s: seconds no pause is longer than, Retry-After included
    """

    sends: int = 4
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


@dataclass(frozen=True, slots=True)
class PresenceCheck:
    """
    What was seen of a link.

    :param record: the related record with the fields asked for, where it is linked
    :param why: why it is UNCLEAR, and what to do about it
    """

    presence: Presence
    record: Mapping[str, Any] | None = None
    why: Verdict | None = None


@dataclass
class LinkClient:
    """
    Makes calls about links of one relation over one client. Many coroutines may share it.

    :param client: sends the requests
    :param sleep: for tests
    :param now: for tests
    :param jitter: from 0 to 1; for tests
    """

    client: Sender
    relation: Relation
    api_version: str
    patience: RetryLimits = field(default_factory=RetryLimits)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    jitter: Callable[[], float] = random.random
    unit_size: int = field(default=1, init=False)
    # Made anew for each: a function that is an attribute of the class would be taken for a method.
    observe: Callable[[ZohoResponse], None] = field(default_factory=lambda: lambda _: None, init=False)

    def watch(self, observe: Callable[[ZohoResponse], None], is_stopped: Callable[[], bool]) -> None:
        """Have every answer shown to the caller, so that it can mind the org's limits."""
        self.observe = observe

    def unit_length(self, links: Sequence[PlannedLink]) -> int:
        """Return how many of the next links are one unit: one, for a call that is about one link."""
        return 1

    async def ask(self, request: ZohoRequest) -> ZohoResponse:
        """
        Send a request, and repeat it while Zoho is overloaded, which applies nothing.

        :raises ZohoError: see :meth:`Sender.send`
        """
        for pauses in range(1, self.patience.waits + 1):
            response = await self.client.send(request)
            self.observe(response)
            if response.classified.kind is not ResponseKind.OVERLOADED:
                break
            await self.pause(pauses, response.classified.retry_after_s)
        return response

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

    async def look(
        self, link: Link, fields: Sequence[str] = ("id",), *, thorough: bool = True
    ) -> PresenceCheck:
        """
        Ask once what is there.

        Zoho answers 204 both for "not linked" and for an id it does not know, so each record is asked for as well.

        :param fields: API names of the fields of the related record to read
        :param thorough: False takes 204 for GONE, without asking for the records
        :raises ZohoError: see :meth:`Sender.send`
        """
        relation, version = self.relation, self.api_version
        linked, answer, why = await self._look_up(get_related(version, relation, link, fields))
        if linked is Lookup.FOUND and answer is not None:
            return PresenceCheck(Presence.LINKED, found_record(answer.body))
        if linked is Lookup.UNCLEAR:
            return PresenceCheck(Presence.UNCLEAR, why=why)
        if linked is Lookup.MISSING and not thorough:
            return PresenceCheck(Presence.GONE)
        parent = get_record(version, relation.module, relation.external_field, link.external_id)
        related = get_record(
            version, relation.related_module, relation.related_external_field, link.related_external_id
        )
        for request, unknown in (
            (parent, Presence.PARENT_UNKNOWN),
            (related, Presence.RELATED_UNKNOWN),
        ):
            found, _, why_not = await self._look_up(request)
            match found:
                case Lookup.MISSING | Lookup.WRONG_ID:
                    return PresenceCheck(unknown)
                case Lookup.UNCLEAR:
                    return PresenceCheck(Presence.UNCLEAR, why=why_not)
        # Both records are there. That the link is not must be said, not concluded from an error.
        return (
            PresenceCheck(Presence.GONE)
            if linked is Lookup.MISSING
            else PresenceCheck(Presence.UNCLEAR, why=why)
        )

    async def look_until_clear(
        self, link: Link, fields: Sequence[str] = ("id",), *, thorough: bool = True
    ) -> PresenceCheck:
        """
        Ask what is there, again and again as patience allows while the answer is unclear.

        :return: UNCLEAR with the reason, if it stays so or if the answer waits for every link
        :raises ZohoError: see :meth:`Sender.send`
        """
        waits = rounds = 0
        while True:
            sight = await self.look(link, fields, thorough=thorough)
            why = sight.why
            if why is None or why.action is Action.STOP:
                return sight
            if why.action is Action.LATER:
                waits += 1
                if waits > self.patience.waits:
                    return PresenceCheck(Presence.UNCLEAR, why=overloaded(why))
            else:
                rounds += 1
                if rounds >= self.patience.verifications:
                    return sight
            await self.pause(waits + rounds, why.retry_after_s)

    async def _look_up(self, request: ZohoRequest) -> tuple[Lookup, ZohoResponse | None, Verdict | None]:
        """Send one reading call; the verdict says why an answer is no answer to the question."""
        try:
            response = await self.client.send(request)
        except (ZohoNotSentError, ZohoUnansweredError) as error:
            why = Verdict(Action.VERIFY, outcome=Outcome.FAILED, detail=str(error))
            return Lookup.UNCLEAR, None, why
        self.observe(response)
        lookup = judge_lookup(response.status, response.body)
        if lookup in {Lookup.FOUND, Lookup.MISSING}:
            return lookup, response, None
        return lookup, response, judge_unclear_lookup(response.classified)


def judge_error(error: ZohoError, outcome: Outcome = Outcome.FAILED) -> Verdict:
    """
    Judge an error that kept a request from leaving.

    :param outcome: of the link, for which an earlier request may have left
    """
    reason: StopReason | None = None
    if isinstance(error, ZohoTokenThrottledError):
        reason = StopReason.THROTTLED
    elif isinstance(error, ZohoAuthError):
        reason = StopReason.NO_TOKEN
    # Any other failed for a reason that may pass, such as getting a token in place of one that was refused.
    action = Action.SETTLE if reason is None else Action.STOP
    return Verdict(action, outcome=outcome, detail=str(error), stop_reason=reason)


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
