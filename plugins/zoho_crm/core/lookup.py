"""What the answer to a GET means: whether the thing asked for is there, and if it is not said, why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.response import json_object, parse_response_item
from zoho_crm.core.told import RUN_CODES
from zoho_crm.core.verdict import Action, StopReason, Verdict, parse_clear_item, stop

if TYPE_CHECKING:
    from zoho_crm.core.response import ResponseItem


class Lookup(StrEnum):
    """What the answer to a GET says about the thing asked for."""

    FOUND = "found"
    MISSING = "missing"
    WRONG_ID = "wrong_id"
    """Zoho knows one of the ids not, and does not say which."""
    UNCLEAR = "unclear"


def judge_lookup(status: int, body: bytes) -> Lookup:
    """
    Judge the answer to a GET of a record, or of one related record.

    Zoho answers 200 with ``data[]`` for what is there, 204 without a body for what is not, and 400 INVALID_DATA
    for an id it does not know. 204 can mean an unknown id as well, so that MISSING alone proves nothing about
    the two records.
    """
    if status == 204:
        return Lookup.MISSING
    if status == 200:
        return Lookup.FOUND if _rows(body) else Lookup.UNCLEAR
    entry = parse_response_item(body) if status in {400, 404} else None
    if entry is not None and entry.code == "INVALID_DATA" and not entry.is_about_the_relation:
        return Lookup.WRONG_ID
    return Lookup.UNCLEAR


def found_record(body: bytes) -> Mapping[str, Any] | None:
    """Return the one record of an answer that says FOUND; None if there are several."""
    rows = _rows(body)
    return rows[0] if len(rows) == 1 else None


def judge_unclear(status: int, headers: Mapping[str, str], body: bytes) -> Verdict:
    """
    Say what to do after an answer to a GET that is UNCLEAR. Nothing was to be applied, so nothing is ambiguous.

    :return: ``STOP`` if the answer waits for every link, ``LATER`` if too much is in flight, else ``VERIFY``: ask again
    """
    read = parse_clear_item(status, headers, body)
    if isinstance(read, Verdict):
        if read.action in {Action.STOP, Action.LATER}:
            return read
        if read.action is Action.REFRESH:
            return _token_refused(read)
        return replace(read, ambiguous=False, outcome=Outcome.FAILED, detail=_unsaid(status))
    if read.says_error and (read.code in RUN_CODES or read.is_about_the_relation):
        return stop(status, read)
    return _token_refused(stop(status, read)) if status == 401 else _ask_again(status, read)


def _token_refused(verdict: Verdict) -> Verdict:
    """Return the verdict on a 401 of which another token has changed nothing."""
    detail = "refused with a fresh access token as well"
    return replace(verdict, action=Action.STOP, stop_reason=StopReason.REFUSED, detail=detail)


def _ask_again(status: int, entry: ResponseItem) -> Verdict:
    return Verdict(
        Action.VERIFY,
        http_status=status,
        outcome=Outcome.FAILED,
        code=entry.code,
        message=entry.message,
        detail=_unsaid(status),
    )


def _unsaid(status: int) -> str:
    return f"the answer to a reading call, status {status}, does not say whether it is linked"


def _rows(body: bytes) -> list[Mapping[str, Any]]:
    """Return the records of an answer; none if one has no id: an error stands in ``data[]`` as well."""
    answer = json_object(body)
    data = answer.get("data") if answer is not None else None
    if isinstance(data, list) and all(isinstance(one, Mapping) and "id" in one for one in data):
        return data
    return []
