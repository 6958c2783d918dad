"""Entry points of the processes that the proofs kill. Each opens its own connections, like an Airflow task."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tests.proofs.harness import Try
from tests.support.local_zoho import ZOHO
from tests.support.operators import context, delink
from zoho_crm.errors import UnfinishedLinksError
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from zoho_crm.core.models import ChunkRef

UNFINISHED_EXIT_CODE = 3
"""Exit code of a task with unfinished links."""

AUDIT = "audit"

SHORT_LEASE_S = 0.5


def run_chunk(database: str, zoho: dict[str, Any], chunk: ChunkRef, options: dict[str, Any]) -> None:
    """
    Work on a chunk like the operator, but with leases that end soon after a try is dead.

    :param options: fields of :class:`tests.proofs.harness.Try`
    """
    os.environ[f"AIRFLOW_CONN_{ZOHO.upper()}"] = json.dumps(zoho)
    ledger = Ledger(sa.create_engine(database, poolclass=sa.NullPool))
    short = {"renew_every_s": SHORT_LEASE_S / 5, "lease_s": SHORT_LEASE_S}
    asyncio.run(Try(ledger, chunk, limit=10_000, **short, **options)())


def execute(audit: dict[str, Any], zoho: dict[str, Any], chunk: ChunkRef, strategy: str) -> None:
    """Execute the operator; SIGTERM calls ``on_kill``, as in Airflow."""
    os.environ[f"AIRFLOW_CONN_{ZOHO.upper()}"] = json.dumps(zoho)
    os.environ[f"AIRFLOW_CONN_{AUDIT.upper()}"] = json.dumps(audit)
    # A started page of links is completed: one at a time leaves further pages unfinished.
    concurrency = 5 if strategy == "single" else 1
    operator = delink(chunk=chunk, audit_conn_id=AUDIT, strategy=strategy, task_concurrency=concurrency)
    signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
    try:
        operator.execute(context())
    except UnfinishedLinksError:
        sys.exit(UNFINISHED_EXIT_CODE)
