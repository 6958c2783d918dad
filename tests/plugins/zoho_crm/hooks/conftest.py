"""A scripted server on a raw socket, an Airflow connection to it, and short ways to a hook."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest

from zoho_crm.core.links import Link, Relation
from zoho_crm.hooks.zoho_crm import ZohoCRMHook

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoho_crm.hooks.zoho_response import ZohoResponse

CLIENT_SECRET = "client-secret-5f1c"
REFRESH_TOKEN = "refresh-token-77ab"
SCOPES = "ZohoCRM.modules.ALL ZohoCRM.settings.ALL ZohoCRM.org.READ"


Answer = bytes | str | Callable[[socket.socket], None]


@dataclass
class Seen:
    """One request as it came over the wire."""

    line: str
    headers: list[tuple[str, str]]
    body: bytes
    connection: int

    @property
    def method(self) -> str:
        return self.line.split(" ")[0]

    @property
    def target(self) -> str:
        return self.line.split(" ")[1]

    def header(self, name: str) -> str | None:
        values = [value for key, value in self.headers if key.lower() == name.lower()]
        assert len(values) <= 1, f"{name} was sent {len(values)} times"
        return values[0] if values else None


@dataclass
class ScriptedServer:
    """
    Answers API calls from a script, in order, and token calls by itself unless they are scripted too.

    An answer is bytes to send, or a name: ``drop`` closes without an answer, ``reset`` sends RST, ``hang`` says nothing
    until the server stops. A function is called with the socket, and closes it by returning.
    """

    script: list[Answer] = field(default_factory=list)
    token_script: list[Answer] = field(default_factory=list)
    default: Answer = ""
    seen: list[Seen] = field(default_factory=list)
    token_calls: list[Seen] = field(default_factory=list)
    drop_after_answer: bool = False
    rejected_token: str = ""

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.stopping = threading.Event()
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def api_lines(self) -> list[str]:
        return [one.line for one in self.seen]

    @staticmethod
    def answer(status: int, content: Any = None, headers: dict[str, str] | None = None) -> bytes:
        body = (
            content
            if isinstance(content, bytes)
            else b""
            if content is None
            else json.dumps(content).encode()
        )
        lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    @classmethod
    def removed(cls) -> bytes:
        entry = {
            "code": "SUCCESS",
            "details": {"id": "1"},
            "message": "relation removed",
            "status": "success",
        }
        return cls.answer(200, {"data": [entry]})

    @classmethod
    def bad_token(cls) -> bytes:
        return cls.answer(
            401, {"code": "INVALID_TOKEN", "details": {}, "message": "invalid oauth token", "status": "error"}
        )

    def token(self, value: str = "access-token-1", **others: Any) -> bytes:
        content = {
            "access_token": value,
            "scope": SCOPES,
            "api_domain": self.url,
            "token_type": "Bearer",
            "expires_in": 3600,
        }
        return self.answer(200, {**content, **others})

    def stop(self) -> None:
        self.stopping.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                connection.close()

    def _accept(self) -> None:
        number = 0
        while not self.stopping.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            number += 1
            with self._lock:
                self._connections.append(connection)
            threading.Thread(target=self._serve, args=(connection, number), daemon=True).start()

    def _serve(self, connection: socket.socket, number: int) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as stream:
            while (seen := self._read(stream, number)) is not None:
                if not self._reply(connection, seen):
                    return

    def _read(self, stream: Any, number: int) -> Seen | None:
        line = stream.readline().decode("latin-1").rstrip("\r\n")
        if not line:
            return None
        headers: list[tuple[str, str]] = []
        while text := stream.readline().decode("latin-1").rstrip("\r\n"):
            name, _, value = text.partition(": ")
            headers.append((name, value))
        lengths = [value for name, value in headers if name.lower() == "content-length"]
        body = stream.read(int(lengths[0])) if lengths else b""
        return Seen(line, headers, body, number)

    def _reply(self, connection: socket.socket, seen: Seen) -> bool:
        with self._lock:
            if seen.target.startswith("/oauth/"):
                self.token_calls.append(seen)
                answer = (
                    self.token_script.pop(0)
                    if self.token_script
                    else self.token(f"access-token-{len(self.token_calls)}")
                )
            else:
                self.seen.append(seen)
                if self.rejected_token and seen.header("Authorization").endswith(f" {self.rejected_token}"):
                    answer = self.bad_token()
                else:
                    answer = self.script.pop(0) if self.script else self.default or self.removed()
        if isinstance(answer, bytes):
            connection.sendall(answer)
            return b"HTTP/1.1" in answer and not self.drop_after_answer
        if callable(answer):
            answer(connection)
        if answer == "hang":
            self.stopping.wait(20)
        if answer == "reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False


@pytest.fixture
def zoho() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _surroundings(variables: dict[str, str]) -> None:
    """Keep Airflow's Variables in memory for every hook."""


@pytest.fixture
def connect(zoho: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., ZohoCRMHook]:
    """Make hooks to the scripted server: ``connect(extra={...}, read_timeout_s=...)``."""

    def make(extra: dict[str, Any] | None = None, host: str = "127.0.0.1", **kwargs: Any) -> ZohoCRMHook:
        connection = {
            "conn_type": "zoho_crm",
            "login": "client-id",
            "password": CLIENT_SECRET,
            "host": host,
            "schema": "http",
            "port": zoho.port,
            "extra": {"refresh_token": REFRESH_TOKEN, **(extra or {})},
        }
        monkeypatch.setenv("AIRFLOW_CONN_ZOHO_CRM_DEFAULT", json.dumps(connection))
        hook = ZohoCRMHook(**kwargs)
        hook.slept = []  # type: ignore[attr-defined]
        hook.sleep = hook.slept.append  # type: ignore[attr-defined]
        return hook

    return make


@pytest.fixture
def hook(connect: Callable[..., ZohoCRMHook]) -> ZohoCRMHook:
    return connect()


@pytest.fixture
def time_limits() -> dict[str, float]:
    return {}


@pytest.fixture(params=["hook", "async-client"])
def send(
    request: pytest.FixtureRequest, connect: Callable[..., ZohoCRMHook], time_limits: dict[str, float]
) -> Iterator[Callable[[Any], ZohoResponse]]:
    """Send a request by the hook, or by its async client, with the time limits of the fixture ``time_limits``."""
    hook = connect(**time_limits)
    if request.param == "hook":
        yield hook.send
        return
    client = hook.async_client(max_connections=1)
    with asyncio.Runner() as runner:
        runner.run(client.__aenter__())
        yield lambda one: runner.run(client.send(one))
        runner.run(client.__aexit__(None, None, None))


@pytest.fixture
def relation() -> Relation:
    return Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")


@pytest.fixture
def link() -> Link:
    return Link("c-1", "d-1")


@pytest.fixture
def secrets() -> tuple[str, ...]:
    return (CLIENT_SECRET, REFRESH_TOKEN, "access-token-")
