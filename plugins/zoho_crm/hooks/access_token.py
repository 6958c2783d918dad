"""
One access token for all tasks and workers.

Zoho issues 10 access tokens in 10 minutes for one refresh token and keeps 15 of them alive, so hundreds of mapped tasks
cannot have a token each: see https://www.zoho.com/crm/developer/docs/api/v7/token-validity.html.

The token is stored in an Airflow Variable.
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
from cryptography.fernet import Fernet, InvalidToken

from zoho_crm import telemetry
from zoho_crm.errors import ZohoAuthError, ZohoConfigError, ZohoError, ZohoTokenThrottledError
from zoho_crm.hooks.oauth import THROTTLE_S, Token
from zoho_crm.hooks.send_right import steady_seconds

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.hooks.connection import ZohoConnection

log = logging.getLogger(__name__)

TOKEN_RENEWALS = 2
"""How often one request gets another access token after Zoho rejected the one it was sent with."""

_REFUSAL_HELD_S = 60.0
_TROUBLE_HELD_S = 10.0
_in_process: dict[str, str] = {}
"""Stored tokens by key, for keys whose Variable cannot be written, shared by all hooks of this process."""
_logged_keys: set[str] = set()


class TokenSource:
    """
    Provides the shared token. The process that fetched it renews it shortly before it expires.

    Clocks of workers differ: so a token that another process has stored is used until Zoho rejects it, which applies
    nothing and costs no credit.

    Safe for threads. All calls are synchronous, may call Airflow's SDK and may block for a minute: never make them on
    the thread of an event loop.

    :param connection: the connection that the token is for
    :param fetch: gets a new token from Zoho, see :func:`zoho_crm.hooks.oauth.fetch_token`
    :param store: shared by all workers with the same connection
    :param refresh_lock: makes a lock that all workers share, so that a whole fleet renews once; it is held while the
        store is read again, the token is renewed and the store is written
    :param clock: for what only this process decides, see :func:`zoho_crm.hooks.send_right.steady_seconds`
    :param shared_clock: seconds since the epoch; the same for all workers, as far as possible
    """

    def __init__(
        self,
        connection: ZohoConnection,
        *,
        fetch: Callable[[], Token],
        store: TokenStore,
        refresh_lock: Callable[[], AbstractContextManager[None]] | None = None,
        clock: Callable[[], float] = steady_seconds,
        shared_clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = connection
        self._fetch = fetch
        self._store = store
        self._refresh_lock = refresh_lock or nullcontext
        self._clock = clock
        self._shared_clock = shared_clock
        self._lock = threading.Lock()
        self._current: Token | None = None
        self._rejected: set[str] = set()
        self._throttled_until = 0.0
        self._failure: tuple[float, ZohoError] | None = None

    def get(self) -> Token:
        """
        Return a token that is not known to be expired or rejected.

        :raises ZohoError: no token is available, see :func:`zoho_crm.hooks.oauth.fetch_token`
        """
        with self._lock:
            return self._find_or_fetch()

    def replace(self, rejected_token: str) -> Token:
        """
        Return another token than the one that Zoho rejects: the stored one if it is another by now, else a new one.

        :param rejected_token: the token that got a 401
        :raises ZohoError: no other token is available
        """
        with self._lock:
            self._rejected.add(rejected_token)
            return self._find_or_fetch()

    def _find_or_fetch(self) -> Token:
        if self._current is not None:
            if self._is_usable(self._current):
                return self._current
            # It is the stored one, too, unless another process has replaced it.
            self._rejected.add(self._current.access_token)
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
        log.info("Access token renewed: connection=%s", self._connection.conn_id)
        return self._use(token)

    def _refuse_while_throttled(self) -> None:
        left_s = self._throttled_until - self._shared_clock()
        if left_s > 0:
            raise ZohoTokenThrottledError(
                f"Connection {self._connection.conn_id!r}: Zoho issues no access tokens for now; "
                f"next request in {left_s:.0f} s",
                retry_after_s=left_s,
            )

    def _remember(self, error: ZohoError) -> None:
        """Delay further requests after a refused one: repeated requests prolong a lock-out."""
        if isinstance(error, ZohoTokenThrottledError):
            self._throttled_until = self._shared_clock() + error.retry_after_s
            self._store.save(Stored(None, self._throttled_until))
            return
        held_s = _REFUSAL_HELD_S if isinstance(error, ZohoAuthError | ZohoConfigError) else _TROUBLE_HELD_S
        self._failure = (self._clock() + held_s, error)

    def _load(self) -> Token | None:
        """Return the stored token if it is usable, and note until when Zoho issues no tokens."""
        stored = self._store.load()
        if 0 < stored.throttled_until - self._shared_clock() <= THROTTLE_S:
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
        return self._clock() < token.use_until and token.access_token not in self._rejected


@dataclass(frozen=True, slots=True)
class Stored:
    """
    The token record that the tasks share.

    :param token: the latest token, which may have expired
    :param throttled_until: seconds since the epoch until which no task requests a token
    """

    token: Token | None = None
    throttled_until: float = 0.0


class TokenStore(Protocol):
    """Stores one record for all tasks with the same credentials."""

    def load(self) -> Stored:
        """Return the record, an empty one if there is none."""

    def save(self, stored: Stored) -> None:
        """Replace the record."""


class VariableTokenStore:
    """
    The Variable ``zoho_crm_access_token__<conn_id>``, masked by its name and encrypted by Airflow.

    Airflow logs the Variables that a task sets at level DEBUG, so the record is encrypted before it is stored.

    Where the Variable cannot be read or written (outside of a task, or when Airflow's API fails), the record is stored
    in this process, and that is logged once. No error is raised.

    All calls are synchronous calls to Airflow's SDK: never make them on the thread of an event loop.

    :param token_key: encrypts the record, see :attr:`zoho_crm.hooks.connection.ZohoConnection.token_key`; a record of
        other credentials cannot be decrypted, and is ignored
    """

    def __init__(self, conn_id: str, token_key: str) -> None:
        self.key = f"zoho_crm_access_token__{conn_id}"
        self._fernet = Fernet(token_key)

    def load(self) -> Stored:
        """Return the record, an empty one if there is none for these credentials."""
        text = _in_process.get(self.key)
        if text is None:
            try:
                text = Variable.get(self.key, default=None)
            except Exception as exc:  # noqa: BLE001, RUF100 - the run can continue without it
                self._log_once("read", exc)
        return _parse(self._decrypt(text))

    def save(self, stored: Stored) -> None:
        """Replace the record."""
        text = self._fernet.encrypt(json.dumps(_record(stored)).encode()).decode()
        try:
            Variable.set(self.key, text)
        except Exception as exc:  # noqa: BLE001, RUF100 - the run can continue without it
            self._log_once("written", exc)
            _in_process[self.key] = text
        else:
            _in_process.pop(self.key, None)

    def _decrypt(self, text: object) -> bytes:
        """Return the record as it was before it was encrypted; nothing for any other text."""
        try:
            return self._fernet.decrypt(text) if isinstance(text, str) else b""
        except InvalidToken:
            return b""

    def _log_once(self, verb: str, exc: Exception) -> None:
        if self.key in _logged_keys:
            return
        _logged_keys.add(self.key)
        outside_of_a_task = isinstance(exc, ImportError)
        log.log(
            logging.INFO if outside_of_a_task else logging.WARNING,
            "Variable cannot be %s: key=%s error=%s; this process uses its own access token%s",
            verb,
            self.key,
            type(exc).__name__,
            "" if outside_of_a_task else "; with many workers Zoho may refuse to issue more",
        )


def _result(error: ZohoError) -> str:
    if isinstance(error, ZohoTokenThrottledError):
        return "throttled"
    return "refused" if isinstance(error, ZohoAuthError) else "failed"


def _record(stored: Stored) -> dict[str, Any]:
    record: dict[str, Any] = {"throttled_until": stored.throttled_until}
    if (token := stored.token) is not None:
        record |= {
            "access_token": token.access_token,
            "api_domain": token.api_domain,
            "scope": token.scope,
        }
    return record


def _parse(text: bytes) -> Stored:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        return Stored()
    token = None
    value, domain, scope = (record.get(name) for name in ("access_token", "api_domain", "scope"))
    if isinstance(value, str) and value and isinstance(domain, str) and isinstance(scope, str):
        token = Token(value, domain, scope)
    return Stored(token, _number(record.get("throttled_until")))


def _number(value: object) -> float:
    """Return a time, 0 for any other value."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return float(value) if is_number else 0.0  # type: ignore[arg-type]
