"""What a try has cost of the org's API credits, handed to the ledger with each batch of outcomes."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from zoho_crm.core.models import CreditReading

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from zoho_crm.hooks.meter import Meter

READING_EVERY = timedelta(seconds=5)
"""How long after a reading of the credits left the next one is kept, at the soonest."""

_NEVER = datetime.min.replace(tzinfo=UTC)


class Spent(NamedTuple):
    """What goes with one write: credits used since the last one, and how many are left, where Zoho has just said so."""

    credits_used: int
    reading: CreditReading | None


@dataclass
class CreditUsage:
    """
    What a try has used, and what of it is written. All stores of the try share one.

    A process that is killed loses what it has used since its last write: the requests of one batch.

    :param meter: counts the requests of the try
    :param connection: id of the Zoho connection
    :param org_id: Zoho's id of the organisation, where it is known
    """

    meter: Meter
    connection: str
    org_id: str | None = None
    _written: int = field(default=0, init=False)
    _kept_at: datetime = field(default=_NEVER, init=False)

    @contextmanager
    def to_write(self) -> Iterator[Spent]:
        """Give what is yet to be written; it counts as written unless the block raises."""
        used, reading = self.meter.credits_used, self._reading()
        yield Spent(used - self._written, reading)
        self._written = used
        if reading is not None:
            self._kept_at = reading.seen_at

    def _reading(self) -> CreditReading | None:
        left, seen_at = self.meter.credits_left, self.meter.credits_seen_at
        if left is None or seen_at is None or seen_at - self._kept_at < READING_EVERY:
            return None
        return CreditReading(self.connection, self.org_id, left, seen_at)


def spent_by(spending: CreditUsage | None) -> AbstractContextManager[Spent]:
    """Give what is yet to be written of a try; nothing where nobody counts."""
    return spending.to_write() if spending is not None else nullcontext(Spent(0, None))
