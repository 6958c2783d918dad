"""How many requests to have in flight when others use the org as well."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CUT_PAUSE_S = 1.0
"""Seconds after a cut in which further refusals do not cut again: they answer requests sent before it."""


@dataclass
class AdaptiveConcurrency:
    """
    A number of requests in flight that gives way to others: additive increase, multiplicative decrease.

    Each time Zoho says that too many are in flight, the number is halved; while it answers, one is added for each
    round of answers, up to the most.

    :param most: requests in flight at the most
    :param clock: seconds, monotonic
    """

    most: int
    clock: Callable[[], float] = time.monotonic
    _number: float = field(init=False)
    _cut_at: float = field(init=False, default=float("-inf"))

    def __post_init__(self) -> None:
        self._number = float(self.most)

    @property
    def allowed(self) -> int:
        """Requests that may be in flight now: 1 at the least."""
        return int(self._number)

    def slow_down(self) -> None:
        """Halve the number, once for all refusals of one moment."""
        now = self.clock()
        if now - self._cut_at >= CUT_PAUSE_S:
            self._cut_at = now
            self._number = max(1.0, self._number / 2)

    def speed_up(self) -> None:
        """Note one answer that was no refusal."""
        self._number = min(float(self.most), self._number + 1.0 / self._number)
