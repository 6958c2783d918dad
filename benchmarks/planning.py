"""One plan task: rows per second and memory. Runs in a separate process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from benchmarks.child import peak_memory_mb
from benchmarks.tasks import context
from benchmarks.world import RELATION
from zoho_crm.core.job import Job
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.operators.plan_links import PlanLinksOperator


def measure(*, sql_file: str, links: int) -> dict[str, Any]:
    """Plan the rows of a SQL file, and return time and memory."""
    job = Job.model_validate(
        {
            "name": f"bench_{links}",
            "start_date": "2026-11-01",
            "source": {"conn_id": "warehouse", "sql_file": Path(sql_file).name},
            "relation": RELATION,
            "audit_conn_id": "zoho_delink_audit",
        }
    )
    # Preflight does this before the plan task.
    ledger = Ledger.from_conn_id(job.audit_conn_id)
    ledger.ensure_schema()
    ledger.close()
    before_mb = peak_memory_mb()
    started = time.perf_counter()
    chunks = PlanLinksOperator(task_id="plan", job=job, jobs_folder=Path(sql_file).parent / "jobs").execute(
        context("plan", mode="apply")
    )
    wall_s = time.perf_counter() - started
    if sum(chunk["links"] for chunk in chunks) != links:
        raise RuntimeError(f"expected {links} planned links: {chunks[:3]} ...")
    return {"wall_s": wall_s, "before_mb": before_mb, "peak_mb": peak_memory_mb()}
