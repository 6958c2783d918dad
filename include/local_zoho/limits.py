"""Zoho's two limits on API calls: requests in flight, and credits in 24 hours."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from include.local_zoho.answers import top
from include.local_zoho.wire import Reply, json_reply

if TYPE_CHECKING:
    from include.local_zoho.settings import Settings

DAY_S = 86_400.0
BUCKET_S = 60.0

CONCURRENT = "Many requests fired in concurrent than the allowed limit."
DAILY = (
    "API requests for the 24 hour period exceeded or the concurrency limit of the user for the app exceeded"
)
LEGACY_DAILY = {
    "code": 429,
    "error": "TOO_MANY_REQUESTS",
    "error_info": "Many requests fired than the allowed limit for the past 24 hours.",
    "details": [],
}


class Limits:
    """
    Count the requests in flight and the credits of the last 24 hours, to the minute.

    ``max_in_flight`` includes requests that were refused for being too many, so that it shows how many a client
    really had open.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.max_in_flight = 0
        self.credits_used = 0
        self.refused = 0
        self._buckets: deque[tuple[float, int]] = deque()

    def enter(self) -> None:
        """Count a request as being in flight."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def leave(self) -> None:
        """Count a request as done."""
        self.in_flight -= 1

    def refusal(self, settings: Settings, now: float) -> Reply | None:
        """Charge one credit to a request that is in flight already, or give the 429 that refuses it."""
        if self.in_flight > settings.max_in_flight:
            return self._refuse(settings, top(429, "TOO_MANY_REQUESTS", CONCURRENT))
        if self.remaining(settings, now) <= 0:
            legacy = settings.daily_body == "legacy"
            return self._refuse(
                settings, json_reply(429, LEGACY_DAILY) if legacy else top(429, "TOO_MANY_REQUESTS", DAILY)
            )
        self.charge(1, now)
        return None

    def charge(self, credits: int, now: float) -> None:
        """Count credits as used."""
        minute = now - now % BUCKET_S
        if self._buckets and self._buckets[-1][0] == minute:
            self._buckets[-1] = (minute, self._buckets[-1][1] + credits)
        else:
            self._buckets.append((minute, credits))
        self.credits_used += credits

    def remaining(self, settings: Settings, now: float) -> int:
        """Tell the credits left in the rolling 24 hours."""
        while self._buckets and self._buckets[0][0] <= now - DAY_S:
            self.credits_used -= self._buckets.popleft()[1]
        return settings.credit_limit - self.credits_used

    def header(self, settings: Settings, now: float) -> tuple[bytes, bytes] | None:
        """Give ``X-API-CREDITS-REMAINING``, which appears only once half of the credits are used."""
        remaining = self.remaining(settings, now)
        if remaining * 2 > settings.credit_limit:
            return None
        return (b"x-api-credits-remaining", str(max(remaining, 0)).encode())

    def _refuse(self, settings: Settings, reply: Reply) -> Reply:
        self.refused += 1
        if settings.retry_after_s is not None:
            reply.headers.append((b"retry-after", str(settings.retry_after_s).encode()))
        return reply
