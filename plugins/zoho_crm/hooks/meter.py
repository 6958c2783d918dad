"""What is measured of the requests over one connection."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from zoho_crm import metrics
from zoho_crm.core.told import credits_remaining, is_out_of_credits
from zoho_crm.errors import ZohoNotSentError, ZohoUnansweredError

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.errors import ZohoError
    from zoho_crm.hooks.answer import Answer

_CREDITS_EVERY_S = 1.0


class Meter:
    """
    Times every request, counts refusals, and tells the credits left, once a second at the most.

    :param connection: id of the Airflow connection
    :param clock: seconds, monotonic
    """

    def __init__(self, connection: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._clock = clock
        self._credits_at = float("-inf")

    def answered(self, method: str, answer: Answer) -> None:
        """Measure an answer, whatever it says."""
        metrics.request_done(self._connection, method, answer.status, answer.duration_s)
        if answer.status == 429:
            used_up = is_out_of_credits(answer.headers, answer.body)
            metrics.throttled(self._connection, credits_used_up=used_up)
        left = credits_remaining(answer.headers)
        if left is not None and (now := self._clock()) - self._credits_at >= _CREDITS_EVERY_S:
            self._credits_at = now
            metrics.credits_remaining(self._connection, left)

    def failed(self, method: str, error: ZohoError, duration_s: float) -> None:
        """Measure a request that got no answer; one that was never to leave is none."""
        if isinstance(error, ZohoUnansweredError):
            metrics.request_done(self._connection, method, metrics.NO_ANSWER, duration_s)
        elif isinstance(error, ZohoNotSentError):
            metrics.request_done(self._connection, method, metrics.NOT_SENT, duration_s)
