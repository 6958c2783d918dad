"""A real MariaDB, from the machine's own package: one server for each test process, one database for each test."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from include.stack.processes import LOOPBACK, choose_port, hand_over, unprivileged
from tests.support.postgres import in_memory_folder, stopped_with_its_owner

if TYPE_CHECKING:
    from collections.abc import Iterator

HOW_TO_GET_IT = (
    "no mariadbd and mariadb-install-db on this machine: `apt-get install mariadb-server-core mariadb-client-core` "
    "(root: `make test-systems` does it), or MariaDB 10.6 or newer in another way"
)
USER = "tests"
_START_TIMEOUT_S = 30.0
_POLL_S = 0.02
_SYSTEM_FOLDERS = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"

_SETTINGS = {
    # The data need not survive a power failure, and every test commits a lot.
    "innodb-flush-method": "nosync",
    "innodb-doublewrite": "0",
    "innodb-log-file-size": "32M",
    "innodb-buffer-pool-size": "64M",
    "innodb-fast-shutdown": "2",
    # The defaults of the package and a time zone far from UTC: neither must matter.
    "character-set-server": "latin1",
    "default-time-zone": "-07:00",
    "max-connections": "200",
}


@dataclass(frozen=True, slots=True)
class MariaDbServer:
    """A running MariaDB on the loopback address."""

    port: int
    password: str

    def url(self, database: str | None = None, driver: str = "pymysql") -> sa.URL:
        """Return the URL of a database for SQLAlchemy, with any of its drivers."""
        return sa.URL.create(f"mysql+{driver}", USER, self.password, LOOPBACK, self.port, database)

    @contextmanager
    def database(self) -> Iterator[sa.URL]:
        """Create an empty database, yield its URL, and drop it."""
        name = f"test_{uuid.uuid4().hex}"
        self.run(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            self.run(f"DROP DATABASE {name}")

    def run(self, statement: str) -> None:
        """Run a statement outside any transaction."""
        engine = sa.create_engine(self.url(), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)

    def is_ready(self) -> bool:
        """Return whether the server accepts connections."""
        try:
            self.run("DO 0")
        except sa.exc.OperationalError:
            return False
        return True


@contextmanager
def running_mariadb() -> Iterator[MariaDbServer]:
    """Start a MariaDB with its data in a new temporary folder; stop it and remove the data at the end."""
    programs = [shutil.which(name, path=_SYSTEM_FOLDERS) for name in ("mariadbd", "mariadb-install-db")]
    if not all(programs):
        # CI must not silently skip these tests.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(HOW_TO_GET_IT)
    mariadbd, install = (Path(str(program)) for program in programs)
    home = in_memory_folder()
    with tempfile.TemporaryDirectory(prefix="zoho-maria-", dir=home, ignore_cleanup_errors=True) as name:
        folder = Path(name)
        hand_over(folder)
        prefix = unprivileged(mariadbd, folder)
        server = MariaDbServer(choose_port(), secrets.token_urlsafe(16))
        _install([*prefix, str(install)], folder)
        first = folder / "first.sql"
        first.write_text(
            f"CREATE USER {USER}@'{LOOPBACK}' IDENTIFIED BY '{server.password}';\n"
            f"GRANT ALL ON *.* TO {USER}@'{LOOPBACK}' WITH GRANT OPTION;\n"
        )
        hand_over(folder)
        own = {
            "datadir": folder / "data",
            "tmpdir": folder,
            "init-file": first,
            "bind-address": LOOPBACK,
            "port": server.port,
            # Relative to the data: a whole path could be too long for a socket.
            "socket": "server.sock",
            "pid-file": "server.pid",
        }
        options = [f"--{option}={value}" for option, value in {**own, **_SETTINGS}.items()]
        command = [*prefix, str(mariadbd), "--no-defaults", "--skip-name-resolve", "--skip-log-bin", *options]
        log = folder / "log"
        with (
            log.open("wb") as output,
            subprocess.Popen(command, stdout=output, stderr=output, cwd="/") as run,
        ):
            try:
                with stopped_with_its_owner(run.pid, name, signal.SIGTERM):
                    _wait_for(server, run, log)
                    yield server
            finally:
                run.terminate()


def _install(command: list[str], folder: Path) -> None:
    options = [
        f"--datadir={folder / 'data'}",
        f"--tmpdir={folder}",
        "--auth-root-authentication-method=socket",
    ]
    made = subprocess.run(
        [*command, "--no-defaults", "--skip-test-db", "--skip-name-resolve", *options],
        check=False,
        capture_output=True,
        text=True,
        cwd="/",
    )
    assert made.returncode == 0, f"{made.stdout}{made.stderr}"


def _wait_for(server: MariaDbServer, run: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while not server.is_ready():
        assert run.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < deadline, log.read_text(errors="replace")
        time.sleep(_POLL_S)


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[MariaDbServer]:
    with running_mariadb() as server:
        yield server


@pytest.fixture
def mariadb_url(mariadb_server: MariaDbServer) -> Iterator[sa.URL]:
    with mariadb_server.database() as url:
        yield url
