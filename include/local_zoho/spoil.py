"""How a fault spoils an answer, down to the TCP connection."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from include.local_zoho.wire import JSON_TYPE, Reply, send_reply

if TYPE_CHECKING:
    from include.local_zoho.faults import FaultRule
    from include.local_zoho.wire import Receive, Send

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
        """Give the TCP connection."""
        transport: asyncio.Transport = self.scope["state"]["connection"].transport
        return transport

    async def until_disconnected(self) -> None:
        """Wait until the connection is gone: an answer cannot be left open otherwise."""
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
    """Tell the status the client will see; 0 when it gets none."""
    if rule is None or rule.do in {"delay", "truncate", "close_mid_body"}:
        return reply.status
    return 0 if rule.do in SILENT else rule.http_status


async def apply(rule: FaultRule, reply: Reply, exchange: Exchange) -> None:
    """
    Spoil an answer.

    :param reply: the answer the client would have got.
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
        await send_reply(exchange.send, _spoilt(rule, reply))


def _spoilt(rule: FaultRule, reply: Reply) -> Reply:
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
    """Make the next close a reset; on a duplicate, since not every event loop lends out its socket."""
    held = transport.get_extra_info("socket")
    with socket.socket(fileno=os.dup(held.fileno())) as duplicate:
        duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
