"""Scripted faults: which requests go wrong, how, and whether their work was done before."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from include.local_zoho.wire import Call

Deed = Literal["status", "reset", "hang", "delay", "html", "redirect", "truncate", "close_mid_body"]
DEEDS = ("status", "reset", "hang", "delay", "html", "redirect", "truncate", "close_mid_body")

DEFAULT_STATUS = {"html": 502, "redirect": 302, "status": 500}
DEFAULT_BODY = {
    "html": "<html><head><title>502 Bad Gateway</title></head><body>nginx</body></html>",
    "status": '{"code":"INTERNAL_ERROR","details":{},"message":"Internal server error occurred.","status":"error"}',
}


@dataclass(slots=True)
class Match:
    """
    Which requests a rule is about; what is not given matches everything.

    :param method: HTTP method.
    :param path: regular expression, searched in the path as sent (percent-encoded).
    :param external_id: a decoded path segment, one of the values in ``ids``, or a value in a row of the body.
    :param nth: pass over the matching requests before this one, counted from 1.
    """

    method: str | None = None
    path: str | None = None
    external_id: str | None = None
    nth: int = 1

    def __call__(self, call: Call) -> bool:
        """Say whether a request matches, ``nth`` aside."""
        if self.method is not None and self.method != call.method:
            return False
        if self.path is not None and re.search(self.path, call.raw_path) is None:
            return False
        if self.external_id is None or self.external_id in call.segments:
            return True
        return self.external_id in call.query.get("ids", "").split(",") or self.external_id in _body_values(
            call
        )


def _body_values(call: Call) -> list[object]:
    try:
        return [value for row in json.loads(call.body)["data"] for value in row.values()]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


@dataclass(slots=True)
class FaultRule:
    """
    One scripted fault.

    :param do: ``status`` (status, headers, raw body), ``reset`` (TCP reset, no answer), ``hang`` (no answer for
        ``seconds``, then a reset), ``delay`` (the real answer, ``seconds`` late), ``html`` (a proxy's error page),
        ``redirect`` (to ``location``), ``truncate`` (the JSON answer cut in half, complete for HTTP) or
        ``close_mid_body`` (the connection closes halfway through the body).
    :param when: ``before``: the request never reached the CRM; ``after``: its work is done and only the answer is
        spoilt. ``delay`` always means after.
    :param times: how often the rule applies; None for ever.
    :param seconds: for ``hang`` and ``delay``.
    """

    do: Deed
    match: Match = field(default_factory=Match)
    when: Literal["before", "after"] = "before"
    times: int | None = 1
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: str | None = None
    seconds: float = 30.0
    location: str = "https://login.invalid/"
    seen: int = 0
    applied: int = 0

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """
        Read a rule: ``{"do": "status", "status": 503, "match": {"method": "DELETE", "nth": 2}, "times": 1}``.

        :param data: the names of this class; ``body`` may be a string (sent as it is) or JSON.
        :raises TypeError: for an unknown name.
        :raises ValueError: for an unknown ``do`` or ``when``, or a bad regular expression.
        """
        if data.get("do") not in DEEDS or data.get("when", "before") not in {"before", "after"}:
            msg = f"a fault needs do ({', '.join(DEEDS)}) and when (before, after)"
            raise ValueError(msg)
        match = Match(**data.get("match", {}))
        try:
            re.compile(match.path or "")
        except re.error as error:
            msg = f"the path of a fault is no regular expression: {error}"
            raise ValueError(msg) from error
        body = data.get("body")
        if body is not None and not isinstance(body, str):
            body = json.dumps(body)
        return cls(**{**data, "match": match, "body": body})

    def takes(self, call: Call) -> bool:
        """Say whether this rule applies to a request now, and count it."""
        if (self.times is not None and self.applied >= self.times) or not self.match(call):
            return False
        self.seen += 1
        if self.seen < self.match.nth:
            return False
        self.applied += 1
        return True

    @property
    def http_status(self) -> int:
        """Give the status of the spoilt answer."""
        return self.status if self.status is not None else DEFAULT_STATUS.get(self.do, 200)

    @property
    def http_body(self) -> bytes:
        """Give the body of the spoilt answer."""
        return (self.body if self.body is not None else DEFAULT_BODY.get(self.do, "")).encode()


class Faults:
    """An ordered list of rules; the first that applies decides, each counts only what reaches it."""

    def __init__(self) -> None:
        self.rules: list[FaultRule] = []

    def add(self, **rule: Any) -> FaultRule:
        """Append one rule, given by the names of :class:`FaultRule`."""
        made = FaultRule.from_json(rule)
        self.rules.append(made)
        return made

    def clear(self) -> None:
        """Drop all rules."""
        self.rules.clear()

    def for_call(self, call: Call) -> FaultRule | None:
        """Find the rule for a request."""
        return next((rule for rule in self.rules if rule.takes(call)), None)
