"""A Redis of our own, from the machine's package `redis-server`, on the loopback address alone."""

from __future__ import annotations

import os
import shutil
import socket
import time
from typing import TYPE_CHECKING

from include.stack.network import LOOPBACK, choose_port
from include.stack.processes import StackError, tail
from include.stack.settings import keep_password

if TYPE_CHECKING:
    from pathlib import Path

    from include.stack.processes import Component, Keeper

HOW_TO_GET_IT = (
    "no redis-server on this machine: `apt-get install redis-server` (root: `make programs` does it)"
)
_START_TIMEOUT_S = 15.0
_POLL_S = 0.05


class LocalRedis:
    """
    Run a Redis with a generated password that keeps everything in memory.

    :param home: folder of its own, made when missing
    :param keeper: runs the server beside other processes, and stops it after them
    """

    def __init__(self, home: Path, keeper: Keeper) -> None:
        self.home = home.resolve()
        self.port = 0
        self._keeper = keeper
        self._password = ""

    @property
    def url(self) -> str:
        """Return the URL of its first database."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Run the server, and return when it answers; raise :class:`StackError` where there is none to run."""
        program = shutil.which("redis-server")
        if program is None:
            raise StackError(HOW_TO_GET_IT)
        self.home.mkdir(parents=True, exist_ok=True)
        self._password = keep_password(self.home / "password")
        self.port = choose_port()
        server = self._keeper.start(
            "redis",
            [program, str(self._write_settings())],
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            log=self.home.parent / "logs" / "redis.log",
            cwd=self.home,
            phase=1,
        )
        self._wait_until_it_answers(server)

    def _write_settings(self) -> Path:
        """Write the settings to a file, since a command line is everybody's to read, and return its path."""
        settings = {
            "bind": LOOPBACK,
            "port": str(self.port),
            "requirepass": self._password,
            "save": '""',
            "appendonly": "no",
            "daemonize": "no",
        }
        file = self.home / "redis.conf"
        file.touch(mode=0o600)
        file.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        return file

    def _wait_until_it_answers(self, server: Component) -> None:
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            server.check()
            try:
                answer = self._ping()
            except OSError as error:
                answer = str(error)
            if answer == "+OK +PONG":
                return
            if time.monotonic() > deadline:
                raise StackError(f"Redis does not answer: {answer}\n{tail(server.log)}")
            time.sleep(_POLL_S)

    def _ping(self) -> str:
        # Its client library is among the packages that only the tests of whole systems need.
        with socket.create_connection((LOOPBACK, self.port), timeout=5) as connection:
            connection.sendall(f"AUTH {self._password}\r\nPING\r\nQUIT\r\n".encode())
            with connection.makefile("rb") as answers:
                return b" ".join(answers.read().split()[:2]).decode()
