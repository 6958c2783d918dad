"""
Slots: leases on the requests that an organization may have in flight, shared by all users of a connection.

Leasing begins with an update of the connection's row in ``zoho_delink_slot_limit``. The database locks that row until
the transaction ends, so one process at a time counts the leases and takes what is free. A lease ends by itself at
its ``lease_end``, by the clock of the database, which is read under that lock.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger.engine import MAX_LEASE_S, Store, reading
from zoho_crm.ledger.tables import NAME_LENGTH, slot_limits, slots

if TYPE_CHECKING:
    from collections.abc import Iterable

FREE = 0.0


@dataclass(frozen=True, slots=True)
class _Request:
    connection_id: str
    holder: str
    wanted: int
    limit: int
    lease_s: float


@dataclass(frozen=True, slots=True)
class _Lease:
    slot: int
    holder: str | None
    lease_end: float


class OrgSlots(Store):
    """Leases on the requests that an organization may have in flight."""

    def lease(
        self,
        connection_id: str,
        holder: str,
        *,
        wanted: int,
        limit: int,
        lease_s: float,
    ) -> list[int]:
        """
        Hold up to ``wanted`` slots in all, and never more than ``limit`` over all holders.

        :param connection: id of the Zoho connection whose requests are bounded
        :param lease_s: seconds after which the lease ends by itself
        :return: numbers of the slots held; one that was held before and is missing has been given up
        """
        _check(connection_id, holder, lease_s)
        request = _Request(connection_id, holder, wanted, limit, lease_s)
        held = self._lease_in_turn(request)
        if held is None:
            self._add_connection(request)
            held = self._lease_in_turn(request)
        return held or []

    def renew(self, connection_id: str, holder: str, lease_s: float) -> list[int]:
        """Renew the holder's leases; a slot missing in the result has expired and may be held by another."""
        _check(connection_id, holder, lease_s)
        with self._engine.begin() as connection:
            limit = _lock_row(connection, connection_id) or 0
            now = self._clock(connection)
            held = sorted(
                lease.slot
                for lease in _leases(connection, connection_id)
                if lease.holder == holder and lease.lease_end > now and lease.slot < limit
            )
            _write(connection, connection_id, held, holder, now + lease_s)
        return held

    def release(self, connection_id: str, holder: str) -> None:
        """Give up all leases of the holder."""
        with self._engine.begin() as connection:
            # In turn, so that no two processes wait for each other's rows.
            _lock_row(connection, connection_id)
            connection.execute(
                sa.update(slots)
                .where(slots.c.connection == connection_id, slots.c.holder == holder)
                .values(holder=None, lease_end=FREE)
            )

    def count(self, connection_id: str) -> int:
        """Return how many slots of a connection are leased now, over all holders."""
        with reading(self._engine).begin() as connection:
            now = self._clock(connection)
            statement = sa.select(sa.func.count()).where(
                slots.c.connection == connection_id, slots.c.holder.is_not(None), slots.c.lease_end > now
            )
            return connection.scalar(statement) or 0

    def _lease_in_turn(self, request: _Request) -> list[int] | None:
        """Return the slots held after this lease; None if the connection has no row to lock."""
        with self._engine.begin() as connection:
            if _lock_row(connection, request.connection_id, request.limit) is None:
                return None
            now = self._clock(connection)
            leases = _leases(connection, request.connection_id)
            overlong = {lease.slot for lease in leases if lease.lease_end > now + MAX_LEASE_S}
            _shorten(connection, request.connection_id, overlong, now + MAX_LEASE_S)
            held = _share(leases, request, now)
            _add_missing(connection, request.connection_id, held, leases)
            _write(connection, request.connection_id, held, request.holder, now + request.lease_s)
            given_up = {lease.slot for lease in leases if lease.holder == request.holder} - set(held)
            _write(connection, request.connection_id, given_up, None, FREE)
            return held

    def _add_connection(self, request: _Request) -> None:
        # Where another process is first, its row does as well.
        with suppress(sa.exc.IntegrityError), self._engine.begin() as connection:
            connection.execute(
                sa.insert(slot_limits).values(
                    connection=request.connection_id, slot_limit=request.limit, lock_version=0
                )
            )


def _share(leases: Iterable[_Lease], request: _Request, now: float) -> list[int]:
    others = {lease.slot for lease in leases if lease.holder != request.holder and lease.lease_end > now}
    mine = {lease.slot for lease in leases if lease.holder == request.holder and lease.slot < request.limit}
    free = set(range(request.limit)) - others - mine
    room = max(0, min(request.wanted, request.limit - len(others)))
    return sorted([*sorted(mine), *sorted(free)][:room])


def _lock_row(connection: sa.Connection, connection_id: str, limit: int | None = None) -> int | None:
    """Lock the connection's row until the transaction ends; return its limit, None if there is no row."""
    mine = slot_limits.c.connection == connection_id
    values: dict[str, object] = {"lock_version": slot_limits.c.lock_version + 1}
    if limit is not None:
        values["slot_limit"] = limit
    if connection.execute(sa.update(slot_limits).where(mine).values(values)).rowcount == 0:
        # A row that is read now has just been added by another process: it is there, and it is not held.
        return None
    stored: int | None = connection.scalar(sa.select(slot_limits.c.slot_limit).where(mine))
    return stored


def _leases(connection: sa.Connection, connection_id: str) -> list[_Lease]:
    statement = sa.select(slots.c.slot, slots.c.holder, slots.c.lease_end).where(
        slots.c.connection == connection_id
    )
    return [_Lease(*row) for row in connection.execute(statement)]


def _add_missing(
    connection: sa.Connection, connection_id: str, held: Iterable[int], leases: Iterable[_Lease]
) -> None:
    missing = set(held) - {lease.slot for lease in leases}
    if missing:
        rows = [
            {"connection": connection_id, "slot": slot, "holder": None, "lease_end": FREE}
            for slot in sorted(missing)
        ]
        connection.execute(sa.insert(slots), rows)


def _write(
    connection: sa.Connection,
    connection_id: str,
    numbers: Iterable[int],
    holder: str | None,
    lease_end: float,
) -> None:
    if chosen := sorted(numbers):
        connection.execute(
            sa.update(slots)
            .where(slots.c.connection == connection_id, slots.c.slot.in_(chosen))
            .values(holder=holder, lease_end=lease_end)
        )


def _shorten(connection: sa.Connection, connection_id: str, numbers: Iterable[int], lease_end: float) -> None:
    """Shorten leases that end too late, of any holder."""
    if chosen := sorted(numbers):
        connection.execute(
            sa.update(slots)
            .where(slots.c.connection == connection_id, slots.c.slot.in_(chosen))
            .values(lease_end=lease_end)
        )


def _check(connection_id: str, holder: str, lease_s: float) -> None:
    for name, value in (("connection", connection_id), ("holder", holder)):
        if not 0 < len(value) <= NAME_LENGTH:
            raise ZohoConfigError(f"{name} must be 1 to {NAME_LENGTH} characters: {value!r}")
    if lease_s <= 0:
        raise ZohoConfigError(f"lease_s must be above 0, not {lease_s}")
    if lease_s > MAX_LEASE_S:
        raise ZohoConfigError(f"lease_s must be at most {MAX_LEASE_S:g}, not {lease_s}")
