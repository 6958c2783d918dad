"""The story of one link over all runs: planned, removed, put back, by whom, and what Zoho answered."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import sqlalchemy as sa

from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.tables import audit, runs

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import datetime

    from zoho_crm.ledger.run_queries import DagAndJob


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """
    What one try of one run found out about a link. Times are aware and in UTC.

    :param mode: ``apply`` or ``dry_run``
    :param run_reason: why the run was started, where somebody said so
    :param environment: the run's: ``production``, ``sandbox``, ``developer``, ``local``; None where nobody kept it
    """

    event_id: str
    finished_at: datetime
    sent_at: datetime | None
    duration_ms: int | None
    job: str
    dag_id: str
    dag_run_id: str
    task_id: str
    map_index: int
    try_number: int
    run_type: str
    triggered_by: str | None
    operation: str
    dry_run: bool
    outcome: str
    attempts: int
    http_status: int | None
    zoho_code: str | None
    zoho_message: str | None
    zoho_record_id: str | None
    detail: str | None
    snapshot: str | None
    data_center: str
    org_id: str | None
    module: str
    external_field: str
    related_list: str
    related_module: str
    related_external_field: str
    external_id: str
    related_external_id: str
    run_reason: str | None
    approved_by: str | None
    environment: str | None


_OF_RUN = {
    "run_reason": runs.c.reason,
    "approved_by": runs.c.approved_by,
    "environment": runs.c.environment,
}


def link_history(
    engine: sa.Engine, pair_key: str, *, visible: Collection[DagAndJob], limit: int = 500
) -> list[Event]:
    """
    Return all that happened to a link, the last first.

    :param pair_key: key of the link, the same in all runs
    :param visible: the Dags and jobs that the reader may see; events of others are left out
    """
    columns = [
        _OF_RUN[field.name].label(field.name) if field.name in _OF_RUN else audit.c[field.name]
        for field in fields(Event)
    ]
    of_visible = [sa.and_(audit.c.dag_id == dag_id, audit.c.job == job) for dag_id, job in sorted(visible)]
    statement = (
        sa.select(*columns)
        .select_from(audit)
        .outerjoin(runs, runs.c.run_key == audit.c.run_key)
        .where(audit.c.pair_key == pair_key, sa.or_(sa.false(), *of_visible))
        .order_by(audit.c.event_id.desc())
        .limit(limit)
    )
    with reading(engine).begin() as connection:
        return [Event(**row) for row in connection.execute(statement).mappings()]
