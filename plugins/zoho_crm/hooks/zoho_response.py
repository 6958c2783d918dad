"""Zoho's answers: as they came, and what the ones to reading calls say."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from zoho_crm.core.response import (
    PERMISSION_CODES,
    ClassifiedResponse,
    ResponseKind,
    classify_response,
    json_object,
    parse_response_item,
)
from zoho_crm.errors import ZohoAuthError, ZohoError, ZohoResponseError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoho_crm.core.request import ZohoRequest

MAX_BODY_BYTES = 1024 * 1024
"""Longest answer that is read. Pages of 200 rows and every answer to a delink are far below."""
MAX_METADATA_BYTES = 32 * MAX_BODY_BYTES
"""Longest answer about fields and modules: picklists of large orgs take megabytes."""


@dataclass(frozen=True)
class ZohoResponse:
    """
    One answer of Zoho.

    :param headers: lookup ignores case
    :param body: not longer than the bound it was read with, decompressed
    :param duration_s: from before the request was sent to the end of the body
    :param token_used: the access token of the request, to identify the one that Zoho rejects
    :param sends: requests it took, with those whose access token was rejected
    """

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    duration_s: float
    token_used: str = field(repr=False, default="")
    sends: int = 1

    @cached_property
    def classified(self) -> ClassifiedResponse:
        """What the response is about, whatever the call."""
        return classify_response(self.status, self.headers, self.body)

    @property
    def token_rejected(self) -> bool:
        """Whether Zoho rejects the access token itself; such a request is known not to have been applied."""
        return self.classified.kind is ResponseKind.TOKEN_REJECTED


def parse_reading_response(request: ZohoRequest, answer: ZohoResponse) -> Mapping[str, Any] | None:
    """
    Return what a reading call was answered: the JSON object, or None for 204, "there is none".

    :raises ZohoAuthError: token, scope or permission do not allow the call
    :raises ZohoResponseError: any other error, a redirect, or an answer that cannot be read
    """
    if answer.status == 204:
        return None
    if answer.status == 200:
        content = json_object(answer.body)
        if content is not None and content.get("status") != "error":
            return content
    raise unclear(request, answer)


def unclear(request: ZohoRequest, answer: ZohoResponse) -> ZohoError:
    """Return the error for an answer that does not say what was asked for."""
    entry = parse_response_item(answer.body)
    code, message, details = "", "the answer cannot be read", {}
    if entry is not None:
        code, message, details = entry.code[:100], entry.message[:300], dict(entry.details)
    if 300 <= answer.status < 400:
        message = "Zoho does not redirect; the answer is not from its API"
    error = ZohoAuthError if answer.status in {401, 403} or code in PERMISSION_CODES else ZohoResponseError
    advice = _ADVICE.get(code, "")
    return error(
        f"{request.method} {_place(request)}: {answer.status} {code} {message}".rstrip() + advice,
        http_status=answer.status,
        code=code or None,
        path=request.path,
        details=details,
    )


_ADVICE = {
    "OAUTH_SCOPE_MISMATCH": "; make a new refresh token with the scope for this call",
    "NO_PERMISSION": "; the profile of the Zoho user that made the refresh token must allow it",
    "AUTHORIZATION_FAILED": "; the profile of the Zoho user that made the refresh token must allow it",
}


def rows_of(request: ZohoRequest, content: Mapping[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """
    Return the rows of an answer.

    :param key: where they stand: ``data``, ``modules``, ``fields``, ...
    :raises ZohoResponseError: they are not there, or are no objects
    """
    if content is None:
        return []
    rows = content.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ZohoResponseError(
            f"{request.method} {_place(request)}: the answer holds no list {key!r}",
            http_status=200,
            path=request.path,
        )
    return rows


def _place(request: ZohoRequest) -> str:
    """Return the path with external ids left out: messages are logged, ids are not."""
    segments = [
        "{id}" if index in {3, 5} and request.x_external is not None else segment
        for index, segment in enumerate(request.segments)
    ]
    return "/" + "/".join(segments)
