from __future__ import annotations

import ssl
from typing import TYPE_CHECKING, Any

import pytest

from zoho_crm.core.request import delete_related
from zoho_crm.errors import ZohoConfigError, ZohoNotSentError
from zoho_crm.hooks.access_token import Stored, TokenSource, VariableTokenStore
from zoho_crm.hooks.connection import ZohoConnection
from zoho_crm.hooks.network import Network
from zoho_crm.hooks.oauth import Token
from zoho_crm.hooks.zoho_crm import ZohoCRMHook

if TYPE_CHECKING:
    from pathlib import Path

    from zoho_crm.core.links import Link, Relation

BASE = {"conn_id": "x", "client_id": "i", "client_secret": "s", "refresh_token": "r"}
ZOHO = ZohoConnection(**BASE)
LOCAL = ZohoConnection(**BASE, local_url="http://127.0.0.1:1")


@pytest.mark.parametrize(
    ("environment", "proxy"),
    [
        ({}, None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"https_proxy": "http://proxy:3128"}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "proxy:3128"}, "http://proxy:3128"),
        ({"ALL_PROXY": "http://proxy:3128"}, "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": ".zohoapis.com"}, None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, None),
        ({"HTTP_PROXY": "http://proxy:3128"}, None),
    ],
    ids=["none", "upper", "lower", "bare", "all", "excepted", "all-excepted", "http-only"],
)
def test_proxy_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], proxy: str | None
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert Network.from_environment(ZOHO).proxy == proxy
    assert Network.from_environment(LOCAL).proxy is None


def test_a_socks_proxy_is_refused_without_telling_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks5://user:hidden@proxy:1080")
    with pytest.raises(ZohoConfigError) as caught:
        Network.from_environment(ZOHO)
    assert "hidden" not in repr(caught.value)


def test_the_password_of_a_proxy_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://user:hidden@proxy:3128")
    assert "hidden" not in repr(Network.from_environment(ZOHO))


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_the_certificates_of_the_company_are_trusted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_bytes(b"")
    monkeypatch.setenv(name, str(bundle))
    network = Network.from_environment(ZOHO)
    assert network.requests_session().verify == str(bundle)
    monkeypatch.setenv(name, str(tmp_path))
    assert Network.from_environment(ZOHO).tls_context().verify_mode is ssl.CERT_REQUIRED


def test_a_missing_bundle_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/not/there.pem")
    with pytest.raises(ZohoConfigError, match="SSL_CERT_FILE"):
        Network.from_environment(ZOHO)


def test_certificates_and_host_names_are_always_checked() -> None:
    network = Network.from_environment(ZOHO)
    session, context = network.requests_session(), network.tls_context()
    assert isinstance(session.verify, str)
    assert session.verify.endswith(".pem")
    assert not session.trust_env
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert len(context.get_ca_certs()) > 50


def test_requests_retries_nothing_by_itself() -> None:
    session = Network.from_environment(ZOHO).requests_session()
    for url in ("https://www.zohoapis.com", "http://127.0.0.1"):
        retries = session.get_adapter(url).max_retries  # type: ignore[attr-defined]
        assert (retries.total, retries.read) == (0, False)


@pytest.fixture
def stored_token(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    extra = '{"refresh_token": "r"}'
    monkeypatch.setenv(
        "AIRFLOW_CONN_ZOHO_CRM_DEFAULT",
        f'{{"conn_type": "zoho_crm", "login": "i", "password": "s", "extra": {extra}}}',
    )
    hook = ZohoCRMHook()
    token = Token("access-token-1", "https://www.zohoapis.com", "", 9e9)
    monkeypatch.setattr(TokenSource, "_is_usable", lambda *_: True)
    VariableTokenStore("zoho_crm_default", hook.connection.token_key).save(Stored(token))


@pytest.mark.usefixtures("stored_token")
@pytest.mark.parametrize("is_async", [False, True], ids=["hook", "async-client"])
async def test_a_refusing_proxy_is_not_sent(
    zoho: Any, relation: Relation, link: Link, monkeypatch: pytest.MonkeyPatch, is_async: bool
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:hidden@127.0.0.1:{zoho.port}")
    zoho.default = zoho.answer(403)
    hook, request = ZohoCRMHook(), delete_related("v7", relation, link)
    async with hook.async_client() as client:
        with pytest.raises(ZohoNotSentError) as caught:
            await client.send(request) if is_async else hook.send(request)
    assert "hidden" not in repr(caught.value)
    (seen,) = zoho.seen
    assert seen.line.startswith("CONNECT www.zohoapis.com:443 ")
    assert seen.header("Proxy-Authorization") == "Basic dXNlcjpoaWRkZW4="
    assert seen.header("Authorization") is None
    assert seen.header("X-EXTERNAL") is None


async def test_a_local_zoho_is_reached_past_any_proxy(
    zoho: Any, hook: ZohoCRMHook, relation: Relation, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    hook.send(delete_related("v7", relation, link))
    async with hook.async_client() as client:
        await client.send(delete_related("v7", relation, link))
    assert [seen.line for seen in zoho.seen] == ["DELETE /crm/v7/Contacts/c-1/Deals/d-1 HTTP/1.1"] * 2
