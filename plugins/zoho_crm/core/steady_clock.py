"""A clock for deadlines within one process."""

from __future__ import annotations

import time

_CLOCK = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def steady_seconds() -> float:
    """
    Return the seconds of a clock that is never set, and that runs on while the process or the machine is stopped.

    Only differences within one process have a meaning. Where the system has no such clock, it is the monotonic one,
    which stands still while the machine sleeps.
    """
    return time.clock_gettime(_CLOCK)
