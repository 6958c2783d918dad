"""Kill processes that work on a chunk, at moments that the local Zoho sees."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.testing.local_zoho import LocalZoho

LONG_S = 120.0


def database_of(ledger: Ledger) -> str:
    return ledger.engine.url.render_as_string(hide_password=False)


def requests(zoho: LocalZoho) -> int:
    return sum(zoho.state.journal.by_kind.values())


def kill_at(zoho: LocalZoho, process: Any, moment: int, extra_s: float) -> bool:
    """Kill a process shortly after a number of requests; return False if it ended before."""
    deadline = time.monotonic() + LONG_S
    while requests(zoho) < moment and process.is_alive():
        assert time.monotonic() < deadline
        time.sleep(0.001)
    time.sleep(extra_s)
    alive: bool = process.is_alive()
    if alive:
        os.kill(process.pid, signal.SIGKILL)
    process.join(LONG_S)
    return alive
