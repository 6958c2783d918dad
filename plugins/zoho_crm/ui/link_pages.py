"""A link: its story over all runs. It is found by its two ids, and its address holds its key alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from zoho_crm.core.formatting import record_url
from zoho_crm.core.links import pair_key
from zoho_crm.ui.audit_databases import SourcesDep
from zoho_crm.ui.auth import SIGNED_IN, ReaderDep
from zoho_crm.ui.query_params import FormDep
from zoho_crm.ui.rendering import Addresses, page

if TYPE_CHECKING:
    from zoho_crm.ledger.link_queries import LinkEvent

router = APIRouter(prefix="/links", dependencies=[Depends(SIGNED_IN)])

PAGE_EVENTS = 500
_KEY_LENGTH = 64


@router.get("", response_class=HTMLResponse)
def find_form(request: Request, sources: SourcesDep) -> HTMLResponse:
    """Show the form that asks for the two ids."""
    return page(request, "find.html", jobs=sources.jobs(), form={}, fault=None)


@router.post("", response_class=HTMLResponse)
def find(request: Request, sources: SourcesDep, form: FormDep) -> Response:
    """Go to the link that a form names."""
    job = sources.job(form.get("job", ""))
    ids = form.get("external_id", ""), form.get("related_external_id", "")
    if job is None or not all(ids):
        fault = "Choose a job, and give both ids."
        return page(request, "find.html", status_code=400, jobs=sources.jobs(), form=form, fault=fault)
    key = pair_key(job.relation.as_relation(), *ids)
    return RedirectResponse(Addresses.of(request).to("links", key), status_code=303)


@router.get("/{key}", response_class=HTMLResponse)
def link_page(request: Request, key: str, reader: ReaderDep, sources: SourcesDep) -> HTMLResponse:
    """Show all that happened to a link, the last first."""
    if len(key) != _KEY_LENGTH or not key.isalnum():
        raise HTTPException(404, "This is not the key of a link.")
    events = []
    for source in sources.readable():
        visible = reader.visible(source.runs.dags_and_jobs())
        events += source.links.history([key], visible=visible, limit=PAGE_EVENTS)
    events.sort(key=lambda event: event.event_id, reverse=True)
    return page(
        request,
        "link.html",
        status_code=200 if events else 404,
        events=events,
        record_address=record_address_of,
    )


def record_address_of(event: LinkEvent) -> str | None:
    """Return the address of Zoho's page of the related record that an answer named, if it is known."""
    return record_url(
        environment=event.environment,
        data_center=event.data_center,
        org_id=event.org_id,
        module=event.related_module,
        record_id=event.zoho_record_id,
    )
