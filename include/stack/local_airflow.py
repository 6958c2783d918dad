"""A whole Airflow on this machine: PostgreSQL, API server, scheduler, Dag processor and triggerer."""

from __future__ import annotations

import fcntl
import os
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote

import requests

from include.stack.client import ApiClient, ApiError
from include.stack.health import unhealthy_components
from include.stack.network import choose_port
from include.stack.postgres import LocalPostgres
from include.stack.processes import Keeper, StackError
from include.stack.settings import Layout, Secrets, airflow_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType

    from include.stack.processes import Component

_PROJECT = Path(__file__).resolve().parents[2]
_POLL_S = 0.25
_MIGRATE_TIMEOUT_S = 300.0
_FINAL_STATES = frozenset({"success", "failed"})


class LocalAirflow:
    """
    Run a whole Airflow as processes of this machine, reachable from this machine alone.

    A context manager: it returns from ``with`` once the processes are started (see :meth:`wait_until_healthy`), and
    leaves none behind, however the block ends. The metadata database, the passwords and the logs stay in the home
    folder, and are used again by the next Airflow there; the port may differ.

    :param home: folder of its own, made when missing. Each process logs to ``logs/<name>.log`` in it.
    :param dags_folder: where the Dags are.
    :param plugins_folder: Airflow's plugins folder.
    :param parallelism: how many tasks run at a time.
    :param env: further environment for all processes, connections above all (``AIRFLOW_CONN_…``).
    :param triggerer: whether to run the triggerer.
    :param preferred_port: port to take if it is free.
    """

    def __init__(
        self,
        home: Path,
        *,
        dags_folder: Path = _PROJECT / "dags",
        plugins_folder: Path = _PROJECT / "plugins",
        parallelism: int = 8,
        env: Mapping[str, str] | None = None,
        triggerer: bool = True,
        preferred_port: int | None = None,
    ) -> None:
        self.home = home.resolve()
        self.postgres: LocalPostgres
        self._dags_folder = dags_folder.resolve()
        self._plugins_folder = plugins_folder.resolve()
        self._parallelism = parallelism
        self._extra = dict(env or {})
        self._triggerer = triggerer
        self._preferred_port = preferred_port
        self._keeper = Keeper()
        self._layout: Layout
        self._secrets: Secrets
        self._client: ApiClient | None = None
        self._started_at = datetime.now(UTC)

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

    @property
    def url(self) -> str:
        """Return where the UI and the API are."""
        return self._layout.url

    @property
    def passwords(self) -> Mapping[str, str]:
        """Return the password of each user: ``admin`` and ``viewer``, named after their roles."""
        return self._secrets.passwords

    def start(self) -> None:
        """Start all processes; PostgreSQL answers and its schema is Airflow's when this returns."""
        self.home.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        (self.home / "tmp").mkdir(exist_ok=True)
        self._start_services()
        self._secrets = Secrets.keep(self.home)
        self._layout = Layout(
            home=self.home,
            dags_folder=self._dags_folder,
            plugins_folder=self._plugins_folder,
            project=_PROJECT,
            port=choose_port(self._preferred_port),
            database_url=self.postgres.url("airflow", "psycopg2"),
            async_database_url=self.postgres.url("airflow", "asyncpg"),
        )
        self._client = ApiClient(self.url, self.passwords)
        environment = self.environment()
        logs = self.home / "logs"
        airflow = [sys.executable, "-m", "airflow"]
        self._keeper.run(
            "airflow db migrate",
            [*airflow, "db", "migrate"],
            env=environment,
            log=logs / "migrate.log",
            timeout_s=_MIGRATE_TIMEOUT_S,
        )
        self._started_at = datetime.now(UTC)
        for name, argv in self._programs().items():
            self._keeper.start(name, [*airflow, *argv], env=environment, log=logs / f"{name}.log")

    def stop(self) -> None:
        """Stop every process that was started, PostgreSQL last, and return when none is left."""
        self._keeper.stop()
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._keeper.lock is not None:
            self._pid_file.unlink(missing_ok=True)
            self._keeper.lock.close()
            self._keeper.lock = None

    def environment(self) -> dict[str, str]:
        """Return the environment of its processes, for instance to run Airflow's own command line beside them."""
        return airflow_environment(
            self._layout,
            self._secrets,
            parallelism=self._parallelism,
            inherited=os.environ,
            extra=self._extra,
        )

    @property
    def components(self) -> Sequence[Component]:
        """Return the processes that it started, each with its name and log."""
        return tuple(self._keeper.components)

    def processes(self) -> set[int]:
        """Return the ids of all its living processes, running tasks and back ends of PostgreSQL included."""
        return self._keeper.living()

    def api(self, method: str, path: str, json: object = None, *, user: str | None = "admin") -> Any:
        """Send a request to the REST API and return the decoded answer; see :meth:`ApiClient.request`."""
        if self._client is None:
            raise StackError("Airflow is not running: use it inside `with`.")
        return self._client.request(method, path, json, user=user)

    def wait_until_healthy(self, timeout_s: float = 120.0) -> None:
        """Return when each component has said, since its start, that it is healthy."""
        expected = ["metadatabase", "scheduler", "dag_processor", *(["triggerer"] if self._triggerer else [])]
        reasons = ["the API server does not answer"]

        def healthy() -> bool:
            with suppress(requests.ConnectionError):
                health = self.api("GET", "/api/v2/monitor/health", user=None)
                reasons[:] = unhealthy_components(health, expected, since=self._started_at)
                return not reasons
            return False

        self._wait_for(healthy, timeout_s, lambda: "; ".join(reasons))

    def wait_for_dag(self, dag_id: str, timeout_s: float = 60.0) -> None:
        """Return when the Dag is known to Airflow; fail at once when a file in the Dags folder cannot be imported."""

        def known() -> bool:
            try:
                self.api("GET", f"/api/v2/dags/{quote(dag_id)}")
            except ApiError as error:
                if error.status != 404:
                    raise
                broken = self.api("GET", "/api/v2/importErrors")["import_errors"]
                if broken:
                    message = "\n".join(f"{each['filename']}: {each['stack_trace']}" for each in broken)
                    raise StackError(f"Dags cannot be imported.\n{message}") from error
                return False
            return True

        self._wait_for(known, timeout_s, lambda: f"no Dag {dag_id}")

    def unpause(self, dag_id: str) -> None:
        """Let the Dag's runs start, the scheduled ones too."""
        self.api("PATCH", f"/api/v2/dags/{quote(dag_id)}", {"is_paused": False})

    def trigger(
        self, dag_id: str, conf: Mapping[str, object] | None = None, logical_date: datetime | None = None
    ) -> str:
        """Trigger a run and return its id. The run starts only when the Dag is not paused."""
        body = {"conf": dict(conf or {}), "logical_date": logical_date.isoformat() if logical_date else None}
        run = self.api("POST", f"/api/v2/dags/{quote(dag_id)}/dagRuns", body)
        return str(run["dag_run_id"])

    def wait_for_run(self, dag_id: str, run_id: str, timeout_s: float = 300.0) -> str:
        """Return the state that the run ends in: ``success`` or ``failed``."""
        path = f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id, safe='')}"
        state = ""

        def ended() -> bool:
            nonlocal state
            state = self.api("GET", path)["state"]
            return state in _FINAL_STATES

        self._wait_for(ended, timeout_s, lambda: f"run {run_id} of {dag_id} is {state}")
        return state

    def check(self) -> None:
        """Raise :class:`~include.stack.processes.ComponentDiedError` when any of the processes has ended."""
        self._keeper.check()

    def _wait_for(self, done: Callable[[], bool], timeout_s: float, waiting_for: Callable[[], str]) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            self.check()
            if done():
                return
            if time.monotonic() > deadline:
                raise StackError(
                    f"Waited {timeout_s:g} s, and still: {waiting_for()}. Logs: {self.home / 'logs'}"
                )
            time.sleep(_POLL_S)

    def _start_services(self) -> None:
        """Start what Airflow itself needs, and return when it answers."""
        self.postgres = LocalPostgres(self.home / "postgres", self._keeper)
        self.postgres.start()
        self.postgres.create_database("airflow")

    def _programs(self) -> dict[str, list[str]]:
        """Return the arguments of each of Airflow's processes, by its name."""
        # The servers of task logs would listen on all interfaces; without them the API server reads the files.
        programs = {
            "api-server": ["api-server"],
            "scheduler": ["scheduler", "--skip-serve-logs"],
            "dag-processor": ["dag-processor"],
        }
        if self._triggerer:
            programs["triggerer"] = ["triggerer", "--skip-serve-logs"]
        return programs

    @property
    def _pid_file(self) -> Path:
        return self.home / "stack.pid"

    def _take_lock(self) -> None:
        lock = (self.home / "stack.lock").open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            owner = self._pid_file.read_text() if self._pid_file.exists() else "unknown"
            raise StackError(f"Another Airflow runs in {self.home} already (process {owner}).") from error
        self._keeper.lock = lock
        self._pid_file.write_text(str(os.getpid()))
