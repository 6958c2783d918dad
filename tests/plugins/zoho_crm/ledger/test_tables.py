from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql

from zoho_crm.ledger.tables import UtcDateTime, fitted

if TYPE_CHECKING:
    from collections.abc import Iterator

MOMENT = datetime(2026, 3, 29, 0, 59, 59, 123456, tzinfo=UTC)


@pytest.fixture
def moments(engine: sa.Engine) -> Iterator[sa.Table]:
    table = sa.Table("moments", sa.MetaData(), sa.Column("at", UtcDateTime))
    table.create(engine)
    return table


@pytest.mark.parametrize(
    "zone",
    [UTC, timezone(timedelta(hours=5, minutes=30)), timezone(-timedelta(hours=9))],
    ids=["UTC", "+05:30", "-09:00"],
)
def test_time_comes_back_aware_in_utc_with_its_microseconds(
    engine: sa.Engine, moments: sa.Table, zone: timezone
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(moments).values(at=MOMENT.astimezone(zone)))
        stored = connection.scalar(sa.select(moments.c.at))

    assert stored == MOMENT
    assert stored.utcoffset() == timedelta(0)
    assert stored.microsecond == 123456


def test_no_time_comes_back_as_none(engine: sa.Engine, moments: sa.Table) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(moments).values(at=None))
        assert connection.scalar(sa.select(moments.c.at)) is None


def test_times_of_different_zones_compare_as_moments(engine: sa.Engine, moments: sa.Table) -> None:
    later = (MOMENT + timedelta(seconds=1)).astimezone(timezone(-timedelta(hours=9)))
    with engine.begin() as connection:
        connection.execute(sa.insert(moments), [{"at": later}, {"at": MOMENT}])
        assert connection.scalars(sa.select(moments.c.at).where(moments.c.at > MOMENT)).all() == [later]


def test_naive_time_is_refused(engine: sa.Engine, moments: sa.Table) -> None:
    with (
        pytest.raises(sa.exc.StatementError, match="must be aware"),
        engine.begin() as connection,
    ):
        connection.execute(sa.insert(moments).values(at=MOMENT.replace(tzinfo=None)))


def test_mysql_keeps_microseconds() -> None:
    assert UtcDateTime().compile(dialect=mysql.dialect()) == "DATETIME(6)"


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (None, None),
        ("plain", "plain"),
        ("é" * 30, "é" * 20),
        ("a\x00b", "a\\u0000b"),
        ("a\ud800b", "a\\ud800b"),
        ("\x00" * 10, ("\\u0000" * 4)[:20]),
        ("line\nline", "line\nline"),
        (429, "429"),
        ("😀" * 21, "😀" * 20),
    ],
)
def test_fitted_text_fits_and_can_be_stored(value: object, stored: str | None) -> None:
    assert fitted(sa.Column("detail", sa.String(20)), value) == stored
