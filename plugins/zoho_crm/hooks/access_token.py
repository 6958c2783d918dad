"""
One access token for all tasks and workers.

Zoho hands out 10 access tokens in 10 minutes for one refresh token and keeps 15 of them alive, so a token each for
hundreds of mapped tasks is out of the question: see
https://www.zoho.com/crm/developer/docs/api/v7/token-validity.html.
"""

from __future__ import annotations

import json
import logging
import math
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from airflow.sdk import Variable
from airflow.sdk.log import mask_secret

from zoho_crm import telemetry
from zoho_crm.errors import ZohoAuthError, ZohoConfigError, ZohoError, ZohoTokenThrottledError
from zoho_crm.hooks.oauth import LIFETIME_S, THROTTLE_S, Token

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.hooks.connection import ZohoConnection

log = logging.getLogger(__name__)

TOKEN_RENEWALS = 2
"""How often one request gets another access token after Zoho rejected the one it was sent with."""

_REFUSAL_HELD_S = 60.0
_TROUBLE_HELD_S = 10.0
_in_process: dict[str, str] = {}
"""Records of keys whose Variable cannot be written here, for all hooks of this process."""
_logged_keys: set[str] = set()


class TokenSource:
    """
    Provides the shared token, and renews it shortly before it expires.

    Safe for threads. All calls are synchronous, may call Airflow's SDK and may block for a minute: never make them on
    the thread of an event loop.

    :param connection: the connection that the token is for
    :param fetch: gets a new token from Zoho, see :func:`zoho_crm.hooks.oauth.fetch_token`
    :param store: shared by all workers with the same connection
    :param refresh_lock: makes a lock that all workers share, so that a whole fleet renews once; it is held while the
        store is read again, the token is renewed and the store is written
    :param clock: seconds since the epoch
    """

    def __init__(
        self,
        connection: ZohoConnection,
        *,
        fetch: Callable[[], Token],
        store: TokenStore,
        refresh_lock: Callable[[], AbstractContextManager[None]] | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._fetch = fetch
        self._store = store
        self._refresh_lock = refresh_lock or nullcontext
        self._clock = clock
        self._lock = threading.Lock()
        self._current: Token | None = None
        self._rejected: set[str] = set()
        self._throttled_until = 0.0
        self._failure: tuple[float, ZohoError] | None = None

    def get(self) -> Token:
        """
        Return a token that can be used for a minute at least.

        :raises ZohoError: no token is available, see :func:`zoho_crm.hooks.oauth.fetch_token`
        """
        with self._lock:
            return self._find_or_fetch()

    def replace(self, rejected_token: str) -> Token:
        """
        Return another token than the one that Zoho rejects: a stored one if there is one by now, else a new one.

        :param rejected_token: the token that got a 401
        :raises ZohoError: no other token is available
        """
        with self._lock:
            self._rejected.add(rejected_token)
            return self._find_or_fetch()

    def _find_or_fetch(self) -> Token:
        if self._current is not None and self._is_usable(self._current):
            return self._current
        if (stored := self._load()) is not None:
            return self._use(stored)
        if self._failure is not None and self._clock() < self._failure[0]:
            raise self._failure[1].with_traceback(None)
        with self._refresh_lock():
            if (stored := self._load()) is not None:
                return self._use(stored)
            self._refuse_while_throttled()
            try:
                token = self._fetch()
            except ZohoError as error:
                telemetry.count_token_refresh(self._connection.conn_id, _result(error))
                self._remember(error)
                raise
            telemetry.count_token_refresh(self._connection.conn_id, "ok")
            self._store.save(Stored(token))
        log.info("Got a new access token for connection %s", self._connection.conn_id)
        return self._use(token)

    def _refuse_while_throttled(self) -> None:
        left_s = self._throttled_until - self._clock()
        if left_s > 0:
            raise ZohoTokenThrottledError(
                f"Connection {self._connection.conn_id!r}: Zoho refused further access tokens a short while ago; "
                f"no further request for {left_s:.0f} s",
                retry_after_s=left_s,
            )

    def _remember(self, error: ZohoError) -> None:
        """Keep all from repeating a refused request at once: repeats make a lock-out longer."""
        now = self._clock()
        if isinstance(error, ZohoTokenThrottledError):
            self._throttled_until = now + error.retry_after_s
            self._store.save(Stored(None, self._throttled_until))
            return
        held_s = _REFUSAL_HELD_S if isinstance(error, ZohoAuthError | ZohoConfigError) else _TROUBLE_HELD_S
        self._failure = (now + held_s, error)

    def _load(self) -> Token | None:
        """Return the stored token if it can be used, and take over until when Zoho must be left alone."""
        stored = self._store.load()
        if self._clock() < stored.throttled_until <= self._clock() + THROTTLE_S:
            self._throttled_until = max(self._throttled_until, stored.throttled_until)
        token = stored.token
        if token is None or not self._is_usable(token):
            return None
        try:
            self._connection.accepts_api_domain(token.api_domain)
        except ZohoConfigError:
            return None
        return token

    def _use(self, token: Token) -> Token:
        mask_secret(token.access_token)
        self._current = token
        return token

    def _is_usable(self, token: Token) -> bool:
        left_s = token.use_until - self._clock()
        return 0 < left_s <= LIFETIME_S and token.access_token not in self._rejected


@dataclass(frozen=True, slots=True)
class Stored:
    """
    What the tasks share.

    :param token: the latest token, which may have expired
    :param throttled_until: seconds since the epoch before which nobody asks Zoho for a token
    """

    token: Token | None = None
    throttled_until: float = 0.0


class TokenStore(Protocol):
    """Keeps one record, for everybody that shares the credentials."""

    def load(self) -> Stored:
        """Return the record, an empty one if there is none."""

    def save(self, stored: Stored) -> None:
        """Replace the record."""


class VariableTokenStore:
    """
    The Variable ``zoho_crm_access_token__<conn_id>``, encrypted by Airflow and masked by its name.

    Where there is no Variable to write (outside of a task, or when Airflow's API fails), the record is kept in this
    process, and that is logged once. Nothing fails for it.

    All calls are synchronous calls to Airflow's SDK: never make them on the thread of an event loop.

    :param fingerprint: of the credentials; a record with another one is none
    """

    def __init__(self, conn_id: str, fingerprint: str) -> None:
        self.key = f"zoho_crm_access_token__{conn_id}"
        self._fingerprint = fingerprint

    def load(self) -> Stored:
        """Return the record, an empty one if there is none for these credentials."""
        text = _in_process.get(self.key)
        if text is None:
            try:
                text = Variable.get(self.key, default=None)
            except Exception as exc:  # noqa: BLE001, RUF100 - whatever fails, the run can go on without it
                self._log_once("read", exc)
        return _parse(text, self._fingerprint)

    def save(self, stored: Stored) -> None:
        """Replace the record."""
        text = json.dumps(_record(stored, self._fingerprint))
        try:
            Variable.set(self.key, text)
        except Exception as exc:  # noqa: BLE001, RUF100 - whatever fails, the run can go on without it
            self._log_once("written", exc)
            _in_process[self.key] = text
        else:
            _in_process.pop(self.key, None)

    def _log_once(self, verb: str, exc: Exception) -> None:
        if self.key in _logged_keys:
            return
        _logged_keys.add(self.key)
        outside_of_a_task = isinstance(exc, ImportError)
        log.log(
            logging.INFO if outside_of_a_task else logging.WARNING,
            "The Variable %s cannot be %s (%s): this process keeps its own access token%s",
            self.key,
            verb,
            type(exc).__name__,
            "" if outside_of_a_task else "; with many workers Zoho may refuse further ones",
        )


def _result(error: ZohoError) -> str:
    if isinstance(error, ZohoTokenThrottledError):
        return "throttled"
    return "refused" if isinstance(error, ZohoAuthError) else "failed"


def _record(stored: Stored, fingerprint: str) -> dict[str, Any]:
    record: dict[str, Any] = {"fingerprint": fingerprint, "throttled_until": stored.throttled_until}
    if (token := stored.token) is not None:
        record |= {
            "access_token": token.access_token,
            "api_domain": token.api_domain,
            "scope": token.scope,
            "expires_at": token.expires_at,
            "lifetime_s": token.lifetime_s,
        }
    return record


def _parse(text: object, fingerprint: str) -> Stored:
    try:
        record = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict) or record.get("fingerprint") != fingerprint:
        return Stored()
    token = None
    value, domain, scope = (record.get(name) for name in ("access_token", "api_domain", "scope"))
    if isinstance(value, str) and value and isinstance(domain, str) and isinstance(scope, str):
        lifetime_s = min(_number(record.get("lifetime_s")), LIFETIME_S)
        token = Token(value, domain, scope, _number(record.get("expires_at")), max(lifetime_s, 0.0))
    return Stored(token, _number(record.get("throttled_until")))


def _number(value: object) -> float:
    """Return a time, 0 for what is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else 0.0  # type: ignore[arg-type]
