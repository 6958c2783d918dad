"""
What both HTTP clients take from the environment of the worker, and nothing else.

Decided here for all requests of the package:

* Proxies come from the environment (``HTTPS_PROXY``, ``NO_PROXY``, ...), as a company's network asks for, and are
  looked up once. A local Zoho is never reached through one. A connection's extras never name a proxy.
* Certificates are always checked, against ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE`` or ``SSL_CERT_FILE`` where one
  is set (for companies that open TLS), else against those that come with requests.
* ``.netrc`` is not read, no cookie is kept and no redirect is followed.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy
from urllib3.exceptions import (
    ClosedPoolError,
    ConnectTimeoutError,
    EmptyPoolError,
    MaxRetryError,
    NewConnectionError,
    ProxyError,
)

from zoho_crm import __version__
from zoho_crm.errors import (
    UnsafeRequestError,
    ZohoConfigError,
    ZohoError,
    ZohoNotSentError,
    ZohoUnansweredError,
)

if TYPE_CHECKING:
    from zoho_crm.hooks.connection import ZohoConnection

USER_AGENT = f"zoho-crm-delink/{__version__}"

_CHUNK_BYTES = 64 * 1024
_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_NEVER_CONNECTED = (ClosedPoolError, ConnectTimeoutError, EmptyPoolError, NewConnectionError, ProxyError)


@dataclass(frozen=True)
class Network:
    """
    How this process reaches Zoho.

    :param proxy: address of the proxy, which may hold a password; None for a direct connection
    :param ca_bundle: file or folder of the certificates that are trusted
    """

    proxy: str | None = field(repr=False)
    ca_bundle: str

    @classmethod
    def from_environment(cls, connection: ZohoConnection) -> Self:
        """
        Read the process's environment.

        :raises ZohoConfigError: the proxy is of a kind that is not supported
        """
        proxy = None
        if not connection.is_local:
            proxy = select_proxy(connection.base_url, get_environ_proxies(connection.base_url)) or None
        if proxy is not None and "://" not in proxy:
            proxy = f"http://{proxy}"
        if proxy is not None and urlsplit(proxy).scheme not in {"http", "https"}:
            raise ZohoConfigError(
                "HTTPS_PROXY in this process's environment names a proxy that is neither http nor https; "
                "use an http or https proxy"
            )
        for name in _CA_VARIABLES:
            if (bundle := os.environ.get(name)) and not Path(bundle).exists():
                raise ZohoConfigError(
                    f"{name} in this process's environment names {bundle!r}, which does not exist; correct the path"
                )
        bundle = next((os.environ[name] for name in _CA_VARIABLES if os.environ.get(name)), None)
        return cls(proxy, bundle or DEFAULT_CA_BUNDLE_PATH)

    def open_session(self) -> requests.Session:
        """Return a session that sends each request once, with no settings from the environment but these."""
        session = _Session()
        session.trust_env = False
        session.proxies = {"https": self.proxy} if self.proxy else {}
        session.verify = self.ca_bundle
        session.headers["User-Agent"] = USER_AGENT
        session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
        for scheme in ("http://", "https://"):
            session.mount(scheme, HTTPAdapter(max_retries=0))
        return session

    def tls_context(self) -> ssl.SSLContext:
        """Return a TLS context with the same certificates, for aiohttp."""
        if Path(self.ca_bundle).is_dir():
            return ssl.create_default_context(capath=self.ca_bundle)
        return ssl.create_default_context(cafile=self.ca_bundle)


class _Session(requests.Session):
    """
    A session without redirects.

    With ``allow_redirects=False`` alone, requests still reads the whole body and prepares the next request.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:
        return None


def bounded_body(response: requests.Response, limit: int) -> bytes | None:
    """
    Return the whole body of a streamed response, decompressed; None if it is longer than ``limit`` bytes.

    :raises requests.RequestException: it ends early or cannot be decompressed
    """
    body = bytearray()
    for chunk in response.iter_content(_CHUNK_BYTES):
        body += chunk
        if len(body) > limit:
            return None
    return bytes(body)


def failure_of(exc: Exception, *, what: str, path: str | None = None) -> ZohoError:
    """
    Return the error for a request that requests could not finish: it says whether the request was sent.

    In doubt it counts as sent. The text of the exception is left out, and so must be the exception itself: it holds
    the request, and that holds secrets. Raise the result outside of the ``except`` clause.

    :param what: the request, for the message
    """
    kind = _kind(exc)
    if isinstance(exc, requests.exceptions.ConnectTimeout) or _never_connected(exc):
        return ZohoNotSentError(f"{what}: no connection ({kind}); nothing was sent", path=path)
    if isinstance(exc, requests.exceptions.InvalidURL | requests.exceptions.InvalidHeader | UnicodeError):
        return UnsafeRequestError(
            f"{what}: requests refuses to send it ({kind}); nothing was sent", path=path
        )
    return ZohoUnansweredError(f"{what}: sent, but without a complete response ({kind})", path=path)


def _never_connected(exc: Exception) -> bool:
    cause = _cause(exc)
    return isinstance(cause, _NEVER_CONNECTED) or isinstance(_root(cause), ssl.SSLCertVerificationError)


def _cause(exc: Exception) -> object:
    """Return what urllib3 raised, which requests keeps as the first argument."""
    inner = exc.args[0] if exc.args else exc
    return inner.reason if isinstance(inner, MaxRetryError) else inner


def _root(cause: object) -> object:
    """Return what lies under urllib3's SSLError."""
    return cause.args[0] if isinstance(cause, Exception) and cause.args else cause


def _kind(exc: Exception) -> str:
    cause = _cause(exc)
    return type(cause if isinstance(cause, Exception) else exc).__name__
