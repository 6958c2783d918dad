"""Fetch an access token from Zoho, and classify its refusals."""

from __future__ import annotations

import json
import math
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import tenacity

from zoho_crm.errors import (
    ZohoAuthError,
    ZohoError,
    ZohoNotSentError,
    ZohoResponseError,
    ZohoTokenThrottledError,
)
from zoho_crm.hooks.network import Network, bounded_body, not_answered
from zoho_crm.hooks.send_right import steady_seconds
from zoho_crm.hooks.sync_transport import loop_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zoho_crm.hooks.connection import ZohoConnection

LIFETIME_S = 3600.0
"""Seconds an access token lives. Source: https://www.zoho.com/crm/developer/docs/api/v7/token-validity.html"""
LAST_USE_S = 60.0
"""Seconds before its expiry from which a token is not used; fewer for one with a lifetime of minutes."""
THROTTLE_S = 600.0
"""Seconds to wait once Zoho refuses to issue tokens: its window of 10 tokens in 10 minutes."""

FETCH_S = 60.0
"""Seconds within which a token is fetched, all tries together."""

_ATTEMPTS = 4
_MAX_BODY_BYTES = 64 * 1024
_TOKEN = re.compile(r"[\x21-\x7e]{1,4096}")
_CREDENTIAL_ERRORS = {
    "invalid_code": "the refresh token is revoked or wrong, or belongs to another data center: check "
    "refresh_token and data_center",
    "invalid_client": "Zoho does not know the client: check login (client id) and data_center",
    "invalid_client_secret": "the client secret is wrong: check password (client secret)",
}
_THROTTLE_ERRORS = frozenset({"access denied", "access_denied"})
_PASSING_ERRORS = frozenset({"server_error", "temporarily_unavailable"})
"""Errors of OAuth (RFC 6749, section 4.1.2.1) that may pass by themselves."""


@dataclass(frozen=True, slots=True)
class Token:
    """
    One access token.

    :param api_domain: base address it may be sent to, already checked
    :param scope: the scopes it grants, as Zoho reports them; empty if it does not
    :param expires_at: by the steady clock of the process that fetched it; infinite for the token of another process,
        which is used until Zoho rejects it
    :param lifetime_s: seconds it was made for
    """

    access_token: str = field(repr=False)
    api_domain: str
    scope: str
    expires_at: float = math.inf
    lifetime_s: float = LIFETIME_S

    @property
    def use_until(self) -> float:
        """The moment of the steady clock from which it is not used, shortly before it expires."""
        return self.expires_at - min(LAST_USE_S, self.lifetime_s / 4)

    @property
    def scopes(self) -> frozenset[str]:
        """The granted scopes; empty if they are not known."""
        return frozenset(part for part in re.split(r"[\s,]+", self.scope) if part)


def fetch_token(
    connection: ZohoConnection,
    network: Network,
    *,
    timeout_s: tuple[float, float] = (10.0, 30.0),
    clock: Callable[[], float] = steady_seconds,
    sleep: Callable[[float], None] = time.sleep,
) -> Token:
    """
    Fetch a new access token for the refresh token. Temporary failures are retried, for :data:`FETCH_S` seconds at most.

    The secrets travel in the form body, never in the address. The body of the response decides, not its status: Zoho
    refuses with 200 too.

    Source: https://www.zoho.com/accounts/protocol/oauth/web-apps/access-token-expiry.html

    :param timeout_s: for connecting, and without a byte of the response; one try takes no more than both together
    :param clock: see :func:`zoho_crm.hooks.send_right.steady_seconds`
    :raises ZohoAuthError: the credentials are refused
    :raises ZohoTokenThrottledError: Zoho issues no tokens for now
    :raises ZohoConfigError: the token is for another data center or environment
    :raises ZohoNotSentError: the accounts server cannot be reached, or does not respond
    :raises ZohoResponseError: its responses cannot be read
    """
    ends_at = time.monotonic() + FETCH_S
    retrying = tenacity.Retrying(
        stop=tenacity.stop_after_attempt(_ATTEMPTS) | tenacity.stop_before_delay(FETCH_S),
        wait=tenacity.wait_exponential(multiplier=1, max=15) + tenacity.wait_random(0, 1),
        retry=tenacity.retry_if_exception(_is_temporary),
        sleep=sleep,
        reraise=True,
    )
    return retrying(_fetch_once, connection, network, timeout_s, ends_at, clock)


def _is_temporary(error: BaseException) -> bool:
    return isinstance(error, ZohoNotSentError | ZohoResponseError)


def _fetch_once(
    connection: ZohoConnection,
    network: Network,
    timeout_s: tuple[float, float],
    ends_at: float,
    clock: Callable[[], float],
) -> Token:
    requested_at = clock()
    connect_s, read_s = timeout_s
    total_s = min(connect_s + read_s, max(1.0, ends_at - time.monotonic()))
    limits = aiohttp.ClientTimeout(total=total_s, connect=connect_s, sock_read=read_s)
    status, body = loop_thread().run(_post(connection, network, limits))
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if isinstance(content, dict) and "access_token" in content and 200 <= status < 300:
        return _token(connection, content, requested_at)
    raise _refusal(connection, status, content if isinstance(content, dict) else None)


async def _post(
    connection: ZohoConnection, network: Network, limits: aiohttp.ClientTimeout
) -> tuple[int, bytes]:
    form = {
        "grant_type": "refresh_token",
        "client_id": connection.client_id,
        "client_secret": connection.client_secret.get_secret_value(),
        "refresh_token": connection.refresh_token.get_secret_value(),
    }
    url = f"{connection.accounts_url}/oauth/v2/token"
    failure: ZohoError
    async with network.client_session(url, timeout=limits) as session:
        try:
            async with session.post(url, data=form, allow_redirects=False) as response:
                return response.status, await bounded_body(response, _MAX_BODY_BYTES) or b""
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            failure = not_answered(exc, limits, what=f"Token request to {connection.accounts_url}")
    # For the caller these are the same: the request that needs the token has not been sent.
    raise ZohoNotSentError(f"{failure}; no request was sent to Zoho CRM")


def _token(connection: ZohoConnection, content: Mapping[str, Any], requested_at: float) -> Token:
    value, domain, scope = content["access_token"], content.get("api_domain"), content.get("scope")
    if not isinstance(value, str) or not _TOKEN.fullmatch(value):
        raise ZohoResponseError(f"{connection.accounts_url} returned an invalid access token")
    if domain:
        base_url = connection.accepts_api_domain(domain if isinstance(domain, str) else str(type(domain)))
    else:
        base_url = connection.base_url
    lifetime_s = _lifetime_s(content)
    return Token(
        access_token=value,
        api_domain=base_url,
        scope=scope if isinstance(scope, str) else "",
        expires_at=requested_at + lifetime_s,
        lifetime_s=lifetime_s,
    )


def _lifetime_s(content: Mapping[str, Any]) -> float:
    """Return the seconds a token lives. In an older form ``expires_in`` is in milliseconds."""
    value: Any = content.get("expires_in_sec", content.get("expires_in"))
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return LIFETIME_S
    return min(seconds, LIFETIME_S) if seconds > 0 else LIFETIME_S


def _refusal(connection: ZohoConnection, status: int, content: Mapping[str, Any] | None) -> ZohoError:
    where = f"Connection {connection.conn_id!r} ({connection.accounts_url})"
    error = content.get("error") if content is not None else None
    code = error if isinstance(error, str) else ""
    text = f"{code} {content.get('error_description', '')}".lower() if content is not None else ""
    if status == 429 or code.lower() in _THROTTLE_ERRORS or "too many requests" in text:
        return ZohoTokenThrottledError(
            f"{where}: Zoho issues no access tokens for now (limit: 10 in 10 minutes for one refresh token); "
            f"wait {THROTTLE_S:.0f} s",
            retry_after_s=THROTTLE_S,
            http_status=status,
        )
    if (advice := _CREDENTIAL_ERRORS.get(code)) is not None:
        return ZohoAuthError(f"{where}: {code}: {advice}", http_status=status, code=code)
    if code and status < 500 and status != 408 and code not in _PASSING_ERRORS:
        shown = re.sub(r"[^\w .-]", "", code)[:40]
        return ZohoAuthError(
            f"{where}: Zoho refuses the credentials: {shown}", http_status=status, code=shown
        )
    if 300 <= status < 400:
        return ZohoResponseError(
            f"{where}: the response is a redirect ({status}), which is not followed; check for a proxy in between",
            http_status=status,
        )
    return ZohoResponseError(f"{where}: the response ({status}) cannot be read", http_status=status)
