"""The first page: runs of all jobs, and links by outcome per day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse

from zoho_crm.core.models import DELINK, RELINK
from zoho_crm.core.outcomes import RunStatus
from zoho_crm.ledger.run_queries import RunFilter, RunPosition
from zoho_crm.ui.audit_databases import AuditDatabases, SourcesDep
from zoho_crm.ui.auth import SIGNED_IN, Reader, ReaderDep
from zoho_crm.ui.charts import CHART_DAYS, first_moment, links_chart
from zoho_crm.ui.query_params import day_param, position_param
from zoho_crm.ui.rendering import page

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoho_crm.core.models import StoredRun

router = APIRouter(dependencies=[Depends(SIGNED_IN)])

PAGE_RUNS = 50


@router.get("/", response_class=HTMLResponse)
def overview(
    request: Request,
    reader: ReaderDep,
    sources: SourcesDep,
    job: str = "",
    status: str = "",
    mode: str = "",
    operation: str = "",
    since: str = "",
    until: str = "",
    days: Literal["7", "30", "90"] = "30",
    after: str = "",
) -> HTMLResponse:
    """Show the runs that the user may see, those started last first."""
    wanted = RunFilter(
        job=job or None,
        status=status or None,
        mode=mode or None,
        operation=operation or None,
        since=day_param(since, "since"),
        until=day_param(until, "until", end=True),
    )
    asked = {
        "job": job,
        "status": status,
        "mode": mode,
        "operation": operation,
        "since": since,
        "until": until,
        "days": days,
    }
    found = _page(sources, reader, wanted, position_param(after))
    shown = found[:PAGE_RUNS]
    more = RunPosition.of(shown[-1]) if len(found) > PAGE_RUNS else None
    of_job = RunFilter(job=wanted.job, operation=wanted.operation, since=first_moment(int(days)))
    return page(
        request,
        "overview.html",
        runs=shown,
        asked=asked,
        next_page=_query(asked, after=str(more)) if more else None,
        first_page=_query(asked) if after else None,
        periods=[(each, _query(asked, days=str(each))) for each in CHART_DAYS],
        chart=links_chart(sources, reader, of_job, int(days)),
        jobs=[each.name for each in sources.jobs()],
        statuses=[each.value for each in RunStatus],
        operations=[DELINK, RELINK],
        faults=[(source.conn_id, source.fault) for source in sources.all() if source.fault],
        filtered=wanted != RunFilter(),
    )


def _page(
    sources: AuditDatabases, reader: Reader, wanted: RunFilter, after: RunPosition | None
) -> list[StoredRun]:
    found: list[StoredRun] = []
    for source in sources.readable():
        visible = reader.visible(source.runs.dags_and_jobs())
        found += source.runs.page(wanted, visible=visible, after=after, limit=PAGE_RUNS + 1)
    return sorted(found, key=RunPosition.of, reverse=True)[: PAGE_RUNS + 1]


def _query(asked: Mapping[str, str], **changes: str) -> str:
    values: dict[str, Any] = {name: value for name, value in (dict(asked) | changes).items() if value}
    return f"?{urlencode(values)}"
