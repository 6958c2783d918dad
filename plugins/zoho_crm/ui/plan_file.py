"""The plan of a run as a file, for whoever decides about it."""

from __future__ import annotations

import csv
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Depends, HTTPException, Query
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError

from zoho_crm.core.csv_cells import safe_cell
from zoho_crm.core.job import DAG_ID_PREFIX
from zoho_crm.core.job_files import named_job
from zoho_crm.core.reprocess_request import REDRIVE_DAG_ID, RELINK_DAG_ID
from zoho_crm.core.run_request import run_key
from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.operators.dag_parts import jobs_folder
from zoho_crm.ui.auth import READ_RUN, reads_job

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zoho_crm.core.job import Job

COLUMNS = ("seq", "external_id", "related_external_id", "state", "outcome", "fault")

router = APIRouter(dependencies=[Depends(READ_RUN), Depends(reads_job)])


@router.get("/dags/{dag_id}/runs/{run_id}/plan.csv")
def plan_csv(dag_id: str, run_id: str, job: Annotated[str | None, Query()] = None) -> StreamingResponse:
    """
    Return the stored plan of a run as CSV, a line for each link with its state and outcome.

    :param job: the job; a job's own Dag needs none
    """
    found = _job(dag_id, job)
    key = run_key(found.name, dag_id, run_id)
    try:
        ledger = Ledger.from_conn_id(found.audit_conn_id)
        run = ledger.get_run(key)
    except SQLAlchemyError:
        raise HTTPException(503, "The audit database does not answer, or holds no tables yet") from None
    except ZohoConfigError as error:
        raise HTTPException(503, str(error)) from None
    if run is None or run.planned_at is None:
        ledger.close()
        raise HTTPException(404, "This run has no plan")
    return StreamingResponse(
        _lines(ledger, key),
        media_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f'attachment; filename="plan-{found.name}-{key[-8:]}.csv"',
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        },
    )


def _job(dag_id: str, name: str | None) -> Job:
    """Return the job of a Dag: its own, or the one that is named where the Dag is for all of them."""
    own = dag_id.removeprefix(DAG_ID_PREFIX) if dag_id.startswith(DAG_ID_PREFIX) else None
    if own is None and dag_id not in {REDRIVE_DAG_ID, RELINK_DAG_ID}:
        raise HTTPException(404, "This Dag has no plans")
    if own is not None and name not in {None, own}:
        raise HTTPException(404, "This Dag is of another job")
    from airflow.sdk import conf

    try:
        return named_job(jobs_folder(Path(conf.get("core", "dags_folder")).parent), own or name)
    except ZohoConfigError as error:
        raise HTTPException(404, str(error)) from None


def _lines(ledger: Ledger, key: str) -> Iterator[str]:
    """Yield the file, some hundred lines at a time."""
    try:
        yield _csv([COLUMNS])
        for page in ledger.plan_pages(key):
            yield _csv([safe_cell(value) for value in row] for row in page)
    finally:
        ledger.close()


def _csv(rows: Iterable[Iterable[str]]) -> str:
    text = StringIO()
    csv.writer(text).writerows(rows)
    return text.getvalue()
