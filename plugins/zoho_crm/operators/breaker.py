"""How much a try has in flight and marked, and when it stops: what responses and outcomes say about the org."""

from __future__ import annotations

import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

from zoho_crm.core.guard_rules import not_found_breach
from zoho_crm.core.outcomes import NOT_FOUND_OUTCOMES, Outcome
from zoho_crm.core.verdict import StopReason

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from zoho_crm.core.links import Relation
    from zoho_crm.core.models import LinkResult, PlannedLink
    from zoho_crm.hooks.zoho_response import ZohoResponse

SAME_REFUSALS = 5
"""Identical refusals that concern every link, after which no further link is sent."""

BREAKER_AFTER = 50
"""Links with an outcome from which on the share of bad outcomes counts."""

BAD_OUTCOMES = (Outcome.FAILED, Outcome.REJECTED, Outcome.UNKNOWN)

CUT_PAUSE_S = 1.0
"""Seconds after a cut in which further refusals do not cut again: they are responses to requests sent before it."""


class Stop(NamedTuple):
    """Why no further link is sent, and the kind of cause where Zoho is the cause."""

    why: str
    reason: StopReason | None = None


@dataclass(frozen=True)
class NotFoundLimit:
    """
    How many links of a run may have no record in Zoho.

    :param share: share (0 to 1) of the settled links
    :param relation: names the external fields in the reason to stop
    :param settled: links that the run has settled before this try, by outcome
    """

    share: float
    relation: Relation
    settled: Counter[Outcome] = field(default_factory=Counter)


@dataclass
class Breaker:
    """
    Decides when a try stops sending.

    :param share: share of links with a bad outcome above which the whole run is stopped; it counts once
        :data:`BREAKER_AFTER` links have an outcome
    :param credit_reserve: API credits of the org that the run leaves unused; Zoho reports the remaining credits once
        half are used
    :param not_found: limit of links without a record in Zoho, over the whole run; None: no limit
    """

    share: float = 1.0
    credit_reserve: int = 0
    not_found: NotFoundLimit | None = None
    _outcomes: Counter[Outcome] = field(default_factory=Counter, init=False)
    _refusals: Counter[str] = field(default_factory=Counter, init=False)

    def check_credits(self, response: ZohoResponse) -> Stop | None:
        """Return a reason to stop if the remaining credits are below the reserve."""
        remaining = response.classified.credits_left
        if not self.credit_reserve or remaining is None or remaining >= self.credit_reserve:
            return None
        return Stop(
            f"{remaining} API credits of the org are left, {self.credit_reserve} are reserved",
            StopReason.CREDITS,
        )

    def check(self, result: LinkResult, stop_reason: StopReason | None) -> Stop | None:
        """
        Return a reason to stop after an outcome, if there is one.

        :param stop_reason: set if the response concerns every link, not this one alone
        """
        return (
            self._check_refusals(result, stop_reason)
            or self._check_share(result)
            or self._check_not_found(result)
        )

    def _check_refusals(self, result: LinkResult, stop_reason: StopReason | None) -> Stop | None:
        if stop_reason is None:
            # A link left out after a refusal does not show that Zoho accepts requests again.
            if result.outcome is not Outcome.NOT_ATTEMPTED:
                self._refusals.clear()
            return None
        message = result.zoho_message or result.detail or "no reason given"
        refusal = f"{result.zoho_code or result.http_status}: {message}"
        self._refusals[refusal] += 1
        if stop_reason is StopReason.CREDITS:
            return Stop(f"the org's API credits are used up ({refusal})", stop_reason)
        if stop_reason is StopReason.OVERLOADED:
            return Stop(
                f"Zoho is overloaded: too many requests in flight, after all retries ({refusal})", stop_reason
            )
        if stop_reason in {StopReason.NO_TOKEN, StopReason.THROTTLED}:
            return Stop(f"there is no access token ({message})", stop_reason)
        if self._refusals[refusal] >= SAME_REFUSALS:
            return Stop(f"Zoho refuses every link with {refusal}", stop_reason)
        return None

    def _check_share(self, result: LinkResult) -> Stop | None:
        self._outcomes[result.outcome] += 1
        total = self._outcomes.total()
        bad = sum(self._outcomes[outcome] for outcome in BAD_OUTCOMES)
        if total < BREAKER_AFTER or bad <= self.share * total:
            return None
        return Stop(
            f"{bad} of {total} links failed, were refused or are unknown, above the breaker's share of "
            f"{self.share:g}",
            StopReason.REFUSED,
        )

    def _check_not_found(self, result: LinkResult) -> Stop | None:
        if self.not_found is None or result.outcome not in NOT_FOUND_OUTCOMES:
            return None
        counts = self.not_found.settled + self._outcomes
        breach = not_found_breach(counts, self.not_found.relation, self.not_found.share)
        return Stop(breach, StopReason.REFUSED) if breach else None


@dataclass
class AdaptiveConcurrency:
    """
    A number of requests in flight that adapts to the org's load: additive increase, multiplicative decrease.

    A response "too many requests in flight" halves the number; each round of other responses adds one, up to the
    maximum.

    :param maximum: requests in flight at most
    :param clock: seconds, monotonic
    """

    maximum: int
    clock: Callable[[], float] = time.monotonic
    _number: float = field(init=False)
    _cut_at: float = field(init=False, default=float("-inf"))

    def __post_init__(self) -> None:
        self._number = float(self.maximum)

    @property
    def allowed(self) -> int:
        """Requests that may be in flight now: at least 1."""
        return int(self._number)

    def slow_down(self) -> None:
        """Halve the number, once for all refusals of one moment."""
        now = self.clock()
        if now - self._cut_at >= CUT_PAUSE_S:
            self._cut_at = now
            self._number = max(1.0, self._number / 2)

    def speed_up(self) -> None:
        """Count one response that was no refusal."""
        self._number = min(float(self.maximum), self._number + 1.0 / self._number)


class UnitSizes(Protocol):
    """How links are cut into units, each of which one worker processes at once."""

    @property
    def unit_size(self) -> int:
        """Links of a unit at most."""

    def unit_length(self, links: Sequence[PlannedLink]) -> int:
        """Return how many of the next links are one unit, from 1; ``links`` are no more than ``unit_size``."""


@dataclass(frozen=True, slots=True)
class Room:
    """
    How much more a try may mark in flight: whole units, until both numbers are reached.

    :param links: number of links
    :param units: number of units
    """

    sizes: UnitSizes
    links: int
    units: int

    @property
    def most(self) -> int:
        """Maximum number of links that may be marked."""
        return max(0, self.links, self.units * self.sizes.unit_size)

    def count(self, upcoming: Sequence[PlannedLink]) -> int:
        """Return how many of the next links to mark."""
        links = 0
        for units, unit in enumerate(_cut(upcoming, self.sizes)):
            if links >= self.links and units >= self.units:
                break
            links += len(unit)
        return links


@dataclass
class LookAhead:
    """
    The unfinished units of a try.

    A process that is killed leaves them in flight, and its next try cannot know which of them were sent. So they are
    few: twice as many links as requests are allowed, or one unit more than there are workers if units are pages.
    """

    sizes: UnitSizes
    _waiting: deque[list[PlannedLink]] = field(default_factory=deque, init=False)
    _busy_units: int = field(default=0, init=False)
    _busy_links: int = field(default=0, init=False)

    @property
    def busy(self) -> int:
        """Number of units at work."""
        return self._busy_units

    @property
    def waiting(self) -> int:
        """Number of units that are marked in flight, and not at work yet."""
        return len(self._waiting)

    def room(self, allowed: int) -> Room:
        """
        Return how much more may be marked.

        :param allowed: number of requests that may be in flight
        """
        if allowed < 1:
            return Room(self.sizes, 0, 0)
        links = self._busy_links + sum(map(len, self._waiting))
        units = self._busy_units + len(self._waiting)
        return Room(self.sizes, 2 * allowed - links, allowed + 1 - units)

    def add(self, links: Sequence[PlannedLink]) -> None:
        """Add links that are marked now."""
        self._waiting.extend(_cut(links, self.sizes))

    def start(self) -> list[PlannedLink]:
        """Return the next unit, which is at work from now on."""
        unit = self._waiting.popleft()
        self._busy_units += 1
        self._busy_links += len(unit)
        return unit

    def finish(self, unit: Sequence[PlannedLink]) -> None:
        """Count a unit as finished."""
        self._busy_units -= 1
        self._busy_links -= len(unit)

    def clear(self) -> list[PlannedLink]:
        """Return the waiting links, and forget them."""
        links = [planned for unit in self._waiting for planned in unit]
        self._waiting.clear()
        return links


def _cut(links: Sequence[PlannedLink], sizes: UnitSizes) -> Iterator[list[PlannedLink]]:
    start = 0
    while start < len(links):
        length = sizes.unit_length(links[start : start + sizes.unit_size])
        yield list(links[start : start + length])
        start += length
