"""Start Dag runs through the REST API, wait for them, and show the logs of failed tasks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

from include.stack import ApiError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from include.stack import LocalAirflow

RUN_TIMEOUT_S = 300.0
_DAG_TIMEOUT_S = 120.0
_POLL_S = 0.25
_TAIL = 15


class Runs:
    """The Dag runs of one Airflow."""

    def __init__(self, airflow: LocalAirflow) -> None:
        self._airflow = airflow

    def get(self, dag_id: str, path: str = "", **query: object) -> Any:
        return self._airflow.api("GET", f"/api/v2/dags/{dag_id}{path}?{urlencode(query)}")

    def until(
        self,
        done: Callable[[], bool],
        waiting_for: str,
        timeout_s: float = RUN_TIMEOUT_S,
        poll_s: float = _POLL_S,
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while not done():
            self._airflow.check()
            assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {waiting_for}"
            time.sleep(poll_s)

    def wait_for_dag(self, dag_id: str) -> None:
        """Wait until Airflow knows a Dag; other files may have import errors meanwhile."""
        self.until(lambda: self._knows(dag_id), f"the Dag {dag_id}", _DAG_TIMEOUT_S)

    def read_file_again(self, dag_id: str) -> None:
        """Let Airflow read the file of a Dag next, e.g. for new job files."""
        self.wait_for_dag(dag_id)
        token = self.get(dag_id)["file_token"]
        self._airflow.api("PUT", f"/api/v2/parseDagFile/{quote(token, safe='')}")

    def switch_on(self, dag_id: str) -> None:
        """Unpause a Dag once Airflow knows it."""
        self.wait_for_dag(dag_id)
        self._airflow.unpause(dag_id)

    def switch_off(self, dag_id: str) -> None:
        self._airflow.api("PATCH", f"/api/v2/dags/{dag_id}", {"is_paused": True})

    def trigger(self, dag_id: str, conf: Mapping[str, object] | None = None, *, user: str = "admin") -> str:
        self.switch_on(dag_id)
        return self._airflow.trigger(dag_id, conf, user=user)

    def finish(self, dag_id: str, run_id: str, expected: str = "success") -> None:
        """Wait for a run to end, and fail with the last log lines when it ends in another state."""
        state = self._airflow.wait_for_run(dag_id, run_id, RUN_TIMEOUT_S)
        assert state == expected, self._story(dag_id, run_id, state)

    def clear(self, dag_id: str, run_id: str, *task_ids: object) -> None:
        """Clear tasks of a run, or all of them; a mapped one is named with its index."""
        body = {"dry_run": False, "dag_run_id": run_id, "only_failed": False, "task_ids": task_ids or None}
        self._airflow.api("POST", f"/api/v2/dags/{dag_id}/clearTaskInstances", body)

    def tasks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return the task instances of a run, those of a mapped task by index."""
        found = self.get(dag_id, f"/dagRuns/{quote(run_id, safe='')}/taskInstances", limit=100)
        return sorted(found["task_instances"], key=lambda task: (task["task_id"], task["map_index"]))

    def states(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Return the state of each task of a run without mapped tasks that ran."""
        return {task["task_id"]: task["state"] for task in self.tasks(dag_id, run_id)}

    def delinks(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        return [task for task in self.tasks(dag_id, run_id) if task["task_id"] == "delink"]

    def log(self, task: Mapping[str, Any], try_number: int | None = None) -> list[str]:
        """Return what a try of a task logged, a line for each event with its error."""
        run_id = quote(task["dag_run_id"], safe="")
        path = f"/dagRuns/{run_id}/taskInstances/{task['task_id']}/logs/{try_number or task['try_number']}"
        response = self.get(task["dag_id"], path, map_index=task["map_index"], full_content="true")
        return [_line(line) for line in response["content"]]

    def _story(self, dag_id: str, run_id: str, state: str) -> str:
        lines = [f"the run {run_id} of {dag_id} ended as {state}"]
        for task in self.tasks(dag_id, run_id):
            lines.append(f"--- {task['task_id']}[{task['map_index']}]: {task['state']}")
            if task["state"] not in {"success", "upstream_failed", "skipped", "removed"}:
                lines += self.log(task)[-_TAIL:]
        return "\n".join(lines)

    def _knows(self, dag_id: str) -> bool:
        try:
            self.get(dag_id)
        except ApiError as error:
            if error.status != 404:
                raise
            return False
        return True


def _line(event: Any) -> str:
    if isinstance(event, str):
        return event
    errors = [f"{error['exc_type']}: {error['exc_value']}" for error in event.get("error_detail") or ()]
    return " | ".join([f"{event.get('level') or ''} {event['event']}".strip(), *errors])
