"""The clock of the audit database: it orders runs and their rows, and ends leases. Clocks of workers differ."""

from __future__ import annotations

from collections.abc import Callable

import sqlalchemy as sa

Clock = Callable[[sa.Connection], float]
"""Returns the seconds since 1970, read over a connection to the audit database."""

MAX_LEASE_S = 120.0
"""
No lease is longer. One that ends later was written before the database's clock was set back: the next task that
meets it shortens it to this length.
"""

_SECONDS = {
    "postgresql": "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) AS DOUBLE PRECISION)",
    "sqlite": "SELECT (julianday('now') - 2440587.5) * 86400.0",
    "mysql": "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6)) / 1e6",
}
_SECONDS["mariadb"] = _SECONDS["mysql"]


def database_seconds(connection: sa.Connection) -> float:
    """Return the seconds since 1970 by the database's clock, as of this call and not of the transaction's start."""
    return float(connection.exec_driver_sql(_SECONDS[connection.dialect.name]).scalar_one())
