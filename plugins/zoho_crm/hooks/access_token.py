"""
One access token for all tasks and workers.

Zoho hands out 10 access tokens in 10 minutes for one refresh token and keeps 15 of them alive, so a token each for
hundreds of mapped tasks is out of the question: see
https://www.zoho.com/crm/developer/docs/api/v7/token-validity.html.
"""

from __future__ import annotations

import logging
import math
import random as _random
import threading
import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from airflow.sdk.log import mask_secret

from zoho_crm import metrics
from zoho_crm.errors import ZohoAuthError, ZohoConfigError, ZohoError, ZohoTokenThrottledError
from zoho_crm.hooks.oauth import LIFETIME_S, THROTTLE_S, Token
from zoho_crm.hooks.token_store import Stored, TokenStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.hooks.connection import ZohoConnection

log = logging.getLogger(__name__)

_REFUSAL_HELD_S = 60.0
_TROUBLE_HELD_S = 10.0


class TokenSource:
    """
    Gives the shared token, and renews it when it must.

    Safe for threads. All calls are synchronous, may call Airflow's SDK and may block for a minute: never make them on
    the thread of an event loop.

    :param connection: whose token it is
    :param fetch: gets a new token from Zoho, see :func:`zoho_crm.hooks.oauth.fetch_token`
    :param store: shared by everybody with the same connection
    :param refresh_lock: makes a lock that all workers share, so that a whole fleet renews once; it is held while the
        store is read again, the token is renewed and the store is written
    :param clock: seconds since the epoch
    :param random: from 0 to 1
    """

    def __init__(
        self,
        connection: ZohoConnection,
        *,
        fetch: Callable[[], Token],
        store: TokenStore,
        refresh_lock: Callable[[], AbstractContextManager[None]] | None = None,
        clock: Callable[[], float] = time.time,
        random: Callable[[], float] = _random.random,
    ) -> None:
        self._connection = connection
        self._fetch = fetch
        self._store = store
        self._refresh_lock = refresh_lock or nullcontext
        self._clock = clock
        self._random = random
        self._lock = threading.Lock()
        self._current: Token | None = None
        self._rejected: set[str] = set()
        self._throttled_until = 0.0
        self._failure: tuple[float, ZohoError] | None = None

    def get(self) -> Token:
        """
        Return a token that can be used for a minute at least.

        :raises ZohoError: there is none to be had, see :func:`zoho_crm.hooks.oauth.fetch_token`
        """
        token = self._current
        usable = token is not None and self._is_usable(token)
        if usable and token is not None and not self._is_early(token):
            return token
        if not self._lock.acquire(blocking=not usable) and token is not None:
            return token  # somebody else is renewing it early
        try:
            return self._get_locked(token)
        finally:
            self._lock.release()

    def replace(self, rejected_token: str) -> Token:
        """
        Return another token than the one that Zoho refuses: the one somebody else has got by now, or else a new one.

        :param rejected_token: the token Zoho answered 401 to
        :raises ZohoError: there is none to be had
        """
        with self._lock:
            self._rejected.add(rejected_token)
            if self._current is not None and self._is_usable(self._current):
                return self._current
            if (stored := self._load()) is not None:
                return self._use(stored)
            return self._renew(None)

    def use_before(self, token: Token) -> float:
        """
        Return when to ask for the token again, spread at random over all that hold it.

        Of all that ask ``s`` seconds before its last use, ``exp(-s / 60)`` renew it: one in 150 five minutes ahead,
        every third one minute ahead. So a fleet does not renew at the same moment.
        """
        return token.expires_at - token.lead_s * (1.0 - math.log(1.0 - self._random()))

    def _get_locked(self, stale: Token | None) -> Token:
        if self._current is not None and self._current is not stale and self._is_usable(self._current):
            return self._current
        stored = self._load()
        if stored is not None and not _same(stored, stale):
            if not self._is_early(stored):
                return self._use(stored)
            stale = stored
        try:
            return self._renew(stale)
        except ZohoError as error:
            if stale is None or not self._is_usable(stale):
                raise
            log.warning("The access token cannot be renewed ahead of time: %s", error)
            return self._use(stale)

    def _renew(self, stale: Token | None) -> Token:
        if self._failure is not None and self._clock() < self._failure[0]:
            raise self._failure[1].with_traceback(None)
        with self._refresh_lock():
            stored = self._load()
            if stored is not None and not _same(stored, stale):
                return self._use(stored)
            self._refuse_while_throttled()
            try:
                token = self._fetch()
            except ZohoError as error:
                metrics.token_asked(self._connection.conn_id, _result(error))
                self._remember(error, stale)
                raise
            metrics.token_asked(self._connection.conn_id, "ok")
            self._store.save(Stored(token))
        log.info("Got a new access token for connection %s", self._connection.conn_id)
        return self._use(token)

    def _refuse_while_throttled(self) -> None:
        left_s = self._throttled_until - self._clock()
        if left_s > 0:
            raise ZohoTokenThrottledError(
                f"Connection {self._connection.conn_id!r}: Zoho refused further access tokens a short while ago; "
                f"nobody asks again for {left_s:.0f} s",
                retry_after_s=left_s,
            )

    def _remember(self, error: ZohoError, stale: Token | None) -> None:
        """Keep others from asking at once what has just been refused: asking again makes a lock-out longer."""
        now = self._clock()
        if isinstance(error, ZohoTokenThrottledError):
            self._throttled_until = now + error.retry_after_s
            self._store.save(Stored(stale, self._throttled_until))
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
        left_s = token.expires_at - self._clock()
        return token.lead_s < left_s <= LIFETIME_S + token.lead_s and token.access_token not in self._rejected

    def _is_early(self, token: Token) -> bool:
        return self._clock() >= self.use_before(token)


def _result(error: ZohoError) -> str:
    if isinstance(error, ZohoTokenThrottledError):
        return "throttled"
    return "refused" if isinstance(error, ZohoAuthError) else "failed"


def _same(token: Token, other: Token | None) -> bool:
    return other is not None and token.access_token == other.access_token
