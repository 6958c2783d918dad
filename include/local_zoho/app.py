"""The ASGI application: the Zoho calls on a short path of their own, the admin calls through FastAPI."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from include.local_zoho import router, spoil
from include.local_zoho.admin import admin_app
from include.local_zoho.answers import success
from include.local_zoho.wire import Call, Reply, json_reply, send_reply

if TYPE_CHECKING:
    from include.local_zoho.faults import FaultRule
    from include.local_zoho.state import LocalState
    from include.local_zoho.wire import Receive, Send

ADMIN_PREFIX = b"/_local"

PRETENDED = {"PUT": "relation added"}
"""What a fault that spoils an answer spoils, when the call has not arrived."""


class LocalZohoApp:
    """
    Serve one state over ASGI.

    Zoho's calls are answered from ``scope["raw_path"]`` without middleware, models or routing tables: they are the
    hot path, and frameworks decode a path before they split it.

    :param state: what is served; the admin calls under ``/_local`` read and change it.
    """

    def __init__(self, state: LocalState) -> None:
        self.state = state
        self.admin = admin_app(state)
        self.closing = asyncio.Event()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request, or run FastAPI's lifespan."""
        if scope["type"] == "http" and not scope["raw_path"].startswith(ADMIN_PREFIX):
            await self._exchange(scope, receive, send)
        else:
            await self.admin(scope, receive, send)

    async def _exchange(self, scope: Any, receive: Receive, send: Send) -> None:
        state = self.state
        arrived = state.clock()
        call = Call.from_scope(scope)
        if call.method in {"POST", "PUT"}:
            call.body = await _read_body(receive)
        limits = state.limits
        is_api = call.segments[:1] == ["crm"]
        if is_api:
            limits.enter()
        try:
            rule = state.faults.for_call(call) if state.faults.rules else None
            reply = self._work(call, rule)
            state.journal.record(arrived, call, spoil.visible_status(rule, reply))
            await self._hold_back(is_api=is_api, status=reply.status)
            if rule is not None:
                await spoil.apply(rule, reply, spoil.Exchange(scope, receive, send, self.closing))
                return
        finally:
            if is_api:
                limits.leave()
        await send_reply(send, reply)

    def _work(self, call: Call, rule: FaultRule | None) -> Reply:
        """Do what the call asks, unless a fault keeps it from arriving."""
        if rule is not None and rule.when == "before" and rule.do != "delay":
            call.kind = "faulted"
            return json_reply(200, {"data": [success(PRETENDED.get(call.method, "relation removed"), {})]})
        return router.answer(self.state, call)

    async def _hold_back(self, *, is_api: bool, status: int) -> None:
        settings = self.state.settings
        wait_s = settings.latency_s
        if settings.jitter_s:
            wait_s += settings.jitter_s * self.state.random.random()
        if wait_s and is_api and status != 429:
            await asyncio.sleep(wait_s)


async def _read_body(receive: Receive) -> bytes:
    chunks: list[bytes] = []
    more = True
    while more:
        message = await receive()
        chunks.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(chunks)
