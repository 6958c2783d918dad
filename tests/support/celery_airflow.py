"""An Airflow whose tasks run on Celery workers, and the Redis between them."""

from __future__ import annotations

import os
import shutil
import socket
from typing import TYPE_CHECKING, Any

from include.stack import LocalAirflow, StackError
from include.stack.postgres import load_secret
from include.stack.processes import LOOPBACK, Supervisor, choose_port, tail

if TYPE_CHECKING:
    from pathlib import Path

REDIS_MISSING = (
    "redis-server is not installed: run `apt-get install redis-server` (as root, `make programs` does it)"
)
_START_TIMEOUT_S = 15.0


class CeleryAirflow(LocalAirflow):
    """
    Run :class:`LocalAirflow` with CeleryExecutor, Redis, and several workers, each like a separate machine.

    :param home: folder for all files; created if missing
    :param workers: how many workers; they are named ``worker-1`` and so on
    :param worker_concurrency: how many tasks run at a time on each
    :param options: see :class:`LocalAirflow`
    """

    def __init__(self, home: Path, *, workers: int = 2, worker_concurrency: int = 2, **options: Any) -> None:
        super().__init__(home, parallelism=workers * worker_concurrency, **options)
        self.redis: LocalRedis
        self.workers = [f"worker-{number}" for number in range(1, workers + 1)]
        self._worker_concurrency = worker_concurrency

    def wait_for_workers(self, timeout_s: float = 120.0) -> None:
        """Return when each worker has logged that it is ready."""
        for component in map(self.component, self.workers):
            self.supervisor.wait_until(
                lambda log=component.log: " ready." in log.read_text(errors="replace"),  # type: ignore[misc]
                timeout_s,
                lambda each=component: f"{each.name} is not ready.\n{tail(each.log)}",  # type: ignore[misc]
            )

    def kill_worker(self, name: str) -> set[int]:
        """Kill a worker with all its tasks, as if its machine had failed; return the IDs of its processes."""
        return self.supervisor.kill(self.component(name))

    def _start_services(self) -> None:
        super()._start_services()
        self.redis = LocalRedis(self.home / "redis", self.supervisor)
        self.redis.start()

    def _executor(self) -> dict[str, str]:
        return {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CELERY__BROKER_URL": self.redis.url,
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{self.postgres.url('airflow', 'psycopg2')}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(self._worker_concurrency),
        }

    def _programs(self) -> dict[str, list[str]]:
        workers = {
            name: ["celery", "worker", "--skip-serve-logs", "--celery-hostname", f"{name}@%h"]
            for name in self.workers
        }
        return super()._programs() | workers


class LocalRedis:
    """
    A Redis server from the machine's package `redis-server`, with a generated password and all data in memory.

    :param home: folder of its settings; created if missing
    :param supervisor: runs the server, and stops it after the programs that use it
    """

    def __init__(self, home: Path, supervisor: Supervisor) -> None:
        self.home = home.resolve()
        self.port = 0
        self._supervisor = supervisor
        self._password = ""

    @property
    def url(self) -> str:
        """Return the URL of its first database."""
        return f"redis://:{self._password}@{LOOPBACK}:{self.port}/0"

    def start(self) -> None:
        """Start the server, and return when it responds; raise :class:`StackError` if Redis is not installed."""
        program = shutil.which("redis-server")
        if program is None:
            raise StackError(REDIS_MISSING)
        self.home.mkdir(parents=True, exist_ok=True)
        self._password = load_secret(self.home / "password")
        self.port = choose_port()
        server = self._supervisor.start(
            "redis",
            [program, str(self._write_settings())],
            env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
            log=self.home.parent / "logs" / "redis.log",
            cwd=self.home,
            is_service=True,
        )
        self._supervisor.wait_until(
            self._responds, _START_TIMEOUT_S, lambda: f"Redis does not respond.\n{tail(server.log)}"
        )

    def _write_settings(self) -> Path:
        """Write the settings to a private file: a command line is visible to every user of the machine."""
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

    def _responds(self) -> bool:
        try:
            socket.create_connection((LOOPBACK, self.port), timeout=5).close()
        except OSError:
            return False
        return True
