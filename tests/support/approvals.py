"""Respond to the approval questions of many runs at a time, and measure how soon each run ends."""

from __future__ import annotations

import random
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from include.stack import ApiError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.airflow_world import World

WAITING = {"awaiting_input", "deferred"}
"""The states of a task that waits for a response; before Airflow 3.3, the triggerer waits for it."""

NEEDS_APPROVAL = "needs_approval"
"""A job that allows two links; more need an approval."""

_LONGEST_DELAY_S = 15.0
_DAG_TIMEOUT_S = 300.0
_QUESTION_TIMEOUT_S = 300.0
_END_TIMEOUT_S = 300.0
_POLL_S = 0.5


@dataclass(frozen=True, slots=True)
class Arrival:
    """
    What became of one response.

    :param delay_s: from the moment that the question can be read to the response
    :param used_s: from the response to the end of the task `approve`
    :param ended_s: from the response to the end of the run
    :param tries: of the task `approve`; one more for each that Airflow took for a crash
    :param end: status of the run, and what its row says of the approval
    """

    option: str
    delay_s: float
    used_s: float
    ended_s: float
    tries: int
    end: tuple[str, str]


def respond_to_many(world: World, responses: int, *, jobs: int) -> list[Arrival]:
    """
    Start runs that need an approval, and respond to each after a random delay, half of them with a rejection.

    :param responses: number of runs
    :param jobs: number of runs at a time, each of another job
    """
    rng = random.Random(responses)  # noqa: S311 - which delays, not a secret
    options = ["Approve", "Reject"] * (responses // 2)
    # Every fifth response comes as soon as the question can be read.
    delays = [0.0 if number % 5 == 0 else rng.uniform(0, _LONGEST_DELAY_S) for number in range(responses)]
    rng.shuffle(delays)
    names = [f"{NEEDS_APPROVAL}_{number}" for number in range(jobs)]
    _write_jobs(world, names)
    world.runs.read_file_again(f"zoho_delink__{NEEDS_APPROVAL}")
    for name in names:
        world.airflow.wait_for_dag(f"zoho_delink__{name}", _DAG_TIMEOUT_S)
        world.airflow.unpause(f"zoho_delink__{name}")
    shares = [list(zip(options, delays, strict=True))[number::jobs] for number in range(jobs)]
    with ThreadPoolExecutor(jobs) as threads:
        found = threads.map(lambda name, share: _respond_in_turn(world, name, share), names, shares)
    return [arrival for arrivals in found for arrival in arrivals]


def summary(arrivals: Iterable[Arrival]) -> str:
    """Return the figures of some responses, a line for each that took longer than a minute."""
    arrivals = list(arrivals)
    used, ended = ([getattr(it, field) for it in arrivals] for field in ("used_s", "ended_s"))
    lines = [
        f"{len(arrivals)} responses: used after {statistics.median(used):.1f} s (median), {max(used):.1f} s (worst); "
        f"run ended after {statistics.median(ended):.1f} s (median), {max(ended):.1f} s (worst); "
        f"tries that Airflow lost: {sum(it.tries - 1 for it in arrivals)}"
    ]
    return "\n".join([*lines, *(str(it) for it in arrivals if it.ended_s > 60)])


def question_path(dag_id: str, run_id: str) -> str:
    """Return the path of a run's question in Airflow's REST API."""
    return f"/api/v2/dags/{dag_id}/dagRuns/{quote(run_id, safe='')}/taskInstances/approve/-1/hitlDetails"


def _write_jobs(world: World, names: Iterable[str]) -> None:
    folder = Path(world.airflow.environment()["ZOHO_CRM_JOBS_FOLDER"])
    job = (folder / f"{NEEDS_APPROVAL}.yaml").read_text()
    for name in names:
        (folder / f"{name}.yaml").write_text(job)


def _respond_in_turn(world: World, job: str, share: Iterable[tuple[str, float]]) -> list[Arrival]:
    return [
        _respond_once(world, f"zoho_delink__{job}", f"{job}-{number}", option, delay_s)
        for number, (option, delay_s) in enumerate(share)
    ]


def _respond_once(world: World, dag_id: str, name: str, option: str, delay_s: float) -> Arrival:
    links = [(f"{name}-{number}", f"deal-{number}") for number in range(3)]
    for parent, related in links:
        world.zoho.state.link("Contacts", parent, "Deals", related)
    run_id = world.airflow.trigger(dag_id, {"mode": "apply", "reason": "they moved on", "links": links})
    path = question_path(dag_id, run_id)
    _wait(lambda: _exists(world, path), _QUESTION_TIMEOUT_S, f"the question of {dag_id} {run_id}")
    time.sleep(delay_s)
    world.airflow.api("PATCH", path, {"chosen_options": [option], "params_input": {}}, user="approver")
    responded = time.monotonic()
    used_s: list[float] = []

    def has_ended() -> bool:
        if not used_s and _approve(world, dag_id, run_id)["state"] in {"success", "failed"}:
            used_s.append(time.monotonic() - responded)
        state = world.runs.get(dag_id, f"/dagRuns/{quote(run_id, safe='')}")["state"]
        return state in {"success", "failed"} and bool(used_s)

    _wait(has_ended, _END_TIMEOUT_S, f"the end of {dag_id} {run_id}")
    ended_s = time.monotonic() - responded
    run = world.audit.run(dag_id, run_id)
    tries = _approve(world, dag_id, run_id)["try_number"]
    return Arrival(option, delay_s, used_s[0], ended_s, tries, (run["status"], run["approval"]))


def _wait(done: Any, timeout_s: float, waiting_for: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {waiting_for}"
        time.sleep(_POLL_S)


def _exists(world: World, path: str) -> bool:
    try:
        world.airflow.api("GET", path)
    except ApiError as error:
        if error.status != 404:
            raise
        return False
    return True


def _approve(world: World, dag_id: str, run_id: str) -> dict[str, Any]:
    found: dict[str, Any] = world.runs.get(dag_id, f"/dagRuns/{quote(run_id, safe='')}/taskInstances/approve")
    return found
