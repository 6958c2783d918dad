"""The links that a try has marked in flight and not finished: those at work, and the few that workers send next."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from zoho_crm.core.models import PlannedLink


class UnitSizes(Protocol):
    """How links are cut into units, each of which one worker processes at once."""

    @property
    def unit_size(self) -> int:
        """Links of a unit at most."""

    def unit_length(self, links: Sequence[PlannedLink]) -> int:
        """Return how many of the next links are one unit, from 1; ``links`` are no more than ``unit_size``."""


@dataclass(frozen=True, slots=True)
class Room:
    """
    How much more a try may mark in flight: whole units, until both numbers are reached.

    :param links: number of links
    :param units: number of units
    """

    sizes: UnitSizes
    links: int
    units: int

    @property
    def most(self) -> int:
        """Maximum number of links that may be marked."""
        return max(0, self.links, self.units * self.sizes.unit_size)

    def count(self, upcoming: Sequence[PlannedLink]) -> int:
        """Return how many of the next links to mark."""
        links = 0
        for units, unit in enumerate(_cut(upcoming, self.sizes)):
            if links >= self.links and units >= self.units:
                break
            links += len(unit)
        return links


@dataclass
class LookAhead:
    """
    The unfinished units of a try.

    A process that is killed leaves them in flight, and its next try cannot know which of them were sent. So they are
    few: twice as many links as requests are allowed, or one unit more than there are workers if units are pages.
    """

    sizes: UnitSizes
    _waiting: deque[list[PlannedLink]] = field(default_factory=deque, init=False)
    _busy_units: int = field(default=0, init=False)
    _busy_links: int = field(default=0, init=False)

    @property
    def busy(self) -> int:
        """Number of units at work."""
        return self._busy_units

    @property
    def waiting(self) -> int:
        """Number of units that are marked in flight, and not at work yet."""
        return len(self._waiting)

    def room(self, allowed: int) -> Room:
        """
        Return how much more may be marked.

        :param allowed: number of requests that may be in flight
        """
        if allowed < 1:
            return Room(self.sizes, 0, 0)
        links = self._busy_links + sum(map(len, self._waiting))
        units = self._busy_units + len(self._waiting)
        return Room(self.sizes, 2 * allowed - links, allowed + 1 - units)

    def add(self, links: Sequence[PlannedLink]) -> None:
        """Add links that are marked now."""
        self._waiting.extend(_cut(links, self.sizes))

    def start(self) -> list[PlannedLink]:
        """Return the next unit, which is at work from now on."""
        unit = self._waiting.popleft()
        self._busy_units += 1
        self._busy_links += len(unit)
        return unit

    def finish(self, unit: Sequence[PlannedLink]) -> None:
        """Count a unit as finished."""
        self._busy_units -= 1
        self._busy_links -= len(unit)

    def clear(self) -> list[PlannedLink]:
        """Return the waiting links, and forget them."""
        links = [planned for unit in self._waiting for planned in unit]
        self._waiting.clear()
        return links


def _cut(links: Sequence[PlannedLink], sizes: UnitSizes) -> Iterator[list[PlannedLink]]:
    start = 0
    while start < len(links):
        length = sizes.unit_length(links[start : start + sizes.unit_size])
        yield list(links[start : start + length])
        start += length
