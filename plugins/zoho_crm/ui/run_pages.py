"""The page of a run: progress, outcomes, reasons and links; and the form that starts a retry or a relink from it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse

from zoho_crm.core.approval import ASKED
from zoho_crm.core.formatting import record_url
from zoho_crm.core.job import DAG_ID_PREFIX, Guards
from zoho_crm.core.models import DELETED, RELINK
from zoho_crm.core.outcomes import DELINK_OUTCOMES, RELINK_OUTCOMES, REMOVAL_OUTCOMES, Outcome
from zoho_crm.core.run_request import DRY_RUN, RELINK_DAG_ID, RETRY_DAG_ID, is_automatic
from zoho_crm.ledger.link_queries import PENDING, LinkFilter
from zoho_crm.ledger.run_queries import REASON_SAMPLE
from zoho_crm.ui.approvals import Decision, find_decision
from zoho_crm.ui.audit_databases import AuditDatabase, AuditDatabases, DatabasesDep
from zoho_crm.ui.auth import READ_RUN, Reader, ReaderDep
from zoho_crm.ui.dag_run_endings import describe_ending, read_endings, with_endings
from zoho_crm.ui.query_params import FormDep, id_prefix, outcome_param, seq_param
from zoho_crm.ui.rendering import OUTCOME_COLUMNS, OUTCOME_KINDS, Urls, format_number, page, wants_html

if TYPE_CHECKING:
    from zoho_crm.core.models import StoredRun
    from zoho_crm.ledger.run_queries import Progress

RUN_PREFIX = "/dags/{dag_id}/runs/{dag_run_id}"
PAGE_LINKS = 50
_POLL_MS = 2_000

router = APIRouter(prefix=RUN_PREFIX, dependencies=[Depends(READ_RUN)])


@dataclass(frozen=True, slots=True)
class FoundRun:
    """
    The run of a request.

    :param others: runs of the same Dag run for other jobs
    """

    run: StoredRun
    database: AuditDatabase
    others: list[StoredRun]


def find_run(
    dag_id: str, dag_run_id: str, reader: ReaderDep, databases: DatabasesDep, job: str = ""
) -> FoundRun | None:
    """Return the run of a Dag run; None if the user may read none."""
    found = [
        (run, database)
        for database in databases.readable()
        for run in with_endings(database.runs.of_dag_run(dag_id, dag_run_id), database.runs.get)
        if reader.may_read(run.dag_id, run.job)
    ]
    of_job = [each for each in found if not job or each[0].job == job]
    if not of_job:
        return None
    run, database = of_job[0]
    return FoundRun(run, database, [other for other, _ in found if other is not run])


def require_run(
    dag_id: str, dag_run_id: str, reader: ReaderDep, databases: DatabasesDep, job: str = ""
) -> FoundRun:
    """Return the run of a Dag run; raise 404 if the user may read none, 503 if a database is unavailable."""
    if found := find_run(dag_id, dag_run_id, reader, databases, job):
        return found
    raise _missing_run(dag_id, dag_run_id, databases)


@router.get("", response_class=HTMLResponse)
def run_page(
    request: Request,
    dag_id: str,
    dag_run_id: str,
    reader: ReaderDep,
    databases: DatabasesDep,
    job: str = "",
    outcome: str = "",
    after: str = "",
) -> HTMLResponse:
    """Show a run and a page of its links."""
    found = find_run(dag_id, dag_run_id, reader, databases, job)
    if found is not None:
        wanted = LinkFilter(outcome=outcome_param(outcome))
        return _run_page(request, found, reader, databases, wanted, seq_param(after))
    if not wants_html(request):
        raise _missing_run(dag_id, dag_run_id, databases)
    ending = read_endings([(dag_id, dag_run_id)]).get((dag_id, dag_run_id))
    return page(
        request,
        "no_run.html",
        status_code=404,
        dag_id=dag_id,
        dag_run_id=dag_run_id,
        problems=databases.problems(),
        may_follow=dag_id.startswith(DAG_ID_PREFIX) or dag_id in {RETRY_DAG_ID, RELINK_DAG_ID},
        is_unknown=ending is not None and ending.state == DELETED,
        ending=describe_ending(ending),
    )


@router.post("", response_class=HTMLResponse)
def search(
    request: Request,
    found: Annotated[FoundRun, Depends(require_run)],
    reader: ReaderDep,
    databases: DatabasesDep,
    form: FormDep,
) -> HTMLResponse:
    """Show a run and the links that match a search; ids travel in a form, so that access logs never contain them."""
    wanted = LinkFilter(
        outcome=outcome_param(form.get("outcome")),
        external_id=id_prefix(form, "external_id"),
        related_external_id=id_prefix(form, "related_external_id"),
    )
    return _run_page(request, found, reader, databases, wanted, seq_param(form.get("after")))


@router.get("/progress")
def run_progress(found: Annotated[FoundRun, Depends(require_run)], databases: DatabasesDep) -> dict[str, Any]:
    """Return the progress of a run as JSON, for the page to poll."""
    run = found.run
    progress = found.database.runs.progress(run)
    return {
        "planned": progress.planned,
        "done": progress.done,
        "chunks": progress.chunks,
        "chunks_done": progress.chunks_done,
        "credits": progress.credits,
        "by_outcome": {outcome.value: count for outcome, count in progress.by_outcome.items()},
        "status": run.status,
        "shown": _page_version(run, progress, find_decision(run, _guards_of(run, databases) or Guards())),
        "finished": run.has_ended,
        "poll_ms": _POLL_MS,
    }


@router.get("/start/{action}", response_class=HTMLResponse)
def start_form(
    request: Request,
    found: Annotated[FoundRun, Depends(require_run)],
    action: Literal["retry", "relink"],
    reader: ReaderDep,
) -> HTMLResponse:
    """Show a prefilled form that starts a retry or a relink from this run."""
    dag_id, outcomes = _ACTIONS[action]
    run = found.run
    if not reader.may_reprocess(dag_id, run.dag_id, run.job):
        raise HTTPException(
            403,
            f"You may not {action} links of {run.job}: it needs the right to trigger {dag_id} and the job's own Dag. "
            "Ask an administrator of Airflow for access.",
        )
    counts = {outcome: getattr(run, outcome.value) or 0 for outcome in outcomes}
    return page(request, "start_run.html", run=run, action=action, target_dag=dag_id, counts=counts)


_ACTIONS = {
    "retry": (RETRY_DAG_ID, (Outcome.FAILED, Outcome.UNKNOWN, Outcome.NOT_ATTEMPTED)),
    "relink": (RELINK_DAG_ID, REMOVAL_OUTCOMES),
}


def _missing_run(dag_id: str, dag_run_id: str, databases: AuditDatabases) -> HTTPException:
    if unavailable := [conn_id for conn_id, _ in databases.problems()]:
        return HTTPException(503, f"The audit database is unavailable: {', '.join(unavailable)}.")
    return HTTPException(404, f"The audit has no run {dag_run_id} of {dag_id}. Check the run ID.")


def _run_page(
    request: Request,
    found: FoundRun,
    reader: Reader,
    databases: AuditDatabases,
    wanted: LinkFilter,
    after: int,
) -> HTMLResponse:
    run, queries = found.run, found.database.runs
    rows = found.database.links.page(run, wanted, after=after, limit=PAGE_LINKS + 1)
    progress = queries.progress(run)
    guards = _guards_of(run, databases)
    decision = find_decision(run, guards or Guards())
    possible = RELINK_OUTCOMES if run.operation == RELINK else DELINK_OUTCOMES
    return page(
        request,
        "run.html",
        run=run,
        others=found.others,
        progress=progress,
        bar=progress_bar(progress),
        links_per_second=links_per_second(run, progress),
        shown=_page_version(run, progress, decision),
        poll=f"{Urls.of(request).run(run.dag_id, run.dag_run_id, 'progress')}?{urlencode({'job': run.job})}",
        outcomes=[
            each
            for column in OUTCOME_COLUMNS.values()
            for each in column
            if each in possible and (progress.by_outcome[each] or _is_common(run, each))
        ],
        reasons=[
            (reason, advice(reason.outcome, reason.zoho_code)) for reason in queries.reasons(run, progress)
        ],
        reason_sample=REASON_SAMPLE,
        events=queries.events(run.run_key),
        texts=queries.texts(run),
        links=rows[:PAGE_LINKS],
        has_records=any(row.zoho_record_id for row in rows[:PAGE_LINKS]),
        record_url=partial(_related_record_url, run),
        last_seq=rows[PAGE_LINKS - 1].seq if len(rows) > PAGE_LINKS else None,
        wanted=wanted,
        pending=PENDING,
        searched=request.method == "POST",
        actions=_actions(run, reader),
        later_runs=[each for each in queries.started_from(run) if reader.may_read(each.dag_id, each.job)],
        origin=_origin_run(found, reader),
        needs_approval=run.approval == ASKED and run.finished_at is None and decision is None,
        decision=decision,
        guards=guards,
        automatic_stays_dry=_automatic_stays_dry(run, databases),
    )


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of the progress bar; ``start`` and ``width`` in percent of the planned links."""

    kind: str
    outcomes: tuple[Outcome, ...]
    start: float
    width: float


@dataclass(frozen=True, slots=True)
class ProgressBar:
    """The links of a run by kind of outcome, as segments and as text."""

    segments: list[Segment]
    text: str


def progress_bar(progress: Progress) -> ProgressBar:
    """Return the bar of a run."""
    segments, texts, before = [], [], 0
    for kind, columns in OUTCOME_KINDS.items():
        outcomes = tuple(outcome for column in columns for outcome in OUTCOME_COLUMNS[column])
        links = sum(progress.by_outcome[outcome] for outcome in outcomes)
        if kind == "remaining":
            links += max(0, progress.planned - progress.done)
        whole = progress.planned or 1
        segments.append(
            Segment(kind, outcomes, round(100 * before / whole, 2), round(100 * links / whole, 2))
        )
        before += links
        if links:
            texts.append(f"{format_number(links)} {kind}")
    return ProgressBar(segments, ", ".join(texts) or "no links")


def links_per_second(run: StoredRun, progress: Progress) -> float | None:
    """Return the speed of a finished run that sent requests; None if it is too short or too slow to say."""
    if run.dry_run or run.finished_at is None or run.planned_at is None:
        return None
    seconds = (run.finished_at - run.planned_at).total_seconds()
    return round(progress.done / seconds, 1) or None if seconds >= 1 else None


def _guards_of(run: StoredRun, databases: AuditDatabases) -> Guards | None:
    """Return the guards of the run's job; None if its file is missing or invalid."""
    return next((job.guards for job in databases.jobs() if job.name == run.job), None)


def _automatic_stays_dry(run: StoredRun, databases: AuditDatabases) -> bool:
    """Return whether a run that Airflow started is dry because the job file does not say otherwise."""
    if not run.dry_run or not is_automatic(run.run_type):
        return False
    return any(job.name == run.job and job.automatic == DRY_RUN for job in databases.jobs())


def _page_version(run: StoredRun, progress: Progress, decision: Decision | None) -> str:
    """Return a text that changes when the page has to be reloaded, because more than counts has changed."""
    facts = (
        run.status,
        run.planned,
        run.guard_decision,
        run.approval,
        run.approval_note,
        decision,
        run.stop_reason,
        run.finished_at,
        run.failure,
        run.detail,
    )
    seen = [outcome.value for outcome in Outcome if progress.by_outcome[outcome]]
    return hashlib.sha256(repr((facts, seen)).encode()).hexdigest()[:16]


def _is_common(run: StoredRun, outcome: Outcome) -> bool:
    """Return whether the page lists an outcome that no link has."""
    if run.dry_run:
        return outcome in {Outcome.WOULD_REMOVE, Outcome.WOULD_RELINK}
    return outcome in {
        Outcome.REMOVED,
        Outcome.ALREADY_ABSENT,
        Outcome.RELINKED,
        Outcome.FAILED,
        Outcome.UNKNOWN,
    }


def _actions(run: StoredRun, reader: Reader) -> list[str]:
    """Return what the user can start from this run: ``retry``, ``relink``."""
    if run.dry_run or run.finished_at is None or run.pseudonymized_at is not None or run.operation == RELINK:
        return []
    return [
        action
        for action, (dag_id, outcomes) in _ACTIONS.items()
        if any(getattr(run, outcome.value) for outcome in outcomes)
        and reader.may_reprocess(dag_id, run.dag_id, run.job)
    ]


def _origin_run(found: FoundRun, reader: Reader) -> StoredRun | None:
    """Return the run that this retry or relink started from, if the user may read it."""
    key = found.run.origin_run_key
    origin = found.database.runs.get(key) if key else None
    return origin if origin and reader.may_read(origin.dag_id, origin.job) else None


def _related_record_url(run: StoredRun, record_id: str) -> str | None:
    """Return the URL of Zoho's page of a related record, if it is known."""
    return record_url(
        environment=run.environment,
        data_center=run.data_center,
        org_id=run.org_id,
        module=run.related_module,
        record_id=record_id,
    )


_ADVICE_BY_CODE = {
    "RECORD_LOCKED": "The record is locked in Zoho: unlock it, then start a new run.",
    "NOT_APPROVED": "The record is waiting for approval in Zoho: approve or reject it there, then start a new run.",
    "NOT_ALLOWED": "A layout rule or approval process in Zoho prevents the change: fix it there, then start a new run.",
    "CANNOT_BE_UPDATED": "Zoho does not allow changes to this record: see its message.",
    "DUPLICATE_DATA": "Several records share an external ID: correct them in Zoho, then start a new run.",
    "MANDATORY_NOT_FOUND": "A mandatory field of the record is empty: fill it in Zoho, then start a new run.",
    "LIMIT_REACHED": "Zoho's limit of calls is reached: wait until credits are available, then retry.",
    "TOO_MANY_REQUESTS": "Too many requests in flight: lower max_concurrency of the connection, then retry.",
    "INTERNAL_ERROR": "Zoho failed repeatedly: retry later.",
    "INTERNAL_SERVER_ERROR": "Zoho failed repeatedly: retry later.",
}
_ADVICE_BY_OUTCOME = {
    Outcome.PARENT_NOT_FOUND: "No record has this external ID: it is missing in Zoho or wrong in the source.",
    Outcome.RELATED_NOT_FOUND: "No related record has this external ID: it is missing in Zoho or wrong in the source.",
    Outcome.INVALID: "Not a valid external ID, so nothing was sent: fix it in the source.",
    Outcome.PRESUMED_REMOVED: "The link is gone, and only the request in doubt may have removed it: nothing to do.",
    Outcome.PRESUMED_RELINKED: "The link exists, and only the request in doubt may have restored it: nothing to do.",
    Outcome.REJECTED: "Zoho rejected this link: see its message, fix the cause in Zoho, then start a new run.",
    Outcome.FAILED: "Nothing was changed after all retries: retry unfinished links.",
    Outcome.UNKNOWN: "A request may be applied, even late: retry unfinished links, which verifies them first.",
    Outcome.NOT_ATTEMPTED: "The run ended before this link was sent: fix the stop reason, then retry unfinished links.",
}


def advice(outcome: Outcome, zoho_code: str | None) -> str:
    """Return what to do about links with this outcome and Zoho code."""
    if outcome in {Outcome.REJECTED, Outcome.FAILED} and zoho_code in _ADVICE_BY_CODE:
        return _ADVICE_BY_CODE[zoho_code]
    return _ADVICE_BY_OUTCOME.get(outcome, "")
