"""One request as it came over the wire, and one answer as it will go."""

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

JSON_TYPE = (b"content-type", b"application/json;charset=UTF-8")


@dataclass(slots=True)
class Reply:
    """An HTTP answer: status, body and extra headers; ``content-length`` is added when it is sent."""

    status: int
    body: bytes = b""
    headers: list[tuple[bytes, bytes]] = field(default_factory=list)


class RefusedError(Exception):
    """Carry the answer that ends a call early."""

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
        """Give the decoded query; the last value of a repeated name wins, ``+`` is a space (Kaizen #7)."""
        return dict(parse_qsl(self.raw_query, keep_blank_values=True)) if self.raw_query else {}

    @property
    def externals(self) -> dict[str, str]:
        """Give the external field by module, as X-EXTERNAL declares it."""
        return parse_external(self.external) if self.external else {}

    @classmethod
    def from_scope(cls, scope: Any) -> Call:
        """Read a call from an ASGI scope; the body is left to whoever needs it."""
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

    :return: the external field by module; the answer is shared, do not change it.
    """
    pairs = (entry.strip().split(".") for entry in header.split(","))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}


def json_reply(status: int, body: object) -> Reply:
    """Make an answer with a JSON body."""
    return Reply(status, json.dumps(body, separators=(",", ":")).encode(), [JSON_TYPE])


async def send_reply(send: Send, reply: Reply) -> None:
    """Send an answer whole; a 204 has no length."""
    headers = reply.headers
    if reply.status != 204:
        headers = [*headers, (b"content-length", str(len(reply.body)).encode())]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})
