"""Runs whose Dag run Airflow has ended, or does not have any more, before the report could close them."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from zoho_crm import airflow_compat
from zoho_crm.core.models import ending_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoho_crm.airflow_compat import DagRunEnding
    from zoho_crm.core.models import StoredRun

log = logging.getLogger(__name__)


def with_endings(runs: Sequence[StoredRun], reread: Callable[[str], StoredRun | None]) -> list[StoredRun]:
    """
    Return runs as they are to be shown: unfinished ones that Airflow has ended are failed, with the reason.

    :param reread: returns a run by its key, since its report may have finished it meanwhile
    """
    known = read_endings([(run.dag_id, run.dag_run_id) for run in runs if run.finished_at is None])
    return [_with_ending(run, known.get((run.dag_id, run.dag_run_id)), reread) for run in runs]


def _with_ending(
    run: StoredRun, ending: DagRunEnding | None, reread: Callable[[str], StoredRun | None]
) -> StoredRun:
    sentence = describe_ending(ending, run.failure)
    if run.finished_at is not None or sentence is None:
        return run
    run = reread(run.run_key) or run
    return run if run.finished_at else replace(run, status="failed", detail=sentence)


def read_endings(dag_runs: list[tuple[str, str]]) -> dict[tuple[str, str], DagRunEnding]:
    """Return Airflow's states of Dag runs; none if its database cannot be read."""
    if not dag_runs:
        return {}
    try:
        return airflow_compat.dag_run_endings(dag_runs)
    except SQLAlchemyError:
        log.warning("Airflow's Dag runs could not be read: runs=%d", len(dag_runs), exc_info=True)
        return {}


def describe_ending(ending: DagRunEnding | None, failure: str | None = None) -> str | None:
    """
    Return how Airflow ended a Dag run without a report, and why; None if it has not ended.

    :param failure: what the run row says about a failed task
    """
    sentence = ending_of(ending.state) if ending else None
    if ending is None or sentence is None:
        return None
    if failure is None and ending.failed_tasks:
        failure = f"Failed tasks: {', '.join(ending.failed_tasks)}; their logs have the reason"
    return f"{failure}. {sentence}" if failure else sentence
