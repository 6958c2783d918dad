"""What a call may do: access tokens, their scopes, and the limits of the org."""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from zoho_crm.testing.local_zoho.wire import Reply, error_reply, json_reply

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from zoho_crm.testing.local_zoho.settings import Settings
    from zoho_crm.testing.local_zoho.wire import Call


READ = ("read",)
WRITE = ("write", "update", "create")
# "ZohoCRM.modules.{module}.{ALL|WRITE|DELETE}" removes links (page "Delete Related Records Using External ID").
DELETE = ("delete", "write")


@lru_cache(maxsize=4096)
def grants_scope(scopes: frozenset[str], service: str, entity: str, operations: tuple[str, ...]) -> bool:
    """
    Decide whether scopes cover an operation.

    :param scopes: granted scopes in lower case, such as ``zohocrm.modules.deals.delete``.
    :param service: modules, settings, org or users.
    :param entity: the module or settings area as scopes name it (``pricebooks`` for Price_Books), may be empty.
    :param operations: any one of these suffices; ``all`` always does.
    """
    prefixes = [f"zohocrm.{service}.", f"zohocrm.{service}.{entity}."] if entity else [f"zohocrm.{service}."]
    return any(prefix + operation in scopes for prefix in prefixes for operation in ("all", *operations))


def scope_name(module: str) -> str:
    """Name a module as scopes do: ``Price_Books`` is ``pricebooks``, ``Services__s`` is ``services``."""
    return module.removesuffix("__s").replace("_", "").lower()


DAY_S = 86_400.0
BUCKET_S = 60.0

CONCURRENT = "Many requests fired in concurrent than the allowed limit."
DAILY = (
    "API requests for the 24 hour period exceeded or the concurrency limit of the user for the app exceeded"
)
LEGACY_DAILY = {
    "code": 429,
    "error": "TOO_MANY_REQUESTS",
    "error_info": "Many requests fired than the allowed limit for the past 24 hours.",
    "details": [],
}


class Limits:
    """
    Count the requests in flight and the credits of the last 24 hours, to the minute.

    ``max_in_flight`` includes requests that were refused for being too many, so that it shows how many a client
    really had open.
    """

    def __init__(self) -> None:
        self.in_flight = 0
        self.max_in_flight = 0
        self.credits_used = 0
        self.refused = 0
        self._buckets: deque[tuple[float, int]] = deque()

    def enter(self) -> None:
        """Count a request as being in flight."""
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)

    def leave(self) -> None:
        """Count a request as done."""
        self.in_flight -= 1

    def refusal(self, settings: Settings, now: float) -> Reply | None:
        """Charge one credit to a request that is in flight already, or give the 429 that refuses it."""
        if self.in_flight > settings.max_in_flight:
            return self._refuse(settings, error_reply(429, "TOO_MANY_REQUESTS", CONCURRENT))
        if self.remaining(settings, now) <= 0:
            legacy = settings.daily_body == "legacy"
            return self._refuse(
                settings,
                json_reply(429, LEGACY_DAILY) if legacy else error_reply(429, "TOO_MANY_REQUESTS", DAILY),
            )
        self.charge(1, now)
        return None

    def charge(self, credits: int, now: float) -> None:
        """Count credits as used."""
        minute = now - now % BUCKET_S
        if self._buckets and self._buckets[-1][0] == minute:
            self._buckets[-1] = (minute, self._buckets[-1][1] + credits)
        else:
            self._buckets.append((minute, credits))
        self.credits_used += credits

    def remaining(self, settings: Settings, now: float) -> int:
        """Return the credits left in the rolling 24 hours."""
        while self._buckets and self._buckets[0][0] <= now - DAY_S:
            self.credits_used -= self._buckets.popleft()[1]
        return settings.credit_limit - self.credits_used

    def header(self, settings: Settings, now: float) -> tuple[bytes, bytes] | None:
        """Return ``X-API-CREDITS-REMAINING``, which appears only once half of the credits are used."""
        remaining = self.remaining(settings, now)
        if remaining * 2 > settings.credit_limit:
            return None
        return (b"x-api-credits-remaining", str(max(remaining, 0)).encode())

    def _refuse(self, settings: Settings, reply: Reply) -> Reply:
        self.refused += 1
        if settings.retry_after_s is not None:
            reply.headers.append((b"retry-after", str(settings.retry_after_s).encode()))
        return reply


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
    :param reset_header: the ``X-ACCESSTOKEN-RESET`` header of every response to it: its end as ISO time.
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
    requested again; at most 15 alive, the 16th revokes the oldest.

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
        """Revoke every access token: the next calls get 401 INVALID_TOKEN."""
        self._tokens.clear()
        for grant in self._grants.values():
            grant.alive.clear()

    def respond(self, call: Call, settings: Settings, now: Callable[[], float], base_url: str) -> Reply:
        """
        Respond to ``POST /oauth/v2/token``; the parameters may be in the form body or in the query.

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
        requested = form.get("scope", "").replace(",", " ").split()
        token = self.issue(settings, now(), requested, grant)
        body: dict[str, Any] = {
            "access_token": token.value,
            "scope": " ".join(requested or settings.granted_scopes),
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
