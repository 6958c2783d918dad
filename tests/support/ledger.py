"""Helpers of the ledger tests: one relation, one run, and shortcuts to plan and settle it."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.core.links import Relation
from zoho_crm.core.models import LinkResult, Origin, PlannedLink, PlanSummary, RunStart, Target
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger import tables

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from zoho_crm.core.models import StoredRun
    from zoho_crm.ledger.claims import Claim
    from zoho_crm.ledger.ledger import Ledger

RUN = "zoho_delink__contacts_deals:scheduled__2026-07-01T00:00:00+00:00"
JOB = "contacts_deals"
MOMENT = datetime(2026, 7, 1, 2, 3, 4, 567891, tzinfo=UTC)
RELATION = Relation("Contacts", "Customer_Ref", "Deals", "Deals", "Deal_Ref")
TARGET = Target(RELATION, data_center="eu", api_version="v7", org_id="70000001")
ORIGIN = Origin(
    dag_id="zoho_delink__contacts_deals",
    dag_run_id="scheduled__2026-07-01T00:00:00+00:00",
    run_type="scheduled",
    task_id="delink",
    logical_date=MOMENT,
    data_interval_start=MOMENT - timedelta(days=1),
    data_interval_end=MOMENT,
    triggered_by="timetable",
    map_index=3,
    try_number=2,
)


def run_start(run_key: str = RUN, **changes: Any) -> RunStart:
    return replace(RunStart(run_key, JOB, ORIGIN, TARGET, mode="apply"), **changes)


def pairs(count: int) -> list[tuple[str, str]]:
    """Return links in plan order."""
    return [(f"c-{number // 3:05}", f"d-{number:06}") for number in range(count)]


def planned(
    ledger: Ledger,
    rows: Iterable[tuple[object, object]] = (),
    *,
    run_key: str = RUN,
    chunk_size: int = 10,
    max_chunks: int = 100,
) -> PlanSummary:
    """Start a run and plan it."""
    ledger.runs.start(run_start(run_key))
    return ledger.plans.create(
        run_key, RELATION, rows, chunk_size=chunk_size, max_chunks=max_chunks, origin=ORIGIN, target=TARGET
    )


def result(link: PlannedLink, outcome: Outcome = Outcome.REMOVED, **changes: Any) -> LinkResult:
    return replace(LinkResult(link, outcome, finished_at=MOMENT), **changes)


def settle(
    ledger: Ledger,
    claim: Claim,
    links: Sequence[PlannedLink],
    outcome: Outcome = Outcome.REMOVED,
    **options: Any,
) -> list[PlannedLink]:
    """Write the same outcome for several links."""
    results = [result(link, outcome) for link in links]
    return ledger.claims.settle(claim, results, **{"origin": ORIGIN, "target": TARGET, "job": JOB, **options})


def take(ledger: Ledger, claim: Claim, limit: int, *, in_flight: bool = True) -> list[PlannedLink]:
    """Take the chunk's next links without a result to write, as a try does first."""
    return settle(ledger, claim, (), take=limit, in_flight=in_flight)


def drive(
    ledger: Ledger, chunk_no: int = 0, outcome: Outcome = Outcome.REMOVED, *, run_key: str = RUN
) -> int:
    """Claim a chunk and give all its links the same outcome; return how many there were."""
    claim = ledger.claims.claim(run_key, chunk_no, "a try")
    links = take(ledger, claim, 1000)
    settle(ledger, claim, links, outcome)
    return len(links)


def stored(ledger: Ledger, run_key: str = RUN) -> StoredRun:
    """Return a run that must exist."""
    run = ledger.runs.get(run_key)
    assert run is not None
    return run


def rows_of(engine: sa.Engine, table: sa.Table, *order_by: str) -> list[dict[str, Any]]:
    order = [table.c[name] for name in order_by or [column.name for column in table.primary_key]]
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.select(table).order_by(*order)).mappings()]


def states(engine: sa.Engine) -> list[tuple[str, str | None]]:
    """State and outcome of each link, in the order of the plan."""
    return [(row["state"], row["outcome"]) for row in rows_of(engine, tables.links)]
