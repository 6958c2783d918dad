"""Idle request slots of a task, and their share during writes to the ledger."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from functools import wraps
from typing import TYPE_CHECKING, Any

from zoho_crm.hooks.by_parent import ByParentDelinkClient
from zoho_crm.hooks.link_operation import DelinkClient
from zoho_crm.operators.chunk_store import ChunkStore

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass
class SlotMeter:
    """
    Integrates idle slots over time.

    :param slots: maximum number of requests in flight
    :param settles: number of calls that wrote outcomes and took further links
    :param settle_wall_s: wall seconds of these calls
    :param settle_cpu_s: CPU seconds of these calls
    :param idle_s: seconds without a link, per slot
    :param idle_in_settle_s: the part of ``idle_s`` during these calls
    """

    slots: int
    settles: int = 0
    settle_wall_s: float = 0.0
    settle_cpu_s: float = 0.0
    idle_s: float = 0.0
    idle_in_settle_s: float = 0.0
    _busy: int = 0
    _settling: int = 0
    _since: float = field(default_factory=time.perf_counter)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def attach(self) -> None:
        """Measure every chunk of this process."""
        self._since = time.perf_counter()
        for delinker in (DelinkClient, ByParentDelinkClient):
            delinker.process_unit = self._measured_unit(delinker.process_unit)  # type: ignore[method-assign]
        ChunkStore.settle = self._measured_settle(ChunkStore.settle)  # type: ignore[method-assign]

    def _measured_unit(self, process_unit: Callable[..., Any]) -> Any:
        @wraps(process_unit)
        async def measured_unit(*args: Any, **kwargs: Any) -> Any:
            self._step(busy=1)
            try:
                return await process_unit(*args, **kwargs)
            finally:
                self._step(busy=-1)

        return measured_unit

    def _measured_settle(self, settle: Callable[..., Any]) -> Any:
        @wraps(settle)
        def measured_settle(*args: Any, **kwargs: Any) -> Any:
            self._step(settling=1)
            wall, cpu = time.perf_counter(), time.thread_time()
            try:
                return settle(*args, **kwargs)
            finally:
                self.settles += 1
                self.settle_wall_s += time.perf_counter() - wall
                self.settle_cpu_s += time.thread_time() - cpu
                self._step(settling=-1)

        return measured_settle

    def _step(self, *, busy: int = 0, settling: int = 0) -> None:
        with self._lock:
            now = time.perf_counter()
            idle_s = (now - self._since) * (self.slots - self._busy) / self.slots
            self.idle_s += idle_s
            if self._settling:
                self.idle_in_settle_s += idle_s
            self._since = now
            self._busy += busy
            self._settling += settling
