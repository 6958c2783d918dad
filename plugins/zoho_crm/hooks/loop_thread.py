"""An event loop in a private thread, on which synchronous code runs coroutines."""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

_CLOSE_S = 2.0


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
            self.run(close(), _CLOSE_S)


_lock = threading.Lock()
_current: LoopThread | None = None


def loop_thread() -> LoopThread:
    """Return the loop thread of this process, started on first use."""
    global _current
    with _lock:
        if _current is None:
            _current = LoopThread()
        return _current


def _forget() -> None:
    """Forget the thread of the parent process, which a forked process does not have."""
    global _current, _lock
    _lock, _current = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)
