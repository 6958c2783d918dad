"""Measure the requests over one connection."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from zoho_crm import telemetry
from zoho_crm.core.response import ResponseKind
from zoho_crm.errors import ZohoNotSentError, ZohoUnansweredError

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.errors import ZohoError
    from zoho_crm.hooks.zoho_response import ZohoResponse

_CREDITS_EVERY_S = 1.0
_CREDITS_PER_CALL = 1
"""For every call of this package; Zoho charges more for others, such as bulk reads."""


class Meter:
    """
    Times every request, counts throttled ones and credits, and reports the credits left, at most once a second.

    :param connection: id of the Airflow connection
    :param clock: seconds, monotonic
    """

    credits_used = 0
    """API credits that the requests have cost, counted here; a request without a response counts."""

    def __init__(self, connection: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._connection = connection
        self._clock = clock
        self._credits_at = float("-inf")

    def answered(self, method: str, response: ZohoResponse) -> None:
        """Measure a response, whatever it says."""
        telemetry.time_request(self._connection, method, response.status, response.duration_s)
        classified = response.classified
        if classified.is_throttled:
            used_up = classified.kind is ResponseKind.OUT_OF_CREDITS
            telemetry.count_throttled(self._connection, credits_used_up=used_up)
        if classified.costs_credits:
            self.credits_used += _CREDITS_PER_CALL
        left = classified.credits_left
        if left is not None and (now := self._clock()) - self._credits_at >= _CREDITS_EVERY_S:
            self._credits_at = now
            telemetry.set_credits_remaining(self._connection, left)

    def failed(self, method: str, error: ZohoError, duration_s: float) -> None:
        """Measure a request without a response; one that the request guard stopped is not measured."""
        if isinstance(error, ZohoUnansweredError):
            self.credits_used += _CREDITS_PER_CALL
            telemetry.time_request(self._connection, method, telemetry.NO_RESPONSE, duration_s)
        elif isinstance(error, ZohoNotSentError):
            telemetry.time_request(self._connection, method, telemetry.NOT_SENT, duration_s)
