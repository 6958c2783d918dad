"""
What the audit appends: a row for each link and try, and an event for each decision about a run.

The rows of a chunk form a hash chain, and so do the events of a run. An event and the change of the run row that it
describes are one transaction, so that the row can be derived from the events.
"""

from __future__ import annotations

import json
import secrets
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol

import sqlalchemy as sa

from zoho_crm import __version__
from zoho_crm.core.links import Relation
from zoho_crm.core.outcomes import RunEventKind
from zoho_crm.ledger.chain import (
    ChainEnd,
    RowHashes,
    canonical,
    common_of,
    event_hash,
    moment,
    own_of,
    pseudonym,
)
from zoho_crm.ledger.tables import audit, fitted, run_events, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from zoho_crm.core.models import LinkResult, Origin, Target

DECIDED = tuple(name for name in runs.c.keys() if name not in {"run_key", "credits", "preflight_credits"})  # noqa: SIM118
"""Columns of the run row that are derived from the events: all but its key and its meters."""


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


def open_run(connection: sa.Connection, row: Mapping[str, Any], *, now: datetime) -> None:
    """Insert the row of a run, and the event that opens it."""
    connection.execute(sa.insert(runs).values(row))
    facts = {name: value for name, value in decided(connection, row["run_key"]).items() if value is not None}
    _append_event(connection, row["run_key"], RunEventKind.OPENED, facts, now)


def change_run(
    connection: sa.Connection,
    run_key: str,
    kind: RunEventKind,
    values: Mapping[str, Any],
    *conditions: sa.ColumnElement[bool],
    now: datetime,
    facts: Mapping[str, Any] | None = None,
) -> bool:
    """
    Change columns of a run, and append the event that says so. Nothing is appended if nothing is new.

    :param conditions: the run is changed only if all of them hold
    :param facts: what the change was based on, as JSON values under names that are not columns of the run
    :return: whether there is such a run
    """
    before = decided(connection, run_key, lock=True)
    statement = sa.update(runs).where(runs.c.run_key == run_key, *conditions).values(values)
    if connection.execute(statement).rowcount == 0:
        return False
    after = decided(connection, run_key)
    changed = {name: value for name, value in after.items() if value != before[name]}
    if changed or facts:
        _append_event(connection, run_key, kind, {**changed, **(facts or {})}, now)
    return True


def decided(connection: sa.Connection, run_key: str, *, lock: bool = False) -> dict[str, Any]:
    """
    Return the columns :data:`DECIDED` of a run as JSON values; {} if there is no such run.

    :param lock: keep others from changing the row until the transaction ends
    """
    is_mine = runs.c.run_key == run_key
    if lock:
        connection.execute(sa.update(runs).where(is_mine).values(status=runs.c.status))
    statement = sa.select(*(runs.c[name] for name in DECIDED)).where(is_mine)
    row = connection.execute(statement).mappings().one_or_none()
    return {name: _fact(name, value) for name, value in row.items()} if row else {}


def last_facts(connection: sa.Connection, run_key: str, kind: RunEventKind) -> dict[str, Any]:
    """Return the facts of a run's last event of a kind; {} without one, or if they are not a JSON object."""
    statement = (
        sa.select(run_events.c.facts)
        .where(run_events.c.run_key == run_key, run_events.c.kind == kind.value)
        .order_by(run_events.c.event_no.desc())
        .limit(1)
    )
    text = connection.scalar(statement)
    # Facts that were altered are found by verification; the run still ends.
    with suppress(ValueError, RecursionError):
        facts = json.loads(text or "{}")
        return facts if isinstance(facts, dict) else {}
    return {}


def count_rows(connection: sa.Connection, run_key: str) -> int:
    """Return the number of audit rows of a run."""
    statement = sa.select(sa.func.count()).select_from(audit).where(audit.c.run_key == run_key)
    return connection.scalar(statement) or 0


def _fact(name: str, value: Any) -> Any:
    if isinstance(value, datetime):
        return moment(value)
    # The form's values may name people, and retention deletes them.
    return pseudonym(value) if name == "params" else value


def end_of_events(connection: sa.Connection, run_key: str) -> ChainEnd:
    """Return where the chain of a run's events ends."""
    last = connection.execute(
        sa.select(run_events.c.event_no, run_events.c.event_hash)
        .where(run_events.c.run_key == run_key)
        .order_by(run_events.c.event_no.desc())
        .limit(1)
    ).one_or_none()
    return ChainEnd(last.event_no, last.event_hash) if last else ChainEnd()


def _append_event(
    connection: sa.Connection, run_key: str, kind: RunEventKind, facts: Mapping[str, Any], now: datetime
) -> None:
    """Append an event. The caller holds the row of the run, so that no other process appends one."""
    end = end_of_events(connection, run_key)
    event_no, previous = end.chain_no + 1, end.row_hash
    text = canonical(facts)
    event: dict[str, Any] = {
        "run_key": run_key,
        "event_no": event_no,
        "kind": kind.value,
        "recorded_at": now,
        "code_version": __version__,
    }
    hashed = event_hash(previous, facts=json.loads(text), **event)
    connection.execute(sa.insert(run_events).values(**event, facts=text, event_hash=hashed))


def origin_columns(origin: Origin, job: str) -> dict[str, Any]:
    """Return the columns for the Airflow task that a row comes from."""
    texts = {
        "job": job,
        "dag_id": origin.dag_id,
        "dag_run_id": origin.dag_run_id,
        "run_type": origin.run_type,
        "triggered_by": origin.triggered_by,
        "task_id": origin.task_id,
    }
    return {
        **{name: fitted(runs.c[name], text) for name, text in texts.items()},
        "logical_date": origin.logical_date,
        "data_interval_start": origin.data_interval_start,
        "data_interval_end": origin.data_interval_end,
    }


def target_columns(target: Target) -> dict[str, Any]:
    """Return the columns for what is changed in Zoho, and how."""
    texts = {
        "org_id": target.org_id,
        "data_center": target.data_center,
        "api_version": target.api_version,
        "strategy": target.strategy,
        "operation": target.operation,
    }
    relation = {part.name: getattr(target.relation, part.name) for part in fields(Relation)}
    return {
        **{name: fitted(runs.c[name], text) for name, text in texts.items()},
        **relation,
    }


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
