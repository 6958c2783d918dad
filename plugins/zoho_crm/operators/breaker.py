"""When a try stops sending, and how many requests it has in flight: what responses and outcomes say about the org."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.verdict import StopReason

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.core.models import LinkResult
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


@dataclass
class Breaker:
    """
    Decides when a try stops sending.

    :param share: share of links with a bad outcome above which the whole run is stopped; it counts once
        :data:`BREAKER_AFTER` links have an outcome
    :param credit_reserve: API credits of the org that the run leaves unused; Zoho reports the remaining credits once
        half are used
    """

    share: float = 1.0
    credit_reserve: int = 0
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
        return self._check_refusals(result, stop_reason) or self._check_share(result)

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
