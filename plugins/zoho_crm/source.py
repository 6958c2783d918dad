"""Read from a warehouse: the links of a job as a stream, and the single values that guards need."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from zoho_crm.core.guard_rules import read_count, read_time
from zoho_crm.core.job_files import BASELINE_SQL, FRESHNESS_SQL, SOURCE_SQL, JobFileError, JobSql, read_sql
from zoho_crm.databases import is_statement_error
from zoho_crm.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from sqlalchemy import Connection, CursorResult, Dialect, Engine, TextClause

    from zoho_crm.core.job import Job

FETCH_ROWS = 5_000
COLUMNS = ("external_id", "related_external_id")
WINDOW_PARAMETERS = frozenset({"window_start", "window_end"})
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
_NESTS_QUERIES = frozenset(
    {"bigquery", "duckdb", "mariadb", "mysql", "postgresql", "redshift", "snowflake", "sqlite"}
)
"""Databases in which any SELECT may stand in brackets, also one that begins with WITH or ends with ORDER BY."""
_EXAMPLE_WINDOW = (datetime(2000, 1, 1, tzinfo=UTC), datetime(2000, 1, 2, tzinfo=UTC))

_NOT_CODE = re.compile(
    r"""
    (?P<comment>--[^\n]*|/\*.*?\*/)
    | \b[eE]'(?:\\.|''|[^'\\])*'  # PostgreSQL: backslashes escape
    | '(?:''|[^'])*'
    | "(?:""|[^"])*"
    | `[^`]*`
    | \$(?P<tag>[A-Za-z_]\w*|)\$.*?\$(?P=tag)\$  # PostgreSQL: quoted by dollars
    """,
    re.DOTALL | re.VERBOSE,
)
"""Comments, literals and quoted names."""
_COLON = re.compile(r"(?<![:\w\\]):(?=\w)")
"""A colon that SQLAlchemy takes for the beginning of a parameter."""
_COLON_BEFORE_NUMBER = re.compile(r"(?<![:\w\\]):(?=\d)")
_CAST_OF_PARAMETER = re.compile(r"(?<![:\w\\])(:\w+)(?=::)")
_TEMPLATE = re.compile(r"\{\{-?\s*[A-Za-z_][\w.]*\s*(?:-?\}\}|[|(\[])|\{%")
_WINDOW_IN_QUOTES = re.compile(r"'(:window_(?:start|end))'")
_WINDOW_OF_OTHERS = re.compile(r"(?:%\(|\$\{?|\{|@)(window_(?:start|end))\b")
"""Other notations: ``%(window_start)s``, ``${window_start}``, ``{window_start}``, ``@window_start``."""
_WRITES_FIRST = re.compile(
    r"\s*(ALTER|CALL|COPY|CREATE|DELETE|DROP|EXEC|EXECUTE|GRANT|INSERT|LOAD|MERGE|REPLACE|REVOKE|TRUNCATE|UPDATE)\b",
    re.IGNORECASE,
)
_WRITES_IN_WITH = re.compile(
    r"[()]\s*(DELETE(?=\s+FROM\b)|INSERT(?=\s+INTO\b)|MERGE(?=\s+INTO\b)|UPDATE(?=\s+[\w\"`]))", re.IGNORECASE
)


def stream_links(
    engine: Engine, sql: JobSql, window_start: datetime, window_end: datetime
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
    with engine.connect() as connection, _execute(connection, statement, sql, yield_per=FETCH_ROWS) as result:
        if not result.returns_rows:
            raise sql.fault("yields no rows: it must be one SELECT")
        first, second = _find_columns(sql, list(result.keys()))
        for rows in result.partitions(FETCH_ROWS):
            for row in rows:
                yield row[first], row[second]


def fetch_value(engine: Engine, sql: JobSql, window_start: datetime, window_end: datetime) -> object:
    """
    Run SQL that yields one row with one column, and return its value as the driver gives it.

    :param sql: one SELECT, with the same parameters as the SQL of the links
    :raises PlanError: the warehouse refuses the SQL, or the SQL has other parameters or does not yield one value
    """
    statement = _bind_window(sql, window_start, window_end, engine.dialect)
    with engine.connect() as connection, _execute(connection, statement, sql) as result:
        if not result.returns_rows:
            raise sql.fault("yields no rows: it must be one SELECT")
        columns, rows = len(result.keys()), result.fetchmany(2)
    if columns != 1 or len(rows) != 1:
        found = ("no row", "one row", "more than one row")[len(rows)]
        raise sql.fault(f"must yield one row with one column; it yields {found} with {columns}")
    return rows[0][0]


def _execute(connection: Connection, statement: TextClause, sql: JobSql, **options: int) -> CursorResult[Any]:
    from sqlalchemy.exc import DBAPIError

    if set_utc := _SET_UTC.get(connection.dialect.name):
        connection.exec_driver_sql(set_utc).close()
    try:
        return connection.execution_options(**options).execute(statement)
    except DBAPIError as error:
        if not is_statement_error(error):
            raise
        message = " ".join(str(error.orig).split())
        raise PlanError(f"{sql.field}: the warehouse refuses {sql.file}: {message}") from None


class SourceFacts(NamedTuple):
    """
    What the SQL of a job's guards returns; None for a limit that the job does not set.

    :param baseline_links: number of links in the source
    :param source_as_of: when the source was last updated
    """

    baseline_links: int | None = None
    source_as_of: datetime | None = None


def fetch_source_facts(
    engine: Engine, sql: Mapping[str, JobSql], window_start: datetime, window_end: datetime
) -> SourceFacts:
    """
    Run the SQL of a job's guards.

    :param sql: statements by the field of the job file that names them; other fields are ignored
    :raises PlanError: a statement does not return what its limit needs
    """

    def fetch(field: str) -> object:
        return fetch_value(engine, sql[field], window_start, window_end)

    return SourceFacts(
        baseline_links=read_count(fetch(BASELINE_SQL)) if BASELINE_SQL in sql else None,
        source_as_of=read_time(fetch(FRESHNESS_SQL)) if FRESHNESS_SQL in sql else None,
    )


def sql_faults(job: Job, jobs_folder: Path) -> list[str]:
    """Return what is wrong with the SQL files of a job, as far as that can be known without a database."""
    try:
        statements = read_sql(job, jobs_folder)
    except JobFileError as error:
        return [str(error)]
    faults = []
    for sql in statements.values():
        try:
            check_sql(sql)
        except PlanError as error:
            faults.append(str(error))
    return faults


def check_sql(sql: JobSql) -> None:
    """
    Check what can be checked of a job's SQL without a database.

    :raises PlanError: it is empty, does not only read, is more than one statement, is a template, or has a parameter
        other than the window's
    """
    _prepare(sql)


def check_in_warehouse(engine: Engine, statements: Iterable[JobSql]) -> None:
    """
    Check the SQL of a job in its database, by reading none of its rows.

    Databases in which not every SELECT can stand in brackets are only connected to.

    :raises PlanError: the warehouse refuses a statement, or the statement does not yield the columns it must
    """
    with engine.connect() as connection:
        if connection.dialect.name not in _NESTS_QUERIES:
            return
        for sql in statements:
            statement = _bind_window(sql, *_EXAMPLE_WINDOW, connection.dialect, change=_without_rows)
            with _execute(connection, statement, sql) as result:
                columns = list(result.keys())
            if sql.field == SOURCE_SQL:
                _find_columns(sql, columns)
            elif len(columns) != 1:
                raise sql.fault(f"must yield one column; it yields: {', '.join(columns)}")


def _prepare(sql: JobSql) -> tuple[str, set[str]]:
    """Return the SQL as SQLAlchemy's ``text`` needs it, and the names of its parameters."""
    import sqlalchemy as sa

    if reason := _statement_fault(sql.text):
        raise sql.fault(reason)
    prepared = _escape_colons(sql.text)
    parameters = set(sa.text(prepared).compile().params)
    if unknown := parameters - WINDOW_PARAMETERS:
        raise sql.fault(
            f"uses :{', :'.join(sorted(unknown))}; a run has only :window_start and :window_end. Write a colon "
            "that is not a parameter as \\:"
        )
    return prepared, parameters


def _statement_fault(sql: str) -> str | None:
    code = _NOT_CODE.sub(lambda found: " " if found["comment"] else "''", sql)
    statement, _, rest = code.partition(";")
    if not statement.strip():
        return "is empty"
    if found := _TEMPLATE.search(_without_comments(sql)):
        return f"has a template ({found[0][:2]}), which is not rendered: use :window_start and :window_end"
    if found := _WINDOW_IN_QUOTES.search(_without_comments(sql)):
        return f"has {found[0]}, which is text: write {found[1]} without quotes"
    if found := _WINDOW_OF_OTHERS.search(code):
        return f"has {found[0]}, which is not a parameter here: write :{found[1]}"
    if found := _WRITES_FIRST.match(statement) or _WRITES_IN_WITH.search(statement):
        return f"contains {found[1].upper()}, but must only read: it must be one SELECT"
    if rest.strip(" \t\r\n;"):
        return "has more than one statement: it must be one SELECT"
    return None


def _escape_colons(sql: str) -> str:
    """Escape the colons that are no parameter, and move the cast of a parameter a blank away from its name."""
    parts = []
    end = 0
    for found in _NOT_CODE.finditer(sql):
        parts += [_escape_in_code(sql[end : found.start()]), _COLON.sub(r"\\:", found[0])]
        end = found.end()
    return "".join([*parts, _escape_in_code(sql[end:])])


def _escape_in_code(code: str) -> str:
    return _CAST_OF_PARAMETER.sub(r"\1 ", _COLON_BEFORE_NUMBER.sub(r"\\:", code))


def _without_comments(sql: str) -> str:
    return _NOT_CODE.sub(lambda found: " " if found["comment"] else found[0], sql)


def _without_rows(sql: str) -> str:
    """Return SQL that yields the columns of other SQL, and no row."""
    without_end = _without_comments(sql).rstrip(" \t\r\n;")
    return f"SELECT * FROM (\n{without_end}\n) AS zoho_delink_check WHERE 1 = 0"  # noqa: S608


def _bind_window(
    sql: JobSql,
    window_start: datetime,
    window_end: datetime,
    dialect: Dialect,
    change: Callable[[str], str] = str,
) -> TextClause:
    """
    Return a statement with the window as its parameters.

    :param change: applied to the SQL once it is checked
    :raises PlanError: as from :func:`check_sql`
    """
    import sqlalchemy as sa

    values = {
        parameter: moment.astimezone(UTC).replace(tzinfo=None if dialect.name in _WITHOUT_ZONES else UTC)
        for parameter, moment in (("window_start", window_start), ("window_end", window_end))
    }
    prepared, parameters = _prepare(sql)
    return sa.text(change(prepared)).bindparams(
        *(
            sa.bindparam(parameter, value=values[parameter], type_=sa.TIMESTAMP(timezone=True))
            for parameter in sorted(parameters)
        )
    )


def _find_columns(sql: JobSql, columns: Sequence[str]) -> tuple[int, int]:
    lowered = [column.lower() for column in columns]
    for column in COLUMNS:
        if lowered.count(column) != 1:
            raise sql.fault(f"must yield the column {column} once; it yields: {', '.join(columns)}")
    return lowered.index(COLUMNS[0]), lowered.index(COLUMNS[1])
