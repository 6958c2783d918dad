"""What a request asks for: filters in its address, and forms, whose values no log of addresses holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated
from urllib.parse import parse_qs

from fastapi import Depends, HTTPException, Request

from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger.link_queries import PENDING
from zoho_crm.ledger.run_queries import RunPosition

_LONGEST_FORM = 8_192
_LONGEST_VALUE = 512

Form = dict[str, str]


async def form_of(request: Request) -> Form:
    """Return the values of a form that was sent; raises 413 and 400 for what no page of ours sends."""
    body = bytearray()
    async for part in request.stream():
        body += part
        if len(body) > _LONGEST_FORM:
            raise HTTPException(413, "The form is too long.")
    try:
        fields = parse_qs(body.decode("utf-8"), max_num_fields=20, errors="strict")
    except ValueError:
        raise HTTPException(400, "The form cannot be read.") from None
    return {name: values[-1][:_LONGEST_VALUE] for name, values in fields.items()}


FormDep = Annotated[Form, Depends(form_of)]


def outcome_param(value: str | None) -> str | None:
    """Return an outcome to filter by, or ``open``; None for everything; raises 400 for anything else."""
    if not value:
        return None
    if value != PENDING and value not in set(Outcome):
        raise HTTPException(400, "outcome: is none of the outcomes.")
    return value


def seq_param(value: str | None) -> int:
    """Return the place after which a page of links begins; raises 400 for what is no place."""
    if not value:
        return -1
    if not value.isascii() or not value.isdigit() or len(value) > 18:
        raise HTTPException(400, "after: is not the place of a link.")
    return int(value)


def position_param(value: str | None) -> RunPosition | None:
    """Return the place after which a page of runs begins; raises 400 for what is no place."""
    if not value:
        return None
    try:
        return RunPosition.parse(value)
    except ValueError:
        raise HTTPException(400, "after: is not the place of a run.") from None


def day_param(value: str | None, name: str, *, end: bool = False) -> datetime | None:
    """Return the start of a day in UTC, or its end; None if none is asked for; raises 400 for what is no day."""
    if not value:
        return None
    try:
        day = datetime.strptime(value, "%Y-%m-%d").replace(tzinfo=UTC)
        return day + timedelta(days=1) if end else day
    except (ValueError, OverflowError):
        raise HTTPException(400, f"{name}: write the day like 2026-11-30.") from None
