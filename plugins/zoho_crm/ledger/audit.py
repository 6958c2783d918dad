"""Audit rows: append-only, one for each link and try, those of a chunk in a chain."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from zoho_crm.ledger.chain import ChainEnd, RowHashes, common_of, own_of
from zoho_crm.ledger.columns import fitted
from zoho_crm.ledger.event_ids import new_event_id
from zoho_crm.ledger.runs import origin_columns, target_columns
from zoho_crm.ledger.tables import audit

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from zoho_crm.core.models import LinkResult, Origin, Target


@dataclass(frozen=True, slots=True)
class AuditRows:
    """
    Rows to be appended to the chain of one chunk.

    :param end: where the chain ends once they are written
    """

    rows: list[dict[str, Any]]
    end: ChainEnd


def audit_rows(
    run_key: str,
    results: Sequence[LinkResult],
    *,
    chunk_no: int,
    claim_no: int,
    after: ChainEnd,
    origin: Origin,
    target: Target,
    job: str,
) -> AuditRows:
    """
    Make one audit row for each result, in their order.

    :param chunk_no: the links' chunk; :data:`~zoho_crm.ledger.chain.CHUNK_OF_PLAN` for what the plan itself decides
    :param claim_no: the claim the links were taken under; 0 for what the plan itself decides
    :param after: where the chunk's chain ends now
    """
    shared = {
        "run_key": run_key,
        "chunk_no": chunk_no,
        "claim_no": claim_no,
        "map_index": origin.map_index,
        "try_number": origin.try_number,
        "dry_run": target.dry_run,
        **origin_columns(origin, job),
        **target_columns(target),
    }
    common, hashes = common_of(shared), RowHashes()
    rows, row_hash = [], after.row_hash
    for chain_no, result in enumerate(results, start=after.chain_no + 1):
        row = {**shared, **_row(result), "chain_no": chain_no}
        row["row_hash"] = row_hash = hashes.of(row_hash, common, own_of(row))
        rows.append(row)
    return AuditRows(rows, ChainEnd(after.chain_no + len(rows), row_hash))


def append(connection: sa.Connection, audit_rows: AuditRows) -> None:
    """Write rows. Whoever does it holds their chunk, and writes the new end of its chain as well."""
    if audit_rows.rows:
        connection.execute(sa.insert(audit), audit_rows.rows)


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
