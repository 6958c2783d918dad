from __future__ import annotations

import json
import pickle
from typing import Any

import pytest
from airflow.sdk import Connection
from airflow.sdk._shared.secrets_masker import redact

from zoho_crm.errors import ZohoConfigError
from zoho_crm.hooks.connection import ZohoConnection

SECRETS = ("client-secret-5f1c", "refresh-token-77ab")


def make(extra: Any = None, **fields: Any) -> ZohoConnection:
    whole = {"refresh_token": SECRETS[1], **(extra or {})} if not isinstance(extra, str) else extra
    values = {"login": "client-id", "password": SECRETS[0], **fields}
    text = whole if isinstance(whole, str) else json.dumps(whole)
    return ZohoConnection.from_airflow(
        "zoho_x", Connection(conn_id="zoho_x", conn_type="zoho_crm", extra=text, **values)
    )


def test_defaults() -> None:
    connection = make()
    assert connection.client_id == "client-id"
    assert connection.client_secret.get_secret_value() == SECRETS[0]
    assert connection.refresh_token.get_secret_value() == SECRETS[1]
    assert (connection.data_center, connection.environment, connection.api_version) == (
        "us",
        "production",
        "v7",
    )
    assert connection.max_concurrency == 10
    assert not connection.is_local


@pytest.mark.parametrize(
    ("data_center", "environment", "accounts_url", "base_url"),
    [
        ("us", "production", "https://accounts.zoho.com", "https://www.zohoapis.com"),
        ("us", "sandbox", "https://accounts.zoho.com", "https://sandbox.zohoapis.com"),
        ("us", "developer", "https://accounts.zoho.com", "https://developer.zohoapis.com"),
        ("eu", "production", "https://accounts.zoho.eu", "https://www.zohoapis.eu"),
        ("eu", "sandbox", "https://accounts.zoho.eu", "https://sandbox.zohoapis.eu"),
        ("in", "production", "https://accounts.zoho.in", "https://www.zohoapis.in"),
        ("au", "production", "https://accounts.zoho.com.au", "https://www.zohoapis.com.au"),
        ("cn", "production", "https://accounts.zoho.com.cn", "https://www.zohoapis.com.cn"),
        ("jp", "production", "https://accounts.zoho.jp", "https://www.zohoapis.jp"),
        ("ca", "production", "https://accounts.zohocloud.ca", "https://www.zohoapis.ca"),
        ("sa", "production", "https://accounts.zoho.sa", "https://www.zohoapis.sa"),
        ("uk", "production", "https://accounts.zoho.uk", "https://www.zohoapis.uk"),
    ],
)
def test_addresses_follow_from_data_center_and_environment(
    data_center: str, environment: str, accounts_url: str, base_url: str
) -> None:
    connection = make({"data_center": data_center, "environment": environment})
    assert (connection.accounts_url, connection.base_url) == (accounts_url, base_url)


@pytest.mark.parametrize("value", ["", "  ", None], ids=["empty", "blank", "null"])
def test_empty_counts_as_absent(value: str | None) -> None:
    connection = make(
        {"data_center": value, "environment": value, "api_version": value, "max_concurrency": value},
        host=value,
        schema=value,
    )
    assert connection == make()


def test_takes_numbers_as_text_and_strips_what_was_pasted() -> None:
    connection = make(
        {"max_concurrency": "25", "refresh_token": f" {SECRETS[1]}\n"}, password=f"{SECRETS[0]} "
    )
    assert connection.max_concurrency == 25
    assert connection.refresh_token.get_secret_value() == SECRETS[1]
    assert connection.client_secret.get_secret_value() == SECRETS[0]


@pytest.mark.parametrize(
    ("extra", "fields", "says"),
    [
        ({}, {"login": None}, "login (client id) is missing"),
        ({}, {"login": " "}, "login (client id) is missing"),
        ({}, {"password": ""}, "password (client secret) is missing"),
        ({"refresh_token": ""}, {}, "refresh_token is missing"),
        ({"refresh_token": 5}, {}, "refresh_token: Input should be a valid string"),
        ({"data_center": "com"}, {}, "data_center: Input should be 'us', 'eu'"),
        ({"data_center": "US"}, {}, "data_center: Input should be 'us', 'eu'"),
        ({"environment": "test"}, {}, "environment: Input should be 'production', 'sandbox' or 'developer'"),
        ({"api_version": "v2"}, {}, "api_version: Input should be 'v7' or 'v8'"),
        ({"max_concurrency": 0}, {}, "max_concurrency: Input should be greater than or equal to 1"),
        ({"max_concurrency": 26}, {}, "max_concurrency: Input should be less than or equal to 25"),
        ({"max_concurrency": "many"}, {}, "max_concurrency: Input should be a valid integer"),
        ({"max_concurrency": True}, {}, "max_concurrency: Value error, Input should be a number"),
        ({"local_url": "http://127.0.0.1"}, {}, "unknown extra 'local_url'"),
        ({"client_secret": "x"}, {}, "unknown extra 'client_secret'"),
        ('{"refresh_token": "refresh-token-77ab"', {}, "extra is not a JSON object"),
        ('["refresh-token-77ab"]', {}, "extra is not a JSON object"),
        pytest.param('{"a":' + "[" * 100_000, {}, "extra is not a JSON object", id="nested too deeply"),
    ],
)
def test_refuses_naming_connection_and_field(extra: Any, fields: dict[str, Any], says: str) -> None:
    with pytest.raises(ZohoConfigError) as caught:
        make(extra, **fields)
    assert "'zoho_x'" in str(caught.value)
    assert says in str(caught.value)
    assert not any(secret in repr(caught.value) for secret in SECRETS)


@pytest.mark.parametrize(
    "name",
    [
        "verify",
        "proxies",
        "proxy",
        "cert",
        "timeout",
        "trust_env",
        "allow_redirects",
        "headers",
        "api_domain",
        "base_url",
        "accounts_url",
        "Authorization",
        "Host",
        "X-EXTERNAL",
        "check_response",
        "stream",
        "srv_lookup",
        "max_redirects",
    ],
)
def test_refuses_extras_that_would_steer_http(name: str) -> None:
    with pytest.raises(ZohoConfigError, match="unknown extra"):
        make({name: "x"})


@pytest.mark.parametrize(
    ("fields", "base_url"),
    [
        ({"host": "127.0.0.1", "port": 8025}, "http://127.0.0.1:8025"),
        ({"host": "127.0.0.1", "port": 8025, "schema": "http"}, "http://127.0.0.1:8025"),
        ({"host": "127.8.9.1", "port": 8025, "schema": "https"}, "https://127.8.9.1:8025"),
        ({"host": "localhost", "port": 8025}, "http://localhost:8025"),
        ({"host": "LOCALHOST", "port": 8025}, "http://localhost:8025"),
        ({"host": "::1", "port": 8025}, "http://[::1]:8025"),
        ({"host": "[::1]", "port": 8025}, "http://[::1]:8025"),
        ({"host": "localhost"}, "http://localhost"),
        ({"host": "localhost", "port": 80}, "http://localhost"),
        ({"host": "localhost", "port": 443, "schema": "https"}, "https://localhost"),
        ({"host": "http://127.0.0.1:8025/"}, "http://127.0.0.1:8025"),
        ({"host": "http://127.0.0.1", "port": 8025}, "http://127.0.0.1:8025"),
    ],
)
def test_a_local_zoho_serves_everything(fields: dict[str, Any], base_url: str) -> None:
    connection = make(**fields)
    assert connection.is_local
    assert connection.base_url == connection.accounts_url == base_url
    assert connection.accepts_api_domain(base_url) == base_url


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "www.zohoapis.com"},
        {"host": "https://www.zohoapis.eu"},
        {"host": "evil.example"},
        {"host": "10.0.0.1"},
        {"host": "0.0.0.0"},  # noqa: S104 - refused
        {"host": "127.1"},
        {"host": "2130706433"},
        {"host": "::ffff:127.0.0.1"},
        {"host": "::1%evil.com"},
        {"host": "[::1%evil.com]"},
        {"host": "[::1]evil.com"},
        {"host": "http://[::1]evil.com:8025"},
        {"host": "localhost.evil.example"},
        {"host": "127.0.0.1.evil.example"},
        {"host": "127.0.0.1@evil.example"},
        {"host": "127.0.0.1/x"},
        {"host": "127.0.0.1?x"},
        {"host": "127.0.0.1#x"},
        {"host": "127.0.0.1\\@evil.example"},
        {"host": "127.0.0.1 evil"},
        {"host": "user:secret@127.0.0.1"},
        {"host": "http://127.0.0.1/crm"},
        {"host": "http://127.0.0.1:1", "port": 2},
        {"host": "http://127.0.0.1:1", "schema": "https"},
        {"host": "http://[127.0.0.1"},
        {"host": "127.0.0.1", "schema": "ftp"},
        {"host": "127.0.0.1", "schema": "file"},
        {"schema": "https"},
        {"port": 443},
    ],
    ids=lambda fields: "-".join(f"{key}={value}" for key, value in fields.items()),
)
def test_refuses_any_other_host(fields: dict[str, Any]) -> None:
    with pytest.raises(ZohoConfigError, match="local Zoho"):
        make(**fields)


@pytest.mark.parametrize(
    "url",
    [
        "https://www.zohoapis.eu",
        "https://www.zohoapis.eu/",
        "https://WWW.zohoapis.eu",
        "https://www.zohoapis.eu:443",
        "https://api.zoho.eu",
    ],
)
def test_accepts_the_api_domain_of_its_own(url: str) -> None:
    assert make({"data_center": "eu"}).accepts_api_domain(url) == "https://www.zohoapis.eu"


@pytest.mark.parametrize(
    "url", ["https://sandbox.zohoapis.ca", "https://www.zohoapis.ca", "https://api.zohocloud.ca"]
)
def test_a_token_for_a_sandbox_is_sent_to_the_sandbox_whatever_host_zoho_names(url: str) -> None:
    sandbox = make({"data_center": "ca", "environment": "sandbox"})
    assert sandbox.accepts_api_domain(url) == "https://sandbox.zohoapis.ca"
    with pytest.raises(ZohoConfigError) as error:
        sandbox.accepts_api_domain("https://developer.zohoapis.ca")
    assert str(error.value) == (
        f"Connection {sandbox.conn_id!r}: the token is for 'https://developer.zohoapis.ca' (its api_domain), but "
        "data_center ca and environment sandbox lead to https://sandbox.zohoapis.ca; correct data_center or "
        "environment, or generate a refresh token for them"
    )


@pytest.mark.parametrize(
    "url",
    [
        "",
        "www.zohoapis.eu",
        "http://www.zohoapis.eu",
        "https://www.zohoapis.com",
        "https://sandbox.zohoapis.eu",
        "https://api.zoho.com",
        "http://api.zoho.eu",
        "https://accounts.zoho.eu",
        "https://crm.zoho.eu",
        "https://www.zohoapis.eu:8443",
        "https://www.zohoapis.eu.evil.example",
        "https://evil.example/www.zohoapis.eu",
        "https://www.zohoapis.eu@evil.example",
        "https://evil.example#www.zohoapis.eu",
        "https://evil.example\\www.zohoapis.eu",
        "https://www.zohoapis.eu/x",
        "https://www.zohoapis.eu?x",
        "https://www.zohoapis.eu?",
        "https://www.zohoapis.eu#",
        "https://user@www.zohoapis.eu",
        "https://@www.zohoapis.eu",
        "https://www.zohoapis.eu ",
        "https://www.zohoapis.eu\n",
        "https://[",
        "https://www.zohoapis.eu:x",
        "http://127.0.0.1:8025",
    ],
)
def test_refuses_any_other_api_domain(url: str) -> None:
    with pytest.raises(ZohoConfigError, match="the token is for"):
        make({"data_center": "eu"}).accepts_api_domain(url)


@pytest.mark.parametrize(
    "url",
    ["https://www.zohoapis.com", "https://api.zoho.com", "http://127.0.0.1:1", "https://127.0.0.1:8025"],
)
def test_a_local_zoho_refuses_any_other_api_domain(url: str) -> None:
    with pytest.raises(ZohoConfigError):
        make(host="127.0.0.1", port=8025).accepts_api_domain(url)


def test_shows_no_secret() -> None:
    connection = make()
    assert not any(secret in text for secret in SECRETS for text in (repr(connection), str(connection)))
    assert not any(secret in connection.model_dump_json() for secret in SECRETS)


def test_has_its_secrets_masked_in_logs() -> None:
    make({"refresh_token": "masked-refresh-1"}, password="masked-secret-1")
    assert redact("a masked-refresh-1 b masked-secret-1") == "a *** b ***"


@pytest.mark.parametrize(
    ("extra", "fields"),
    [
        ({"refresh_token": "other"}, {}),
        ({}, {"login": "other"}),
        ({}, {"password": "other"}),
        ({"data_center": "eu"}, {}),
        ({"environment": "sandbox"}, {}),
        ({}, {"host": "127.0.0.1"}),
    ],
    ids=["refresh_token", "client_id", "client_secret", "data_center", "environment", "local"],
)
def test_token_key_changes_with_what_a_token_depends_on(
    extra: dict[str, Any], fields: dict[str, Any]
) -> None:
    assert make(extra, **fields).token_key != make().token_key
    assert make(extra, **fields).token_key == make(extra, **fields).token_key


def test_token_key_stays_with_what_it_does_not() -> None:
    assert make({"api_version": "v8", "max_concurrency": 3}).token_key == make().token_key


def test_is_frozen_and_travels() -> None:
    connection = make()
    with pytest.raises(ValueError, match="frozen"):
        connection.data_center = "eu"
    assert pickle.loads(pickle.dumps(connection)) == connection  # noqa: S301 - our own bytes
