"""The audit data of a large deployment: one run of a million links, and thousands of others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.core.links import Relation
from zoho_crm.core.models import Origin, RunStart, Target
from zoho_crm.core.outcomes import LinkState, Outcome, RunStatus
from zoho_crm.core.run_request import run_key
from zoho_crm.ledger.tables import audit, chunks, links, runs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoho_crm.ledger.ledger import Ledger

JOB = "contacts_deals"
DAG_ID = f"zoho_delink__{JOB}"
LARGE_RUN = "scheduled__2026-11-20T02:00:00+00:00"
LARGE_KEY = run_key(JOB, DAG_ID, LARGE_RUN)
RELATION = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
MOMENT = datetime(2026, 11, 20, 2, 0, tzinfo=UTC)

_TARGET = Target(RELATION, data_center="eu", api_version="v7", org_id="700000001")
_SHARES = (
    # Per thousand links: exclusive upper bound, outcome, Zoho code and message.
    (1, Outcome.UNKNOWN, None, None),
    (3, Outcome.REJECTED, "RECORD_LOCKED", "record is locked"),
    (5, Outcome.FAILED, "INTERNAL_ERROR", "Internal Server Error"),
    (15, Outcome.RELATED_NOT_FOUND, "INVALID_DATA", "invalid data"),
    (40, Outcome.ALREADY_ABSENT, "INVALID_DATA", "relation not found"),
    (1000, Outcome.REMOVED, "SUCCESS", "relation removed"),
)


def fill(ledger: Ledger, link_count: int, *, other_runs: int = 3_000) -> None:
    """Create the plan like the plan task, then write its audit with SQL."""
    ledger.ensure_schema()
    origin = Origin(DAG_ID, LARGE_RUN, "scheduled", "plan", logical_date=MOMENT, triggered_by="timetable")
    ledger.runs.start(RunStart(LARGE_KEY, JOB, origin, _TARGET, mode="apply", window_end=MOMENT))
    ledger.plans.create(
        LARGE_KEY,
        RELATION,
        _pairs(link_count),
        chunk_size=1_000,
        max_chunks=1_000,
        origin=origin,
        target=_TARGET,
    )
    with ledger.engine.begin() as connection:
        connection.execute(_outcomes())
        connection.execute(_audit_rows(origin))
        connection.execute(sa.update(chunks).where(chunks.c.run_key == LARGE_KEY).values(claim_no=1))
        connection.execute(sa.insert(runs), list(_other_runs(connection, other_runs)))
    ledger.runs.finish(LARGE_KEY, status=RunStatus.FAILED, detail="some links failed", finished_at=MOMENT)
    if ledger.engine.dialect.name == "postgresql":
        with ledger.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sa.text("VACUUM ANALYZE"))


def _pairs(count: int) -> Iterator[tuple[str, str]]:
    # Unordered, since the factor is prime. Three deals per contact.
    for number in range(count):
        place = number * 7_368_787 % count
        yield f"contact-{place // 3:07}", f"deal-{place:08}"


def _by_share(place: int, column: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    spread = column * 7919 % 1000
    return sa.case(
        *((spread < share[0], sa.cast(sa.literal(share[place]), sa.String(100))) for share in _SHARES)
    )


def _outcomes() -> sa.Update:
    outcome = _by_share(1, links.c.seq)
    again = [each.value for each in (Outcome.UNKNOWN, Outcome.FAILED)]
    return (
        sa.update(links)
        .where(links.c.run_key == LARGE_KEY)
        .values(
            outcome=outcome,
            state=sa.case((outcome.in_(again), LinkState.PLANNED.value), else_=LinkState.SETTLED.value),
        )
    )


def _audit_rows(origin: Origin) -> sa.Insert:
    constant = {
        "job": JOB,
        "dag_id": origin.dag_id,
        "dag_run_id": origin.dag_run_id,
        "run_type": origin.run_type,
        "task_id": "delink",
        "try_number": 1,
        "data_center": "eu",
        "api_version": "v7",
        "strategy": "single",
        "operation": "delink",
        "module": RELATION.module,
        "external_field": RELATION.external_field,
        "related_list": RELATION.related_list,
        "related_module": RELATION.related_module,
        "related_external_field": RELATION.related_external_field,
        "claim_no": 1,
        "attempts": 1,
        "http_status": 200,
        "duration_ms": 180,
        "dry_run": False,
        "finished_at": MOMENT,
        "sent_at": MOMENT,
    }
    columns: dict[str, sa.ColumnElement[Any]] = {
        name: sa.literal(value, audit.c[name].type) for name, value in constant.items()
    }
    columns |= {name: links.c[name] for name in ("run_key", "seq", "pair_key", "chunk_no", "outcome")}
    columns |= {name: links.c[name] for name in ("external_id", "related_external_id")}
    columns["event_id"] = sa.func.substr(links.c.pair_key, 1, 36)
    columns["map_index"] = links.c.chunk_no
    columns["chain_no"] = sa.func.row_number().over(partition_by=links.c.chunk_no, order_by=links.c.seq)
    # No real chain: the pages do not verify it.
    columns["row_hash"] = links.c.pair_key
    columns["zoho_code"] = _by_share(2, links.c.seq)
    columns["zoho_message"] = _by_share(3, links.c.seq)
    source = sa.select(*columns.values()).where(links.c.run_key == LARGE_KEY)
    return sa.insert(audit).from_select(list(columns), source)


def _other_runs(connection: sa.Connection, count: int) -> Iterator[dict[str, Any]]:
    row = dict(connection.execute(sa.select(runs).where(runs.c.run_key == LARGE_KEY)).mappings().one())
    for number in range(count):
        started = MOMENT - timedelta(hours=number)
        run_id = f"scheduled__{started.isoformat()}_{number}"
        job = JOB if number % 3 else "campaigns_leads"
        dag_id = f"zoho_delink__{job}"
        yield row | {
            "run_key": run_key(job, dag_id, run_id),
            "job": job,
            "dag_id": dag_id,
            "dag_run_id": run_id,
            "started_at": started,
            "planned_at": started,
            "finished_at": started + timedelta(minutes=7),
            "status": RunStatus.SUCCEEDED.value if number % 17 else RunStatus.FAILED.value,
            "planned": 1_000 + number,
            **{outcome.value: 0 for outcome in Outcome},
            "removed": 900 + number,
            "already_absent": 60,
            "failed": 0 if number % 17 else 40,
            "parent_not_found": 40 if number % 17 else 0,
        }
