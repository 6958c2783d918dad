"""A run: how far it is, what came of it, and its links, on a page and as files."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, StreamingResponse

from zoho_crm.core.approval import ASKED
from zoho_crm.core.formatting import record_url
from zoho_crm.core.job import DAG_ID_PREFIX
from zoho_crm.core.models import RELINK
from zoho_crm.core.outcomes import DELINK_OUTCOMES, RELINK_OUTCOMES, Outcome
from zoho_crm.core.run_request import REDRIVE_DAG_ID, RELINK_DAG_ID
from zoho_crm.ledger.link_queries import PENDING, LinkFilter
from zoho_crm.ledger.run_queries import REASON_SAMPLE
from zoho_crm.ui.advice import advice
from zoho_crm.ui.audit_databases import AuditDatabase, SourcesDep
from zoho_crm.ui.auth import READ_RUN, Reader, ReaderDep
from zoho_crm.ui.downloads import csv_pieces, file_name, json_lines
from zoho_crm.ui.query_params import FormDep, outcome_param, seq_param
from zoho_crm.ui.rendering import Addresses, page

if TYPE_CHECKING:
    from zoho_crm.core.models import StoredRun
    from zoho_crm.ledger.run_queries import Progress

router = APIRouter(prefix="/dags/{dag_id}/runs/{dag_run_id}", dependencies=[Depends(READ_RUN)])

PAGE_LINKS = 50
_POLL_MS = 2_000
_AGAIN = {
    REDRIVE_DAG_ID: (Outcome.FAILED, Outcome.UNKNOWN, Outcome.NOT_ATTEMPTED),
    RELINK_DAG_ID: (Outcome.REMOVED,),
}


@dataclass(frozen=True, slots=True)
class Found:
    """
    The run a request is about.

    :param others: runs of the same Dag run for other jobs
    """

    run: StoredRun
    database: AuditDatabase
    others: list[StoredRun]


def found_run(
    dag_id: str, dag_run_id: str, reader: ReaderDep, sources: SourcesDep, job: str = ""
) -> Found | None:
    """Return the run of a Dag run, None if it has none that the user may see."""
    found = [
        (run, source)
        for source in sources.readable()
        for run in source.runs.of_dag_run(dag_id, dag_run_id)
        if reader.may_read(run.dag_id, run.job)
    ]
    named = [each for each in found if not job or each[0].job == job]
    if not named:
        return None
    run, source = named[0]
    return Found(run, source, [other for other, _ in found if other is not run])


def needed_run(dag_id: str, dag_run_id: str, reader: ReaderDep, sources: SourcesDep, job: str = "") -> Found:
    """
    Return the run of a Dag run.

    Raises 404 if there is none that the user may see, 503 if it may be in a database that cannot be read.
    """
    if found := found_run(dag_id, dag_run_id, reader, sources, job):
        return found
    if unreadable := [source.conn_id for source in sources.all() if source.fault]:
        raise HTTPException(503, f"The audit database cannot be read: {', '.join(unreadable)}.")
    raise HTTPException(404, "This Dag run has no run in the audit.")


@router.get("", response_class=HTMLResponse)
def run_page(
    request: Request,
    dag_id: str,
    dag_run_id: str,
    reader: ReaderDep,
    sources: SourcesDep,
    job: str = "",
    outcome: str = "",
    after: str = "",
) -> HTMLResponse:
    """Show a run and a page of its links."""
    found = found_run(dag_id, dag_run_id, reader, sources, job)
    if found is None:
        faults = [(source.conn_id, source.fault) for source in sources.all() if source.fault]
        return page(
            request,
            "no_run.html",
            status_code=404,
            dag_id=dag_id,
            dag_run_id=dag_run_id,
            faults=faults,
            ours=dag_id.startswith(DAG_ID_PREFIX) or dag_id in _AGAIN,
        )
    wanted = LinkFilter(outcome=outcome_param(outcome))
    return _shown(request, found, reader, wanted, seq_param(after))


@router.post("", response_class=HTMLResponse)
def search(
    request: Request,
    found: Annotated[Found, Depends(needed_run)],
    reader: ReaderDep,
    form: FormDep,
) -> HTMLResponse:
    """Show a run and the links that a search finds; ids come in a form, so that no log holds them."""
    wanted = LinkFilter(
        outcome=outcome_param(form.get("outcome")),
        external_id=form.get("external_id") or None,
        related_external_id=form.get("related_external_id") or None,
    )
    return _shown(request, found, reader, wanted, seq_param(form.get("after")))


@router.get("/progress")
def run_progress(found: Annotated[Found, Depends(needed_run)]) -> dict[str, Any]:
    """Tell how far a run is, for the page to ask again and again."""
    run = found.run
    far = found.database.runs.progress(run)
    return {
        **_told(far),
        "status": run.status,
        "shown": _shown_state(run, far),
        "finished": run.finished_at is not None,
        "poll_ms": _POLL_MS,
    }


@router.get("/links.{kind}")
def download(
    found: Annotated[Found, Depends(needed_run)], kind: Literal["csv", "jsonl"], outcome: str = ""
) -> StreamingResponse:
    """Stream the links of a run, each with its outcome and its last audit row."""
    run = found.run
    if run.planned_at is None:
        raise HTTPException(404, "This run has no plan yet.")
    if run.pseudonymised_at is not None:
        raise HTTPException(404, "The plan of this run was deleted when its ids were replaced by hashes.")
    wanted = outcome_param(outcome)
    rows = found.database.links.stream(run, wanted)
    name = file_name(run.job, run.dag_run_id, wanted or "links")
    return StreamingResponse(
        csv_pieces(rows) if kind == "csv" else json_lines(rows),
        media_type="text/csv; charset=utf-8" if kind == "csv" else "application/x-ndjson",
        headers={"content-disposition": f'attachment; filename="{name}.{kind}"'},
    )


@router.get("/again/{again_dag}", response_class=HTMLResponse)
def again(
    request: Request,
    found: Annotated[Found, Depends(needed_run)],
    again_dag: Literal["zoho_delink_redrive", "zoho_relink"],
    reader: ReaderDep,
) -> HTMLResponse:
    """Show a form, filled in, that starts a run on the links of this one."""
    if not reader.may_trigger(again_dag):
        raise HTTPException(403, f"You may not start runs of {again_dag}.")
    at_stake = {outcome: getattr(found.run, outcome.value) or 0 for outcome in _AGAIN[again_dag]}
    return page(request, "again.html", run=found.run, again_dag=again_dag, at_stake=at_stake)


def _shown(request: Request, found: Found, reader: Reader, wanted: LinkFilter, after: int) -> HTMLResponse:
    run, at = found.run, Addresses.of(request)
    rows = found.database.links.page(run, wanted, after=after, limit=PAGE_LINKS + 1)
    far = found.database.runs.progress(run)
    possible = RELINK_OUTCOMES if run.operation == RELINK else DELINK_OUTCOMES
    told = [
        (reason, advice(reason.outcome, reason.zoho_code)) for reason in found.database.runs.reasons(run, far)
    ]
    return page(
        request,
        "run.html",
        run=run,
        others=found.others,
        progress=far,
        shown=_shown_state(run, far),
        poll=f"{at.run(run.dag_id, run.dag_run_id, 'progress')}?{urlencode({'job': run.job})}",
        possible=[outcome for outcome in possible if far.by_outcome[outcome] or _common(run, outcome)],
        reasons=told,
        looked_at=REASON_SAMPLE,
        links=rows[:PAGE_LINKS],
        records=any(row.zoho_record_id for row in rows[:PAGE_LINKS]),
        record_address=partial(_record_address, run),
        last_seq=rows[PAGE_LINKS - 1].seq if len(rows) > PAGE_LINKS else None,
        wanted=wanted,
        after=after,
        open_filter=PENDING,
        searched=request.method == "POST",
        again=_offers(run, reader),
        runs_started_from=[
            each for each in found.database.runs.started_from(run) if reader.may_read(each.dag_id, each.job)
        ],
        origin=_origin(found, reader),
        waits_for_person=run.approval == ASKED and run.finished_at is None,
    )


def _shown_state(run: StoredRun, far: Progress) -> str:
    """Return a text that changes with whatever the page shows beside the counts: a first rejected link, too."""
    facts = (run.status, run.planned, run.guard_decision, run.approval, run.stop_reason, run.finished_at)
    seen = [outcome.value for outcome in Outcome if far.by_outcome[outcome]]
    return hashlib.sha256(repr((facts, seen)).encode()).hexdigest()[:16]


def _common(run: StoredRun, outcome: Outcome) -> bool:
    """Whether a table of outcomes names one that no link has."""
    if run.dry_run:
        return outcome in {Outcome.WOULD_REMOVE, Outcome.WOULD_RELINK}
    return outcome in {
        Outcome.REMOVED,
        Outcome.ALREADY_ABSENT,
        Outcome.RELINKED,
        Outcome.FAILED,
        Outcome.UNKNOWN,
    }


def _offers(run: StoredRun, reader: Reader) -> list[str]:
    """Return the Dags with which the user can take up links of this run."""
    if run.dry_run or run.finished_at is None or run.pseudonymised_at is not None or run.operation == RELINK:
        return []
    return [
        dag_id
        for dag_id, outcomes in _AGAIN.items()
        if any(getattr(run, outcome.value) for outcome in outcomes) and reader.may_trigger(dag_id)
    ]


def _origin(found: Found, reader: Reader) -> StoredRun | None:
    """Return the run whose links this one takes up."""
    key = found.run.origin_run_key
    origin = found.database.runs.get(key) if key else None
    return origin if origin and reader.may_read(origin.dag_id, origin.job) else None


def _record_address(run: StoredRun, record_id: str) -> str | None:
    """Return the address of Zoho's page of a related record, if it is known."""
    return record_url(
        environment=run.environment,
        data_center=run.data_center,
        org_id=run.org_id,
        module=run.related_module,
        record_id=record_id,
    )


def _told(far: Progress) -> dict[str, Any]:
    return {
        "planned": far.planned,
        "done": far.done,
        "chunks": far.chunks,
        "chunks_done": far.chunks_done,
        "credits": far.credits,
        "by_outcome": {outcome.value: count for outcome, count in far.by_outcome.items()},
    }
