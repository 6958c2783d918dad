"""What the one client does about servers that break HTTP, or take their time, for the hook and the async client."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any

import pytest
from aiohttp import ClientRequest
from yarl import URL

from zoho_crm.core.request import ZohoRequest, delete_related
from zoho_crm.errors import UnsafeRequestError, ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.http_transport import HttpTransport

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from zoho_crm.core.links import Link, Relation
    from zoho_crm.hooks.zoho_crm import ZohoCRMHook
    from zoho_crm.hooks.zoho_response import ZohoResponse

    Send = Callable[[ZohoRequest], ZohoResponse]

DELETE_LINE = "DELETE /crm/v7/Contacts/c-1/Deals/d-1 HTTP/1.1"
EARLY_HINTS = b"HTTP/1.1 103 Early Hints\r\nLink: </x>; rel=preload\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


@pytest.fixture
def delete(relation: Relation, link: Link) -> ZohoRequest:
    return delete_related("v7", relation, link)


@pytest.mark.parametrize(
    "headers",
    [
        b"Content-Length: 5\r\nContent-Length: 6\r\n",
        b"Content-Length: 5, 6\r\n",
        b"Content-Length: many\r\n",
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        b"No colon\r\n",
        b"Na me: x\r\n",
        b": x\r\n",
        b"X: \x00\r\n",
    ],
    ids=["two-lengths", "list", "word", "length-and-chunked", "no-colon", "blank", "no-name", "nul"],
)
def test_a_bad_response_header_leaves_open_whether_it_was_applied(
    zoho: Any, send: Send, delete: ZohoRequest, headers: bytes
) -> None:
    zoho.script = [b"HTTP/1.1 200 X\r\n" + headers + b"\r\nabcde"]
    with pytest.raises(ZohoUnansweredError) as caught:
        send(delete)
    assert zoho.api_lines == [DELETE_LINE]
    assert "nothing was sent" not in str(caught.value)


def refusal(zoho: Any) -> bytes:
    item = {"code": "RECORD_LOCKED", "details": {}, "message": "locked", "status": "error"}
    answer: bytes = zoho.answer(400, {"data": [item]})
    return answer


@pytest.mark.parametrize("informational", [EARLY_HINTS, CONTINUE, EARLY_HINTS * 3])
def test_an_informational_response_is_not_the_response(
    zoho: Any, send: Send, delete: ZohoRequest, informational: bytes
) -> None:
    zoho.script = [informational + zoho.removed(), informational + refusal(zoho), zoho.removed()]
    assert [send(delete).status for _ in range(3)] == [200, 400, 200]
    assert len(zoho.seen) == 3


def together(connection: socket.socket, answer: bytes) -> None:
    connection.sendall(answer + answer)
    time.sleep(0.5)


def later(connection: socket.socket, answer: bytes) -> None:
    connection.sendall(answer)
    time.sleep(0.05)
    connection.sendall(EARLY_HINTS + answer)
    time.sleep(0.5)


def beyond_its_length(connection: socket.socket, answer: bytes) -> None:
    connection.sendall(b"HTTP/1.1 204 X\r\nContent-Length: 500\r\n\r\n" + answer)
    time.sleep(0.5)


def after_switching(connection: socket.socket, answer: bytes) -> None:
    connection.sendall(b"HTTP/1.1 101 X\r\n\r\n")
    time.sleep(0.05)
    connection.sendall(answer)
    time.sleep(0.5)


@pytest.mark.parametrize("respond", [together, later, beyond_its_length, after_switching])
def test_a_second_response_is_not_that_to_the_next_request(
    zoho: Any, send: Send, delete: ZohoRequest, respond: Callable[[socket.socket, bytes], None]
) -> None:
    zoho.script = [lambda connection: respond(connection, zoho.removed()), refusal(zoho)]
    send(delete)
    time.sleep(0.1)
    assert send(delete).status == 400
    first, second = zoho.seen
    assert first.connection != second.connection


def test_a_server_that_talks_first_is_sent_nothing(
    zoho: Any, send: Send, delete: ZohoRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoho_crm.hooks.http_transport._has_unread_data", lambda _: True)
    with pytest.raises(ZohoNotSentError, match="nothing was sent"):
        send(delete)
    assert zoho.seen == []


@pytest.mark.parametrize("change", ["url", "host", "method", "header", "two-headers", "port"])
def test_a_request_that_was_changed_on_the_way_never_leaves(
    zoho: Any, send: Send, delete: ZohoRequest, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    update_auth = ClientRequest.update_auth

    def spoil(self: ClientRequest, *args: Any) -> None:
        update_auth(self, *args)
        if self.method != "DELETE":
            return
        if change == "url":
            self.url = URL(f"{zoho.url}/crm/v7/Contacts/c-1", encoded=True)
        elif change == "host":
            self.headers["Host"] = "evil.example"
        elif change == "method":
            self.method = "POST"
        elif change == "header":
            del self.headers["X-EXTERNAL"]
        elif change == "two-headers":
            self.headers.add("X-External", "Contacts.Other")
        else:
            self.url = self.url.with_port(1)

    monkeypatch.setattr(ClientRequest, "update_auth", spoil)
    with pytest.raises(UnsafeRequestError):
        send(delete)
    assert zoho.seen == []


CHUNKED = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"


class TestTimeLimits:
    """The connection has 0.2 s, each byte 0.2 s, and the whole response 0.6 s."""

    @pytest.fixture
    def time_limits(self) -> dict[str, float]:
        return {"connect_timeout_s": 0.2, "read_timeout_s": 0.2}

    @pytest.mark.parametrize(
        ("start", "drop"),
        [
            (b"HTTP/1.1 200 ", b"X"),
            (b"HTTP/1.1 200 X\r\nX: ", b"x"),
            (b"HTTP/1.1 200 X\r\n", b"X: x\r\n"),
            (b"HTTP/1.1 200 X\r\nContent-Length: 5000\r\n\r\n", b"x"),
            (CHUNKED, b"1\r\nx\r\n"),
            (CHUNKED + b"0\r\n", b"X: x\r\n"),
            (b"", CONTINUE),
            (b"", CONTINUE * 1000),
        ],
        ids=["status", "header", "headers", "body", "chunks", "trailers", "continue", "many-continue"],
    )
    def test_a_response_that_does_not_end_is_given_up(
        self, zoho: Any, send: Send, delete: ZohoRequest, start: bytes, drop: bytes
    ) -> None:
        def drip(connection: socket.socket) -> None:
            connection.sendall(start)
            while not zoho.stopping.wait(0.02):
                connection.sendall(drop)

        zoho.script = [drip]
        started = time.monotonic()
        with pytest.raises(ZohoUnansweredError) as caught:
            send(delete)
        # The server would go on for ever; a busy machine may take seconds.
        assert time.monotonic() - started < 30
        assert zoho.api_lines == [DELETE_LINE]
        assert "sent, but without a complete response" in str(caught.value)

    def test_the_error_says_what_was_waited_for(self, zoho: Any, send: Send, delete: ZohoRequest) -> None:
        zoho.script = ["hang"]
        with pytest.raises(ZohoUnansweredError, match=r"no data for 0.2 s \(SocketTimeoutError\)"):
            send(delete)


def test_a_hook_closes_its_connections(
    zoho: Any, connect: Callable[..., ZohoCRMHook], delete: ZohoRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[HttpTransport] = []
    close = HttpTransport.close

    async def note(self: HttpTransport) -> None:
        await close(self)
        closed.append(self)

    monkeypatch.setattr(HttpTransport, "close", note)
    connect().send(delete)
    gc.collect()
    assert len(closed) == 1
