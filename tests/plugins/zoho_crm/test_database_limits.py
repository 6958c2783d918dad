"""Databases that accept and answer nothing, hold locks, or take too long: each wait ends with one sentence."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.support.databases import connection_to, set_connection
from zoho_crm import database_limits
from zoho_crm.database_limits import DatabaseTimeoutError, StatementLimits, with_limits
from zoho_crm.databases import create_source_engine
from zoho_crm.errors import ZohoError
from zoho_crm.ledger.engine import prepared, reading, reading_for_people
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

BRIEF = StatementLimits(silence_s=6, statement_s=3, lock_s=1)
LONGEST_S = 15.0
SLOW = {
    "mysql": "SELECT count(*) FROM seq_1_to_10000000 a JOIN seq_1_to_10000000 b ON a.seq <> b.seq",
    "postgresql": "SELECT pg_sleep(30)",
}
systems = pytest.mark.systems
integration = pytest.mark.integration


class SilentServer:
    """
    A server on the loopback address that accepts connections and passes them on, until it swallows everything.

    :param server: path of the Unix socket that it passes connections on to; None to swallow from the beginning
    """

    def __init__(self, server: str | None = None) -> None:
        self.swallows = server is None
        self._server = server
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in [self._listener, *self._sockets]:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                if self._server is not None:
                    server = socket.socket(socket.AF_UNIX)
                    server.connect(self._server)
                    self._sockets.append(server)
                    for ends in ((client, server), (server, client)):
                        threading.Thread(target=self._carry, args=ends, daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self.swallows:
                    sink.sendall(data)


@pytest.fixture
def silent() -> Iterator[SilentServer]:
    server = SilentServer()
    yield server
    server.close()


@contextmanager
def _ends_soon() -> Iterator[None]:
    started = time.monotonic()
    yield
    assert time.monotonic() - started < LONGEST_S


@pytest.mark.parametrize(
    "driver",
    [
        pytest.param("postgresql+psycopg", marks=integration),
        pytest.param("postgresql+psycopg2", marks=integration),
        pytest.param("mysql+pymysql", marks=[integration, systems]),
    ],
)
def test_connection_that_is_accepted_and_never_answered_ends(
    silent: SilentServer, driver: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(database_limits._LIBPQ, "connect_timeout", 2)
    url = sa.URL.create(driver, "me", "hunter2", "127.0.0.1", silent.port, "audit")
    if "pymysql" in driver:
        url = url.update_query_dict({"connect_timeout": "2"})
    ledger = Ledger(sa.create_engine(url))

    with (
        _ends_soon(),
        pytest.raises(ZohoError, match="did not accept a connection within 2 s: check") as caught,
    ):
        ledger.check_connection()
    assert "hunter2" not in str(caught.value)


@integration
def test_source_that_never_answers_ends_with_the_name_of_its_connection(
    silent: SilentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    query = {"connect_timeout": "2"}
    set_connection(
        monkeypatch,
        "warehouse",
        conn_type="postgres",
        host="127.0.0.1",
        port=silent.port,
        schema="w",
        extra={"sqlalchemy_query": query},
    )
    engine = create_source_engine("warehouse")

    with (
        _ends_soon(),
        pytest.raises(
            DatabaseTimeoutError, match="connection 'warehouse' did not accept a connection within 2 s"
        ),
    ):
        engine.connect()


@pytest.mark.parametrize("kind", ["audit", "source"])
def test_session_that_is_swallowed_ends_and_the_next_one_works(
    postgres_url: sa.URL, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = SilentServer(f"{postgres_url.query['host']}/.s.PGSQL.5432")
    query = {**postgres_url.query, "host": "127.0.0.1", "port": str(proxy.port)}
    url = postgres_url.set(drivername="postgresql+psycopg", query=query)
    engine = _engine(url, kind, monkeypatch)
    try:
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT 1")) == 1
            connection.rollback()
            proxy.swallows = True
            with (
                _ends_soon(),
                pytest.raises(DatabaseTimeoutError, match="did not respond within 2 s: check the network"),
            ):
                connection.execute(sa.text("SELECT 2"))
        proxy.swallows = False
        with engine.connect() as connection:
            assert connection.scalar(sa.text("SELECT 3")) == 3
    finally:
        engine.dispose()
        proxy.close()


def _engine(url: sa.URL, kind: str, monkeypatch: pytest.MonkeyPatch) -> sa.Engine:
    if kind == "audit":
        return with_limits(reading(prepared(sa.create_engine(url))), StatementLimits(silence_s=2))
    monkeypatch.setattr("zoho_crm.databases.SOURCE_SILENCE_S", 2)
    set_connection(monkeypatch, "warehouse", **connection_to(url))
    return create_source_engine("warehouse")


@pytest.fixture(
    params=[
        "sqlite",
        *(pytest.param(name, marks=integration) for name in ("psycopg", "psycopg2")),
        pytest.param("mariadb", marks=[integration, systems]),
    ]
)
def engine(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[sa.Engine]:
    """An audit database with brief limits, in which `t` has one row."""
    monkeypatch.setattr("zoho_crm.ledger.engine._LOCK_S", BRIEF.lock_s)
    if request.param == "sqlite":
        url = sa.URL.create("sqlite", database=str(tmp_path / "audit.db"))
    elif request.param == "mariadb":
        url = request.getfixturevalue("mariadb_url")
    else:
        url = request.getfixturevalue("postgres_url").set(drivername=f"postgresql+{request.param}")
    engine = with_limits(prepared(sa.create_engine(url)), BRIEF)
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE t (a INTEGER)")
        connection.exec_driver_sql("INSERT INTO t VALUES (1)")
    yield engine
    engine.dispose()


def test_wait_for_a_lock_ends(engine: sa.Engine) -> None:
    update = sa.text("UPDATE t SET a = 2")
    with engine.begin() as holder:
        holder.execute(update)
        with (
            _ends_soon(),
            pytest.raises(DatabaseTimeoutError, match="did not grant a lock within 1 s: another transaction"),
            engine.begin() as connection,
        ):
            connection.execute(update)


def test_statement_that_takes_too_long_ends(engine: sa.Engine) -> None:
    if engine.name == "sqlite":
        pytest.skip("runs in this process")
    slow = SLOW[engine.name]
    with (
        _ends_soon(),
        pytest.raises(DatabaseTimeoutError, match="canceled a statement, whose limit is 3 s: "),
        reading(engine).begin() as connection,
    ):
        connection.execute(sa.text(slow))


def test_pages_and_commands_have_shorter_limits_and_only_read(postgres_url: sa.URL) -> None:
    engine = prepared(sa.create_engine(postgres_url))
    settings = "SELECT current_setting('statement_timeout'), current_setting('transaction_read_only')"
    with engine.begin() as connection:
        assert tuple(connection.exec_driver_sql(settings).one()) == ("5min", "off")
    with reading_for_people(engine).begin() as connection:
        assert tuple(connection.exec_driver_sql(settings).one()) == ("30s", "on")
    engine.dispose()


def test_options_of_the_connection_take_precedence(postgres_url: sa.URL) -> None:
    options = {"keepalives_idle": "7", "tcp_user_timeout": "1234"}
    engine = prepared(
        sa.create_engine(postgres_url.set(drivername="postgresql+psycopg").update_query_dict(options))
    )
    with engine.connect() as connection:
        parameters = connection.connection.driver_connection.info.get_parameters()  # type: ignore[union-attr]
    engine.dispose()

    assert {name: parameters[name] for name in options} == options
    assert parameters["connect_timeout"] == "10"
