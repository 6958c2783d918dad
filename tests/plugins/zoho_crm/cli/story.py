"""Runs of a job for tests of the audit: dry run, apply, retry, relink, and an unfinished run."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tests.support.ledger import take
from zoho_crm.core.links import Relation
from zoho_crm.core.models import LinkResult, Origin, RunStart, Target
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    import sqlalchemy as sa

JOB = "contacts_deals"
RELATION = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
START = datetime(2026, 11, 20, 2, tzinfo=UTC)

REMOVED = {"http_status": 200, "zoho_code": "SUCCESS", "zoho_message": "relation removed", "attempts": 1}
LOCKED = {"http_status": 200, "zoho_code": "RECORD_LOCKED", "zoho_message": "record is locked", "attempts": 1}
AWAY = {
    "http_status": 500,
    "zoho_code": "INTERNAL_ERROR",
    "zoho_message": "=internal\x1b[31m error",
    "attempts": 4,
}
GONE = {"http_status": 400, "zoho_code": "INVALID_DATA", "zoho_message": "relation not found", "attempts": 1}
BACK = {"http_status": 200, "zoho_code": "SUCCESS", "zoho_message": "relation added", "attempts": 1}

ZohoResponse = tuple[Outcome, dict[str, Any]]


@dataclass(frozen=True)
class StoryRun:
    """One run, with Zoho's response to each link that it processed."""

    run_id: str
    day: int
    responses: dict[tuple[str, str], ZohoResponse]
    status: str | None
    planned: tuple[tuple[str, str], ...] = ()
    mode: str = "apply"
    operation: str = "delink"
    origin: str | None = None
    by: str | None = "ada"
    run_type: str = "manual"
    reason: str | None = None


RUNS = (
    StoryRun(
        "manual__2026-11-20",
        0,
        {
            ("c-1", "d-1"): (Outcome.WOULD_REMOVE, {}),
            ("c-2", "d-2"): (Outcome.WOULD_REMOVE, {}),
            ("c-3", "d-3"): (Outcome.WOULD_REMOVE, {}),
            ("c-8", "d-8"): (Outcome.WOULD_REMOVE, {}),
        },
        "succeeded",
        mode="dry_run",
        reason="a look first",
    ),
    StoryRun(
        "scheduled__2026-11-21",
        1,
        {
            ("c-1", "d-1"): (Outcome.REMOVED, REMOVED),
            ("c-2", "d-2"): (Outcome.ALREADY_ABSENT, GONE),
            ("c-3", "d-3"): (Outcome.REJECTED, LOCKED),
            ("c-4", "d-4"): (Outcome.REJECTED, LOCKED),
            ("c-5", "d-5"): (Outcome.FAILED, AWAY),
            ("c-6", "d-6"): (Outcome.UNKNOWN, AWAY),
            ("=1+1", "d-7"): (Outcome.REMOVED, REMOVED),
        },
        "failed",
        planned=(("", "d-9"),),
        by=None,
        run_type="scheduled",
    ),
    StoryRun(
        "manual__2026-11-22",
        2,
        {("c-5", "d-5"): (Outcome.REMOVED, REMOVED), ("c-6", "d-6"): (Outcome.ALREADY_ABSENT, GONE)},
        "succeeded",
        origin="scheduled__2026-11-21",
        by="grace",
        reason="Zoho was down",
    ),
    StoryRun(
        "manual__2026-11-23",
        3,
        {("c-1", "d-1"): (Outcome.RELINKED, BACK)},
        "succeeded",
        operation="relink",
        origin="scheduled__2026-11-21",
        by="grace",
        reason="a mistake of sales",
    ),
    StoryRun(
        "manual__2026-11-24",
        4,
        {("c-20", "d-20"): (Outcome.REMOVED, REMOVED)},
        None,  # unfinished
        planned=(("c-21", "d-21"), ("c-22", "d-22")),
    ),
)


def key_of(run_id: str) -> str:
    return f"{JOB}:{run_id}"


def write_story(engine: sa.Engine) -> Ledger:
    """Write all runs, with a clock set to the time of each run."""
    now = [START.timestamp()]
    ledger = Ledger(engine, clock=lambda _: now[0])
    ledger.ensure_schema()
    for run in RUNS:
        now[0] = (START + timedelta(days=run.day)).timestamp()
        _write_run(ledger, run, START + timedelta(days=run.day, seconds=5))
        if run.status:
            ledger.finalizer.seal(key_of(run.run_id))
    return ledger


def _write_run(ledger: Ledger, run: StoryRun, finished_at: datetime) -> None:
    key = key_of(run.run_id)
    target = Target(
        RELATION, "us", "v7", org_id="700", dry_run=run.mode == "dry_run", operation=run.operation
    )
    origin = Origin(
        dag_id="zoho_delink_relink" if run.operation == "relink" else f"zoho_delink__{JOB}",
        dag_run_id=run.run_id,
        run_type=run.run_type,
        task_id="delink",
        triggered_by=run.by,
    )
    ledger.runs.start(
        RunStart(
            key,
            JOB,
            origin,
            target,
            mode=run.mode,
            window_start=START + timedelta(days=run.day - 1),
            window_end=START + timedelta(days=run.day),
            reason=run.reason,
            origin_run_key=key_of(run.origin) if run.origin else None,
        )
    )
    rows = [*run.responses, *run.planned]
    ledger.plans.create(key, RELATION, rows, chunk_size=100, max_chunks=10, origin=origin, target=target)
    ledger.runs.mark_running(key)
    claim = ledger.claims.claim(key, 0, "a try")
    sends = run.mode == "apply"
    results = [
        LinkResult(link, outcome, finished_at, sent_at=finished_at if sends else None, **values)
        for link in take(ledger, claim, 100, in_flight=sends)
        for outcome, values in [
            run.responses.get((link.link.external_id, link.link.related_external_id), (None, {}))
        ]
        if outcome is not None
    ]
    ledger.claims.settle(claim, results, origin=origin, target=target, job=JOB, in_flight=sends)
    if run.status:
        ledger.runs.finish(key, status=run.status, detail=None, finished_at=finished_at)
