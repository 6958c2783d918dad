"""One operator on one chunk: links per second, CPU, and cost of the ledger. Runs in a separate process."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any

from benchmarks.child import peak_memory_mb
from benchmarks.slot_meter import SlotMeter
from benchmarks.tasks import context
from benchmarks.world import CONCURRENCY, RELATION, links_of
from zoho_crm.core.links import Relation
from zoho_crm.core.models import ChunkRef, RunStart, Target
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator
from zoho_crm.operators.job_operator import origin_of

AUDIT = "zoho_delink_audit"


def measure(*, links: int, per_parent: int, strategy: str) -> dict[str, Any]:
    """Plan links as one chunk, remove them, and return times, CPU and counts."""
    chunk = _plan(links, per_parent, strategy)
    operator = DeleteRelatedByExternalIdOperator(
        task_id="delink",
        chunk=chunk,
        audit_conn_id=AUDIT,
        strategy=strategy,
        task_concurrency=CONCURRENCY,
        **RELATION,
    )
    meter = SlotMeter(CONCURRENCY)
    meter.attach()
    started, before = time.perf_counter(), os.times()
    summary = operator.execute(context("delink"))
    wall_s, after = time.perf_counter() - started, os.times()
    if summary["removed"] != links:
        raise RuntimeError(f"expected {links} removed links: {summary}")
    return {
        "wall_s": wall_s,
        "cpu_user_s": after.user - before.user,
        "cpu_system_s": after.system - before.system,
        "peak_mb": peak_memory_mb(),
        "settles": meter.settles,
        "settle_wall_s": meter.settle_wall_s,
        "settle_cpu_s": meter.settle_cpu_s,
        "idle_s": meter.idle_s,
        "idle_in_settle_s": meter.idle_in_settle_s,
    }


def _plan(links: int, per_parent: int, strategy: str) -> ChunkRef:
    relation = Relation(**RELATION)
    origin = origin_of(context("plan"))
    target = Target(relation, data_center="us", api_version="v7", strategy=strategy)
    key = origin.dag_run_id
    ledger = Ledger.from_conn_id(AUDIT)
    try:
        ledger.ensure_schema()
        now = datetime.now(UTC)
        ledger.runs.start(
            RunStart(
                run_key=key,
                job="bench",
                origin=origin,
                target=target,
                mode="apply",
                window_start=now,
                window_end=now,
            )
        )
        plan = ledger.plans.create(
            key,
            relation,
            links_of(links, per_parent),
            chunk_size=links,
            max_chunks=1,
            origin=origin,
            target=target,
        )
    finally:
        ledger.close()
    return plan.chunks[0]
