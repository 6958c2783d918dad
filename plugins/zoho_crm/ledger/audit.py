"""Audit rows: append-only, one for each link and try."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.ledger.columns import fitted
from zoho_crm.ledger.event_ids import new_event_id
from zoho_crm.ledger.runs import origin_columns, target_columns
from zoho_crm.ledger.tables import audit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from zoho_crm.core.records import LinkResult, Origin, Target


def append(
    connection: sa.Connection,
    run_key: str,
    results: Sequence[LinkResult],
    *,
    claim_no: int,
    origin: Origin,
    target: Target,
    job: str,
) -> None:
    """
    Write one audit row for each result, in their order.

    :param claim_no: the claim the links were taken under; 0 for what the plan itself decides
    """
    if not results:
        return
    shared = {
        "run_key": run_key,
        "claim_no": claim_no,
        "map_index": origin.map_index,
        "try_number": origin.try_number,
        "dry_run": target.dry_run,
        **origin_columns(origin, job),
        **target_columns(target),
    }
    connection.execute(sa.insert(audit), [{**shared, **_row(result)} for result in results])


def _row(result: LinkResult) -> dict[str, Any]:
    planned = result.planned
    return {
        "event_id": new_event_id(),
        "seq": planned.seq,
        "pair_key": planned.pair_key,
        "external_id": planned.link.external_id,
        "related_external_id": planned.link.related_external_id,
        "outcome": result.outcome.value,
        "attempts": result.attempts,
        "sent_at": result.sent_at,
        "finished_at": result.finished_at,
        "duration_ms": _duration_ms(result.sent_at, result.finished_at),
        "http_status": result.http_status,
        "zoho_code": fitted(audit.c.zoho_code, result.zoho_code),
        "zoho_message": fitted(audit.c.zoho_message, result.zoho_message),
        "zoho_record_id": fitted(audit.c.zoho_record_id, result.zoho_record_id),
        "detail": fitted(audit.c.detail, result.detail),
        "snapshot": planned.snapshot,
    }


def _duration_ms(sent_at: datetime | None, finished_at: datetime) -> int | None:
    if sent_at is None:
        return None
    return max(0, round((finished_at - sent_at).total_seconds() * 1000))
