from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from zoho_crm.core.request import ZohoRequest, delete_related, get_related
from zoho_crm.errors import UnsafeRequestError, ZohoAuthError, ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.send_right import steady_seconds

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoho_crm.core.links import Link, Relation
    from zoho_crm.hooks.zoho_crm import ZohoCRMHook

DELETE_LINE = "DELETE /crm/v7/Contacts/c-1/Deals/d-1 HTTP/1.1"


@pytest.fixture
def delete(relation: Relation, link: Link) -> ZohoRequest:
    return delete_related("v7", relation, link)


async def test_sends_exactly_the_delink(zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest) -> None:
    async with hook.async_client() as client:
        answer = await client.send(delete)
    assert (answer.status, answer.body, answer.token_used) == (
        200,
        zoho.removed().split(b"\r\n\r\n")[1],
        "access-token-1",
    )
    assert answer.duration_s > 0
    assert "access-token" not in repr(answer)
    (seen,) = zoho.seen
    assert seen.line == DELETE_LINE
    assert dict(seen.headers) == {
        "Host": f"127.0.0.1:{zoho.port}",
        "User-Agent": "zoho-crm-delink/0.1.0",
        "Accept": "*/*",
        "Accept-Encoding": seen.header("Accept-Encoding"),
        "Authorization": "Zoho-oauthtoken access-token-1",
        "X-EXTERNAL": "Contacts.External_Contact_ID,Deals.External_Deal_ID",
        "Content-Length": "0",
    }
    assert seen.body == b""


async def test_sends_query_as_it_was_encoded(
    zoho: Any, hook: ZohoCRMHook, relation: Relation, link: Link
) -> None:
    async with hook.async_client() as client:
        await client.send(get_related("v7", relation, link))
        await client.send(
            ZohoRequest("GET", ("crm", "v7", "x"), query=(("fields", "id,A"), ("q", "a+b c/d?&%")))
        )
    assert zoho.api_lines == [
        "GET /crm/v7/Contacts/c-1/Deals/d-1?fields=id HTTP/1.1",
        "GET /crm/v7/x?fields=id%2CA&q=a%2Bb%20c%2Fd%3F%26%25 HTTP/1.1",
    ]


async def test_keeps_its_connections_within_the_bound(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest
) -> None:
    async with hook.async_client(max_connections=3) as client:
        await asyncio.gather(*(client.send(delete) for _ in range(40)))
    assert len(zoho.seen) == 40
    assert len({seen.connection for seen in zoho.seen}) <= 3
    assert len(zoho.token_calls) == 1


def test_takes_its_bound_from_the_connection(connect: Callable[..., ZohoCRMHook]) -> None:
    assert connect({"max_concurrency": 7}).async_client().max_connections == 7


async def test_responses_come_back_as_they_are(zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest) -> None:
    zoho.script = [zoho.answer(503, b"<html>", {"Retry-After": "3"}), zoho.answer(204)]
    async with hook.async_client() as client:
        busy, empty = [await client.send(delete) for _ in range(2)]
    assert (busy.status, busy.body, busy.headers.get("retry-after")) == (503, b"<html>", "3")
    assert (empty.status, empty.body, empty.sends) == (204, b"", 1)
    assert len(zoho.seen) == 2


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_follows_no_redirect(zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest, status: int) -> None:
    zoho.script = [zoho.answer(status, None, {"Location": f"{zoho.url}/crm/v7/Contacts/c-1"})]
    async with hook.async_client() as client:
        assert (await client.send(delete)).status == status
    assert zoho.api_lines == [DELETE_LINE]


@pytest.mark.parametrize(
    "answer",
    [
        "drop",
        "reset",
        "hang",
        b"HTTP/1.1 200 X\r\nContent-Length: 50\r\n\r\n{",
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nab",
        b"HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 X\r\nContent-Length: 1048577\r\n\r\n" + b"x" * (1024 * 1024 + 1),
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 X\r\nX: " + b"x" * 100_000 + b"\r\n\r\n",
    ],
    ids=[
        "drop",
        "reset",
        "hang",
        "cut",
        "cut-chunk",
        "bad-chunk",
        "bad-gzip",
        "too-long",
        "nonsense",
        "long-header",
    ],
)
async def test_a_delete_is_sent_once_whatever_happens(
    zoho: Any,
    connect: Callable[..., ZohoCRMHook],
    delete: ZohoRequest,
    secrets: tuple[str, ...],
    answer: bytes | str,
) -> None:
    zoho.script = [answer]
    async with connect(read_timeout_s=0.1).async_client() as client:
        with pytest.raises(ZohoUnansweredError) as caught:
            await client.send(delete)
    assert zoho.api_lines == [DELETE_LINE]
    assert not any(secret in repr(caught.value) for secret in secrets)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    assert "nothing was sent" not in str(caught.value)


@pytest.mark.parametrize("how", ["drop", "reset"])
async def test_a_delete_is_sent_once_when_a_kept_connection_drops(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest, how: str
) -> None:
    zoho.script = [zoho.removed(), how]
    async with hook.async_client(max_connections=1) as client:
        await client.send(delete)
        with pytest.raises(ZohoUnansweredError):
            await client.send(delete)
    first, second = zoho.seen
    assert first.connection == second.connection


async def test_aiohttp_alone_would_send_it_twice(zoho: Any) -> None:
    zoho.script = [zoho.removed(), "drop", zoho.removed()]
    async with aiohttp.ClientSession() as session:
        for _ in range(2):
            async with session.delete(f"{zoho.url}/crm/v7/Contacts/c-1/Deals/d-1") as response:
                await response.read()
    assert zoho.api_lines == [DELETE_LINE] * 3


async def test_a_read_survives_a_dropped_connection(
    zoho: Any, hook: ZohoCRMHook, relation: Relation, link: Link
) -> None:
    zoho.script = [zoho.removed(), "drop", zoho.removed()]
    async with hook.async_client(max_connections=1) as client:
        for _ in range(2):
            assert (await client.send(get_related("v7", relation, link))).status == 200
    assert len(zoho.seen) == 3


async def test_a_refused_connection_is_not_sent(zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest) -> None:
    client = hook.async_client()
    zoho.stop()
    async with client:
        with pytest.raises(ZohoNotSentError, match="nothing was sent") as caught:
            await client.send(delete)
    assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("raised", "translated"),
    [
        (aiohttp.ConnectionTimeoutError("x"), ZohoNotSentError),
        (aiohttp.ClientConnectorDNSError(None, OSError(1, "x")), ZohoNotSentError),  # type: ignore[arg-type]
        (aiohttp.ClientConnectorError(None, OSError(1, "x")), ZohoNotSentError),  # type: ignore[arg-type]
        (aiohttp.ClientConnectorCertificateError(None, ValueError("x")), ZohoNotSentError),  # type: ignore[arg-type]
        (aiohttp.ClientHttpProxyError(None, (), status=403), ZohoNotSentError),  # type: ignore[arg-type]
        (aiohttp.ServerDisconnectedError(), ZohoUnansweredError),
        (aiohttp.ClientOSError(104, "x"), ZohoUnansweredError),
        (aiohttp.ClientConnectionResetError("x"), ZohoUnansweredError),
        (aiohttp.SocketTimeoutError("x"), ZohoUnansweredError),
        (aiohttp.ClientPayloadError("x"), ZohoUnansweredError),
        (aiohttp.ClientResponseError(None, ()), ZohoUnansweredError),  # type: ignore[arg-type]
        (TimeoutError("x"), ZohoUnansweredError),
        (ConnectionResetError("x"), ZohoUnansweredError),
        (OSError(5, "x"), ZohoUnansweredError),
        (UnsafeRequestError("x"), UnsafeRequestError),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
async def test_distinguishes_sent_and_not_sent(
    hook: ZohoCRMHook,
    delete: ZohoRequest,
    monkeypatch: pytest.MonkeyPatch,
    raised: Exception,
    translated: type[Exception],
) -> None:
    async with hook.async_client() as client:

        async def fail(*_: Any, **__: Any) -> None:
            raise raised

        monkeypatch.setattr(aiohttp.ClientSession, "_request", fail)
        with pytest.raises(translated) as caught:
            await client.send(delete)
    assert type(caught.value) is translated


async def test_a_record_delete_never_leaves(zoho: Any, hook: ZohoCRMHook) -> None:
    async with hook.async_client() as client:
        with pytest.raises(UnsafeRequestError):
            await client.send(ZohoRequest("DELETE", ("crm", "v7", "Contacts", "c-1"), "Contacts.F"))
    assert zoho.seen == []


async def test_a_rejected_token_is_renewed_and_the_request_sent_again(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest
) -> None:
    zoho.script = [zoho.bad_token(), zoho.bad_token()]
    async with hook.async_client() as client:
        response = await client.send(delete)
    assert (response.status, response.sends, response.token_used) == (200, 3, "access-token-3")
    assert [seen.header("Authorization") for seen in zoho.seen] == [
        f"Zoho-oauthtoken access-token-{number}" for number in (1, 2, 3)
    ]
    assert zoho.api_lines == [DELETE_LINE] * 3


async def test_a_third_rejection_is_returned(zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest) -> None:
    zoho.default = zoho.bad_token()
    async with hook.async_client() as client:
        response = await client.send(delete)
    assert (response.status, response.token_rejected, response.sends) == (401, True, 3)
    assert (len(zoho.seen), len(zoho.token_calls)) == (3, 3)


async def test_many_rejections_of_one_token_renew_it_once(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest
) -> None:
    zoho.rejected_token = "access-token-1"
    async with hook.async_client(max_connections=20) as client:
        responses = await asyncio.gather(*(client.send(delete) for _ in range(20)))
    assert {response.status for response in responses} == {200}
    assert {response.token_used for response in responses} == {"access-token-2"}
    assert len(zoho.token_calls) == 2


async def test_many_rejections_without_a_new_token_ask_for_one_once(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest
) -> None:
    zoho.default = zoho.bad_token()
    async with hook.async_client(max_connections=20) as client:
        zoho.token_script = [zoho.answer(200, {"error": "invalid_code"})] * 20
        failures = await asyncio.gather(*(client.send(delete) for _ in range(20)), return_exceptions=True)
    assert {(type(failure), failure.sends) for failure in failures} == {(ZohoAuthError, 1)}
    assert len(zoho.token_calls) == 2


async def test_an_error_says_how_many_requests_were_rejected_before_it(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest
) -> None:
    zoho.script = [zoho.bad_token(), zoho.bad_token(), "drop", "drop"]
    async with hook.async_client() as client:
        for sends in (2, 0):
            with pytest.raises(ZohoUnansweredError) as caught:
                await client.send(delete)
            assert caught.value.sends == sends
    assert len(zoho.seen) == 4


async def test_a_token_that_runs_out_is_renewed_once_and_off_the_loop(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoho.token_script = [zoho.token("access-token-1", expires_in=1000)]
    source = hook.token_source
    client = hook.async_client()
    for one in (source, client):
        monkeypatch.setattr(one, "_clock", lambda: steady_seconds() + 950)
    threads: list[threading.Thread] = []
    get = source.get
    monkeypatch.setattr(source, "get", lambda: (threads.append(threading.current_thread()), get())[1])
    async with client:
        await asyncio.gather(*(client.send(delete) for _ in range(10)))
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()
    assert {seen.header("Authorization") for seen in zoho.seen} == {"Zoho-oauthtoken access-token-2"}


async def test_makes_no_call_to_airflow_on_the_loops_thread(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_, **__: called.append(f"{name} on {threading.current_thread().name}")

    client = hook.async_client()
    monkeypatch.setattr("zoho_crm.hooks.access_token.mask_secret", note("mask_secret"))
    monkeypatch.setattr("zoho_crm.hooks.access_token.Variable.set", note("Variable.set"))
    zoho.script = [zoho.bad_token()]
    async with client:
        await client.send(delete)
    assert called
    assert not any("MainThread" in call for call in called)


async def test_uses_no_netrc_keeps_no_cookie(
    zoho: Any,
    connect: Callable[..., ZohoCRMHook],
    delete: ZohoRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "netrc").write_text("machine localhost login a password b\n")
    # aiohttp keeps no cookie of an address without a name, in any configuration.
    zoho.url = f"http://localhost:{zoho.port}"
    hook = connect(host="localhost")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    zoho.script = [zoho.answer(200, {}, {"Set-Cookie": "a=b; Path=/"})]
    async with hook.async_client() as client:
        await client.send(delete)
        await client.send(delete)
    assert [seen.header("Cookie") for seen in zoho.seen] == [None, None]
    assert {seen.header("Authorization") for seen in zoho.seen} == {"Zoho-oauthtoken access-token-1"}


async def test_nothing_secret_is_logged(
    zoho: Any,
    hook: ZohoCRMHook,
    delete: ZohoRequest,
    secrets: tuple[str, ...],
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name in ("", "aiohttp", "aiohttp.client", "asyncio", "zoho_crm"):
        caplog.set_level(logging.DEBUG, logger=name)
    asyncio.get_running_loop().set_debug(True)
    zoho.script = [zoho.bad_token(), "drop"]
    async with hook.async_client() as client:
        with pytest.raises(ZohoUnansweredError):
            await client.send(delete)
    asyncio.get_running_loop().set_debug(False)
    assert caplog.records
    for record in caplog.records:
        assert not any(secret in f"{record.getMessage()} {record.__dict__}" for secret in secrets)


async def test_must_be_entered(hook: ZohoCRMHook, delete: ZohoRequest) -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await hook.async_client().send(delete)


async def test_takes_no_token_for_elsewhere(
    zoho: Any, hook: ZohoCRMHook, delete: ZohoRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with hook.async_client() as client:
        other = hook.token_source.get()
        monkeypatch.setattr(
            hook.token_source, "replace", lambda _: type(other)("t", "https://evil.example", "", 1e12)
        )
        zoho.script = [zoho.bad_token()]
        with pytest.raises(UnsafeRequestError, match="another address"):
            await client.send(delete)
    assert len(zoho.seen) == 1
