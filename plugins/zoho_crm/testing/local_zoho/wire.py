"""Requests and responses on the wire: parsed calls, and the bodies that Zoho sends."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    from collections.abc import Mapping, Sequence

    from zoho_crm.testing.local_zoho.settings import Settings


JSON_TYPE = (b"content-type", b"application/json;charset=UTF-8")


@dataclass(slots=True)
class Reply:
    """An HTTP response: status, body and extra headers; ``content-length`` is added when it is sent."""

    status: int
    body: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


class RefusedError(Exception):
    """Carry the response that ends a call early."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.status)
        self.reply = reply


@dataclass(slots=True)
class Call:
    """
    One request.

    :param raw_path: the path exactly as sent, still percent-encoded.
    :param raw_query: the query string exactly as sent, without ``?``.
    :param segments: the decoded path segments after dot segments were removed.
    :param external: the X-EXTERNAL header as sent, None without one.
    :param kind: what the call turned out to be ("delink", "token", ...), filled in by the router.
    """

    method: str
    raw_path: str
    raw_query: str
    segments: list[str]
    authorization: str | None = None
    external: str | None = None
    host: str = ""
    body: bytes = b""
    kind: str = "other"

    @property
    def query(self) -> dict[str, str]:
        """Return the decoded query; the last value of a repeated name wins, ``+`` is a space (Kaizen #7)."""
        return dict(parse_qsl(self.raw_query, keep_blank_values=True)) if self.raw_query else {}

    @property
    def externals(self) -> dict[str, str]:
        """Return the external field by module, as X-EXTERNAL declares it."""
        return parse_external(self.external) if self.external else {}

    @classmethod
    def from_scope(cls, scope: Any) -> Call:
        """Read a call from an ASGI scope; the body is read by the caller."""
        raw_path: bytes = scope["raw_path"]
        call = cls(
            scope["method"],
            raw_path.decode("latin-1"),
            scope["query_string"].decode("latin-1"),
            segments_of(raw_path),
        )
        for name, value in scope["headers"]:
            if name == b"authorization":
                call.authorization = value.decode("latin-1")
            elif name == b"x-external":
                call.external = value.decode("utf-8", "replace")
            elif name == b"host":
                call.host = value.decode("latin-1")
        return call


def segments_of(raw_path: bytes) -> list[str]:
    """
    Split a path on ``/`` first, decode each segment then, and remove dot segments.

    So ``%2F`` stays inside its value and ``//`` gives an empty segment, while ``.``, ``..`` and their encoded
    forms disappear as RFC 3986 (5.2.4, 6.2.2.2) says: the call becomes another call. One trailing slash is dropped.

    :param raw_path: the path as sent, beginning with ``/``.
    """
    segments = [
        unquote(part.decode("latin-1")) if b"%" in part else part.decode("latin-1")
        for part in raw_path.split(b"/")[1:]
    ]
    if "." in segments or ".." in segments:
        segments = _without_dots(segments)
    if segments and segments[-1] == "":
        segments.pop()
    return segments


def _without_dots(segments: list[str]) -> list[str]:
    kept: list[str] = []
    for segment in segments:
        if segment == "..":
            if kept:
                kept.pop()
        elif segment != ".":
            kept.append(segment)
    return [*kept, ""] if segments[-1] in {".", ".."} else kept


@lru_cache(maxsize=256)
def parse_external(header: str) -> dict[str, str]:
    """
    Read an X-EXTERNAL header: ``{module}.{external field}``, entries separated by a comma and maybe a blank.

    The order of entries does not matter. Entries with a sub-path (three names) address lookups and subforms of
    the record calls; nothing here needs them, so they are passed over.

    :return: the external field by module; the response is shared, do not change it.
    """
    pairs = (entry.strip().split(".") for entry in header.split(","))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def json_reply(status: int, body: object) -> Reply:
    """Build a response with a JSON body."""
    return Reply(status, json.dumps(body, separators=(",", ":")).encode(), [JSON_TYPE])


async def send_reply(send: Send, reply: Reply) -> None:
    """Send a response whole; a 204 has no length."""
    headers = reply.headers
    if reply.status != 204:
        headers = [*headers, (b"content-length", str(len(reply.body)).encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


Item = dict[str, Any]

INVALID_PARENT = "the related id given seems to be invalid"
INVALID_RELATION = "The relation name given seems to be invalid"
RELATION_NOT_FOUND = "relation not found"


def error_item(
    code: str, message: str, details: Mapping[str, Any] | None = None, status: str = "error"
) -> Item:
    """Build one error entry: alone it is the top-level shape (T), inside ``data[]`` the per-record shape (R)."""
    return {"code": code, "details": dict(details or {}), "message": message, "status": status}


def success_item(message: str, details: Mapping[str, Any]) -> Item:
    """Build one success entry of ``data[]``."""
    return error_item("SUCCESS", message, details, "success")


def error_reply(http_status: int, code: str, message: str, details: Mapping[str, Any] | None = None) -> Reply:
    """Return one error at the top level (T)."""
    return json_reply(http_status, error_item(code, message, details))


def refuse(
    http_status: int, code: str, message: str, details: Mapping[str, Any] | None = None
) -> RefusedError:
    """Build the exception that ends a call with a top-level error (T)."""
    return RefusedError(error_reply(http_status, code, message, details))


def data_reply(entries: Sequence[Item], partial_status: int = 207) -> Reply:
    """
    Return ``data[]``: 200 when all succeeded, 400 when none did, else ``partial_status``.

    :param entries: one per id, in the order of the request.
    """
    good = sum(one["status"] == "success" for one in entries)
    status = 200 if good == len(entries) else partial_status if good else 400
    return json_reply(status, {"data": list(entries)})


def no_content() -> Reply:
    """Return 204: nothing related, or no such record."""
    return Reply(204)


def invalid_url() -> Reply:
    """Return the error for a path without a call."""
    return error_reply(
        404, "INVALID_URL_PATTERN", "Please check if the URL trying to access is a correct one"
    )


def invalid_module() -> RefusedError:
    """Refuse an unknown module (``resource_path_index`` 0)."""
    return refuse(
        400, "INVALID_MODULE", "The module name given seems to be invalid", {"resource_path_index": 0}
    )


def invalid_method() -> RefusedError:
    """Refuse a method the call does not have; Zoho responds 400, not 405."""
    return refuse(400, "INVALID_REQUEST_METHOD", "The http request method type is not a valid one")


def missing_param(name: str, code: str = "REQUIRED_PARAM_MISSING") -> RefusedError:
    """Refuse a call without a mandatory query parameter; ``ids`` has the code MANDATORY_NOT_FOUND."""
    return refuse(400, code, "One of the expected parameter is missing", {"param_name": name})


def limit_exceeded(name: str, limit: int) -> RefusedError:
    """Refuse a parameter that holds too much."""
    return refuse(
        400,
        "LIMIT_EXCEEDED",
        "The limit of the parameter is exceeded",
        {"limit": str(limit), "param_name": name},
    )


def unparsable_ids() -> RefusedError:
    """Refuse ``ids`` that are not record ids where record ids are expected."""
    return refuse(
        400,
        "UNABLE_TO_PARSE_DATA_TYPE",
        "either the request body or parameters is in wrong format",
        {"param_name": "ids"},
    )


def wrong_external_id(field: str) -> Item:
    """Describe an external id no record has; ``details`` names the external field."""
    return error_item("INVALID_DATA", "invalid data", {"api_name": field})


def refuse_external_id(field: str, settings: Settings) -> RefusedError:
    """Refuse a call whose path holds an unknown external id, in the shape the settings ask for."""
    error = wrong_external_id(field)
    return RefusedError(
        json_reply(400, {"data": [error]} if settings.shape_wrong_external_id == "R" else error)
    )
