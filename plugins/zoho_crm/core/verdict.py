"""
What an answer to a delink means. This is the one place that decides it.

What does not depend on the call is shared with :mod:`zoho_crm.core.relink_verdict`, which judges relinking.

Every row below is a row of the test's table. "Ambiguous before" says that an earlier try of the same link was
sent and never clearly answered.

=========================  ==========================================  =======================================
status                     body                                        verdict
=========================  ==========================================  =======================================
2xx, 207, 4xx with one     ``status: success``, ``code: SUCCESS``       ``removed`` (2xx and 207 only)
entry in ``data[]``
any of those               success and error at once, several or no    verify
                           entries, no ``data[]``, not JSON, empty
2xx, 207, 4xx              "relation not found", "contact role not     ``already_absent``; ambiguous before:
                           deleted"                                    ``removed``
2xx, 207, 4xx              INVALID_DATA naming the parent's field      ``parent_not_found``
2xx, 207, 4xx              INVALID_DATA naming the related field       ``related_not_found``
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

Success is what ``data[]`` says, never the status or the message: Zoho's own examples answer a delink with
"record deleted". What cannot be read is not a success.

Sources: the error lists of https://www.zoho.com/crm/developer/docs/api/v7/delete-related-records-ext.html and
https://www.zoho.com/crm/developer/docs/api/v7/delink.html, and Zoho's OpenAPI files.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.response import parse_response_item, parse_response_items
from zoho_crm.core.told import RUN_CODES, is_out_of_credits, retry_after_s

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoho_crm.core.links import Relation
    from zoho_crm.core.response import ResponseItem


class Action(StrEnum):
    """What to do about a link after an answer."""

    SETTLE = "settle"
    """The answer decides the outcome."""
    LATER = "later"
    """Not applied: try again after a pause."""
    REFRESH = "refresh"
    """Not applied: try again with a new access token."""
    VERIFY = "verify"
    """It may or may not have been applied: ask Zoho by GET."""
    STOP = "stop"
    """Not applied, and every other link of the run would get the same answer."""


class StopReason(StrEnum):
    """Why a run takes no further links."""

    CREDITS = "credits"
    """The API credits of the last 24 hours are used up."""
    REFUSED = "refused"
    """Scope, permission, module, related list or version: the same answer waits for every link."""
    THROTTLED = "throttled"
    """Zoho hands out no access token for a while."""
    NO_TOKEN = "no_token"  # noqa: S105 - the name of a reason
    """Zoho refuses the credentials themselves."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What an answer means.

    :param action: what to do next
    :param ambiguous: whether the request may have been applied
    :param outcome: the link's outcome, where the answer decides it or where nothing further can be tried
    :param stop_reason: set when ``action`` is ``STOP``
    :param code: Zoho's code as text, even where it is a number
    :param message: Zoho's message
    :param record_id: ``details.id``
    :param detail: what the auditor should know beside code and message
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


GONE_AFTER_AMBIGUITY = "found gone after a request that was not clearly answered"

_GONE_MESSAGES = ("relation not found", "contact role not deleted")
_LINK_CODES = frozenset(
    {
        "ALREADY_USED",
        "BAD_REQUEST",
        "CANNOT_BE_UPDATED",
        "INVALID_URL_PATTERN",
        "LIMIT_REACHED",
        "MANDATORY_NOT_FOUND",
        "NOT_ALLOWED",
        "NOT_APPROVED",
        "RECORD_LOCKED",
        "UNABLE_TO_PARSE_DATA_TYPE",
    }
)


def judge(
    status: int, headers: Mapping[str, str], body: bytes, *, relation: Relation, ambiguous_before: bool
) -> Verdict:
    """
    Judge the answer to the removal of one link; see the table above.

    :param status: HTTP status
    :param headers: response headers; the lookup must ignore case
    :param body: the body as it came
    :param relation: the relation the link belongs to; its field names tell which id an error is about
    :param ambiguous_before: whether an earlier try of this link may have been applied
    """
    entry = parse_clear_item(status, headers, body)
    if isinstance(entry, Verdict):
        return entry
    if entry.says_success:
        return settle(status, entry, Outcome.REMOVED)
    return _judge_error(status, entry, relation, ambiguous_before, retry_after_s(headers))


def judge_each(status: int, body: bytes, *, relation: Relation) -> list[Verdict] | None:
    """
    Judge the answer to the removal of several links of one parent, entry by entry.

    :return: a verdict for each entry, in their order, with the related record's id where the entry names it; None
        if there are no entries, or one that cannot be read: then the answer tells nothing about any link
    """
    if status not in {200, 207, 400}:
        return None
    entries = parse_response_items(body)
    if entries is None:
        return None
    verdicts = []
    for entry in entries:
        if entry.says_success and status != 400:
            verdicts.append(settle(status, entry, Outcome.REMOVED))
        elif entry.says_error:
            verdicts.append(_judge_error(status, entry, relation, ambiguous_before=False, wait_s=None))
        else:
            return None
    return verdicts


def judge_no_answer(*, sent: bool, why: str) -> Verdict:
    """
    Judge a request without an answer.

    :param sent: whether any byte of it may have left; a failed connection attempt is not sent
    :param why: what happened, for the auditor
    """
    if sent:
        return Verdict(Action.VERIFY, ambiguous=True, outcome=Outcome.UNKNOWN, detail=why)
    return Verdict(Action.LATER, outcome=Outcome.FAILED, detail=why)


def parse_clear_item(status: int, headers: Mapping[str, str], body: bytes) -> ResponseItem | Verdict:
    """
    Return what an answer says of a link, success or error; or the verdict, where it says nothing clear of any link.

    The latter are limits, the access token, statuses that do not tell whether anything was applied, and what cannot
    be read.
    """
    wait_s = retry_after_s(headers)
    entry = parse_response_item(body)
    if status == 429 or (status in {400, 403} and entry is not None and entry.code == "TOO_MANY_REQUESTS"):
        return _judge_429(status, entry, is_out_of_credits(headers, body), wait_s)
    if status < 200 or 300 <= status < 400 or status >= 500:
        return verify(status, entry, f"status {status} does not tell whether it was applied", wait_s)
    if status == 401 and not (entry and (entry.says_success or entry.says_error)):
        return _judge_401(status, entry)
    if entry is None:
        return verify(status, None, "unreadable answer", wait_s)
    if entry.says_success and status >= 400:
        return verify(status, entry, "success and an error status at once", wait_s)
    if not entry.says_success and not entry.says_error:
        return verify(status, entry, "neither success nor an error", wait_s)
    return entry


def judge_refusal(status: int, entry: ResponseItem, relation: Relation, wait_s: float | None) -> Verdict:
    """Judge an error whose code means the same whether a link was to be taken out or put back."""
    if entry.code == "INVALID_DATA":
        return _judge_invalid_data(status, entry, relation, wait_s)
    if entry.code in RUN_CODES:
        return stop(status, entry)
    if status == 401:
        return _judge_401(status, entry)
    if entry.code in _LINK_CODES:
        return settle(status, entry, Outcome.REJECTED)
    if entry.code in {"INTERNAL_ERROR", "INTERNAL_SERVER_ERROR"}:
        return verify(status, entry, "an internal error does not tell whether it was applied", wait_s)
    return verify(status, entry, "a code that is not in Zoho's documentation", wait_s)


def settle(status: int, entry: ResponseItem, outcome: Outcome, *, detail: str | None = None) -> Verdict:
    """Return the verdict that an entry decides."""
    return Verdict(
        Action.SETTLE,
        http_status=status,
        outcome=outcome,
        code=entry.code,
        message=entry.message,
        record_id=entry.record_id,
        detail=detail,
    )


def stop(
    status: int,
    entry: ResponseItem | None,
    reason: StopReason = StopReason.REFUSED,
    wait_s: float | None = None,
) -> Verdict:
    """Return the verdict on an answer that waits for every other link as well."""
    return Verdict(
        Action.STOP,
        http_status=status,
        # Credits are asked for before anything else is looked at: this link was not tried.
        outcome=Outcome.NOT_ATTEMPTED if reason is StopReason.CREDITS else Outcome.FAILED,
        stop_reason=reason,
        code=entry.code if entry else None,
        message=entry.message if entry else None,
        retry_after_s=wait_s,
    )


def verify(status: int, entry: ResponseItem | None, detail: str, wait_s: float | None) -> Verdict:
    """Return the verdict on an answer that leaves open whether the request was applied."""
    return Verdict(
        Action.VERIFY,
        http_status=status,
        ambiguous=True,
        outcome=Outcome.UNKNOWN,
        code=entry.code if entry else None,
        message=entry.message if entry else None,
        detail=detail,
        retry_after_s=wait_s,
    )


def named_fields(details: Mapping[str, Any]) -> set[str]:
    """Return the fields an error is about: keys of ``details``, or the value of its ``api_name``."""
    names = {key for key in details if key != "id"}
    api_name = details.get("api_name")
    return names | {api_name} if isinstance(api_name, str) else names


def _judge_error(
    status: int, entry: ResponseItem, relation: Relation, ambiguous_before: bool, wait_s: float | None
) -> Verdict:
    if _says_gone(entry):
        if ambiguous_before:
            return settle(status, entry, Outcome.REMOVED, detail=GONE_AFTER_AMBIGUITY)
        return settle(status, entry, Outcome.ALREADY_ABSENT)
    if entry.code == "MANDATORY_NOT_FOUND" and entry.details.get("param_name") == "ids":
        # Zoho saw one part of the path less than was sent: no further link may be tried that way.
        return stop(status, entry)
    return judge_refusal(status, entry, relation, wait_s)


def _judge_invalid_data(
    status: int, entry: ResponseItem, relation: Relation, wait_s: float | None
) -> Verdict:
    if entry.is_about_the_relation:
        return stop(status, entry)
    named = named_fields(entry.details) & {relation.external_field, relation.related_external_field}
    if len(named) == 1 and relation.external_field != relation.related_external_field:
        if relation.external_field in named:
            return settle(status, entry, Outcome.PARENT_NOT_FOUND)
        return settle(status, entry, Outcome.RELATED_NOT_FOUND)
    return Verdict(
        Action.VERIFY,
        http_status=status,
        outcome=Outcome.FAILED,
        code=entry.code,
        message=entry.message,
        detail="Zoho does not say which id is wrong",
        retry_after_s=wait_s,
    )


def _judge_429(
    status: int, entry: ResponseItem | None, out_of_credits: bool, wait_s: float | None
) -> Verdict:
    if out_of_credits:
        return stop(status, entry, StopReason.CREDITS, wait_s)
    return Verdict(
        Action.LATER,
        http_status=status,
        outcome=Outcome.FAILED,
        code=entry.code if entry else "TOO_MANY_REQUESTS",
        message=entry.message if entry else None,
        retry_after_s=wait_s,
    )


def _judge_401(status: int, entry: ResponseItem | None) -> Verdict:
    return Verdict(
        Action.REFRESH,
        http_status=status,
        outcome=Outcome.FAILED,
        code=entry.code if entry else None,
        message=entry.message if entry else None,
    )


def _says_gone(entry: ResponseItem) -> bool:
    if entry.code not in {"INVALID_DATA", "MANDATORY_NOT_FOUND"} or entry.is_about_the_relation:
        return False
    return any(message in entry.message.lower() for message in _GONE_MESSAGES)
