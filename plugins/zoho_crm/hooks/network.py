"""
HTTP sessions, and what they take from the environment of the worker, and nothing else.

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

import aiohttp
import requests
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies, select_proxy

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

_CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")
_NEVER_CONNECTED = (
    aiohttp.ClientConnectorError,
    aiohttp.ConnectionTimeoutError,
    aiohttp.ClientHttpProxyError,
)


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

    def client_session(
        self,
        url: str,
        *,
        timeout: aiohttp.ClientTimeout,
        max_connections: int = 1,
        request_class: type[aiohttp.ClientRequest] = aiohttp.ClientRequest,
    ) -> aiohttp.ClientSession:
        """
        Return a session with no settings from the environment but these. Call it on the loop that sends.

        :param url: the address it is for
        :param timeout: time limits of each request
        :param max_connections: connections at most
        """
        tls = self.tls_context() if url.startswith("https:") else True
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=max_connections, ssl=tls),
            timeout=timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"User-Agent": USER_AGENT},
            proxy=self.proxy,
            trust_env=False,
            request_class=request_class,
        )

    def requests_session(self) -> requests.Session:
        """Return a session of requests with the same settings, for :meth:`ZohoCRMHook.get_conn` alone."""
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
        """Return a TLS context that trusts these certificates."""
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


async def bounded_body(response: aiohttp.ClientResponse, limit: int) -> bytes | None:
    """Return the whole body, decompressed; None if it is longer than ``limit`` bytes."""
    content = response.content
    body = bytearray(await content.readany())
    while not content.at_eof():
        body += await content.readany()
        if len(body) > limit:
            response.close()
            return None
    return bytes(body) if len(body) <= limit else None


def not_answered(
    exc: Exception,
    limits: aiohttp.ClientTimeout,
    *,
    what: str,
    path: str | None = None,
    may_be_sent: bool = True,
) -> ZohoError:
    """
    Return the error for a request that aiohttp could not finish: it says whether the request was sent.

    In doubt it counts as sent. The text of the exception is left out, and so must be the exception itself: it may hold
    the request, and that holds secrets. Raise the result outside of the ``except`` clause.

    :param limits: the time limits of the request
    :param what: the request, for the message
    :param may_be_sent: False while the request was still being prepared
    """
    kind = type(exc).__name__
    if isinstance(exc, _NEVER_CONNECTED):
        within = f" within {limits.connect:g} s" if isinstance(exc, aiohttp.ConnectionTimeoutError) else ""
        return ZohoNotSentError(f"{what}: no connection{within} ({kind}); nothing was sent", path=path)
    if not may_be_sent and isinstance(exc, aiohttp.InvalidURL | UnicodeError):
        return UnsafeRequestError(f"{what}: aiohttp refuses to send it ({kind}); nothing was sent", path=path)
    within = ""
    if isinstance(exc, aiohttp.SocketTimeoutError):
        within = f", no data for {limits.sock_read:g} s"
    elif isinstance(exc, TimeoutError):
        within = f" within {limits.total:g} s"
    return ZohoUnansweredError(f"{what}: sent, but without a complete response{within} ({kind})", path=path)
