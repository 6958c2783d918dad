"""A real PgBouncer in transaction mode, from the machine's own package, in front of a PostgreSQL."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psycopg
import pytest

from include.stack.processes import LOOPBACK, choose_port, hand_over, unprivileged

if TYPE_CHECKING:
    from collections.abc import Iterator

    import sqlalchemy as sa

HOW_TO_GET_IT = (
    "no pgbouncer on this machine: `apt-get install pgbouncer` (root: `make test-systems` does it)"
)
_START_TIMEOUT_S = 30.0
_SESSIONS = 2
"""Sessions in PostgreSQL: fewer than clients, so that these share them."""


@contextmanager
def running_pgbouncer(server: sa.URL) -> Iterator[sa.URL]:
    """
    Start a PgBouncer, yield the URL of the same database through it, and stop it.

    :param server: URL of a database with host, port, user and password
    """
    program = shutil.which("pgbouncer", path=f"/usr/local/sbin:/usr/sbin:{os.defpath}")
    if program is None:
        # CI must not silently skip these tests.
        (pytest.fail if os.environ.get("CI") else pytest.skip)(HOW_TO_GET_IT)
    with TemporaryDirectory(prefix="zoho-pgbouncer-") as name:
        folder, port = Path(name), choose_port()
        (folder / "pgbouncer.ini").write_text(_configuration(server, port))
        hand_over(folder)
        command = [*unprivileged(Path(program), folder), program, str(folder / "pgbouncer.ini")]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, cwd="/") as run:
            try:
                url = server.set(host=LOOPBACK, port=port)
                _wait_for(url, run)
                yield url
            finally:
                run.terminate()


def _configuration(server: sa.URL, port: int) -> str:
    return f"""
[databases]
{server.database} = host={server.host} port={server.port} user={server.username} password={server.password}

[pgbouncer]
listen_addr = {LOOPBACK}
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {_SESSIONS}
"""


def _wait_for(url: sa.URL, run: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
    while True:
        try:
            psycopg.connect(plain, connect_timeout=5).close()
        except psycopg.OperationalError:
            assert run.poll() is None, run.stderr.read().decode() if run.stderr else ""
            assert time.monotonic() < deadline
            time.sleep(0.05)
        else:
            return
