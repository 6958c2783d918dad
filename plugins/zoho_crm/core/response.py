"""
Read and classify Zoho's responses: the one place that decides what kind of response one is.

Whether a response is about the access token, the load, the API credits or the whole run does not depend on the call.
Pace, meter, clients, verification and the verdicts all take it from :func:`classify_response`. What a response means
for a link is decided in :mod:`zoho_crm.core.verdict` and :mod:`zoho_crm.core.relink_verdict`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

PERMISSION_CODES = frozenset({"AUTHORIZATION_FAILED", "NO_PERMISSION", "OAUTH_SCOPE_MISMATCH"})
"""Codes of a missing scope or permission. Another access token would not have it either."""

RUN_WIDE_CODES = PERMISSION_CODES | {
    "API_NOT_SUPPORTED",
    "INVALID_HOST",
    "INVALID_MODULE",
    "INVALID_REQUEST_METHOD",
    "NOT_SUPPORTED",
}
"""Codes of errors that every other link of the run would get too: scope, permission, module, version."""

MAX_BODY_RETRY_AFTER_S = 300.0
"""Upper bound for ``details.retry_after``, which Zoho does not document for this API."""

_CREDIT_WORDS = ("24 hour", "24hour", "credit", "daily")


class ResponseKind(StrEnum):
    """What a response is about, for any call."""

    OK = "ok"
    """2xx. What was done is in the response items."""
    ERROR = "error"
    """An error about this request alone."""
    RUN_REFUSED = "run_refused"
    """An error that every other link of the run would get too."""
    TOKEN_REJECTED = "token_rejected"  # noqa: S105 - the name of a kind
    """The access token is rejected; nothing was applied."""
    OVERLOADED = "overloaded"
    """Too many requests are in flight; nothing was applied."""
    OUT_OF_CREDITS = "out_of_credits"
    """The API credits of the last 24 hours are used up; nothing was applied."""
    SERVER_ERROR = "server_error"
    """5xx. The request may have been applied."""
    UNEXPECTED = "unexpected"
    """1xx or 3xx, which this API does not send. The request may have been applied."""


@dataclass(frozen=True, slots=True)
class ClassifiedResponse:
    """
    A response, classified.

    :param item: its one response item; None if there is not exactly one, or if the body cannot be read
    :param retry_after_s: seconds that Zoho asks to wait
    :param credits_left: API credits left of the last 24 hours; Zoho reports them once half are used
    """

    status: int
    kind: ResponseKind
    item: ResponseItem | None = None
    retry_after_s: float | None = None
    credits_left: int | None = None

    @property
    def is_throttled(self) -> bool:
        """Whether Zoho refused the request for load or credits, before it looked at it."""
        return self.kind in {ResponseKind.OVERLOADED, ResponseKind.OUT_OF_CREDITS}

    @property
    def costs_credits(self) -> bool:
        """Whether Zoho let the request in, and so charges for it."""
        return not self.is_throttled and self.kind is not ResponseKind.TOKEN_REJECTED


@dataclass(frozen=True, slots=True)
class ResponseItem:
    """
    One ``{code, details, message, status}`` of a response, in ``data[]`` or at the top level.

    :param code: as text, even where it is a number; empty if there is none
    """

    code: str
    status: str
    message: str
    details: Mapping[str, Any]

    @property
    def record_id(self) -> str | None:
        """``details.id``, as text even where it is a number."""
        value = self.details.get("id")
        return str(value) if _is_text_or_number(value) else None

    @property
    def says_success(self) -> bool:
        """Whether it is unmistakably the success of a link."""
        return self.status == "success" and self.code == "SUCCESS"

    @property
    def says_error(self) -> bool:
        """Whether it is unmistakably an error."""
        return self.status != "success" and self.code not in {"", "SUCCESS"}

    @property
    def path_index(self) -> int | None:
        """The part of the path that an error is about: 0 module, 1 parent, 2 related list, 3 related record."""
        index = self.details.get("resource_path_index")
        return index if isinstance(index, int) and not isinstance(index, bool) else None

    @property
    def is_about_the_relation(self) -> bool:
        """Whether an error is about module or related list, and so about every link of the relation."""
        return "relation name" in self.message.lower() or self.path_index in {0, 2}


class Lookup(StrEnum):
    """What the response to a GET says about the record or link that was requested."""

    FOUND = "found"
    MISSING = "missing"
    WRONG_ID = "wrong_id"
    """Zoho does not know one of the ids, and does not say which."""
    UNCLEAR = "unclear"


def classify_response(status: int, headers: Mapping[str, str], body: bytes) -> ClassifiedResponse:
    """
    Classify a response.

    :param headers: response headers; the lookup must ignore case
    """
    item = parse_response_item(body)
    wait_s, credits_left = _retry_after_header_s(headers), _credits_left(headers)
    kind = _kind(status, item, body, credits_left)
    if wait_s is None and item is not None and kind is ResponseKind.OVERLOADED:
        wait_s = _retry_after_detail_s(item)
    return ClassifiedResponse(status, kind, item, wait_s, credits_left)


def judge_lookup(status: int, body: bytes) -> Lookup:
    """
    Return what the response to a GET of a record, or of one related record, says.

    Zoho sends 200 with ``data[]`` for what exists, 204 without a body for what does not, and 400 INVALID_DATA for an
    id that it does not know. 204 can mean an unknown id too, so MISSING alone proves nothing about the two records.
    """
    if status == 204:
        return Lookup.MISSING
    if status == 200:
        return Lookup.FOUND if _rows(body) else Lookup.UNCLEAR
    item = parse_response_item(body) if status in {400, 404} else None
    if item is not None and item.code == "INVALID_DATA" and not item.is_about_the_relation:
        return Lookup.WRONG_ID
    return Lookup.UNCLEAR


def found_record(body: bytes) -> Mapping[str, Any] | None:
    """Return the one record of a response that is FOUND; None if there are several."""
    rows = _rows(body)
    return rows[0] if len(rows) == 1 else None


def parse_response_item(body: bytes) -> ResponseItem | None:
    """
    Return the one item of a response; None if there is not exactly one, or if the body cannot be read.

    Only ``data[]`` can hold a success: one at the top level says nothing about a link, and counts as none.
    """
    content = json_object(body)
    if content is None:
        return None
    item = _item(content)
    if "data" not in content:
        return None if item.says_success else item
    if item.says_error or item.status == "error":
        return None
    data = content["data"]
    if not isinstance(data, list) or len(data) != 1 or not isinstance(data[0], Mapping):
        return None
    return _item(data[0])


def parse_response_items(body: bytes) -> list[ResponseItem] | None:
    """Return the items in ``data[]`` of a response about several links; None if they cannot be read."""
    content = json_object(body)
    if content is None or "data" not in content:
        return None
    whole, data = _item(content), content["data"]
    if whole.says_error or whole.status == "error" or not isinstance(data, list) or not data:
        return None
    if not all(isinstance(one, Mapping) for one in data):
        return None
    return [_item(one) for one in data]


def json_object(body: bytes) -> Mapping[str, Any] | None:
    """Return a body that is a JSON object, None for any other."""
    try:
        content = json.loads(body, object_pairs_hook=_without_duplicates)
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, Mapping) else None


def _kind(status: int, item: ResponseItem | None, body: bytes, credits_left: int | None) -> ResponseKind:
    code = item.code if item is not None else ""
    if status == 429 or (status in {400, 403} and code == "TOO_MANY_REQUESTS"):
        is_out = _is_out_of_credits(body, credits_left)
        return ResponseKind.OUT_OF_CREDITS if is_out else ResponseKind.OVERLOADED
    if status >= 500:
        return ResponseKind.SERVER_ERROR
    if status < 200 or 300 <= status < 400:
        return ResponseKind.UNEXPECTED
    if status == 401 and _rejects_token(item):
        return ResponseKind.TOKEN_REJECTED
    if item is not None and item.says_error:
        is_about_all = code in RUN_WIDE_CODES or (code == "INVALID_DATA" and item.is_about_the_relation)
        return ResponseKind.RUN_REFUSED if is_about_all else ResponseKind.ERROR
    return ResponseKind.ERROR if status >= 400 else ResponseKind.OK


def _rejects_token(item: ResponseItem | None) -> bool:
    """Whether a 401 rejects the token itself: a missing scope is a 401 too, but a new token would not have it."""
    if item is None or not (item.says_success or item.says_error):
        return True
    # An error about the ids, even with a 401, means that the request was read and its token accepted.
    return item.says_error and item.code != "INVALID_DATA" and item.code not in RUN_WIDE_CODES


def _is_out_of_credits(body: bytes, credits_left: int | None) -> bool:
    """
    Whether a throttled response is about the API credits of 24 hours, not about requests in flight.

    Zoho's page of status codes names both causes in one sentence: where a message does so too, the header decides.
    """
    if credits_left is not None:
        return credits_left <= 0
    text = body[:4096].decode("utf-8", "replace").lower()
    return any(word in text for word in _CREDIT_WORDS) and "concurren" not in text


def _retry_after_header_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of the header ``Retry-After``, given as seconds or as a date; None without it."""
    value = (headers.get("Retry-After") or "").strip()
    if not value:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (OverflowError, TypeError, ValueError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _retry_after_detail_s(item: ResponseItem) -> float | None:
    value = item.details.get("retry_after")
    if not _is_text_or_number(value) and not isinstance(value, float):
        return None
    try:
        seconds = float(value)  # type: ignore[arg-type]
    except (OverflowError, ValueError):
        return None
    return min(seconds, MAX_BODY_RETRY_AFTER_S) if seconds >= 0 else None


def _credits_left(headers: Mapping[str, str]) -> int | None:
    value = headers.get("X-API-CREDITS-REMAINING") or ""
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None


def _rows(body: bytes) -> list[Mapping[str, Any]]:
    """Return the records of a response; none if one has no id: an error is in ``data[]`` too."""
    content = json_object(body)
    data = content.get("data") if content is not None else None
    if isinstance(data, list) and all(isinstance(one, Mapping) and "id" in one for one in data):
        return data
    return []


def _without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object with a duplicate key: which of the two values counts is not defined."""
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError("a key occurs twice")
    return content


def _item(raw: Mapping[str, Any]) -> ResponseItem:
    code = raw.get("code", "")
    if not isinstance(code, str):
        # An older form: {"code": 429, "error": "TOO_MANY_REQUESTS", "error_info": "..."}
        error = raw.get("error")
        code = error if isinstance(error, str) else code
    status = raw.get("status")
    message = raw.get("message", raw.get("error_info", ""))
    details = raw.get("details")
    return ResponseItem(
        code=str(code) if _is_text_or_number(code) else "",
        status=status if isinstance(status, str) else "",
        message=message if isinstance(message, str) else "",
        details=details if isinstance(details, Mapping) else {},
    )


def _is_text_or_number(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)
