"""
Send single requests from synchronous code: each once, or a GET up to four times.

The requests run on an event loop in a private thread, one for each process.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
import weakref
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

import tenacity

from zoho_crm.core.response import ResponseKind
from zoho_crm.errors import ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.zoho_response import MAX_BODY_BYTES, ZohoResponse

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from zoho_crm.core.request import ZohoRequest
    from zoho_crm.hooks.http_transport import HttpTransport
    from zoho_crm.hooks.oauth import Token

T = TypeVar("T")

_READ_ATTEMPTS = 4
_LONGEST_PAUSE_S = 30.0
_LOOP_CLOSE_S = 2.0
_RETRYABLE_KINDS = frozenset({ResponseKind.OVERLOADED, ResponseKind.SERVER_ERROR})


class SyncTransport:
    """
    Sends single requests over one session, which belongs to the loop thread of the process.

    :param make_transport: makes the transport that sends them
    :param sleep: waits between the tries of a GET
    :param check_right: called before each request; raises if it may not be sent
    """

    def __init__(
        self,
        make_transport: Callable[[], HttpTransport],
        *,
        sleep: Callable[[float], None] = time.sleep,
        check_right: Callable[[], None] = lambda: None,
    ) -> None:
        self._make_transport = make_transport
        self._sleep = sleep
        self._check_right = check_right
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
            self._check_right()
            return self._send_once(request, token, max_body_bytes)
        retrying = tenacity.Retrying(
            # What it raises is not retried.
            before=lambda _: self._check_right(),
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


class LoopThread:
    """An event loop that runs in a daemon thread until the process ends."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._pid = os.getpid()
        self._thread = threading.Thread(target=self._loop.run_forever, name="zoho-crm-http", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, T], timeout_s: float | None = None) -> T:
        """
        Run a coroutine, and return its result. What interrupts the caller cancels the coroutine.

        :param coroutine: bounded by its own time limits
        :param timeout_s: seconds to wait at most; default: until the coroutine ends
        """
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout_s)
        except BaseException:
            future.cancel()
            raise

    def close(self, close: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Close what belongs to this loop: a finalizer, which never raises and waits for a moment at most."""
        if self._pid != os.getpid():
            return
        if threading.current_thread() is self._thread:
            # Held by the loop itself until it is done.
            asyncio.run_coroutine_threadsafe(close(), self._loop)
            return
        with suppress(Exception):
            self.run(close(), _LOOP_CLOSE_S)


_loop_lock = threading.Lock()
_current_loop: LoopThread | None = None


def loop_thread() -> LoopThread:
    """Return the loop thread of this process, started on first use."""
    global _current_loop
    with _loop_lock:
        if _current_loop is None:
            _current_loop = LoopThread()
        return _current_loop


def _forget_loop() -> None:
    """Forget the thread of the parent process, which a forked process does not have."""
    global _current_loop, _loop_lock
    _loop_lock, _current_loop = threading.Lock(), None


os.register_at_fork(after_in_child=_forget_loop)
