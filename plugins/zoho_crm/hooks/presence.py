"""
Verify by GET whether links exist: what delinking, relinking, dry runs and snapshots share.

What a response *means* is decided in :mod:`zoho_crm.core.response`; what to *do* about it, here.
"""

from __future__ import annotations

import asyncio
import logging
import random
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from zoho_crm.core.links import NO_ATTRIBUTES, snapshot_of
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

log = logging.getLogger(__name__)


class Sender(Protocol):
    """What this module needs of a client: see :class:`zoho_crm.hooks.async_client.AsyncZohoClient`."""

    async def send(self, request: ZohoRequest) -> ZohoResponse:
        """Send one request, with other access tokens while Zoho rejects them; raises ZohoError."""


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """
    How long one link is retried within one try of a task.

    :param sends: maximum number of DELETE or PUT requests
    :param waits: maximum number of pauses while Zoho is overloaded; they cost no request
    :param verifications: maximum number of verifications of an unclear response
    :param first_pause_s: seconds of the first pause; each further one is twice as long, with jitter
    :param longest_pause_s: maximum seconds of a pause, Retry-After included
    """

    sends: int = 4
    waits: int = 8
    verifications: int = 4
    first_pause_s: float = 0.5
    longest_pause_s: float = 60.0


class Presence(StrEnum):
    """What Zoho says about a link."""

    LINKED = "linked"
    GONE = "gone"
    PARENT_UNKNOWN = "parent_unknown"
    RELATED_UNKNOWN = "related_unknown"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True)
class PresenceCheck:
    """
    The result of verifying a link.

    :param record: the related record with the requested fields, where it is linked
    :param why: why it is UNCLEAR, and what to do about it
    """

    presence: Presence
    record: Mapping[str, Any] | None = None
    why: Verdict | None = None


@dataclass
class LinkClient:
    """
    Sends requests about links of one relation. Coroutines can share it.

    :param client: sends the requests
    :param sleep: for tests
    :param now: for tests
    :param jitter: from 0 to 1; for tests
    """

    client: Sender
    relation: Relation
    api_version: str
    limits: RetryLimits = field(default_factory=RetryLimits)
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))
    jitter: Callable[[], float] = random.random
    unit_size: int = field(default=1, init=False)
    # A factory: a plain default would be an attribute of the class, and so be called as a method.
    observe: Callable[[ZohoResponse], None] = field(default_factory=lambda: lambda _: None, init=False)

    def watch(self, observe: Callable[[ZohoResponse], None], is_stopped: Callable[[], bool]) -> None:
        """Show every response to the caller, which adapts to the org's limits."""
        self.observe = observe

    def unit_length(self, links: Sequence[PlannedLink]) -> int:
        """Return how many of the next links are one unit: one, where each link has its own request."""
        return 1

    async def send(self, request: ZohoRequest) -> ZohoResponse:
        """
        Send a request, and repeat it while Zoho is overloaded, which applies nothing.

        :return: the last response, with the number of all requests
        :raises ZohoError: see :meth:`Sender.send`
        """
        sends = 0
        for pauses in range(1, self.limits.waits + 1):
            try:
                response = await self.client.send(request)
            except ZohoError as error:
                error.sends += sends
                raise
            self.observe(response)
            sends += response.sends
            if response.classified.kind is not ResponseKind.OVERLOADED:
                break
            await self.pause(pauses, response.classified.retry_after_s)
        return response if sends == response.sends else replace(response, sends=sends)

    async def pause(self, pauses: int, retry_after_s: float | None) -> None:
        """
        Wait, each time twice as long, with jitter.

        :param pauses: number of pauses so far, this one included
        :param retry_after_s: seconds that Zoho asks to wait
        """
        limits = self.limits
        longest = min(limits.longest_pause_s, limits.first_pause_s * 2 ** (pauses - 1))
        seconds = longest * (0.5 + self.jitter() / 2)
        if retry_after_s is not None:
            seconds = min(max(seconds, retry_after_s), limits.longest_pause_s)
        await self.sleep(seconds)

    async def check_presence(
        self, link: Link, fields: Sequence[str] = ("id",), *, check_records: bool = True
    ) -> PresenceCheck:
        """
        Verify a link once.

        Zoho sends 204 both for "not linked" and for an id it does not know, so both records are requested too.

        :param fields: API names of the fields of the related record to read
        :param check_records: False takes 204 for GONE, without requesting the records
        :raises ZohoError: there is no access token, see :meth:`Sender.send`
        """
        relation, version = self.relation, self.api_version
        linked, response, why = await self._look_up(get_related(version, relation, link, fields))
        if linked is Lookup.FOUND and response is not None:
            return PresenceCheck(Presence.LINKED, found_record(response.body))
        if linked is Lookup.UNCLEAR:
            return PresenceCheck(Presence.UNCLEAR, why=why)
        if linked is Lookup.MISSING and not check_records:
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
        # Both records exist. An error of the first request does not prove that the link is gone.
        return (
            PresenceCheck(Presence.GONE)
            if linked is Lookup.MISSING
            else PresenceCheck(Presence.UNCLEAR, why=why)
        )

    async def check_presence_until_clear(
        self, link: Link, fields: Sequence[str] = ("id",), *, check_records: bool = True
    ) -> PresenceCheck:
        """
        Verify a link, and repeat that within the limits while the result is unclear.

        :return: UNCLEAR with the reason, if it stays so or if every link would get the same response
        :raises ZohoError: there is no access token, see :meth:`Sender.send`
        """
        waits = rounds = 0
        while True:
            check = await self.check_presence(link, fields, check_records=check_records)
            why = check.why
            if why is None or why.action is Action.STOP:
                return check
            if why.action is Action.LATER:
                waits += 1
                if waits > self.limits.waits:
                    return PresenceCheck(Presence.UNCLEAR, why=overloaded(why))
            else:
                rounds += 1
                if rounds >= self.limits.verifications:
                    return check
            await self.pause(waits + rounds, why.retry_after_s)

    async def _look_up(self, request: ZohoRequest) -> tuple[Lookup, ZohoResponse | None, Verdict | None]:
        """Send one GET; the verdict says why the response does not say what was requested."""
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


@dataclass
class PresenceClient(LinkClient):
    """
    Verifies links of one relation by GET, and sends nothing else: for dry runs and snapshots.

    :param linked: outcome of a link that exists
    :param gone: outcome of a link that does not, where both records exist
    :param fields: attributes to read; the results then carry the link with its snapshot, ``{}`` where it does not
        exist, None where that is unclear. The two records are not requested then
    """

    linked: Outcome = Outcome.WOULD_REMOVE
    gone: Outcome = Outcome.ALREADY_ABSENT
    fields: Sequence[str] = ()

    async def process_unit(self, unit: Sequence[PlannedLink]) -> list[tuple[LinkResult, StopReason | None]]:
        """
        Verify the links of a unit: one link, for this class.

        :return: the outcome of each link, and a reason to stop the whole run if every link would get its response
        """
        return [await self._verify(planned) for planned in unit]

    async def _verify(self, planned: PlannedLink) -> tuple[LinkResult, StopReason | None]:
        fields = tuple(dict.fromkeys(("id", *self.fields)))
        try:
            check = await self.check_presence_until_clear(planned.link, fields, check_records=not self.fields)
            verdict = check.why or Verdict(Action.SETTLE, outcome=self._outcome(check.presence))
            if self.fields:
                planned, verdict = self._with_snapshot(planned, check, verdict)
        except ZohoError as error:
            verdict = judge_error(error)
        except Exception as error:
            # The caller would take it for sent, and a GET changes no link.
            log.exception("A link could not be verified")
            verdict = Verdict(
                Action.SETTLE, outcome=Outcome.FAILED, detail=f"unexpected {type(error).__name__}"
            )
        result = link_result(planned, verdict, attempts=0, sent_at=None, finished_at=self.now())
        return result, verdict.stop_reason

    def _outcome(self, presence: Presence) -> Outcome:
        return {
            Presence.LINKED: self.linked,
            Presence.GONE: self.gone,
            Presence.PARENT_UNKNOWN: Outcome.PARENT_NOT_FOUND,
            Presence.RELATED_UNKNOWN: Outcome.RELATED_NOT_FOUND,
        }.get(presence, Outcome.FAILED)

    def _with_snapshot(
        self, planned: PlannedLink, check: PresenceCheck, verdict: Verdict
    ) -> tuple[PlannedLink, Verdict]:
        if check.presence is Presence.UNCLEAR:
            return planned, verdict
        if check.presence is not Presence.LINKED:
            return replace(planned, snapshot=NO_ATTRIBUTES), verdict
        if check.record is None or not check.record.keys() >= set(self.fields):
            detail = "Zoho does not return all of the snapshot fields"
            return planned, replace(verdict, outcome=Outcome.FAILED, detail=detail)
        return replace(planned, snapshot=snapshot_of(check.record, self.fields)), verdict


def judge_error(error: ZohoError) -> Verdict:
    """Judge an error that kept a request from leaving."""
    reason: StopReason | None = None
    if isinstance(error, ZohoTokenThrottledError):
        reason = StopReason.THROTTLED
    elif isinstance(error, ZohoAuthError):
        reason = StopReason.NO_TOKEN
    # Any other may be temporary, such as an accounts server that cannot be reached.
    action = Action.SETTLE if reason is None else Action.STOP
    return Verdict(action, outcome=Outcome.FAILED, detail=str(error), stop_reason=reason)


def link_result(
    planned: PlannedLink,
    verdict: Verdict,
    *,
    attempts: int,
    sent_at: datetime | None,
    finished_at: datetime,
) -> LinkResult:
    """Return the result of a link, as the ledger stores it."""
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
