"""A whole Airflow whose tasks run on Celery workers, each as if it were a machine of its own."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from include.stack.local_airflow import LocalAirflow
from include.stack.processes import StackError, tail
from include.stack.redis import LocalRedis

if TYPE_CHECKING:
    from pathlib import Path

    from include.stack.processes import Component

_READY = " ready."
_POLL_S = 0.25


class CeleryAirflow(LocalAirflow):
    """
    Run the processes of :class:`LocalAirflow` with CeleryExecutor, a Redis, and several workers.

    :param home: folder of its own, made when missing
    :param workers: how many workers; they are named ``worker-1`` and so on
    :param worker_concurrency: how many tasks run at a time on each
    :param options: what :class:`LocalAirflow` takes
    """

    def __init__(self, home: Path, *, workers: int = 2, worker_concurrency: int = 2, **options: Any) -> None:
        super().__init__(home, parallelism=workers * worker_concurrency, **options)
        self.redis: LocalRedis
        self.workers = [f"worker-{number}" for number in range(1, workers + 1)]
        self._worker_concurrency = worker_concurrency

    def environment(self) -> dict[str, str]:
        """Return the environment of its processes; what the caller gave stays last."""
        celery = {
            "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
            "AIRFLOW__CELERY__BROKER_URL": self.redis.url,
            "AIRFLOW__CELERY__RESULT_BACKEND": f"db+{self.postgres.url('airflow', 'psycopg2')}",
            "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(self._worker_concurrency),
        }
        return super().environment() | celery | self._extra

    def wait_for_workers(self, timeout_s: float = 120.0) -> None:
        """Return when each worker has said that it is ready."""
        deadline = time.monotonic() + timeout_s
        for component in map(self.worker, self.workers):
            while _READY not in component.log.read_text(errors="replace"):
                component.check()
                if time.monotonic() > deadline:
                    raise StackError(f"{component.name} is not ready.\n{tail(component.log)}")
                time.sleep(_POLL_S)

    def worker(self, name: str) -> Component:
        """Return the process of a worker that runs; raises :class:`StackError` for another name."""
        for component in self.components:
            if component.name == name:
                return component
        raise StackError(f"No worker {name} is running.")

    def kill_worker(self, name: str) -> set[int]:
        """Kill a worker with all tasks it is running, as if its machine had failed; return the ids of the processes."""
        return self._keeper.kill(self.worker(name))

    def _start_services(self) -> None:
        super()._start_services()
        self.redis = LocalRedis(self.home / "redis", self._keeper)
        self.redis.start()

    def _programs(self) -> dict[str, list[str]]:
        workers = {
            name: ["celery", "worker", "--skip-serve-logs", "--celery-hostname", f"{name}@%h"]
            for name in self.workers
        }
        return super()._programs() | workers
