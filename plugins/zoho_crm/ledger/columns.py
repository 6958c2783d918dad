"""Column types and values that mean the same in every database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

TABLE_OPTIONS = {
    f"{dialect}_{option}": value
    for dialect in ("mysql", "mariadb")
    for option, value in (("engine", "InnoDB"), ("charset", "utf8mb4"), ("collate", "utf8mb4_bin"))
}
"""For every table: rows that can be locked, and all of Unicode, whatever the server's defaults are."""


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """
    An aware moment in UTC with microseconds, also where the database knows no time zones.

    A naive datetime is refused: nobody can tell which moment it means.
    """

    impl = sa.DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Return the type with microseconds where a dialect's default drops them."""
        if dialect.name in {"mysql", "mariadb"}:
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return super().load_dialect_impl(dialect)

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Turn an aware datetime into UTC; without its zone where the database would only drop it."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time of the ledger must be aware, such as datetime.now(UTC)")
        moment = value.astimezone(UTC)
        return moment.replace(tzinfo=None) if dialect.name in {"sqlite", "mysql", "mariadb"} else moment

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Return the moment as an aware datetime in UTC."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def exact_text(length: int) -> sa.types.TypeEngine[str]:
    """
    Return a text type that compares and orders byte by byte, whatever the database's language is.

    Ids that differ in case are different ids, and the order of a plan must not depend on a server's settings.
    """
    return (
        sa.String(length)
        .with_variant(sa.String(length, collation="C"), "postgresql")
        .with_variant(sa.String(length, collation="utf8mb4_bin"), "mysql", "mariadb")
    )


def long_text() -> sa.types.TypeEngine[str]:
    """Return a text type without a length that matters."""
    return sa.Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")


def fitted(column: sa.Column[Any], value: object) -> str | None:
    """
    Return a value as text that a column can hold in every database; None stays None.

    NUL and lone surrogates are written as escapes, and what is longer than the column is cut.
    """
    if value is None:
        return None
    length: int = getattr(column.type, "length", 0)
    text = str(value)[:length].encode("utf-8", "backslashreplace").decode("utf-8")
    return text.replace("\x00", "\\u0000")[:length]
