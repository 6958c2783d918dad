"""Send single requests from synchronous code: each once, or a GET up to four times."""

from __future__ import annotations

import time
import weakref
from typing import TYPE_CHECKING

import tenacity

from zoho_crm.core.response import ResponseKind
from zoho_crm.errors import ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.loop_thread import LoopThread, loop_thread
from zoho_crm.hooks.zoho_response import MAX_BODY_BYTES, ZohoResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.core.request import ZohoRequest
    from zoho_crm.hooks.http_transport import HttpTransport
    from zoho_crm.hooks.oauth import Token

_READ_ATTEMPTS = 4
_LONGEST_PAUSE_S = 30.0
_RETRYABLE_KINDS = frozenset({ResponseKind.OVERLOADED, ResponseKind.SERVER_ERROR})


class SyncTransport:
    """
    Sends single requests over one session, which belongs to the loop thread of the process.

    :param make_transport: makes the transport that sends them
    :param sleep: waits between the tries of a GET
    """

    def __init__(
        self, make_transport: Callable[[], HttpTransport], *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._make_transport = make_transport
        self._sleep = sleep
        self._opened: tuple[LoopThread, HttpTransport] | None = None

    def send(
        self, request: ZohoRequest, token: Token, *, max_body_bytes: int = MAX_BODY_BYTES
    ) -> ZohoResponse:
        """
        Send a request with this token: a GET up to four times, any other once.

        :param max_body_bytes: a longer response counts as unreadable
        :raises ZohoError: see :meth:`zoho_crm.hooks.http_transport.HttpTransport.exchange`
        """
        if request.method != "GET":
            return self._send_once(request, token, max_body_bytes)
        retrying = tenacity.Retrying(
            stop=tenacity.stop_after_attempt(_READ_ATTEMPTS),
            wait=_pause_s,
            retry=tenacity.retry_if_exception_type((ZohoNotSentError, ZohoUnansweredError))
            | tenacity.retry_if_result(_is_retryable),
            sleep=self._sleep,
            retry_error_callback=_last_outcome,
        )
        return retrying(self._send_once, request, token, max_body_bytes)

    def _send_once(self, request: ZohoRequest, token: Token, max_body_bytes: int) -> ZohoResponse:
        thread, transport = self._open()
        return thread.run(transport.exchange(request, token, max_body_bytes=max_body_bytes))

    def _open(self) -> tuple[LoopThread, HttpTransport]:
        """Return the open transport; a new one for the first request, and for the first after a fork."""
        thread = loop_thread()
        if self._opened is None or self._opened[0] is not thread:
            transport = self._make_transport()
            thread.run(transport.open())
            self._opened = thread, transport
            weakref.finalize(self, thread.close, transport.close)
        return self._opened


def _is_retryable(response: ZohoResponse) -> bool:
    classified = response.classified
    return classified.kind in _RETRYABLE_KINDS and (classified.retry_after_s or 0.0) <= _LONGEST_PAUSE_S


_grows = tenacity.wait_exponential(multiplier=0.5, max=10) + tenacity.wait_random(0, 0.5)


def _pause_s(state: tenacity.RetryCallState) -> float:
    outcome = state.outcome
    retry_after_s = 0.0
    if outcome is not None and not outcome.failed:
        retry_after_s = outcome.result().classified.retry_after_s or 0.0
    return max(retry_after_s, _grows(state))


def _last_outcome(state: tenacity.RetryCallState) -> ZohoResponse:
    if state.outcome is None:
        raise RuntimeError("tenacity stopped without an outcome")
    outcome: ZohoResponse = state.outcome.result()
    return outcome
