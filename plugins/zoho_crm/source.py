"""Read from a warehouse: the pairs to remove, as a stream, and the single values that guards ask for."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from zoho_crm.databases import refused
from zoho_crm.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Connection, CursorResult, Dialect, Engine, TextClause

ROWS_AT_A_TIME = 5_000
COLUMNS = ("external_id", "related_external_id")
WINDOW_PARAMETERS = frozenset({"window_start", "window_end"})
_PAIRS_SQL = "The job's SQL"
_IN_UTC = {
    "duckdb": "SET TimeZone = 'UTC'",
    "mariadb": "SET time_zone = '+00:00'",
    "mysql": "SET time_zone = '+00:00'",
    "postgresql": "SET timezone TO 'UTC'",
    "redshift": "SET timezone TO 'UTC'",
    "snowflake": "ALTER SESSION SET TIMEZONE = 'UTC'",
}
"""Makes columns without a time zone mean UTC, as the window does, whatever the server's own zone is."""
_WITHOUT_ZONES = frozenset({"mariadb", "mysql", "sqlite"})


def stream_pairs(
    engine: Engine, sql: str, window_start: datetime, window_end: datetime
) -> Iterator[tuple[object, object]]:
    """
    Run a job's SQL and yield its pairs, a few thousand in memory at a time.

    :param sql: one SELECT with the columns ``external_id`` and ``related_external_id`` in any case and order;
        further columns are left alone
    :param window_start: bound to ``:window_start``, in UTC; SQLite gets it as ``YYYY-MM-DD HH:MM:SS.ffffff``
    :param window_end: bound to ``:window_end``
    :raises PlanError: the warehouse refuses the SQL, it names other parameters, or does not yield the two columns
    """
    statement = _bind_window(sql, window_start, window_end, engine.dialect)
    with engine.connect() as connection, _run(connection, statement, yield_per=ROWS_AT_A_TIME) as result:
        if not result.returns_rows:
            raise PlanError("The job's SQL yields no rows: it must be one SELECT")
        first, second = _positions(list(result.keys()))
        for rows in result.partitions(ROWS_AT_A_TIME):
            for row in rows:
                yield row[first], row[second]


def single_value(
    engine: Engine, sql: str, window_start: datetime, window_end: datetime, *, name: str
) -> object:
    """
    Run SQL that yields one row with one column, and return its value as the driver gives it.

    :param sql: one SELECT, with the same parameters as the SQL of the pairs
    :param name: what the SQL is called, for errors: its field in the job file
    :raises PlanError: the warehouse refuses the SQL, it names other parameters, or does not yield one value
    """
    statement = _bind_window(sql, window_start, window_end, engine.dialect, name)
    with engine.connect() as connection, _run(connection, statement, name) as result:
        if not result.returns_rows:
            raise PlanError(f"{name} yields no rows: it must be one SELECT")
        columns, rows = len(result.keys()), result.fetchmany(2)
    if columns != 1 or len(rows) != 1:
        found = ("no row", "one row", "more than one row")[len(rows)]
        raise PlanError(f"{name} must yield one row with one column; it yields {found} with {columns}")
    return rows[0][0]


def _run(
    connection: Connection, statement: TextClause, name: str = _PAIRS_SQL, **options: int
) -> CursorResult[Any]:
    from sqlalchemy.exc import DBAPIError

    if in_utc := _IN_UTC.get(connection.dialect.name):
        connection.exec_driver_sql(in_utc).close()
    try:
        return connection.execution_options(**options).execute(statement)
    except DBAPIError as error:
        if not refused(error):
            raise
        said = " ".join(str(error.orig).split())
        raise PlanError(f"The warehouse refuses {name[0].lower()}{name[1:]}: {said}") from None


def check_sql(sql: str, name: str = _PAIRS_SQL) -> None:
    """
    Check what can be checked of a job's SQL without a database.

    :param name: what the SQL is called, for errors
    :raises PlanError: it is empty or names a parameter that no run has
    """
    _parameters(sql, name)


def _parameters(sql: str, name: str) -> set[str]:
    import sqlalchemy as sa

    if not sql.strip():
        raise PlanError(f"{name} is empty")
    named = set(sa.text(sql).compile().params)
    if unknown := named - WINDOW_PARAMETERS:
        raise PlanError(
            f"{name} uses :{', :'.join(sorted(unknown))}; a run has only :window_start and :window_end"
        )
    return named


def _bind_window(
    sql: str, window_start: datetime, window_end: datetime, dialect: Dialect, name: str = _PAIRS_SQL
) -> TextClause:
    import sqlalchemy as sa

    values = {
        parameter: moment.astimezone(UTC).replace(tzinfo=None if dialect.name in _WITHOUT_ZONES else UTC)
        for parameter, moment in (("window_start", window_start), ("window_end", window_end))
    }
    return sa.text(sql).bindparams(
        *(
            sa.bindparam(parameter, value=values[parameter], type_=sa.TIMESTAMP(timezone=True))
            for parameter in sorted(_parameters(sql, name))
        )
    )


def _positions(columns: Sequence[str]) -> tuple[int, int]:
    lowered = [column.lower() for column in columns]
    for column in COLUMNS:
        if lowered.count(column) != 1:
            raise PlanError(
                f"The job's SQL must yield the column {column} once; it yields: {', '.join(columns)}"
            )
    return lowered.index(COLUMNS[0]), lowered.index(COLUMNS[1])
