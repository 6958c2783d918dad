"""An Airflow as far as its REST API starts runs: for faults that a real one does not have at hand."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

PASSWORD = "a-secret-password"
TOKEN = "a-secret-token"


@dataclass
class FakeAirflow:
    """What it is asked, and what it answers."""

    port: int = 0
    paused: bool = False
    answers: dict[str, tuple[int, bytes]] = field(default_factory=dict)
    calls: list[tuple[str, str, Any, str | None]] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def triggered(self) -> list[tuple[str, Any]]:
        return [(path, body) for method, path, body, _ in self.calls if path.endswith("/dagRuns")]

    def answer(self, method: str, path: str, body: Any, authorization: str | None) -> tuple[int, bytes]:
        self.calls.append((method, path, body, authorization))
        for part, answer in self.answers.items():
            if part in path:
                return answer
        if path == "/auth/token":
            known = body == {"username": "ada", "password": PASSWORD}
            return (201, json.dumps({"access_token": TOKEN}).encode()) if known else (401, b"{}")
        if authorization != f"Bearer {TOKEN}":
            return 401, b'{"detail": "Not authenticated"}'
        if path.endswith("/dagRuns"):
            return 200, b'{"dag_run_id": "manual__2026 / 1"}'
        return 200, json.dumps({"is_paused": self.paused}).encode()


@contextmanager
def fake_airflow() -> Iterator[FakeAirflow]:
    airflow = FakeAirflow()

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else None
            status, content = airflow.answer(self.command, self.path, body, self.headers.get("Authorization"))
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if status in {301, 302, 307, 308}:
                self.send_header("Location", "/elsewhere")
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815 - names that http.server looks for

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    airflow.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield airflow
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
