from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from itertools import islice
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.support.databases import job_sql
from zoho_crm import source
from zoho_crm.errors import PlanError
from zoho_crm.source import check_in_warehouse, check_sql, fetch_value, stream_links

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

START = datetime(2026, 11, 21, tzinfo=UTC)
END = datetime(2026, 11, 22, tzinfo=UTC)
SQL = "SELECT external_id, related_external_id FROM pairs"
WINDOW = " WHERE marked_at >= :window_start AND marked_at < :window_end ORDER BY external_id"


@pytest.fixture(params=["sqlite", "postgres"])
def warehouse(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    url = (
        f"sqlite:///{tmp_path / 'w.db'}"
        if request.param == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        kind = "TEXT" if request.param == "sqlite" else "TIMESTAMPTZ"
        connection.exec_driver_sql(
            f"CREATE TABLE pairs (external_id TEXT, related_external_id TEXT, marked_at {kind})"
        )
    yield engine
    engine.dispose()


def add(engine: sa.Engine, *rows: tuple[str, str, str]) -> None:
    statement = sa.text("INSERT INTO pairs VALUES (:a, :b, :c)")
    with engine.begin() as connection:
        connection.execute(statement, [{"a": a, "b": b, "c": c} for a, b, c in rows])


def pairs(
    engine: sa.Engine, sql: str, start: datetime = START, end: datetime = END
) -> list[tuple[object, object]]:
    return list(stream_links(engine, job_sql(sql), start, end))


def test_the_window_is_bound_half_open_and_in_utc(warehouse: sa.Engine) -> None:
    utc = "" if warehouse.name == "sqlite" else "+00"
    add(
        warehouse,
        ("before", "d", f"2026-11-20 23:59:59.999999{utc}"),
        ("first", "d", f"2026-11-21 00:00:00.000000{utc}"),
        ("last", "d", f"2026-11-21 23:59:59.999999{utc}"),
        ("end", "d", f"2026-11-22 00:00:00.000000{utc}"),
    )
    assert pairs(warehouse, SQL + WINDOW) == [("first", "d"), ("last", "d")]


def test_sql_may_use_no_parameter_or_only_one(warehouse: sa.Engine) -> None:
    utc = "" if warehouse.name == "sqlite" else "+00"
    add(
        warehouse,
        ("old", "d", f"2026-11-01 00:00:00.000000{utc}"),
        ("new", "d", f"2026-11-21 05:00:00.000000{utc}"),
    )
    assert sorted(pairs(warehouse, SQL)) == [("new", "d"), ("old", "d")]
    assert pairs(warehouse, f"{SQL} WHERE marked_at >= :window_start") == [("new", "d")]


@pytest.mark.parametrize(
    "sql",
    [
        pytest.param("SELECT related_external_id, external_id FROM pairs", id="order"),
        pytest.param(
            "SELECT 1 AS more, Related_External_ID AS RELATED_EXTERNAL_ID, external_id FROM pairs", id="case"
        ),
        pytest.param("WITH p AS (SELECT * FROM pairs) SELECT * FROM p /* a comment */", id="cte"),
    ],
)
def test_columns_are_found_by_name(warehouse: sa.Engine, sql: str) -> None:
    add(warehouse, ("c-1", "d-1", "2026-11-21 05:00:00.000000+00"))
    assert pairs(warehouse, sql) == [("c-1", "d-1")]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        pytest.param(
            "external_id", "the column related_external_id once; it yields: external_id", id="missing"
        ),
        pytest.param(
            "external_id, related_external_id AS related", "yields: external_id, related", id="renamed"
        ),
        pytest.param(
            "external_id, external_id AS EXTERNAL_ID, related_external_id",
            "the column external_id once",
            id="twice",
        ),
    ],
)
def test_missing_or_repeated_column_is_named(warehouse: sa.Engine, columns: str, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        pairs(warehouse, f"SELECT {columns} FROM pairs")  # noqa: S608


@pytest.mark.parametrize(
    "more", ["", " RETURNING external_id, related_external_id"], ids=["delete", "returning"]
)
def test_sql_that_changes_the_warehouse_changes_nothing(warehouse: sa.Engine, more: str) -> None:
    add(warehouse, ("c-1", "d-1", "2026-11-21 05:00:00.000000+00"))
    with suppress(PlanError, sa.exc.ProgrammingError):
        pairs(warehouse, f"DELETE FROM pairs{more}")  # noqa: S608
    assert pairs(warehouse, SQL) == [("c-1", "d-1")]


def test_sql_that_yields_no_rows_is_refused() -> None:
    engine = sa.create_engine("sqlite://")
    with pytest.raises(
        PlanError, match=r"^source\.sql_file: pairs\.sql yields no rows: it must be one SELECT$"
    ):
        pairs(engine, "PRAGMA foreign_keys = 1")
    engine.dispose()


@pytest.mark.parametrize("sql", ["SELECT external_id FORM pairs", "SELECT external_id FROM pears"])
def test_refused_sql_is_a_plan_error_with_the_drivers_message(warehouse: sa.Engine, sql: str) -> None:
    with pytest.raises(
        PlanError, match=r"^source\.sql_file: the warehouse refuses pairs\.sql: .*(pairs|pears)"
    ):
        pairs(warehouse, sql)


def test_values_are_not_converted(warehouse: sa.Engine) -> None:
    if warehouse.name == "sqlite":
        assert pairs(warehouse, "SELECT 7 AS external_id, NULL AS related_external_id") == [(7, None)]
        return
    sql = "SELECT 7::bigint AS external_id, '5840000000000001'::numeric AS related_external_id UNION ALL SELECT 8, 1.5"
    assert pairs(warehouse, sql) == [(7, Decimal("5840000000000001")), (8, Decimal("1.5"))]
    key = "6f2c1d9e-0b1a-4c55-9a53-0d6f0f3d2a10"
    assert pairs(warehouse, f"SELECT '{key}'::uuid AS external_id, true AS related_external_id") == [
        (UUID(key), True)
    ]


def test_rows_are_read_on_demand(warehouse: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source, "FETCH_ROWS", 10)
    add(warehouse, *((f"c-{n:03}", "d", "2026-11-21 05:00:00.000000+00") for n in range(95)))
    stream = stream_links(warehouse, job_sql(f"{SQL} ORDER BY external_id"), START, END)
    assert list(islice(stream, 3)) == [("c-000", "d"), ("c-001", "d"), ("c-002", "d")]
    assert warehouse.pool.checkedout() == 1  # type: ignore[attr-defined]
    stream.close()  # type: ignore[attr-defined]
    assert warehouse.pool.checkedout() == 0  # type: ignore[attr-defined]
    assert len(pairs(warehouse, SQL)) == 95


def test_nothing_is_read_before_the_first_row_is_consumed(tmp_path: Path) -> None:
    nowhere = sa.create_engine(f"sqlite:///{tmp_path / 'none' / 'w.db'}")
    stream = stream_links(nowhere, job_sql(SQL), START, END)
    with pytest.raises(sa.exc.OperationalError):
        next(stream)


@pytest.mark.parametrize(
    "sql",
    [
        SQL,
        SQL + WINDOW,
        "SELECT '2026-11-22 10:30:00'::timestamp",
        "SELECT a::text FROM t WHERE b = '\\:not_one'",
        "SELECT :window_start, :window_start",
        """SELECT '{"a":1}', '^(?:a|b)', E'it\\'s :x', "a :name", $$ :text $$ FROM t -- ask :team {{ ds }}""",
        "SELECT a[:2], b[1:3] /* :all */ FROM t;\n-- the end",
        "SELECT '{{a,b}}' FROM t WHERE replace(b, ';', '') = '' FOR UPDATE",
    ],
    ids=["plain", "window", "casts", "escaped", "twice", "literals", "slices", "words"],
)
def test_check_sql_accepts(sql: str) -> None:
    check_sql(job_sql(sql))


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param(" \n\t", "is empty", id="blank"),
        pytest.param("SELECT :ds", "uses :ds; a run has only :window_start and :window_end", id="unknown"),
        pytest.param("SELECT :b, :a, :window_end", "uses :a, :b;", id="several"),
        pytest.param("SELECT :Window_Start", "uses :Window_Start;", id="case"),
        pytest.param(
            "SELECT a[:n]", r"uses :n; .* Write a colon that is not a parameter as \\:$", id="slice"
        ),
        pytest.param("-- nothing\n", "is empty", id="comment"),
        pytest.param("SELECT 1; SELECT 2", "has more than one statement: it must be one SELECT", id="two"),
        pytest.param(
            "SELECT '{{ ds }}'",
            "has a template .*, which is not rendered: use :window_start and :window_end",
            id="template",
        ),
        pytest.param(
            "SELECT ':window_start' /* ':window_end' */",
            "has ':window_start', which is text: write :window_start without quotes",
            id="in quotes",
        ),
        *(
            pytest.param(
                f"SELECT 'a' WHERE b < {written}",
                rf"has {re.escape(found)}, which is not a parameter here: write :window_end$",
                id=written,
            )
            for written, found in (
                ("%(window_end)s", "%(window_end"),
                ("${window_end}", "${window_end"),
                ("'{window_end}'::date AND c < {window_end}", "{window_end"),
                ("@window_end", "@window_end"),
            )
        ),
        pytest.param("{% if a %}SELECT 1{% endif %}", "has a template", id="template block"),
        pytest.param(
            "WITH d AS (DELETE FROM pairs RETURNING *) SELECT * FROM d",
            "contains DELETE, but must only read: it must be one SELECT",
            id="delete in a WITH",
        ),
        pytest.param(
            "WITH d AS (SELECT 1) INSERT INTO t SELECT 1", "contains INSERT, but", id="insert after WITH"
        ),
        pytest.param("-- a\nupdate t set a = 1", "contains UPDATE, but", id="update"),
    ],
)
def test_empty_sql_and_unknown_parameters_are_refused(sql: str, says: str) -> None:
    with pytest.raises(PlanError, match=says):
        check_sql(job_sql(sql))
    with pytest.raises(PlanError, match=says):
        pairs(sa.create_engine("sqlite://"), sql)


def test_a_cast_of_a_parameter_is_bound(postgres_url: str) -> None:
    engine = sa.create_engine(postgres_url)
    sql = "SELECT ':a' AS external_id, :window_start::timestamptz AS related_external_id -- from :team"
    assert pairs(engine, sql) == [(":a", START)]
    engine.dispose()


@pytest.mark.parametrize(
    ("field", "sql", "says"),
    [
        ("source.sql_file", "CHOOSE 1", r"source\.sql_file: the warehouse refuses pairs\.sql: "),
        (
            "source.sql_file",
            "SELECT external_id FROM pears",
            r"source\.sql_file: the warehouse refuses pairs\.sql: .*pears",
        ),
        (
            "source.sql_file",
            "SELECT external_id, related_external_id AS related FROM pairs",
            r"source\.sql_file: pairs\.sql must yield the column related_external_id once; "
            "it yields: external_id, related",
        ),
        (
            "guards.baseline_sql_file",
            "SELECT 1, 2",
            r"guards\.baseline_sql_file: pairs\.sql must yield one column; it yields: ",
        ),
    ],
)
def test_check_in_warehouse_refuses(warehouse: sa.Engine, field: str, sql: str, says: str) -> None:
    with pytest.raises(PlanError, match=f"^{says}"):
        check_in_warehouse(warehouse, [job_sql(sql, field)])


def test_check_in_warehouse_accepts_any_select_and_reads_no_row(warehouse: sa.Engine) -> None:
    add(warehouse, ("c-1", "d-1", "2026-11-21 05:00:00.000000+00"))
    fails = "1 / 0" if warehouse.name == "postgresql" else "abs(-9223372036854775807 - 1)"
    sql = (
        f"WITH p AS (SELECT * FROM pairs{WINDOW})\n"  # noqa: S608 - of this module
        f"SELECT external_id, related_external_id, length(external_id) + {fails} AS n FROM p ORDER BY 1; -- the end"
    )
    baseline = job_sql("SELECT count(*) FROM pairs", "guards.baseline_sql_file")
    check_in_warehouse(warehouse, [job_sql(sql), baseline])
    with pytest.raises(sa.exc.DBAPIError):
        pairs(warehouse, sql.replace("WHERE marked_at >= :window_start AND", "WHERE"))


def value_of(engine: sa.Engine, sql: str) -> object:
    return fetch_value(engine, job_sql(sql, "guards.baseline_sql_file"), START, END)


def test_fetch_value_binds_the_window_and_does_not_convert(warehouse: sa.Engine) -> None:
    utc = "" if warehouse.name == "sqlite" else "+00"
    add(
        warehouse,
        ("a", "d", f"2026-11-21 00:00:00.000000{utc}"),
        ("b", "d", f"2026-11-22 00:00:00.000000{utc}"),
    )
    window = WINDOW.removesuffix(" ORDER BY external_id")
    assert value_of(warehouse, "SELECT count(*) FROM pairs") == 2
    assert value_of(warehouse, f"SELECT count(*) FROM pairs{window}") == 1  # noqa: S608 - of this module
    assert value_of(warehouse, "SELECT max(marked_at) FROM pairs WHERE external_id = 'x'") is None
    latest = value_of(warehouse, "SELECT max(marked_at) FROM pairs")
    assert latest == ("2026-11-22 00:00:00.000000" if warehouse.name == "sqlite" else END)


@pytest.mark.parametrize(
    ("sql", "says"),
    [
        ("SELECT 1 WHERE 1 = 0", "must yield one row with one column; it yields no row with 1"),
        ("SELECT 1, 2", "must yield one row with one column; it yields one row with 2"),
        ("SELECT 1 UNION SELECT 2 UNION SELECT 3", "it yields more than one row with 1"),
        ("DELETE FROM pairs", "contains DELETE, but must only read: it must be one SELECT"),
        ("  ", "is empty"),
        ("SELECT :day", "uses :day; a run has only :window_start and :window_end"),
        ("SELECT count(*) FROM elsewhere", "the warehouse refuses pairs.sql: "),
    ],
)
def test_fetch_value_names_the_field_when_there_is_not_one_value(
    warehouse: sa.Engine, sql: str, says: str
) -> None:
    add(warehouse, ("a", "d", "2026-11-21 00:00:00+00"))
    with pytest.raises(PlanError, match=says) as refused:
        value_of(warehouse, sql)
    assert str(refused.value).startswith("guards.baseline_sql_file: ")
    assert value_of(warehouse, "SELECT count(*) FROM pairs") == 1
