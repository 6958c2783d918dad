"""Where the one access token of all tasks and workers is kept: an Airflow Variable."""

from __future__ import annotations

import json
import logging
import math
from dataclasses import dataclass
from typing import Any, Protocol

from airflow.sdk import Variable

from zoho_crm.hooks.oauth import LIFETIME_S, Token

log = logging.getLogger(__name__)

_in_process: dict[str, str] = {}
"""Records of keys whose Variable cannot be written here, for all hooks of this process."""
_told: set[str] = set()


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
                self._tell("read", exc)
        return _parse(text, self._fingerprint)

    def save(self, stored: Stored) -> None:
        """Replace the record."""
        text = json.dumps(_record(stored, self._fingerprint))
        try:
            Variable.set(self.key, text)
        except Exception as exc:  # noqa: BLE001, RUF100 - whatever fails, the run can go on without it
            self._tell("written", exc)
            _in_process[self.key] = text
        else:
            _in_process.pop(self.key, None)

    def _tell(self, verb: str, exc: Exception) -> None:
        if self.key in _told:
            return
        _told.add(self.key)
        outside_of_a_task = isinstance(exc, ImportError)
        log.log(
            logging.INFO if outside_of_a_task else logging.WARNING,
            "The Variable %s cannot be %s (%s): this process keeps its own access token%s",
            self.key,
            verb,
            type(exc).__name__,
            "" if outside_of_a_task else "; with many workers Zoho may refuse further ones",
        )


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
