"""
What a response to a delink means. This is the one place that decides it.

What does not depend on the call is shared with :mod:`zoho_crm.core.relink_verdict`.

Every row below is a row of the test's table. "Ambiguous before" means that an earlier request for the same link was
sent and had no clear response; "seen linked", that this run verified before such a request that the link existed. After
an ambiguous request, a refusal says nothing about that request: the caller verifies the link by GET.

=========================  ==========================================  =======================================
status                     body                                        verdict
=========================  ==========================================  =======================================
2xx, 207, 4xx with one     ``status: success``, ``code: SUCCESS``       ``removed`` (2xx and 207 only)
item in ``data[]``
any of those               success and error at once, several or no    verify
                           items, no ``data[]``, not JSON, empty
2xx, 207, 4xx              "relation not found", "contact role not     ``already_absent``; ambiguous before:
                           deleted"                                    ``presumed_removed``, and if the link was
                                                                       seen linked ``removed``
2xx, 207, 4xx              INVALID_DATA naming the parent's field      ``parent_not_found``; ambiguous before:
                                                                       ``presumed_removed``
2xx, 207, 4xx              INVALID_DATA naming the related field       ``related_not_found``; ambiguous before:
                                                                       ``presumed_removed``
2xx, 207, 4xx              INVALID_DATA about module or list           stop the run
2xx, 207, 4xx              any other INVALID_DATA                      verify
2xx, 207, 4xx              a refusal of this link (RECORD_LOCKED, ..)   ``rejected``
4xx                        scope, permission, module, method, version  stop the run
401                        any other                                   refresh the token, then try again
429, or 400 and 403 with   "24 hours", credits                         stop the run: out of credits
TOO_MANY_REQUESTS          anything else                               later; known not to have been applied
2xx, 207, 4xx              MANDATORY_NOT_FOUND of ``ids``              stop the run: a part of the path was lost
2xx, 207, 4xx              INTERNAL_ERROR, a code not listed           verify
3xx, 5xx, 1xx              anything                                    verify
=========================  ==========================================  =======================================

Success is what ``data[]`` says, never the status or the message: in Zoho's examples the message of a delink is
"record deleted". An unreadable response is not a success.

Sources: the error lists of https://www.zoho.com/crm/developer/docs/api/v7/delete-related-records-ext.html and
https://www.zoho.com/crm/developer/docs/api/v7/delink.html, and Zoho's OpenAPI files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.response import RUN_WIDE_CODES, ResponseKind, parse_response_items

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from zoho_crm.core.links import Relation
    from zoho_crm.core.response import ClassifiedResponse, ResponseItem


class Action(StrEnum):
    """What to do about a link after a response."""

    SETTLE = "settle"
    """The response decides the outcome."""
    LATER = "later"
    """Not applied: try again after a pause."""
    REFRESH = "refresh"
    """Not applied: the access token is rejected. The client has renewed it as often as it may."""
    VERIFY = "verify"
    """It may or may not have been applied: verify by GET."""
    STOP = "stop"
    """Not applied, and every other link of the run would get the same response."""


class StopReason(StrEnum):
    """Why a run sends no further links."""

    CREDITS = "credits"
    """The API credits of the last 24 hours are used up."""
    OVERLOADED = "overloaded"
    """Too many requests were in flight for as long as one link is retried."""
    NO_SLOT = "no_slot"
    """Other tasks use all requests that the org allows in flight."""
    REFUSED = "refused"
    """Scope, permission, module, related list or version: every link would get the same response."""
    THROTTLED = "throttled"
    """Zoho issues no access tokens for now."""
    NO_TOKEN = "no_token"  # noqa: S105 - the name of a reason
    """Zoho refuses the credentials."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What a response means.

    :param action: what to do next
    :param ambiguous: whether the request may have been applied
    :param outcome: the link's outcome, where the response decides it or where retries are used up
    :param stop_reason: set when ``action`` is ``STOP``
    :param code: Zoho's code as text, even where it is a number
    :param message: Zoho's message
    :param record_id: ``details.id``
    :param detail: what an auditor needs to know besides code and message
    :param retry_after_s: seconds Zoho asks to wait
    """

    action: Action
    http_status: int | None = None
    ambiguous: bool = False
    outcome: Outcome | None = None
    stop_reason: StopReason | None = None
    code: str | None = None
    message: str | None = None
    record_id: str | None = None
    detail: str | None = None
    retry_after_s: float | None = None


SEEN_LINKED_THEN_GONE = "this run saw it linked; gone after a request that may have been applied"
GONE_AND_NOT_SEEN_LINKED = "gone; this run did not see it linked, so it may have been gone before"
GONE_WITH_ITS_RECORD = "has no record now, so the link is gone; a request before may have removed it first"

MISSING_OUTCOMES = frozenset({Outcome.PARENT_NOT_FOUND, Outcome.RELATED_NOT_FOUND})
"""Outcomes of a link of which a record does not exist."""

_TRACE_ID = re.compile(r"[\w.:-]{1,100}", re.ASCII)
_GONE_MESSAGES = ("relation not found", "contact role not deleted")
_LINK_CODES = frozenset(
    {
        "ALREADY_USED",
        "AMBIGUITY_DURING_PROCESSING",
        "BAD_REQUEST",
        "CANNOT_BE_UPDATED",
        "DUPLICATE_DATA",
        "EXPECTED_FIELD_MISSING",
        "INVALID_URL_PATTERN",
        "LIMIT_EXCEEDED",
        "LIMIT_REACHED",
        "MANDATORY_NOT_FOUND",
        "MULTIPLE_OR_MULTI_ERRORS",
        "NOT_ALLOWED",
        "NOT_APPROVED",
        "RECORD_LOCKED",
        "UNABLE_TO_PARSE_DATA_TYPE",
    }
)


def judge(
    response: ClassifiedResponse,
    *,
    relation: Relation,
    ambiguous_before: bool,
    seen_linked: bool = False,
    seen_at: datetime | None = None,
    record_id: str | None = None,
) -> Verdict:
    """
    Judge the response to the removal of one link; see the table above.

    :param relation: the relation of the link; its field names identify the id that an error is about
    :param ambiguous_before: whether an earlier request for this link may have been applied
    :param seen_linked: whether this run has verified that the link existed, as :func:`judge_gone` needs it
    :param seen_at: when, as :func:`judge_gone` needs it
    :param record_id: Zoho's id of the related record, where it is known: a success for another one is verified
    """
    item = parse_clear_item(response)
    if isinstance(item, Verdict):
        return item
    if item.says_success:
        if record_id is not None and item.record_id not in {None, record_id}:
            return verify(response.status, item, "success for another record", response.retry_after_s)
        return settle(response.status, item, Outcome.REMOVED)
    if _says_gone(item):
        outcome, detail = judge_gone(ambiguous=ambiguous_before, seen_linked=seen_linked, seen_at=seen_at)
        return settle(response.status, item, outcome, detail=detail)
    verdict = _judge_error(response.status, item, relation, response.retry_after_s)
    if verdict.outcome in MISSING_OUTCOMES:
        outcome, detail = judge_missing(verdict.outcome, ambiguous=ambiguous_before)
        return replace(verdict, outcome=outcome, detail=detail)
    return verdict


def judge_missing(missing: Outcome, *, ambiguous: bool) -> tuple[Outcome, str | None]:
    """
    Judge a link of which a record does not exist.

    :param missing: which record: ``parent_not_found`` or ``related_not_found``
    :param ambiguous: whether a request for this link may have been applied, while the record existed
    :return: the outcome, and the detail that says what is known
    """
    if not ambiguous:
        return missing, None
    which = "parent" if missing is Outcome.PARENT_NOT_FOUND else "related"
    return Outcome.PRESUMED_REMOVED, f"the {which} external ID {GONE_WITH_ITS_RECORD}"


def judge_gone(
    *, ambiguous: bool, seen_linked: bool, seen_at: datetime | None = None
) -> tuple[Outcome, str | None]:
    """
    Judge a link that does not exist, while both records do.

    :param ambiguous: whether a request for this link may have been applied
    :param seen_linked: whether this run has seen the link: in a snapshot that was read before any request for it was
        in doubt, or by GET before its last request
    :param seen_at: when that snapshot was read; None if there is none
    :return: the outcome, and the detail that says what is known
    """
    if not ambiguous:
        return Outcome.ALREADY_ABSENT, None
    if seen_linked:
        when = f"in its snapshot of {seen_at:%Y-%m-%d %H:%M:%S} UTC, " if seen_at else ""
        return Outcome.REMOVED, f"{when}{SEEN_LINKED_THEN_GONE}"
    return Outcome.PRESUMED_REMOVED, GONE_AND_NOT_SEEN_LINKED


def judge_each(status: int, body: bytes, *, relation: Relation) -> list[Verdict] | None:
    """
    Judge the response to the removal of several links of one parent, item by item.

    :return: a verdict for each item, in their order, with the related record's id where the item names it; None
        if there are no items, or one that cannot be read: then the response says nothing about any link
    """
    if status not in {200, 207, 400}:
        return None
    items = parse_response_items(body)
    if items is None:
        return None
    verdicts = []
    for item in items:
        if item.says_success and status != 400:
            verdicts.append(settle(status, item, Outcome.REMOVED))
        elif item.says_error:
            verdicts.append(
                settle(status, item, Outcome.ALREADY_ABSENT)
                if _says_gone(item)
                else _judge_error(status, item, relation, wait_s=None)
            )
        else:
            return None
    return verdicts


def judge_no_answer(*, sent: bool, why: str) -> Verdict:
    """
    Judge a request without a response.

    :param sent: whether any byte of it may have been sent; not after a failed connection attempt
    :param why: what happened, for an auditor
    """
    if sent:
        return Verdict(Action.VERIFY, ambiguous=True, outcome=Outcome.UNKNOWN, detail=why)
    return Verdict(Action.LATER, outcome=Outcome.FAILED, detail=why)


def judge_unclear_lookup(response: ClassifiedResponse) -> Verdict:
    """
    Return what to do after a response to a GET that is UNCLEAR. A GET applies nothing, so nothing is ambiguous.

    :return: ``STOP`` if every link would get this response, ``LATER`` if Zoho is overloaded, else ``VERIFY``: repeat
    """
    if response.kind is ResponseKind.TOKEN_REJECTED:
        return rejected_with_new_token(_judge_token_rejected(response))
    item = parse_clear_item(response)
    if isinstance(item, Verdict) and item.action in {Action.STOP, Action.LATER}:
        return item
    if response.kind is ResponseKind.RUN_REFUSED:
        return stop(response.status, response.item)
    detail = f"a GET got status {response.status}, which does not say whether the records are linked"
    return replace(
        verify(response.status, response.item, detail, response.retry_after_s),
        ambiguous=False,
        outcome=Outcome.FAILED,
    )


def rejected_with_new_token(verdict: Verdict) -> Verdict:
    """Return the verdict on a token rejection that is left after the client has renewed the token."""
    detail = "Zoho rejects new access tokens too"
    return replace(verdict, action=Action.STOP, stop_reason=StopReason.REFUSED, detail=detail)


def overloaded(last: Verdict) -> Verdict:
    """
    Return the verdict on a link whose retries ended with LATER.

    Where Zoho was overloaded to the end, other links would be refused too: the run stops, and this link was not
    tried. A request that found no connection says nothing about other links.
    """
    if last.http_status is None:
        return last
    return replace(last, action=Action.STOP, outcome=Outcome.NOT_ATTEMPTED, stop_reason=StopReason.OVERLOADED)


def parse_clear_item(response: ClassifiedResponse) -> ResponseItem | Verdict:
    """
    Return what a response says about a link, success or error; or the verdict, where it says nothing clear.

    The latter are limits, the access token, statuses that do not show whether anything was applied, and unreadable
    bodies.
    """
    status, item, wait_s = response.status, response.item, response.retry_after_s
    match response.kind:
        case ResponseKind.OUT_OF_CREDITS:
            return replace(stop(status, item, StopReason.CREDITS, wait_s), detail=_trace(item))
        case ResponseKind.OVERLOADED:
            return _judge_overloaded(response)
        case ResponseKind.SERVER_ERROR | ResponseKind.UNEXPECTED:
            return verify(status, item, f"status {status} does not show whether it was applied", wait_s)
        case ResponseKind.TOKEN_REJECTED:
            return _judge_token_rejected(response)
    if item is None:
        return verify(status, None, "unreadable response", wait_s)
    if item.says_success and status >= 400:
        return verify(status, item, "success and an error status at once", wait_s)
    if not item.says_success and not item.says_error:
        return verify(status, item, "neither success nor an error", wait_s)
    return item


def judge_refusal(status: int, item: ResponseItem, relation: Relation, wait_s: float | None) -> Verdict:
    """Judge an error whose code means the same for a delink and a relink."""
    if item.code == "INVALID_DATA":
        return _judge_invalid_data(status, item, relation, wait_s)
    if item.code in RUN_WIDE_CODES:
        return stop(status, item)
    if item.code in _LINK_CODES:
        return settle(status, item, Outcome.REJECTED)
    if item.code in {"INTERNAL_ERROR", "INTERNAL_SERVER_ERROR"}:
        return verify(status, item, "an internal error does not show whether it was applied", wait_s)
    return verify(status, item, "a code that is not in Zoho's documentation", wait_s)


def settle(status: int, item: ResponseItem, outcome: Outcome, *, detail: str | None = None) -> Verdict:
    """Return the verdict with an outcome that an item decides."""
    return Verdict(
        Action.SETTLE,
        http_status=status,
        outcome=outcome,
        code=item.code,
        message=item.message,
        record_id=item.record_id,
        detail=detail,
    )


def stop(
    status: int,
    item: ResponseItem | None,
    reason: StopReason = StopReason.REFUSED,
    wait_s: float | None = None,
) -> Verdict:
    """Return the verdict on a response that every other link would get too."""
    return Verdict(
        Action.STOP,
        http_status=status,
        # Zoho checks credits before anything else: this link was not tried.
        outcome=Outcome.NOT_ATTEMPTED if reason is StopReason.CREDITS else Outcome.FAILED,
        stop_reason=reason,
        code=item.code if item else None,
        message=item.message if item else None,
        retry_after_s=wait_s,
    )


def verify(status: int, item: ResponseItem | None, detail: str, wait_s: float | None) -> Verdict:
    """Return the verdict on a response that does not show whether the request was applied."""
    return Verdict(
        Action.VERIFY,
        http_status=status,
        ambiguous=True,
        outcome=Outcome.UNKNOWN,
        code=item.code if item else None,
        message=item.message if item else None,
        detail=detail,
        retry_after_s=wait_s,
    )


def named_fields(details: Mapping[str, Any]) -> set[str]:
    """Return the fields an error is about: keys of ``details``, or the value of its ``api_name``."""
    names = {key for key in details if key != "id"}
    api_name = details.get("api_name")
    return names | {api_name} if isinstance(api_name, str) else names


def _judge_error(status: int, item: ResponseItem, relation: Relation, wait_s: float | None) -> Verdict:
    if item.code == "MANDATORY_NOT_FOUND" and item.details.get("param_name") == "ids":
        # Zoho received one part of the path less than was sent: no further link may be sent.
        return stop(status, item)
    return judge_refusal(status, item, relation, wait_s)


def _judge_invalid_data(status: int, item: ResponseItem, relation: Relation, wait_s: float | None) -> Verdict:
    if item.is_about_the_relation:
        return stop(status, item)
    named = named_fields(item.details) & {relation.external_field, relation.related_external_field}
    if len(named) == 1 and relation.external_field != relation.related_external_field:
        if relation.external_field in named:
            return settle(status, item, Outcome.PARENT_NOT_FOUND)
        return settle(status, item, Outcome.RELATED_NOT_FOUND)
    return Verdict(
        Action.VERIFY,
        http_status=status,
        outcome=Outcome.FAILED,
        code=item.code,
        message=item.message,
        detail="Zoho does not say which id is wrong",
        retry_after_s=wait_s,
    )


def _judge_overloaded(response: ClassifiedResponse) -> Verdict:
    item = response.item
    return Verdict(
        Action.LATER,
        http_status=response.status,
        outcome=Outcome.FAILED,
        code=item.code if item else "TOO_MANY_REQUESTS",
        message=item.message if item else None,
        detail=_trace(item),
        retry_after_s=response.retry_after_s,
    )


def _trace(item: ResponseItem | None) -> str | None:
    """Return what Zoho's support needs to find a throttled request; None if the response does not name it."""
    trace_id = item.details.get("trace_id") if item is not None else None
    if isinstance(trace_id, str) and _TRACE_ID.fullmatch(trace_id):
        return f"Zoho's trace_id is {trace_id}"
    return None


def _judge_token_rejected(response: ClassifiedResponse) -> Verdict:
    item = response.item
    return Verdict(
        Action.REFRESH,
        http_status=response.status,
        outcome=Outcome.FAILED,
        code=item.code if item else None,
        message=item.message if item else None,
    )


def _says_gone(item: ResponseItem) -> bool:
    if item.code not in {"INVALID_DATA", "MANDATORY_NOT_FOUND"} or item.is_about_the_relation:
        return False
    return any(message in item.message.lower() for message in _GONE_MESSAGES)
