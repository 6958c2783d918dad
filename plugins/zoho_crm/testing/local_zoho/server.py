"""A local Zoho that listens on the loopback address, in a thread of a test or as the process itself."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import uvicorn

from zoho_crm.testing.local_zoho.admin import admin_app
from zoho_crm.testing.local_zoho.faults import Exchange, apply_fault, visible_status
from zoho_crm.testing.local_zoho.router import handle_call
from zoho_crm.testing.local_zoho.state import LocalState
from zoho_crm.testing.local_zoho.wire import Call, Reply, json_reply, send_reply, success_item

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

    from zoho_crm.testing.local_zoho.faults import FaultRule
    from zoho_crm.testing.local_zoho.wire import Receive, Send


ADMIN_PREFIX = b"/_local"

PRETENDED = {"PUT": "relation added"}
"""The response that a fault corrupts when the call never reached the CRM."""


class LocalZohoApp:
    """
    Serve one state over ASGI.

    Zoho's calls are handled from ``scope["raw_path"]`` without middleware, models or routing tables: they are the
    hot path, and frameworks decode a path before they split it.

    :param state: what is served; the admin calls under ``/_local`` read and change it.
    """

    def __init__(self, state: LocalState) -> None:
        self.state = state
        self.admin = admin_app(state)
        self.closing = asyncio.Event()

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Respond to one request, or run FastAPI's lifespan."""
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
            state.journal.record(arrived, call, visible_status(rule, reply))
            await self._hold_back(is_api=is_api, status=reply.status)
            if rule is not None:
                await apply_fault(rule, reply, Exchange(scope, receive, send, self.closing))
                return
        finally:
            if is_api:
                limits.leave()
        await send_reply(send, reply)

    def _work(self, call: Call, rule: FaultRule | None) -> Reply:
        """Do what the call asks, unless a fault keeps it from arriving."""
        if rule is not None and rule.when == "before" and rule.do != "delay":
            call.kind = "faulted"
            return json_reply(
                200, {"data": [success_item(PRETENDED.get(call.method, "relation removed"), {})]}
            )
        return handle_call(self.state, call)

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


LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 15.0


class LocalZoho:
    """
    Imitate Zoho's accounts server and CRM API on one loopback port, for the demo and for tests.

    As a context manager it serves from a background thread::

        with LocalZoho(concurrency_limit=5) as zoho:
            zoho.state.link("Contacts", "c-1", "Deals", "d-1")
            requests.delete(f"{zoho.url}/crm/v7/Contacts/c-1/Deals/d-1", headers=...)
            assert not zoho.state.linked("Contacts", "c-1", "Deals", "d-1")

    :param seed: see :func:`zoho_crm.testing.local_zoho.seed.default_seed`; a path is read as JSON.
    :param port: 0 takes a free one.
    :param host: only 127.0.0.1 is accepted: an imitation of a CRM does not belong on a network.
    :param clock: seconds since the epoch; decides token ends, throttling and credits, not latency.
    :param settings: see :class:`zoho_crm.testing.local_zoho.settings.Settings`.
    :raises ValueError: for another host, or an unknown setting.
    """

    def __init__(
        self,
        seed: Mapping[str, Any] | Path | str | None = None,
        *,
        port: int = 0,
        host: str = LOOPBACK,
        clock: Callable[[], float] = time.time,
        **settings: Any,
    ) -> None:
        if host != LOOPBACK:
            msg = f"the local Zoho listens on {LOOPBACK} only"
            raise ValueError(msg)
        self.state = LocalState(seed, clock, settings)
        self.host = host
        self.port = port
        self.app = LocalZohoApp(self.state)
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Return the base URL, for accounts and API alike; it is right once the port is bound."""
        return f"http://{self.host}:{self.port}"

    def __enter__(self) -> Self:
        server, listener = self._prepare()
        self._thread = threading.Thread(
            target=server.run, args=([listener],), name=f"local-zoho-{self.port}", daemon=True
        )
        self._thread.start()
        if not server.ready.wait(START_TIMEOUT_S):
            msg = "the local Zoho did not start"
            raise TimeoutError(msg)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join(STOP_TIMEOUT_S)

    def serve(self, on_bound: Callable[[LocalZoho], None]) -> None:
        """
        Serve in this thread until the process is stopped.

        :param on_bound: called once the port is known and connections are accepted.
        """
        server, listener = self._prepare()
        on_bound(self)
        server.run([listener])

    def reset(self) -> None:
        """Restart with the first seed and settings; see :meth:`LocalState.reset`."""
        self.state.reset()

    def _prepare(self) -> tuple[_Server, socket.socket]:
        # asyncio disables Nagle's algorithm only for a socket with an explicit protocol; it adds 40 ms per response.
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self.host, self.port))
            listener.listen(2048)
        except OSError:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        self.state.base_url = self.url
        config = uvicorn.Config(
            self.app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            date_header=False,
            server_header=False,
            timeout_keep_alive=60,
        )
        config.load()
        _lend_connection(config)
        self._server = _Server(config, self.app)
        return self._server, listener


class _Server(uvicorn.Server):
    """A uvicorn server that says when it serves, and wakes hanging exchanges when it stops."""

    def __init__(self, config: uvicorn.Config, app: LocalZohoApp) -> None:
        super().__init__(config)
        self.ready = threading.Event()
        self._app = app

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.closing.clear()
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._app.closing.set()
        await super().shutdown(sockets)


def _lend_connection(config: uvicorn.Config) -> None:
    """
    Put each connection's protocol object into the state of its ASGI scopes.

    ASGI has no word for "reset the connection", which is what a fault needs.
    """
    make: Callable[..., Any] = config.http_protocol_class

    def lending(*, app_state: dict[str, Any], **rest: Any) -> Any:
        lent = dict(app_state)
        lent["connection"] = make(app_state=lent, **rest)
        return lent["connection"]

    config.http_protocol_class = lending  # type: ignore[assignment]  # any factory of protocols does
