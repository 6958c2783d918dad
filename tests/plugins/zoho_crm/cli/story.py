"""A job in the audit: a dry run, the real one, what it left driven again, a link put back, and a run cut short."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

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
class Part:
    """One run: its id, what it does, when, and what came of each link it came to."""

    run_id: str
    day: int
    told: dict[tuple[str, str], ZohoResponse]
    status: str | None
    planned: tuple[tuple[str, str], ...] = ()
    mode: str = "apply"
    operation: str = "delink"
    origin: str | None = None
    by: str | None = "ada"
    run_type: str = "manual"
    reason: str | None = None


PARTS = (
    Part(
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
    Part(
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
    Part(
        "manual__2026-11-22",
        2,
        {("c-5", "d-5"): (Outcome.REMOVED, REMOVED), ("c-6", "d-6"): (Outcome.ALREADY_ABSENT, GONE)},
        "succeeded",
        origin="scheduled__2026-11-21",
        by="grace",
        reason="Zoho was down",
    ),
    Part(
        "manual__2026-11-23",
        3,
        {("c-1", "d-1"): (Outcome.RELINKED, BACK)},
        "succeeded",
        operation="relink",
        origin="scheduled__2026-11-21",
        by="grace",
        reason="a mistake of sales",
    ),
    Part(
        "manual__2026-11-24",
        4,
        {("c-20", "d-20"): (Outcome.REMOVED, REMOVED)},
        None,  # and never reported on
        planned=(("c-21", "d-21"), ("c-22", "d-22")),
    ),
)


def key_of(run_id: str) -> str:
    return f"{JOB}:{run_id}"


def tell(engine: sa.Engine) -> Ledger:
    """Write the story; the ledger's clock is that of the story."""
    now = [START.timestamp()]
    ledger = Ledger(engine, clock=lambda: now[0])
    ledger.ensure_schema()
    for part in PARTS:
        now[0] = (START + timedelta(days=part.day)).timestamp()
        _tell_part(ledger, part, START + timedelta(days=part.day, seconds=5))
        if part.status:
            ledger.finalizer.seal(key_of(part.run_id))
    return ledger


def _tell_part(ledger: Ledger, part: Part, finished_at: datetime) -> None:
    key = key_of(part.run_id)
    target = Target(
        RELATION, "us", "v7", org_id="700", dry_run=part.mode == "dry_run", operation=part.operation
    )
    origin = Origin(
        dag_id="zoho_relink" if part.operation == "relink" else f"zoho_delink__{JOB}",
        dag_run_id=part.run_id,
        run_type=part.run_type,
        task_id="delink",
        triggered_by=part.by,
    )
    ledger.runs.start(
        RunStart(
            key,
            JOB,
            origin,
            target,
            mode=part.mode,
            window_start=START + timedelta(days=part.day - 1),
            window_end=START + timedelta(days=part.day),
            reason=part.reason,
            origin_run_key=key_of(part.origin) if part.origin else None,
        )
    )
    rows = [*part.told, *part.planned]
    ledger.plans.create(key, RELATION, rows, chunk_size=100, max_chunks=10, origin=origin, target=target)
    ledger.runs.mark_running(key)
    claim = ledger.claims.claim(key, 0, "a try")
    sends = part.mode == "apply"
    results = [
        LinkResult(link, outcome, finished_at, sent_at=finished_at if sends else None, **values)
        for link in ledger.claims.take(claim, 100, in_flight=sends)
        for outcome, values in [
            part.told.get((link.link.external_id, link.link.related_external_id), (None, {}))
        ]
        if outcome is not None
    ]
    ledger.claims.settle(claim, results, origin=origin, target=target, job=JOB, in_flight=sends)
    if part.status:
        ledger.runs.finish(key, status=part.status, detail=None, finished_at=finished_at)
