"""Read from a warehouse: the links of a job as a stream, and the single values that guards need."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from zoho_crm.core.guard_rules import read_count, read_time
from zoho_crm.core.job_files import BASELINE_SQL, FRESHNESS_SQL
from zoho_crm.databases import is_statement_error
from zoho_crm.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection, CursorResult, Dialect, Engine, TextClause

FETCH_ROWS = 5_000
COLUMNS = ("external_id", "related_external_id")
WINDOW_PARAMETERS = frozenset({"window_start", "window_end"})
_JOB_SQL = "The job's SQL"
_SET_UTC = {
    "duckdb": "SET TimeZone = 'UTC'",
    "mariadb": "SET time_zone = '+00:00'",
    "mysql": "SET time_zone = '+00:00'",
    "postgresql": "SET timezone TO 'UTC'",
    "redshift": "SET timezone TO 'UTC'",
    "snowflake": "ALTER SESSION SET TIMEZONE = 'UTC'",
}
"""Makes columns without a time zone mean UTC, as the window does, whatever the time zone of the server."""
_WITHOUT_ZONES = frozenset({"mariadb", "mysql", "sqlite"})


def stream_links(
    engine: Engine, sql: str, window_start: datetime, window_end: datetime
) -> Iterator[tuple[object, object]]:
    """
    Run a job's SQL and yield its pairs of external IDs, ``FETCH_ROWS`` in memory at a time.

    :param sql: one SELECT with the columns ``external_id`` and ``related_external_id`` in any case and order;
        further columns are ignored
    :param window_start: bound to ``:window_start``, in UTC; SQLite gets it as ``YYYY-MM-DD HH:MM:SS.ffffff``
    :param window_end: bound to ``:window_end``
    :raises PlanError: the warehouse refuses the SQL, or the SQL has other parameters or lacks the two columns
    """
    statement = _bind_window(sql, window_start, window_end, engine.dialect)
    with engine.connect() as connection, _execute(connection, statement, yield_per=FETCH_ROWS) as result:
        if not result.returns_rows:
            raise PlanError("The job's SQL yields no rows: it must be one SELECT")
        first, second = _find_columns(list(result.keys()))
        for rows in result.partitions(FETCH_ROWS):
            for row in rows:
                yield row[first], row[second]


def fetch_value(
    engine: Engine, sql: str, window_start: datetime, window_end: datetime, *, name: str
) -> object:
    """
    Run SQL that yields one row with one column, and return its value as the driver gives it.

    :param sql: one SELECT, with the same parameters as the job's SQL
    :param name: the field of the job file that names the SQL, for messages
    :raises PlanError: the warehouse refuses the SQL, or the SQL has other parameters or does not yield one value
    """
    statement = _bind_window(sql, window_start, window_end, engine.dialect, name)
    with engine.connect() as connection, _execute(connection, statement, name) as result:
        if not result.returns_rows:
            raise PlanError(f"{name} yields no rows: it must be one SELECT")
        columns, rows = len(result.keys()), result.fetchmany(2)
    if columns != 1 or len(rows) != 1:
        found = ("no row", "one row", "more than one row")[len(rows)]
        raise PlanError(f"{name} must yield one row with one column; it yields {found} with {columns}")
    return rows[0][0]


def _execute(
    connection: Connection, statement: TextClause, name: str = _JOB_SQL, **options: int
) -> CursorResult[Any]:
    from sqlalchemy.exc import DBAPIError

    if set_utc := _SET_UTC.get(connection.dialect.name):
        connection.exec_driver_sql(set_utc).close()
    try:
        return connection.execution_options(**options).execute(statement)
    except DBAPIError as error:
        if not is_statement_error(error):
            raise
        message = " ".join(str(error.orig).split())
        raise PlanError(f"The warehouse refuses {name[0].lower()}{name[1:]}: {message}") from None


class SourceFacts(NamedTuple):
    """
    What the SQL of a job's guards returns; None for a limit that the job does not set.

    :param baseline_links: number of links in the source
    :param source_as_of: when the source was last updated
    """

    baseline_links: int | None = None
    source_as_of: datetime | None = None


def fetch_source_facts(
    engine: Engine, sql: Mapping[str, str], window_start: datetime, window_end: datetime
) -> SourceFacts:
    """
    Run the SQL of a job's guards.

    :param sql: statements by the field of the job file that names them; other fields are ignored
    :raises PlanError: a statement does not return what its limit needs
    """

    def fetch(field: str) -> object:
        return fetch_value(engine, sql[field], window_start, window_end, name=field)

    return SourceFacts(
        baseline_links=read_count(fetch(BASELINE_SQL)) if BASELINE_SQL in sql else None,
        source_as_of=read_time(fetch(FRESHNESS_SQL)) if FRESHNESS_SQL in sql else None,
    )


def check_sql(sql: str, name: str = _JOB_SQL) -> None:
    """
    Check what can be checked of a job's SQL without a database.

    :param name: the name of the SQL in messages
    :raises PlanError: it is empty or has a parameter other than the window's
    """
    _find_parameters(sql, name)


def _find_parameters(sql: str, name: str) -> set[str]:
    import sqlalchemy as sa

    if not sql.strip():
        raise PlanError(f"{name} is empty")
    parameters = set(sa.text(sql).compile().params)
    if unknown := parameters - WINDOW_PARAMETERS:
        raise PlanError(
            f"{name} uses :{', :'.join(sorted(unknown))}; a run has only :window_start and :window_end"
        )
    return parameters


def _bind_window(
    sql: str, window_start: datetime, window_end: datetime, dialect: Dialect, name: str = _JOB_SQL
) -> TextClause:
    import sqlalchemy as sa

    values = {
        parameter: moment.astimezone(UTC).replace(tzinfo=None if dialect.name in _WITHOUT_ZONES else UTC)
        for parameter, moment in (("window_start", window_start), ("window_end", window_end))
    }
    return sa.text(sql).bindparams(
        *(
            sa.bindparam(parameter, value=values[parameter], type_=sa.TIMESTAMP(timezone=True))
            for parameter in sorted(_find_parameters(sql, name))
        )
    )


def _find_columns(columns: Sequence[str]) -> tuple[int, int]:
    lowered = [column.lower() for column in columns]
    for column in COLUMNS:
        if lowered.count(column) != 1:
            raise PlanError(
                f"The job's SQL must yield the column {column} once; it yields: {', '.join(columns)}"
            )
    return lowered.index(COLUMNS[0]), lowered.index(COLUMNS[1])
