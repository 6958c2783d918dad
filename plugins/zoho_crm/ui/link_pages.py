"""
The history of a link over all runs, with each request and response.

A form with the two ids of a link leads to it; the URL contains only its key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from zoho_crm.core.formatting import record_url
from zoho_crm.core.links import Link, link_fault, pair_key
from zoho_crm.core.models import RELINK, relation_of
from zoho_crm.core.request import delete_related, put_related
from zoho_crm.errors import ZohoConfigError
from zoho_crm.ui.audit_databases import DatabasesDep
from zoho_crm.ui.auth import SIGNED_IN, ReaderDep
from zoho_crm.ui.query_params import FormDep
from zoho_crm.ui.rendering import Urls, page

if TYPE_CHECKING:
    from zoho_crm.ledger.link_queries import LinkEvent
    from zoho_crm.ui.audit_databases import AuditDatabases
    from zoho_crm.ui.auth import Reader

router = APIRouter(prefix="/links", dependencies=[Depends(SIGNED_IN)])

PAGE_EVENTS = 500
_KEY_LENGTH = 64


@router.get("", response_class=HTMLResponse)
def find_form(request: Request, reader: ReaderDep, databases: DatabasesDep) -> HTMLResponse:
    """Show the form for the two ids of a link."""
    return page(request, "find_link.html", jobs=databases.jobs_of(reader), form={}, problem=None)


@router.post("", response_class=HTMLResponse)
def find(request: Request, reader: ReaderDep, databases: DatabasesDep, form: FormDep) -> Response:
    """Redirect to the history of the link in a form."""
    jobs = databases.jobs_of(reader)
    job = next((each for each in jobs if each.name == form.get("job")), None)
    ids = form.get("external_id", ""), form.get("related_external_id", "")
    if job is None or not all(ids):
        problem = "Choose a job and enter both IDs."
        return page(request, "find_link.html", status_code=400, jobs=jobs, form=form, problem=problem)
    key = pair_key(job.relation.as_relation(), *ids)
    if (fault := link_fault(*ids)) and not _events(databases, reader, key):
        problem = f"No history for this link: {fault}."
        return page(request, "find_link.html", status_code=404, jobs=jobs, form=form, problem=problem)
    return RedirectResponse(Urls.of(request).to("links", key), status_code=303)


@router.get("/{key}", response_class=HTMLResponse)
def link_page(request: Request, key: str, reader: ReaderDep, databases: DatabasesDep) -> HTMLResponse:
    """Show the history of a link, newest first."""
    if len(key) != _KEY_LENGTH or not key.isalnum():
        raise HTTPException(404, "Not the key of a link. Use the page Find a link.")
    events = _events(databases, reader, key)
    return page(
        request,
        "link.html",
        status_code=200 if events else 404,
        events=events,
        record_url=_related_record_url,
        sent_request=sent_request,
    )


def _events(databases: AuditDatabases, reader: Reader, key: str) -> list[LinkEvent]:
    events = []
    for database in databases.readable():
        visible = reader.visible(database.runs.dags_and_jobs())
        events += database.links.history([key], visible=visible, limit=PAGE_EVENTS)
    return sorted(events, key=lambda event: event.event_id, reverse=True)


@dataclass(frozen=True, slots=True)
class SentRequest:
    """
    The request that removed or restored a link, as far as the audit knows it.

    :param target: path as sent, with encoded ids; record ids that are not stored stand in braces
    :param x_external: value of the X-EXTERNAL header; None for a request by record ids
    """

    method: str
    target: str
    x_external: str | None


def sent_request(event: LinkEvent) -> list[SentRequest]:
    """
    Return the request of a try, built as it was for sending; none if none was sent.

    :return: two with ``by_parent``: the audit does not say which of them removed the link
    """
    if event.sent_at is None:
        return []
    link = Link(event.external_id, event.related_external_id)
    build = put_related if event.operation == RELINK else delete_related
    try:
        relation = relation_of(event)
        request = build(event.api_version, relation, link)
    except ZohoConfigError:
        return []
    of_link = SentRequest(request.method, request.path, request.x_external)
    if event.strategy != "by_parent" or event.operation == RELINK:
        return [of_link]
    path = f"/crm/{event.api_version}/{relation.module}/{{parent record ID}}/{relation.related_list}"
    related = f"{event.zoho_record_id},…" if event.zoho_record_id else "{record IDs}"
    return [SentRequest("DELETE", f"{path}?ids={related}", None), of_link]


def _related_record_url(event: LinkEvent) -> str | None:
    """Return the URL of Zoho's page of the related record, if it is known."""
    return record_url(
        environment=event.environment,
        data_center=event.data_center,
        org_id=event.org_id,
        module=event.related_module,
        record_id=event.zoho_record_id,
    )
