"""The Airflow connection to Zoho CRM: its fields, and the only addresses that it can lead to."""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cached_property
from ipaddress import ip_address
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self
from urllib.parse import SplitResult, urlsplit

from airflow.sdk.log import mask_secret
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError

from zoho_crm.core.job import DEFAULT_ORG_CONCURRENCY
from zoho_crm.data_centers import DATA_CENTERS, DataCenter, Environment
from zoho_crm.errors import ZohoConfigError

if TYPE_CHECKING:
    from airflow.sdk import Connection

ApiVersion = Literal["v7", "v8"]

EXTRAS = frozenset({"refresh_token", "data_center", "environment", "api_version", "max_concurrency"})
"""The allowed extras. None of them becomes a header, a proxy, a TLS switch or an endpoint."""

_LABELS = {"client_id": "login (client id)", "client_secret": "password (client secret)"}
_DEFAULT_PORTS = {"http": 80, "https": 443}


def _refuse_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("Input should be a number")  # noqa: TRY004 - pydantic turns only ValueError into an error
    return value


class ZohoConnection(BaseModel):
    """
    A checked connection to Zoho CRM.

    :param conn_id: the Airflow connection it was made from
    :param client_id: login of the Airflow connection
    :param client_secret: its password
    :param refresh_token: bound by Zoho to one data center and one environment
    :param data_center: where the Zoho account lives
    :param environment: production, sandbox or developer
    :param api_version: v7 or v8
    :param max_concurrency: requests in flight for the whole org
    :param local_url: base address of a local Zoho, which then serves OAuth and API alike; None for Zoho itself
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, str_strip_whitespace=True
    )

    conn_id: str
    client_id: str = Field(repr=False)
    client_secret: SecretStr
    refresh_token: SecretStr
    data_center: DataCenter = "us"
    environment: Environment = "production"
    api_version: ApiVersion = "v7"
    max_concurrency: Annotated[int, Field(ge=1, le=25), BeforeValidator(_refuse_boolean)] = (
        DEFAULT_ORG_CONCURRENCY
    )
    local_url: str | None = None

    @classmethod
    def from_airflow(cls, conn_id: str, connection: Connection) -> Self:
        """
        Check an Airflow connection, and have its secrets masked in every log.

        Makes synchronous calls to Airflow's SDK: call it before an event loop runs, never on its thread.

        :param conn_id: named in every error
        :param connection: as ``BaseHook.get_connection`` returns it; empty strings count as absent
        :raises ZohoConfigError: it is incomplete, has an unknown extra, or leads to a host that is neither Zoho's
            nor this machine
        """
        extras = _extras(conn_id, connection.extra)
        if unknown := sorted(set(extras) - EXTRAS):
            raise ZohoConfigError(
                f"Connection {conn_id!r}: unknown extra {', '.join(map(repr, unknown))}; "
                f"remove it. Allowed extras: {', '.join(sorted(EXTRAS))}"
            )
        values: dict[str, Any] = {
            "client_id": connection.login,
            "client_secret": connection.password,
            **extras,
            "local_url": _local_url(conn_id, connection.schema, connection.host, connection.port),
        }
        present = {name: value for name, value in values.items() if not _is_absent(value)}
        for name in ("client_secret", "refresh_token"):
            if isinstance(secret := present.get(name), str):
                mask_secret(secret.strip())
        try:
            return cls(conn_id=conn_id, **present)
        except ValidationError as exc:
            faults = [_fault(error) for error in exc.errors(include_input=False, include_url=False)]
        raise ZohoConfigError(f"Connection {conn_id!r}: " + "; ".join(faults))

    @property
    def is_local(self) -> bool:
        """Whether this leads to a local Zoho."""
        return self.local_url is not None

    @property
    def kind(self) -> str:
        """The kind of organization it leads to: its environment, or ``local`` for a local Zoho."""
        return "local" if self.is_local else self.environment

    @cached_property
    def base_url(self) -> str:
        """Scheme and host, and the port of a local Zoho, that all API calls go to; without a trailing slash."""
        if self.local_url is not None:
            return self.local_url
        return f"https://{DATA_CENTERS[self.data_center].api(self.environment)}"

    @cached_property
    def accounts_url(self) -> str:
        """Scheme and host that tokens come from; without a trailing slash."""
        return self.local_url or f"https://{DATA_CENTERS[self.data_center].accounts}"

    @cached_property
    def token_key(self) -> str:
        """Key to encrypt a stored access token with; it changes when credentials, data center or environment do."""
        parts = (
            self.client_id,
            self.client_secret.get_secret_value(),
            self.refresh_token.get_secret_value(),
            self.accounts_url,
            self.base_url,
        )
        digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).digest()
        return base64.urlsafe_b64encode(digest).decode()

    def accepts_api_domain(self, url: str) -> str:
        """
        Return the address that requests go to, after a check of the ``api_domain`` that came with a token.

        A token is sent only to the host of this connection's data center and environment, whichever of its hosts Zoho
        names.

        :raises ZohoConfigError: it is not one of that data center and environment
        """
        found = _origin(url)
        is_known = found == _origin(self.base_url) or (
            not self.is_local and found in {("https", host, 443) for host in self._token_hosts}
        )
        if not is_known:
            raise ZohoConfigError(
                f"Connection {self.conn_id!r}: the token is for {url[:100]!r} (its api_domain), but data_center "
                f"{self.data_center} and environment {self.environment} lead to {self.base_url}; correct data_center "
                "or environment, or generate a refresh token for them"
            )
        return self.base_url

    @property
    def _token_hosts(self) -> frozenset[str]:
        return DATA_CENTERS[self.data_center].token_hosts(self.environment)


def _extras(conn_id: str, text: str | None) -> dict[str, Any]:
    """Return the extras. ``extra_dejson`` would read invalid JSON as no extras, and log it."""
    if not text or not text.strip():
        return {}
    try:
        extras = json.loads(text)
    except (ValueError, RecursionError):
        extras = None
    if not isinstance(extras, dict):
        raise ZohoConfigError(f"Connection {conn_id!r}: extra is not a JSON object; correct it")
    return extras


def _is_absent(value: object) -> bool:
    return value is None or (isinstance(value, str) and not value.strip())


def _fault(error: Any) -> str:
    name = str(error["loc"][0]) if error["loc"] else "connection"
    label = _LABELS.get(name, name)
    return f"{label} is missing" if error["type"] == "missing" else f"{label}: {error['msg']}"


def _local_url(conn_id: str, schema: str | None, host: str | None, port: int | None) -> str | None:
    """Return the base address of a local Zoho, or None where schema, host and port are empty."""
    schema, host = (schema or "").strip().lower(), (host or "").strip().lower()
    if not host:
        if schema or port:
            raise ZohoConfigError(
                f"Connection {conn_id!r}: schema and port are for a local Zoho only, and that needs a host; "
                "empty them for Zoho itself"
            )
        return None
    if "://" not in host:
        bracketed = f"[{host}]" if ":" in host and not host.startswith("[") else host
        host = f"{schema or 'http'}://{bracketed}"
    parts = _split(host)
    if port and parts is not None and parts.port is None:
        host = f"{host.removesuffix('/')}:{port}"
    origin = _origin(host)
    agrees = origin is not None and schema in {"", origin[0]} and (not port or port == origin[2])
    if origin is None or not agrees or origin[0] not in _DEFAULT_PORTS or not _is_loopback(origin[1]):
        raise ZohoConfigError(
            f"Connection {conn_id!r}: schema, host and port are for a local Zoho only: http or https, and "
            "127.0.0.1, ::1 or localhost; empty them for Zoho itself, whose addresses follow from data_center"
        )
    scheme, name, number = origin
    shown = f"[{name}]" if ":" in name else name
    return f"{scheme}://{shown}" + ("" if number == _DEFAULT_PORTS[scheme] else f":{number}")


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    if "%" in host:
        # ip_address accepts any zone id after "%", which a resolver may read as a name.
        return False
    try:
        address = ip_address(host)
        # Since Python 3.13 an IPv4 address mapped into IPv6 is a loopback address too.
        return address.is_loopback and getattr(address, "ipv4_mapped", None) is None
    except ValueError:
        return False


def _has_text_after_bracket(netloc: str) -> bool:
    """Whether anything but a port follows an IPv6 address, which ``urlsplit`` drops: ``[::1]evil.com``."""
    _, bracket, rest = netloc.partition("]")
    return bool(bracket) and bool(rest) and not rest.startswith(":")


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        return None
    return parts


def _origin(url: str) -> tuple[str, str, int] | None:
    """Return scheme, host and port of an address without any other part; None for any other address."""
    parts = _split(url)
    if (
        parts is None
        or not parts.hostname
        or "@" in parts.netloc
        or _has_text_after_bracket(parts.netloc)
        or any(c.isspace() or c == "\\" for c in url)
    ):
        return None
    if parts.path not in {"", "/"} or "?" in url or "#" in url:
        return None
    port = parts.port if parts.port is not None else _DEFAULT_PORTS.get(parts.scheme)
    return None if port is None else (parts.scheme, parts.hostname, port)
