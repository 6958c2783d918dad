"""A local Zoho that listens on the loopback address, in a thread of a test or as the process itself."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import uvicorn

from include.local_zoho.app import LocalZohoApp
from include.local_zoho.state import LocalState

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path
    from types import TracebackType

LOOPBACK = "127.0.0.1"
START_TIMEOUT_S = 15.0
STOP_TIMEOUT_S = 15.0


class LocalZoho:
    """
    Imitate Zoho's accounts server and CRM API on one loopback port, for the demo and for tests.

    As a context manager it serves from a thread of its own::

        with LocalZoho(concurrency_limit=5) as zoho:
            zoho.state.link("Contacts", "c-1", "Deals", "d-1")
            requests.delete(f"{zoho.url}/crm/v7/Contacts/c-1/Deals/d-1", headers=...)
            assert not zoho.state.linked("Contacts", "c-1", "Deals", "d-1")

    :param seed: see :func:`include.local_zoho.seed.default_seed`; a path is read as JSON.
    :param port: 0 takes a free one.
    :param host: only 127.0.0.1 is accepted: an imitation of a CRM does not belong on a network.
    :param clock: seconds since the epoch; decides token ends, throttling and credits, not latency.
    :param settings: see :class:`include.local_zoho.settings.Settings`.
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
        """Give the base URL, for accounts and API alike; it is right once the port is bound."""
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
        Serve in this thread until the process is told to stop.

        :param on_bound: called once the port is known and connections are accepted.
        """
        server, listener = self._prepare()
        on_bound(self)
        server.run([listener])

    def reset(self) -> None:
        """Begin again with the first seed and settings; see :meth:`LocalState.reset`."""
        self.state.reset()

    def _prepare(self) -> tuple[_Server, socket.socket]:
        # asyncio switches Nagle's algorithm off only for a socket whose protocol is given: 40 ms per answer else.
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
