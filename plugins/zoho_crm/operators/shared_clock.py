"""A clock that is the same for all workers: that of the audit database, read once a try."""

from __future__ import annotations

import logging
import socket
import time
from typing import TYPE_CHECKING

from zoho_crm.hooks.send_right import steady_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.ledger.ledger import Ledger

log = logging.getLogger(__name__)

MAX_SKEW_S = 60.0
"""Seconds by which the clock of a worker may differ from the database's without a warning."""


def shared_clock(ledger: Ledger) -> Callable[[], float]:
    """
    Return a clock of seconds since 1970 that goes with the database's, not with this worker's.

    A worker whose own clock differs by more than :data:`MAX_SKEW_S` is named in a warning.
    """
    before = time.time()
    database_s = ledger.runs.now().timestamp()
    # The call may take long: the database was asked at some moment within it.
    skew_s = min((before - database_s, time.time() - database_s), key=abs)
    if abs(skew_s) > MAX_SKEW_S:
        log.warning(
            "The clock of this worker is %s: host=%s seconds=%.0f; set it, e.g. with NTP",
            "fast" if skew_s > 0 else "slow",
            socket.gethostname(),
            abs(skew_s),
        )
    offset_s = database_s - steady_seconds()
    return lambda: offset_s + steady_seconds()
