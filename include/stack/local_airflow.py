"""A whole Airflow on this machine: PostgreSQL, API server, scheduler, Dag processor and triggerer."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import requests

from include.stack.client import ApiClient, ApiError, unhealthy_components
from include.stack.postgres import LocalPostgres
from include.stack.processes import LOOPBACK, StackError, Supervisor, choose_port
from include.stack.settings import airflow_settings, clean_environment, load_passwords

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from include.stack.processes import Component

_PROJECT = Path(__file__).resolve().parents[2]
_MIGRATE_TIMEOUT_S = 300.0
_FINAL_STATES = frozenset({"success", "failed"})


class LocalAirflow:
    """
    Run a whole Airflow as processes of this machine, reachable from this machine alone.

    A context manager: ``with`` starts the processes (see :meth:`wait_until_healthy`), and leaves none behind, however
    the block ends. Metadata database, passwords and logs stay in the home folder and are used again by the next
    Airflow there; the port may differ.

    :param home: folder for all files; created if missing. Each process logs to ``logs/<name>.log`` in it
    :param dags_folder: folder of the Dags
    :param parallelism: how many tasks run at a time
    :param env: more environment variables of all processes, above all connections (``AIRFLOW_CONN_…``)
    :param triggerer: whether to run the triggerer
    :param preferred_port: port to use if it is free
    """

    def __init__(
        self,
        home: Path,
        *,
        dags_folder: Path = _PROJECT / "dags",
        parallelism: int = 8,
        env: Mapping[str, str] | None = None,
        triggerer: bool = True,
        preferred_port: int | None = None,
    ) -> None:
        self.home = home.resolve()
        self.env = dict(env or {})
        self.passwords: Mapping[str, str] = {}
        self.port = 0
        self.postgres: LocalPostgres
        self._dags_folder = dags_folder.resolve()
        self._parallelism = parallelism
        self._triggerer = triggerer
        self._preferred_port = preferred_port
        self.supervisor = Supervisor()
        self._is_locked = False
        self._client: ApiClient | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def url(self) -> str:
        """Return the address of UI and API."""
        return f"http://{LOOPBACK}:{self.port}"

    def lock(self) -> None:
        """Reserve the home folder; raise :class:`StackError` when another Airflow runs there."""
        if not self._is_locked:
            self.home.mkdir(parents=True, exist_ok=True)
            self.supervisor.lock(self.home / "stack.pid")
            self._is_locked = True

    def start(self) -> None:
        """Start all processes; on return PostgreSQL accepts connections and its schema is migrated."""
        self.lock()
        (self.home / "tmp").mkdir(exist_ok=True)
        self._start_services()
        self.passwords = load_passwords(self.home)
        self.port = choose_port(self._preferred_port)
        self._client = ApiClient(self.url, self.passwords)
        env, logs = self.environment(), self.home / "logs"
        airflow = [sys.executable, "-m", "airflow"]
        self.supervisor.run(
            "airflow db migrate",
            [*airflow, "db", "migrate"],
            env=env,
            log=logs / "migrate.log",
            timeout_s=_MIGRATE_TIMEOUT_S,
        )
        for name, argv in self._programs().items():
            self.supervisor.start(name, [*airflow, *argv], env=env, log=logs / f"{name}.log")

    def stop(self) -> None:
        """Stop all processes, PostgreSQL last, and return when none is left."""
        self.supervisor.stop()
        self._is_locked = False
        if self._client is not None:
            self._client.close()
            self._client = None

    def environment(self) -> dict[str, str]:
        """Return the environment of its processes, for instance to run Airflow's own command line in it."""
        return {
            **clean_environment(self.home, _PROJECT, os.environ),
            **airflow_settings(
                self.home,
                port=self.port,
                dags_folder=self._dags_folder,
                plugins_folder=_PROJECT / "plugins",
            ),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": self.postgres.url("airflow", "psycopg2"),
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": self.postgres.url("airflow", "asyncpg"),
            "AIRFLOW__CORE__PARALLELISM": str(self._parallelism),
            **self._executor(),
            **self.env,
        }

    def component(self, name: str) -> Component:
        """Return one of the processes that it started; raise :class:`StackError` for an unknown name."""
        for component in self.supervisor.components:
            if component.name == name:
                return component
        raise StackError(f"{name} is not running.")

    def processes(self) -> set[int]:
        """Return the IDs of all its living processes, including running tasks and PostgreSQL's back ends."""
        return self.supervisor.processes()

    def check(self) -> None:
        """Raise :class:`StackError` when any of the processes has ended."""
        self.supervisor.check()

    def api(self, method: str, path: str, json: object = None, *, user: str | None = "admin") -> Any:
        """Send a request to the REST API and return the decoded response; see :meth:`ApiClient.request`."""
        if self._client is None:
            raise StackError("Airflow is not running: use it inside `with`.")
        return self._client.request(method, path, json, user=user)

    def wait_until_healthy(self, timeout_s: float = 240.0) -> None:
        """Return when each component reports that it is healthy."""
        expected = ["metadatabase", "scheduler", "dag_processor", *(["triggerer"] if self._triggerer else [])]
        reasons = ["the API server does not respond"]

        def is_healthy() -> bool:
            with suppress(requests.ConnectionError):
                health = self.api("GET", "/api/v2/monitor/health", user=None)
                reasons[:] = unhealthy_components(health, expected)
                return not reasons
            return False

        logs = self.home / "logs"
        self.supervisor.wait_until(is_healthy, timeout_s, lambda: f"{'; '.join(reasons)}. Logs: {logs}")

    def wait_for_dag(self, dag_id: str, timeout_s: float = 60.0) -> None:
        """Return when Airflow has loaded the Dag."""

        def is_loaded() -> bool:
            try:
                self.api("GET", f"/api/v2/dags/{quote(dag_id)}")
            except ApiError as error:
                if error.status != 404:
                    raise
                return False
            return True

        self.supervisor.wait_until(is_loaded, timeout_s, lambda: f"no Dag {dag_id}")

    def unpause(self, dag_id: str) -> None:
        """Allow runs of the Dag to start, scheduled ones too."""
        self.api("PATCH", f"/api/v2/dags/{quote(dag_id)}", {"is_paused": False})

    def trigger(
        self,
        dag_id: str,
        conf: Mapping[str, object] | None = None,
        logical_date: datetime | None = None,
        *,
        user: str = "admin",
    ) -> str:
        """Trigger a run as a user and return its ID. The run starts only when the Dag is not paused."""
        body = {"conf": dict(conf or {}), "logical_date": logical_date.isoformat() if logical_date else None}
        run = self.api("POST", f"/api/v2/dags/{quote(dag_id)}/dagRuns", body, user=user)
        return str(run["dag_run_id"])

    def wait_for_run(self, dag_id: str, run_id: str, timeout_s: float = 300.0) -> str:
        """Return the final state of the run: ``success`` or ``failed``."""
        path = f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"
        state = ""

        def has_ended() -> bool:
            nonlocal state
            state = self.api("GET", path)["state"]
            return state in _FINAL_STATES

        self.supervisor.wait_until(has_ended, timeout_s, lambda: f"run {run_id} of {dag_id} is {state}")
        return state

    def _start_services(self) -> None:
        self.postgres = LocalPostgres(self.home / "postgres", self.supervisor)
        self.postgres.start()
        self.postgres.create_database("airflow", durable=False)

    def _executor(self) -> dict[str, str]:
        return {"AIRFLOW__CORE__EXECUTOR": "LocalExecutor"}

    def _programs(self) -> dict[str, list[str]]:
        # The servers of task logs would listen on all interfaces; without them the API server reads the files.
        programs = {
            "api-server": ["api-server"],
            "scheduler": ["scheduler", "--skip-serve-logs"],
            "dag-processor": ["dag-processor"],
        }
        if self._triggerer:
            programs["triggerer"] = ["triggerer", "--skip-serve-logs"]
        return programs
