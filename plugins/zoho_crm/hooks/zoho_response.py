"""A response of Zoho, and the content of responses to GETs."""

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
"""Longest response that is read. Pages of 200 rows and responses to a delink are far shorter."""
MAX_METADATA_BYTES = 32 * MAX_BODY_BYTES
"""Longest response about fields and modules: picklists of large orgs take megabytes."""


@dataclass(frozen=True)
class ZohoResponse:
    """
    One response of Zoho.

    :param headers: lookup ignores case
    :param body: not longer than the bound it was read with, decompressed
    :param duration_s: from before the request was sent to the end of the body
    :param token_used: the access token of the request, to identify the one that Zoho rejects
    :param sends: requests it took, with those whose access token was rejected or that met an overloaded Zoho
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


def parse_reading_response(request: ZohoRequest, response: ZohoResponse) -> Mapping[str, Any] | None:
    """
    Return the content of the response to a GET: its JSON object, or None for 204.

    :raises ZohoAuthError: token, scope or permission do not allow the call
    :raises ZohoResponseError: any other error, a redirect, or an unreadable response
    """
    if response.status == 204:
        return None
    if response.status == 200:
        content = json_object(response.body)
        if content is not None and content.get("status") != "error":
            return content
    raise unclear(request, response)


def unclear(request: ZohoRequest, response: ZohoResponse) -> ZohoError:
    """Return the error for a response without the requested content."""
    item = parse_response_item(response.body)
    code, message, details = "", "the response cannot be read", {}
    if item is not None:
        code, message, details = item.code[:100], item.message[:300], dict(item.details)
    if 300 <= response.status < 400:
        message = "Zoho's API does not redirect; the response is from another server, such as a proxy"
    is_refusal = response.status in {401, 403} and item is not None and not response.classified.is_throttled
    error = ZohoAuthError if is_refusal or code in PERMISSION_CODES else ZohoResponseError
    advice = _ADVICE_BY_KIND.get(response.classified.kind) or _ADVICE.get(code, "")
    return error(
        f"{request.method} {_place(request)}: {response.status} {code} {message}".rstrip() + advice,
        http_status=response.status,
        code=code or None,
        path=request.path,
        details=details,
    )


def is_final(error: ZohoAuthError | ZohoResponseError) -> bool:
    """
    Whether a response to a GET is one that a retry cannot change: Zoho itself refuses the request, with a code.

    A response without a code of Zoho, such as an HTML page with any status, or a redirect, is from a server in between.
    """
    if isinstance(error, ZohoAuthError):
        return error.code in PERMISSION_CODES
    if not error.code or error.code in _PASSING_CODES:
        return False
    return 200 <= (error.http_status or 0) < 429 and error.http_status != 408


_PASSING_CODES = frozenset(
    {"INTERNAL_ERROR", "INTERNAL_SERVER_ERROR", "REQUEST_TIMEOUT", "TOO_MANY_REQUESTS"}
)
_ADVICE_BY_KIND = {
    ResponseKind.OVERLOADED: "; too many requests are in flight: retry later, or lower max_concurrency",
    ResponseKind.OUT_OF_CREDITS: "; the org's API credits of 24 hours are used up: retry once credits return",
}
_ADVICE = {
    "OAUTH_SCOPE_MISMATCH": "; generate a refresh token that includes the scope for this call",
    "NO_PERMISSION": "; allow it in the profile of the Zoho user who generated the refresh token",
    "AUTHORIZATION_FAILED": "; allow it in the profile of the Zoho user who generated the refresh token",
}


def rows_of(request: ZohoRequest, content: Mapping[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """
    Return the rows of a response.

    :param key: the key that holds them: ``data``, ``modules``, ``fields``, ...
    :raises ZohoResponseError: they are missing, or are not objects
    """
    if content is None:
        return []
    rows = content.get(key)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ZohoResponseError(
            f"{request.method} {_place(request)}: the response has no list {key!r}",
            http_status=200,
            path=request.path,
        )
    return rows


def _place(request: ZohoRequest) -> str:
    """Return the path without external ids: messages are logged, ids are not."""
    segments = [
        "{id}" if index in {3, 5} and request.x_external is not None else segment
        for index, segment in enumerate(request.segments)
    ]
    return "/" + "/".join(segments)
