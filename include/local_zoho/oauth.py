"""Access tokens: how they are asked for, how many there may be, and what each may do."""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from include.local_zoho.wire import Reply, json_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from include.local_zoho.settings import Settings
    from include.local_zoho.wire import Call

THROTTLED = {
    "error": "Access Denied",
    "error_description": "You have made too many requests continuously. Please try again after some time.",
}


@dataclass(frozen=True, slots=True)
class AccessToken:
    """
    One access token.

    :param scopes: granted scopes in lower case.
    :param expires_at: seconds on the server's clock.
    :param reset_header: the ``X-ACCESSTOKEN-RESET`` header of every answer to it: its end as ISO time.
    """

    value: str
    scopes: frozenset[str]
    expires_at: float
    reset_header: tuple[bytes, bytes]


@dataclass(slots=True)
class _Grant:
    """One refresh token, or one client in the client-credentials flow."""

    issued_at: deque[float] = field(default_factory=deque)
    alive: deque[AccessToken] = field(default_factory=deque)
    locked_until: float = 0.0


class Tokens:
    """
    Issue access tokens within Zoho's limits (token validity page, Kaizen #43).

    At most 10 per refresh token in 10 minutes, then "Access Denied" for the rest of the window, and longer when
    asked again; at most 15 alive, the 16th kills the oldest.

    :param zgid: id of the org, which ``soid=ZohoCRM.{zgid}`` names in the client-credentials flow.
    """

    def __init__(self, client_id: str, client_secret: str, refresh_tokens: Sequence[str], zgid: str) -> None:
        self.client_id = client_id
        self.client_secret = client_secret
        self.refresh_tokens = set(refresh_tokens)
        self.zgid = zgid
        self.issued = 0
        self.throttled = 0
        self._tokens: dict[str, AccessToken] = {}
        self._grants: dict[str, _Grant] = {}

    def find(self, value: str, now: float) -> AccessToken | None:
        """Find an access token that is alive."""
        token = self._tokens.get(value)
        return token if token is not None and now < token.expires_at else None

    def issue(
        self, settings: Settings, now: float, scopes: Sequence[str] = (), grant: str = "direct"
    ) -> AccessToken:
        """Issue an access token, whatever the limit; tests use it to do without the OAuth call."""
        end = now + settings.token_lifetime_s
        reset = datetime.fromtimestamp(end, UTC).isoformat(timespec="seconds").encode()
        granted = frozenset(scope.lower() for scope in scopes or settings.granted_scopes)
        token = AccessToken(f"1000.{secrets.token_hex(32)}", granted, end, (b"x-accesstoken-reset", reset))
        known = self._grants.setdefault(grant, _Grant())
        known.alive = deque(one for one in known.alive if self.find(one.value, now))
        known.alive.append(token)
        while len(known.alive) > settings.max_alive_tokens:
            self._tokens.pop(known.alive.popleft().value)
        known.issued_at.append(now)
        self._tokens[token.value] = token
        self.issued += 1
        return token

    def revoke_all(self) -> None:
        """Kill every access token: the next calls get 401 INVALID_TOKEN."""
        self._tokens.clear()
        for grant in self._grants.values():
            grant.alive.clear()

    def answer(self, call: Call, settings: Settings, now: Callable[[], float], base_url: str) -> Reply:
        """
        Answer ``POST /oauth/v2/token``; the parameters may be in the form body or in the query.

        :return: ``{"access_token", "scope", "api_domain", "token_type", "expires_in"}`` with ``expires_in`` in
            seconds, or ``{"error": ...}``, which has the HTTP status 200 as well: the status says nothing.
        """
        form = {**call.query, **dict(parse_qsl(call.body.decode("utf-8", "replace"), keep_blank_values=True))}
        grant = self._grant_of(form)
        if grant.startswith("error:"):
            return json_reply(200, {"error": grant.removeprefix("error:")})
        if self._is_throttled(grant, settings, now()):
            self.throttled += 1
            return json_reply(settings.token_throttle_status, THROTTLED)
        asked = form.get("scope", "").replace(",", " ").split()
        token = self.issue(settings, now(), asked, grant)
        body: dict[str, Any] = {
            "access_token": token.value,
            "scope": " ".join(asked or settings.granted_scopes),
            "api_domain": settings.api_domain or base_url,
            "token_type": "Bearer",
            "expires_in": int(settings.token_lifetime_s),
        }
        return json_reply(200, body)

    def _grant_of(self, form: dict[str, str]) -> str:
        kind = form.get("grant_type")
        if kind not in {"refresh_token", "client_credentials"}:
            return "error:invalid_request"
        if form.get("client_id") != self.client_id:
            return "error:invalid_client"
        if form.get("client_secret") != self.client_secret:
            return "error:invalid_client_secret"
        if kind == "refresh_token":
            value = form.get("refresh_token", "")
            return f"refresh:{value}" if value in self.refresh_tokens else "error:invalid_code"
        return "client" if form.get("soid") == f"ZohoCRM.{self.zgid}" else "error:missing_org_info"

    def _is_throttled(self, grant: str, settings: Settings, now: float) -> bool:
        known = self._grants.setdefault(grant, _Grant())
        if now < known.locked_until:
            known.locked_until = max(known.locked_until, now + settings.token_lockout_s)
            return True
        while known.issued_at and known.issued_at[0] <= now - settings.token_window_s:
            known.issued_at.popleft()
        if len(known.issued_at) < settings.tokens_per_window:
            return False
        known.locked_until = (known.issued_at[0] if known.issued_at else now) + settings.token_window_s
        return True
