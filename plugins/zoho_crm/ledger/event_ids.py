"""Ids of audit rows: UUIDs that sort by time."""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class EventIds:
    """
    UUIDs of version 7 whose order within a process is the order of their making.

    Milliseconds, then 12 bits of the millisecond's fraction (method 3 of RFC 9562, section 6.2), then chance. The
    fraction lets a process make four million of them a second before their time runs ahead of the clock.

    :param clock_ns: nanoseconds since 1970
    """

    def __init__(self, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._last = 0

    def __call__(self) -> str:
        """Return the next id as 36 characters."""
        ms, rest_ns = divmod(self._clock_ns(), 1_000_000)
        moment = ms << 12 | (rest_ns << 12) // 1_000_000
        with self._lock:
            self._last = moment = max(moment, self._last + 1)
        version, variant = 7 << 76, 0b10 << 62
        time_bits = (moment >> 12) << 80 | (moment & 0xFFF) << 64
        return str(uuid.UUID(int=time_bits | version | variant | secrets.randbits(62)))


new_event_id = EventIds()
