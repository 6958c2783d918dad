"""Responses of Zoho, as its documentation shows them."""

from __future__ import annotations

import json
from typing import Any

from requests.structures import CaseInsensitiveDict

from zoho_crm.errors import ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.zoho_response import ZohoResponse

TOKEN = "the token"


def response(status: int, content: Any = None, **headers: str) -> ZohoResponse:
    """Return a response with this JSON content; ``Retry_After="3"`` is the header Retry-After."""
    body = content if isinstance(content, bytes) else b"" if content is None else json.dumps(content).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ZohoResponse(status, CaseInsensitiveDict(named), body, 0.01, TOKEN)


def item(code: str, message: str = "", record_id: str | None = None, **details: Any) -> dict[str, Any]:
    """Return one response item, as it stands in ``data[]`` or alone."""
    status = "success" if code == "SUCCESS" else "error"
    named = {} if record_id is None else {"id": record_id}
    return {"code": code, "details": {**named, **details}, "message": message, "status": status}


def removed(record_id: str | None = None) -> dict[str, Any]:
    return item("SUCCESS", "relation removed", record_id)


def gone(record_id: str | None = None) -> dict[str, Any]:
    return item("INVALID_DATA", "relation not found", record_id)


def refusal(status: int, code: str, message: str, *, data: bool = False, **details: Any) -> ZohoResponse:
    """Return a response with one error, in ``data[]`` or alone."""
    error = item(code, message, **details)
    return response(status, {"data": [error]} if data else error)


REMOVED = response(200, {"data": [removed("77")]})
FOUND = response(200, {"data": [{"id": "1"}]})
MISSING = response(204)
WRONG_ID = refusal(400, "INVALID_DATA", "the given id seems to be invalid")
GONE = refusal(400, "INVALID_DATA", "relation not found", data=True, id="77")
LOCKED = refusal(400, "RECORD_LOCKED", "record is locked", data=True, id="77")
BUSY = refusal(429, "TOO_MANY_REQUESTS", "Many requests fired in concurrent than the allowed limit.")
OUT_OF_CREDITS = refusal(429, "TOO_MANY_REQUESTS", "API requests for the 24 hour period exceeded")
BAD_TOKEN = refusal(401, "INVALID_TOKEN", "invalid oauth token")
SCOPE = refusal(401, "OAUTH_SCOPE_MISMATCH", "invalid oauth scope to access this URL")
BROKEN = refusal(500, "INTERNAL_ERROR", "Internal server error occurred.")
HTML = response(502, b"<html>Bad Gateway</html>")
UNSAID = refusal(400, "INVALID_DATA", "invalid data")
UNANSWERED = ZohoUnansweredError("sent, not answered")
NOT_SENT = ZohoNotSentError("no connection")
