"""Parameters of requests: filters in URLs, and forms, whose values never reach access logs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends, HTTPException, Request

from zoho_crm.core.links import find_unsendable
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger.link_queries import PENDING
from zoho_crm.ledger.run_queries import RunPosition

_MAX_FORM_BYTES = 8_192
_MAX_VALUE_LENGTH = 512
_YEARS = range(1970, 3000)
"""Databases and time zones fail at the ends of the calendar."""

Form = dict[str, str]


async def parse_form(request: Request) -> Form:
    """Parse the form of a request; raise 413 if it is too long and 400 if it cannot be parsed."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _MAX_FORM_BYTES:
            raise HTTPException(413, f"The form is longer than {_MAX_FORM_BYTES} bytes.")
    try:
        fields = parse_qs(body.decode("utf-8"), max_num_fields=20, errors="strict")
    except ValueError:
        raise HTTPException(400, "The form is not valid: send URL-encoded UTF-8 text.") from None
    if any("\0" in value for values in fields.values() for value in values):
        raise HTTPException(400, "The form contains a NUL character: remove it.")
    return {name: values[-1][:_MAX_VALUE_LENGTH] for name, values in fields.items()}


FormDep = Annotated[Form, Depends(parse_form)]


def outcome_param(value: str | None) -> str | None:
    """Return the outcome to filter by, or ``pending``; None for all; raise 400 for an unknown one."""
    if not value:
        return None
    if value != PENDING and value not in set(Outcome):
        raise HTTPException(400, f"outcome: use {PENDING} or one of {', '.join(Outcome)}.")
    return value


def id_prefix(form: Form, name: str) -> str | None:
    """Return the beginning of an external ID to search for; raise 400 for a character that no stored ID contains."""
    value = form.get(name) or None
    if value and (found := find_unsendable(value)):
        raise HTTPException(
            400,
            f"{name} holds the {found}, which no external ID can contain: remove it. Links of your source with such "
            "a character are invalid; they are shown with an escape in its place, like \\u200b.",
        )
    return value


def seq_param(value: str | None) -> int:
    """Return the number of the link after which a page starts; raise 400 if it is not a number."""
    if not value:
        return -1
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise HTTPException(400, "after: not the number of a link. Go back to the first page.")
    return int(value)


def position_param(value: str | None) -> RunPosition | None:
    """Return the position after which a page of runs starts; raise 400 if it is not valid."""
    if not value:
        return None
    try:
        position = RunPosition.parse(value)
    except (ValueError, OverflowError):
        position = None
    if position is None or position.started_at.year not in _YEARS:
        raise HTTPException(400, "after: not the position of a run. Go back to the first page.")
    return position


def day_param(value: str | None, name: str, *, end: bool = False) -> datetime | None:
    """Return the start (or the end) of a day in UTC; None without a value; raise 400 if it is not a day."""
    if not value:
        return None
    try:
        day = datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        day = None
    if day is None or day.year not in _YEARS:
        raise HTTPException(
            400, f"{name}: not a day from {_YEARS[0]} to {_YEARS[-1]}. Write it like 2026-11-30."
        )
    return day + timedelta(days=1) if end else day
