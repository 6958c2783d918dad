"""Scripted faults: which requests fail, how, and whether their work is done before."""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

from zoho_crm.testing.local_zoho.wire import JSON_TYPE, Reply, send_reply

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoho_crm.testing.local_zoho.wire import Call, Receive, Send


Deed = Literal["status", "reset", "hang", "delay", "html", "redirect", "truncate", "close_mid_body"]
DEEDS = ("status", "reset", "hang", "delay", "html", "redirect", "truncate", "close_mid_body")

DEFAULT_STATUS = {"html": 502, "redirect": 302, "status": 500}
DEFAULT_BODY = {
    "html": "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>",
    "status": '{"code":"INTERNAL_ERROR","details":{},"message":"Internal server error occurred.","status":"error"}',
}


@dataclass(slots=True)
class Match:
    """
    Which requests a rule is about; what is not given matches everything.

    :param method: HTTP method.
    :param path: regular expression, searched in the path as sent (percent-encoded).
    :param external_id: a decoded path segment, one of the values in ``ids``, or a value in a row of the body.
    :param nth: pass over the matching requests before this one, counted from 1.
    """

    method: str | None = None
    path: str | None = None
    external_id: str | None = None
    nth: int = 1

    def __call__(self, call: Call) -> bool:
        """Return whether a request matches, ``nth`` aside."""
        if self.method is not None and self.method != call.method:
            return False
        if self.path is not None and re.search(self.path, call.raw_path) is None:
            return False
        if self.external_id is None or self.external_id in call.segments:
            return True
        return self.external_id in call.query.get("ids", "").split(",") or self.external_id in _body_values(
            call
        )


def _body_values(call: Call) -> list[object]:
    try:
        return [value for row in json.loads(call.body)["data"] for value in row.values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


@dataclass(slots=True)
class FaultRule:
    """
    One scripted fault.

    :param do: ``status`` (status, headers, raw body), ``reset`` (TCP reset, no response), ``hang`` (no response for
        ``seconds``, then a reset), ``delay`` (the real response, ``seconds`` late), ``html`` (a proxy's error page),
        ``redirect`` (to ``location``), ``truncate`` (the JSON response cut in half, complete for HTTP) or
        ``close_mid_body`` (the connection closes halfway through the body).
    :param when: ``before``: the request never reached the CRM; ``after``: its work is done and only the response is
        corrupted. ``delay`` always means after.
    :param times: how often the rule applies; None for ever.
    :param seconds: for ``hang`` and ``delay``.
    """

    do: Deed
    match: Match = field(default_factory=Match)
    when: Literal["before", "after"] = "before"
    times: int | None = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    seconds: float = 30.0
    location: str = "https://login.invalid/"
    seen: int = 0
    applied: int = 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """
        Read a rule: ``{"do": "status", "status": 503, "match": {"method": "DELETE", "nth": 2}, "times": 1}``.

        :param data: the names of this class; ``body`` may be a string (sent as it is) or JSON.
        :raises TypeError: for an unknown name.
        :raises ValueError: for an unknown ``do`` or ``when``, or a bad regular expression.
        """
        if data.get("do") not in DEEDS or data.get("when", "before") not in {"before", "after"}:
            msg = f"a fault needs do ({', '.join(DEEDS)}) and when (before, after)"
            raise ValueError(msg)
        match = Match(**data.get("match", {}))
        try:
            re.compile(match.path or "")
        except re.error as error:
            msg = f"the path of a fault is no regular expression: {error}"
            raise ValueError(msg) from error
        body = data.get("body")
        if body is not None and not isinstance(body, str):
            body = json.dumps(body)
        return cls(**{**data, "match": match, "body": body})

    def takes(self, call: Call) -> bool:
        """Return whether this rule applies to a request now, and count it."""
        if (self.times is not None and self.applied >= self.times) or not self.match(call):
            return False
        self.seen += 1
        if self.seen < self.match.nth:
            return False
        self.applied += 1
        return True

    @property
    def http_status(self) -> int:
        """Return the status of the corrupted response."""
        return self.status if self.status is not None else DEFAULT_STATUS.get(self.do, 200)

    @property
    def http_body(self) -> bytes:
        """Return the body of the corrupted response."""
        return (self.body if self.body is not None else DEFAULT_BODY.get(self.do, "")).encode()


class Faults:
    """An ordered list of rules; the first that applies decides, each counts only what reaches it."""

    def __init__(self) -> None:
        self.rules: list[FaultRule] = []

    def add(self, **rule: Any) -> FaultRule:
        """Append one rule, given by the names of :class:`FaultRule`."""
        made = FaultRule.from_json(rule)
        self.rules.append(made)
        return made

    def clear(self) -> None:
        """Drop all rules."""
        self.rules.clear()

    def for_call(self, call: Call) -> FaultRule | None:
        """Find the rule for a request."""
        return next((rule for rule in self.rules if rule.takes(call)), None)


SILENT = frozenset({"reset", "hang"})


@dataclass(frozen=True, slots=True)
class Exchange:
    """
    One exchange in progress.

    :param scope: its ASGI scope; ``state.connection`` is the protocol object of the server.
    :param closing: set when the server shuts down, so that nothing hangs longer.
    """

    scope: Any
    receive: Receive
    send: Send
    closing: asyncio.Event

    @property
    def transport(self) -> asyncio.Transport:
        """Return the TCP connection."""
        transport: asyncio.Transport = self.scope["state"]["connection"].transport
        return transport

    async def until_disconnected(self) -> None:
        """Wait until the connection is gone: a response cannot be left open otherwise."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def reset(self) -> None:
        """Close the connection with a TCP reset (RST), as a crashed gateway does."""
        _linger_zero(self.transport)
        self.transport.abort()
        await self.until_disconnected()

    async def silence(self, seconds: float) -> None:
        """Send nothing for a while; ends early when the client leaves or the server shuts down."""
        waits = [asyncio.ensure_future(self.until_disconnected()), asyncio.ensure_future(self.closing.wait())]
        _, pending = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for wait in pending:
            wait.cancel()
        await asyncio.gather(*pending, return_exceptions=True)


def visible_status(rule: FaultRule | None, reply: Reply) -> int:
    """Return the status the client will see; 0 when it gets none."""
    if rule is None or rule.do in {"delay", "truncate", "close_mid_body"}:
        return reply.status
    return 0 if rule.do in SILENT else rule.http_status


async def apply_fault(rule: FaultRule, reply: Reply, exchange: Exchange) -> None:
    """
    Corrupt a response.

    :param reply: the response the client would have got.
    """
    if rule.do == "reset":
        await exchange.reset()
    elif rule.do == "hang":
        await exchange.silence(rule.seconds)
        await exchange.reset()
    elif rule.do == "close_mid_body":
        await _close_mid_body(reply, exchange)
    else:
        if rule.do == "delay":
            await exchange.silence(rule.seconds)
        await send_reply(exchange.send, _corrupted(rule, reply))


def _corrupted(rule: FaultRule, reply: Reply) -> Reply:
    if rule.do == "delay":
        return reply
    if rule.do == "truncate":
        return Reply(reply.status, reply.body[: len(reply.body) // 2], reply.headers or [JSON_TYPE])
    headers = [(name.lower().encode(), value.encode()) for name, value in rule.headers.items()]
    if not any(name == b"content-type" for name, _ in headers):
        headers.append((b"content-type", b"text/html") if rule.do == "html" else JSON_TYPE)
    if rule.do == "redirect":
        headers.append((b"location", rule.location.encode()))
    return Reply(rule.http_status, rule.http_body, headers)


async def _close_mid_body(reply: Reply, exchange: Exchange) -> None:
    headers = [*reply.headers, (b"content-length", str(len(reply.body)).encode())]
    await exchange.send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await exchange.send(
        {"type": "http.response.body", "body": reply.body[: len(reply.body) // 2], "more_body": True}
    )
    exchange.transport.close()
    await exchange.until_disconnected()


def _linger_zero(transport: asyncio.Transport) -> None:
    """Build the next close a reset; on a duplicate, since not every event loop lends out its socket."""
    held = transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(held.fileno())) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
