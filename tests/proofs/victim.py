"""What the processes do that the proofs kill. Each opens everything anew, as a task of Airflow does."""

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

LEFT = 3
"""Exit code of a task that leaves links to be tried again."""

AUDIT = "audit"


def drive(database: str, zoho: dict[str, Any], chunk: ChunkRef, strategy: str, try_number: int) -> None:
    """Work a chunk off over the ledger, as the operator does, but without the 90 s that dead tries keep slots."""
    os.environ[f"AIRFLOW_CONN_{ZOHO.upper()}"] = json.dumps(zoho)
    ledger = Ledger(sa.create_engine(database, poolclass=sa.NullPool))
    asyncio.run(Try(ledger, chunk, strategy, limit=10_000, try_number=try_number)())


def execute(audit: dict[str, Any], zoho: dict[str, Any], chunk: ChunkRef, strategy: str) -> None:
    """Execute the operator, which a SIGTERM tells to end as Airflow does."""
    os.environ[f"AIRFLOW_CONN_{ZOHO.upper()}"] = json.dumps(zoho)
    os.environ[f"AIRFLOW_CONN_{AUDIT.upper()}"] = json.dumps(audit)
    # A page of links is worked off to its end: with one at a time there are further ones to leave.
    concurrency = 5 if strategy == "single" else 1
    operator = delink(chunk=chunk, audit_conn_id=AUDIT, strategy=strategy, task_concurrency=concurrency)
    signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())
    try:
        operator.execute(context())
    except UnfinishedLinksError:
        sys.exit(LEFT)
