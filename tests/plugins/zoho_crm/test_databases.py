"""Read from real databases through Airflow hooks: windows, values, refused SQL, and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from importlib import import_module
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.support.databases import job_sql
from zoho_crm.databases import create_source_engine
from zoho_crm.errors import PlanError, ZohoConfigError
from zoho_crm.ledger.engine import engine_of as audit_engine_of
from zoho_crm.source import _bind_window, fetch_value, stream_links

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONN = "warehouse"
START = datetime(2026, 11, 21, tzinfo=UTC)
END = datetime(2026, 11, 22, tzinfo=UTC)
SQL = "SELECT external_id, related_external_id FROM pairs"
WINDOW = " WHERE marked_at >= :window_start AND marked_at < :window_end ORDER BY external_id"
ROOT = Path(__file__).parents[3]

pytestmark = pytest.mark.systems
integration = pytest.mark.integration
WAREHOUSES = [
    pytest.param("sqlite", id="sqlite"),
    pytest.param("postgres", marks=integration, id="postgres"),
    pytest.param("pymysql", marks=integration, id="mariadb, pymysql"),
    pytest.param("duckdb", id="duckdb"),
]


@dataclass(frozen=True, slots=True)
class Warehouse:
    """
    A warehouse with a table of pairs, whose sessions are not in UTC by default.

    :param connection: the Airflow connection
    :param execute: runs a statement and commits
    """

    kind: str
    connection: dict[str, Any]
    execute: Any

    def add(self, *rows: tuple[str, str, str]) -> None:
        values = ", ".join(str(row) for row in rows)
        self.execute(f"INSERT INTO pairs VALUES {values}")  # noqa: S608 - our own rows


@pytest.fixture(params=WAREHOUSES)
def warehouse(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Warehouse:
    made = _warehouse(request.param, request, tmp_path)
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN.upper()}", json.dumps(made.connection))
    moment = {"postgres": "TIMESTAMP", "duckdb": "TIMESTAMP", "sqlite": "TEXT"}.get(made.kind, "DATETIME(6)")
    names = "external_id VARCHAR(50), related_external_id VARCHAR(50)"
    made.execute(
        f"CREATE TABLE pairs ({names}, marked_at {moment}){' CHARSET utf8mb4' * ('mysql' in made.kind)}"
    )
    return made


def _warehouse(kind: str, request: pytest.FixtureRequest | None, folder: Path) -> Warehouse:
    if kind == "duckdb":
        path = str(folder / "w.duckdb")
        # A file of DuckDB is open in one process, and all its connections there share the settings.
        settings = {"host": path, "extra": {"settings": {"timezone": "America/Phoenix"}}}

        def execute(statement: str) -> None:
            import duckdb

            with duckdb.connect(path, config=_AS_THE_HOOK) as connection:
                connection.execute(statement)

        return Warehouse(kind, {"conn_type": "duckdb", **settings}, execute)
    if kind == "sqlite":
        path = str(folder / "w.db")
        return Warehouse(kind, {"conn_type": "sqlite", "host": path}, _committing(f"sqlite:///{path}"))
    if kind == "postgres":
        url = request.getfixturevalue("postgres_url")
        options = f"{url.query['options']} -ctimezone=America/Phoenix"
        connection = {
            "conn_type": "postgres",
            "host": url.query["host"],
            "login": url.username,
            "schema": url.database,
            "extra": {"sqlalchemy_query": {"options": options}},
        }
        return Warehouse(kind, connection, _committing(url))
    url = request.getfixturevalue("mariadb_url")
    connection = {
        "conn_type": "mysql",
        "host": url.host,
        "port": url.port,
        "login": url.username,
        "password": url.password,
        "schema": url.database,
        "extra": {"client": kind},
    }
    return Warehouse(kind, connection, _committing(url))


_AS_THE_HOOK = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": True,
    "allow_community_extensions": False,
    "timezone": "America/Phoenix",
}


def _committing(url: str | sa.URL) -> Any:
    def execute(statement: str) -> None:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.execute(sa.text(statement.replace(":", "\\:")))

    return execute


@pytest.fixture
def engine(warehouse: Warehouse) -> Iterator[sa.Engine]:
    engine = create_source_engine(CONN)
    yield engine
    engine.dispose()


def pairs(engine: sa.Engine, sql: str) -> list[tuple[object, object]]:
    return list(stream_links(engine, job_sql(sql), START, END))


def test_window_is_half_open_and_in_utc_whatever_the_servers_time_zone(
    warehouse: Warehouse, engine: sa.Engine
) -> None:
    warehouse.add(
        ("before", "d", "2026-11-20 23:59:59.999999"),
        ("first", "d", "2026-11-21 00:00:00.000000"),
        ("last", "d", "2026-11-21 23:59:59.999999"),
        ("end", "d", "2026-11-22 00:00:00.000000"),
    )
    assert pairs(engine, SQL + WINDOW) == [("first", "d"), ("last", "d")]
    counting = f"SELECT count(*) FROM ({SQL + WINDOW}) p"  # noqa: S608 - our own words
    assert fetch_value(engine, job_sql(counting), START, END) == 2


def test_column_with_a_time_zone_is_compared_by_moment(warehouse: Warehouse, engine: sa.Engine) -> None:
    if warehouse.kind == "sqlite":
        pytest.skip("SQLite has no such columns")
    kind = "TIMESTAMP" if "mysql" in warehouse.kind else "TIMESTAMPTZ"
    # Noon in Phoenix and on a server that is seven hours behind: 19:00 in UTC.
    zone = "" if "mysql" in warehouse.kind else "-07"
    warehouse.execute(f"CREATE TABLE moments (external_id INTEGER, marked_at {kind})")
    warehouse.execute(
        f"INSERT INTO moments VALUES (1, '2026-11-20 16:59:59{zone}'), (2, '2026-11-20 17:00:00{zone}')"  # noqa: S608
    )
    sql = "SELECT external_id, 7 AS related_external_id FROM moments WHERE marked_at >= :window_start"
    assert pairs(engine, sql) == [(2, 7)]


@pytest.mark.parametrize("window", ["", " AND :window_start < :window_end"], ids=["no window", "window"])
def test_percent_signs_and_colons_reach_the_database_unchanged(
    warehouse: Warehouse, engine: sa.Engine, window: str
) -> None:
    warehouse.add(("100%% ?", "%s % d 10:30", "2026-11-21 00:00:00"))
    sql = f"{SQL} WHERE external_id LIKE '100%% ?' AND related_external_id = '%s % d 10:30'{window}"
    assert pairs(engine, sql) == [("100%% ?", "%s % d 10:30")]


def test_values_are_not_converted(warehouse: Warehouse, engine: sa.Engine) -> None:
    warehouse.add(("ü-漢-🔗", "D", "2026-11-21 00:00:00"))
    assert pairs(engine, SQL) == [("ü-漢-🔗", "D")]
    assert pairs(engine, "SELECT 7 AS external_id, NULL AS related_external_id") == [(7, None)]
    if warehouse.kind != "sqlite":
        sql = "SELECT CAST(5840000000000001 AS DECIMAL(20, 0)) AS external_id, 1 AS related_external_id"
        assert pairs(engine, sql) == [(Decimal("5840000000000001"), 1)]


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT external_id FORM pairs WHERE",
        "SELECT external_id, related_external_id FROM pears",
        "SELECT external_id, other FROM pairs",
    ],
    ids=["syntax", "table", "column"],
)
def test_refused_sql_is_a_plan_error_with_the_drivers_message(
    warehouse: Warehouse, engine: sa.Engine, sql: str
) -> None:
    with pytest.raises(PlanError, match=r"^source\.sql_file: the warehouse refuses pairs\.sql: "):
        pairs(engine, sql)


def test_nothing_is_written(warehouse: Warehouse, engine: sa.Engine) -> None:
    warehouse.add(("c-1", "d-1", "2026-11-21 05:00:00"))
    with pytest.raises((PlanError, sa.exc.DBAPIError)):
        pairs(engine, "DELETE FROM pairs")
    engine.dispose()
    assert pairs(engine, SQL) == [("c-1", "d-1")]


def test_closing_the_stream_early_releases_the_connection(
    warehouse: Warehouse, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("zoho_crm.source.FETCH_ROWS", 10)
    warehouse.add(*((f"c-{n:03}", "d", "2026-11-21 05:00:00") for n in range(95)))
    stream = stream_links(engine, job_sql(f"{SQL} ORDER BY external_id"), START, END)
    assert list(islice(stream, 3)) == [("c-000", "d"), ("c-001", "d"), ("c-002", "d")]
    stream.close()  # type: ignore[attr-defined]
    assert len(pairs(engine, SQL)) == 95
    assert caplog.messages == []


def test_audit_needs_a_database_with_row_locks(warehouse: Warehouse) -> None:
    if warehouse.kind == "duckdb":
        with pytest.raises(ZohoConfigError, match="is for duckdb, which cannot hold the audit"):
            audit_engine_of(CONN)
        return
    audit_engine_of(CONN).dispose()


def test_duckdb_is_opened_with_the_settings_of_the_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _warehouse("duckdb", None, tmp_path)
    made.execute("CREATE TABLE pairs (external_id TEXT, related_external_id TEXT)")
    made.connection["extra"] = {"read_only": True, "threads": 3}
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN.upper()}", json.dumps(made.connection))
    engine = create_source_engine(CONN)
    sql = "SELECT current_setting('access_mode') AS external_id, current_setting('threads') AS related_external_id"
    assert pairs(engine, sql) == [("read_only", 3)]
    engine.dispose()


def test_mysql_client_that_buffers_results_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {"conn_type": "mysql", "host": "h", "extra": {"client": "mysql-connector-python"}}
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN.upper()}", json.dumps(connection))
    with pytest.raises(
        ZohoConfigError, match=r"'warehouse' uses mysql-connector-python.* extra client to pymysql"
    ):
        create_source_engine(CONN)


@pytest.mark.parametrize(
    ("uri", "conn_type"),
    [
        ("redshift+psycopg2://u:hunter2@h:1/d", "sqlite"),
        ("postgresql+psycopg2://u:hunter2@h:1/d", "redshift"),
    ],
    ids=["its own dialect", "as Airflow's hook has it"],
)
def test_audit_in_a_database_without_row_locks_is_refused(
    monkeypatch: pytest.MonkeyPatch, uri: str, conn_type: str
) -> None:
    from airflow.providers.sqlite.hooks.sqlite import SqliteHook

    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN.upper()}", '{"conn_type": "sqlite", "host": "x.db"}')
    monkeypatch.setattr(SqliteHook, "get_uri", lambda _: uri)
    monkeypatch.setattr(SqliteHook, "conn_type", conn_type)
    with pytest.raises(ZohoConfigError, match="is for redshift, which cannot hold the audit") as caught:
        audit_engine_of(CONN)
    assert "hunter2" not in str(caught.value)


def test_unreachable_database_is_not_a_plan_error(monkeypatch: pytest.MonkeyPatch) -> None:
    connection = {"conn_type": "mysql", "host": "127.0.0.1", "port": 1, "extra": {"client": "pymysql"}}
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN.upper()}", json.dumps(connection))
    with pytest.raises(sa.exc.DBAPIError):
        pairs(create_source_engine(CONN), SQL)


@pytest.mark.parametrize("create", [create_source_engine, audit_engine_of], ids=["source", "audit"])
def test_missing_driver_or_dialect_is_reported_without_the_password(
    monkeypatch: pytest.MonkeyPatch, create: Callable[[str], sa.Engine]
) -> None:
    connection = {"conn_type": "mysql", "host": "h", "password": "hunter2"}
    monkeypatch.setenv(f"AIRFLOW_CONN_{CONN.upper()}", json.dumps(connection))
    monkeypatch.setitem(sys.modules, "MySQLdb", None)
    with pytest.raises(ZohoConfigError, match=r"no SQLAlchemy engine \(ModuleNotFoundError\)") as caught:
        create(CONN)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("dialect", "start"),
    [
        ("snowflake.sqlalchemy:dialect", "%(window_start)s"),
        ("sqlalchemy_bigquery:dialect", "%(window_start:TIMESTAMP)s"),
        ("sqlalchemy_redshift.dialect:RedshiftDialect_psycopg2", "%(window_start)s"),
        ("sqlalchemy.dialects.postgresql.psycopg2:dialect", "%(window_start)s"),
    ],
    ids=["snowflake", "bigquery", "redshift", "redshift, as Airflow's hook has it"],
)
def test_sql_compiles_for_databases_without_a_test_server(dialect: str, start: str) -> None:
    module, _, name = dialect.partition(":")
    made = getattr(import_module(module), name)(paramstyle="pyformat")
    statement = _bind_window(
        job_sql(f"{SQL} WHERE marked_at >= :window_start AND 'a' LIKE 'a%'"), START, END, made
    )

    compiled = statement.compile(dialect=made)

    assert str(compiled) == f"{SQL} WHERE marked_at >= {start} AND 'a' LIKE 'a%%'"
    assert compiled.params == {"window_start": START}


MANY = 120_000
WIDE = 1_000
"""Characters in a row: all rows together are 120 MB, the memory that a buffered result needs."""
MOST_MB = 155
GROWTH_MB = 12
SERIES = {
    "sqlite": "WITH RECURSIVE s(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {many}) SELECT n FROM s",
    "postgresql": "SELECT n FROM generate_series(1, {many}) AS s(n)",
    "mysql": "SELECT seq AS n FROM seq_1_to_{many}",
    "duckdb": "SELECT range AS n FROM range({many})",
}
PADDED = {"sqlite": "hex(zeroblob({wide} / 2)) || n", "duckdb": "repeat('d', {wide}) || n"}
CHILD = """
import json, sys
import sqlalchemy as sa
from datetime import datetime, UTC
from zoho_crm.core.job_files import JobSql
from zoho_crm.source import stream_links

url, sql = json.loads(sys.argv[1])
engine = sa.create_engine(url)

def used_mb():
    # The most ever used since this program was started; getrusage begins with what its parent used.
    status = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(status["VmHWM"].split()[0]) / 1024

count = first = 0
sql = JobSql("source.sql_file", "pairs.sql", sql)
for _ in stream_links(engine, sql, datetime(2026, 11, 21, tzinfo=UTC), datetime(2026, 11, 22, tzinfo=UTC)):
    count += 1
    if count == 20_000:
        first = used_mb()
print(json.dumps([count, used_mb() - first, first]))
"""


@pytest.mark.parametrize(
    "driver",
    [
        pytest.param("sqlite", id="sqlite"),
        pytest.param("postgresql+psycopg", marks=integration, id="psycopg"),
        pytest.param("postgresql+psycopg2", marks=integration, id="psycopg2"),
        pytest.param("mysql+pymysql", marks=integration, id="pymysql"),
        pytest.param("duckdb", id="duckdb"),
    ],
)
def test_memory_stays_flat(driver: str, request: pytest.FixtureRequest) -> None:
    name = driver.partition("+")[0]
    padded = PADDED.get(name, "concat(repeat('d', {wide}), n)").format(wide=WIDE)
    series = SERIES[name].format(many=MANY)
    columns = f"n AS external_id, {padded} AS related_external_id"
    sql = f"SELECT {columns} FROM ({series}) p WHERE :window_start < :window_end"  # noqa: S608 - our own words
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps([_url(driver, request), sql])],
        capture_output=True,
        text=True,
        check=False,
        env={"PYTHONPATH": str(ROOT / "plugins"), "PATH": "/usr/bin:/bin"},
    )
    assert done.returncode == 0, done.stderr
    count, growth_mb, first_mb = json.loads(done.stdout)
    assert count == MANY
    assert growth_mb < GROWTH_MB
    assert first_mb < MOST_MB  # nor were they all there when the first of them came


def _url(driver: str, request: pytest.FixtureRequest) -> str:
    if driver in {"sqlite", "duckdb"}:
        return f"{driver}://"
    fixture = "postgres_url" if driver.startswith("postgresql") else "mariadb_url"
    url: sa.URL = request.getfixturevalue(fixture).set(drivername=driver)
    return url.render_as_string(hide_password=False)
