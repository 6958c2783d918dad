"""What a task checks of a stored plan before it drives a chunk of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from zoho_crm.errors import PlanError, RunStoppedError

if TYPE_CHECKING:
    from zoho_crm.core.links import Relation
    from zoho_crm.core.models import ChunkRef
    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.ledger.runs import StoredRun


def run_of(ledger: Ledger, chunk: ChunkRef, *, operation: str, relation: Relation) -> StoredRun:
    """
    Return the run that a chunk is of.

    :param operation: what the task does to links: ``delink`` or ``relink``
    :raises PlanError: there is no such run, or it is for another operation or relation
    """
    run = ledger.runs.get(chunk["run_key"])
    if run is None:
        raise PlanError(f"There is no run {chunk['run_key']!r} in the audit database")
    if run.operation != operation:
        raise PlanError(
            f"The plan is of a run that does {run.operation}, this task does {operation}. Nothing was sent"
        )
    if run.relation != relation:
        raise PlanError(
            f"The plan is of {run.relation}, this task of {relation}: the job was changed after planning. "
            "Start a new run"
        )
    return run


def check_plan_age(ledger: Ledger, run: StoredRun, max_age: timedelta | None) -> None:
    """
    Keep links from being sent that were planned too long ago; a run with nothing left to send is let pass.

    :param max_age: None for any age
    :raises RunStoppedError: the plan is too old
    """
    if max_age is None or run.planned_at is None:
        return
    age = datetime.now(UTC) - run.planned_at
    if age > max_age and ledger.runs.pending(run.run_key):
        raise RunStoppedError(
            f"The plan is {span(age)} old, {span(max_age)} are allowed (max_plan_age). Nothing was sent in this try; "
            "start a new run"
        )


def span(duration: timedelta) -> str:
    """Write a duration in its largest unit, e.g. ``3 days``."""
    seconds = duration.total_seconds()
    for size, unit in ((86_400, "days"), (3_600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} seconds"
