"""Bound parameters in each style of PEP 249, on connections of drivers that SQLAlchemy knows nothing of."""

from __future__ import annotations

import sqlite3
import sys
from datetime import UTC, datetime
from types import ModuleType
from typing import Any

import pytest
import sqlalchemy as sa

from zoho_crm.dbapi_engine import dbapi_engine
from zoho_crm.source import stream_pairs

START = datetime(2026, 11, 21, tzinfo=UTC)
END = datetime(2026, 11, 22, tzinfo=UTC)
SELECT = "SELECT {0} AS external_id, {1} AS related_external_id WHERE '5%' LIKE '5%' AND {0} > 0"
SQL = SELECT.format(":window_start", ":window_end")


class Driver:
    """A driver of the given style that keeps what it is handed, and yields one row."""

    def __init__(self, style: str, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("unknown_driver")
        module.paramstyle, module.Error = style, type("Error", (Exception,), {})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)
        self.error: type[Exception] = module.Error  # type: ignore[attr-defined]
        self.error.__module__ = "unknown_driver.errors"
        self.executed: list[tuple[Any, ...]] = []
        self.closed = 0

    def connect(self) -> Any:
        kind = type("Connection", (_Connection,), {"__module__": "unknown_driver.connections"})
        return kind(self)


class _Connection:
    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def cursor(self) -> Any:
        return _Cursor(self.driver)

    def rollback(self) -> None:
        raise self.driver.error("no transactions here")

    def close(self) -> None:
        self.driver.closed += 1


class _Cursor:
    description = (("external_id",) + (None,) * 6, ("related_external_id",) + (None,) * 6)
    rowcount = -1

    def __init__(self, driver: Driver) -> None:
        self.rows = [("c-1", "d-1")]
        self.driver = driver

    def execute(self, *statement: Any) -> None:
        self.driver.executed.append(statement)

    def fetchmany(self, size: int) -> list[tuple[str, str]]:
        rows, self.rows = self.rows[:size], self.rows[size:]
        return rows

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("style", "first", "second", "percent", "parameters"),
    [
        ("qmark", "?", "?", "%", (START, END, START)),
        ("numeric", ":1", ":2", "%", (START, END)),
        ("named", ":window_start", ":window_end", "%", {"window_start": START, "window_end": END}),
        ("format", "%s", "%s", "%%", (START, END, START)),
        (
            "pyformat",
            "%(window_start)s",
            "%(window_end)s",
            "%%",
            {"window_start": START, "window_end": END},
        ),
    ],
)
def test_window_is_bound_in_the_style_of_the_driver(
    monkeypatch: pytest.MonkeyPatch, style: str, first: str, second: str, percent: str, parameters: object
) -> None:
    driver = Driver(style, monkeypatch)

    rows = list(stream_pairs(dbapi_engine(driver.connect), SQL, START, END))

    assert rows == [("c-1", "d-1")]
    assert driver.executed == [(SELECT.replace("%", percent).format(first, second), parameters)]
    assert driver.closed == 1


@pytest.mark.parametrize("style", ["qmark", "format", "pyformat"])
def test_sql_without_a_window_is_handed_over_as_it_is_written(
    monkeypatch: pytest.MonkeyPatch, style: str
) -> None:
    driver = Driver(style, monkeypatch)
    sql = "SELECT 'a%%b %s' AS external_id, 1 AS related_external_id"

    assert list(stream_pairs(dbapi_engine(driver.connect), sql, START, END)) == [("c-1", "d-1")]

    assert driver.executed == [(sql,)]


def test_database_that_cannot_be_reached_says_so_when_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver("qmark", monkeypatch)

    def connect() -> Any:
        raise driver.error("nobody is there")

    engine = dbapi_engine(connect)

    with pytest.raises(sa.exc.DBAPIError, match="nobody is there"):
        list(stream_pairs(engine, SQL, START, END))


def test_driver_without_a_style_is_refused_and_its_connection_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    driver = Driver("qmark", monkeypatch)
    del sys.modules["unknown_driver"].paramstyle  # type: ignore[attr-defined]

    with pytest.raises(
        NotImplementedError, match=r"the driver of unknown_driver\.connections has no paramstyle"
    ):
        dbapi_engine(driver.connect)
    assert driver.closed == 1


def test_a_real_driver_is_read_through_its_own_connections(tmp_path: Any) -> None:
    engine = dbapi_engine(lambda: sqlite3.connect(tmp_path / "w.db"))
    sql = "SELECT '5%' AS external_id, typeof(1) AS related_external_id WHERE 'x' LIKE '%'"

    assert list(stream_pairs(engine, sql, START, END)) == [("5%", "integer")]
