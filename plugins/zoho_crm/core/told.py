"""What an answer tells about the access token, the org's credits, and when to come back, whatever was asked for."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from zoho_crm.core.response import parse_response_item

if TYPE_CHECKING:
    from collections.abc import Mapping

RUN_CODES = frozenset(
    {
        "API_NOT_SUPPORTED",
        "AUTHORIZATION_FAILED",
        "INVALID_HOST",
        "INVALID_MODULE",
        "INVALID_REQUEST_METHOD",
        "NOT_SUPPORTED",
        "NO_PERMISSION",
        "OAUTH_SCOPE_MISMATCH",
    }
)
"""Codes of errors that wait for every other link as well: scope, permission, module, version."""

_CREDIT_WORDS = ("24 hour", "24hour", "credit", "daily")


def rejects_token(status: int, body: bytes) -> bool:
    """
    Whether an answer refuses the access token itself, so that another one may be accepted.

    A missing scope is a 401 too, but a new token would not have it either.
    """
    if status != 401:
        return False
    entry = parse_response_item(body)
    return entry is None or (entry.status != "success" and entry.code not in RUN_CODES)


def is_out_of_credits(headers: Mapping[str, str], body: bytes) -> bool:
    """
    Whether a 429 says that the API credits of 24 hours are used up, not that too much is in flight.

    Zoho's page of status codes names both causes in one sentence: where a message does so too, the header decides.
    """
    left = credits_remaining(headers)
    if left is not None:
        return left <= 0
    text = body[:4096].decode("utf-8", "replace").lower()
    return any(word in text for word in _CREDIT_WORDS) and "concurren" not in text


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that ``Retry-After`` asks for, given as seconds or as a date; None without it."""
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


def credits_remaining(headers: Mapping[str, str]) -> int | None:
    """Return the API credits left of the last 24 hours; Zoho tells them only once half are used."""
    value = headers.get("X-API-CREDITS-REMAINING") or ""
    return int(value) if value.isascii() and value.isdigit() and len(value) < 19 else None
