"""Audit rows: append-only, one for each link and try, those of a chunk in a hash chain."""

from __future__ import annotations

import secrets
import threading
import time
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa

from zoho_crm.ledger.chain import ChainEnd, RowHashes, common_of, own_of
from zoho_crm.ledger.runs import origin_columns, target_columns
from zoho_crm.ledger.tables import audit, fitted

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from zoho_crm.core.models import LinkResult, Origin, Target


class EventIds:
    """
    UUIDs of version 7 in the order of their making.

    Milliseconds, then 12 bits of the millisecond's fraction (method 3 of RFC 9562, section 6.2), then chance. The
    fraction lets four million of them be made in a second before their time runs ahead of the clock.

    :param clock_ns: nanoseconds since 1970
    """

    def __init__(self, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self._clock_ns = clock_ns
        self._lock = threading.Lock()
        self._last = 0

    def __call__(self) -> str:
        """Return the next id as 36 characters."""
        ms, rest_ns = divmod(self._clock_ns(), 1_000_000)
        moment = ms << 12 | (rest_ns << 12) // 1_000_000
        with self._lock:
            self._last = moment = max(moment, self._last + 1)
        version, variant = 7 << 76, 0b10 << 62
        time_bits = (moment >> 12) << 80 | (moment & 0xFFF) << 64
        return str(uuid.UUID(int=time_bits | version | variant | secrets.randbits(62)))


@dataclass(frozen=True, slots=True)
class AuditRows:
    """
    Rows to be appended to the chain of one chunk.

    :param end: where the chain ends once they are written
    """

    rows: list[dict[str, Any]]
    end: ChainEnd


class ChainOwner(Protocol):
    """What audit rows are written under: a claim on a chunk, or the plan itself."""

    @property
    def run_key(self) -> str:
        """The run of the links."""

    @property
    def chunk_no(self) -> int:
        """Their chunk; :data:`~zoho_crm.ledger.chain.CHUNK_OF_PLAN` for what the plan itself decides."""

    @property
    def claim_no(self) -> int:
        """The claim under which they were taken; 0 for the plan."""

    @property
    def chain(self) -> ChainEnd:
        """Where the chunk's chain ends now."""


def audit_rows(
    owner: ChainOwner,
    results: Sequence[LinkResult],
    *,
    origin: Origin,
    target: Target,
    job: str,
    now_s: float,
) -> AuditRows:
    """
    Make one audit row for each result, in their order.

    The rows of all runs are ordered by their event IDs, and so by the clock that these are made from.

    :param now_s: seconds since 1970 by the database's clock
    """
    shared = {
        "run_key": owner.run_key,
        "chunk_no": owner.chunk_no,
        "claim_no": owner.claim_no,
        "map_index": origin.map_index,
        "try_number": origin.try_number,
        "dry_run": target.dry_run,
        **origin_columns(origin, job),
        **target_columns(target),
    }
    common, hashes = common_of(shared), RowHashes()
    new_event_id = EventIds(lambda: int(now_s * 1e9))
    rows, row_hash = [], owner.chain.row_hash
    for chain_no, result in enumerate(results, start=owner.chain.chain_no + 1):
        row = {**shared, **_row(result), "event_id": new_event_id(), "chain_no": chain_no}
        row["row_hash"] = row_hash = hashes.of(row_hash, common, own_of(row))
        rows.append(row)
    return AuditRows(rows, ChainEnd(owner.chain.chain_no + len(rows), row_hash))


def append(connection: sa.Connection, audit_rows: AuditRows) -> None:
    """Append rows. The caller holds their chunk, and writes the new end of its chain in the same transaction."""
    if audit_rows.rows:
        connection.execute(sa.insert(audit), audit_rows.rows)


def _row(result: LinkResult) -> dict[str, Any]:
    planned = result.planned
    return {
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
