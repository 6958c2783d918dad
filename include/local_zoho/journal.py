"""What happened: the requests, and the harm they did or could have done."""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from include.local_zoho.wire import Call

SECRET_PARAMS = frozenset(
    {"access_token", "authtoken", "oauth_token", "token", "refresh_token", "client_secret"}
)


class Request(NamedTuple):
    """One request: path and query are as on the wire; status 0 means that no answer was sent."""

    time: float
    method: str
    path: str
    query: str
    external: str | None
    status: int
    kind: str


class Harm(NamedTuple):
    """
    One call that a careful client would not make.

    :param kind: ``record_delete``, ``record_update``, ``child_delete`` (notes, attachments, locks),
        ``unqualified_value`` (a non-numeric value that X-EXTERNAL does not explain) or ``secret_in_query``.
    :param detail: what was hit: ids that are gone or changed, or the name of the parameter.
    """

    time: float
    kind: str
    method: str
    path: str
    detail: str


class Journal:
    """Remember requests and harms, and count them."""

    def __init__(self, size: int) -> None:
        self.requests: deque[Request] = deque(maxlen=size)
        self.harms: deque[Harm] = deque(maxlen=size)
        self.by_kind: Counter[str] = Counter()
        self.by_status: Counter[int] = Counter()

    def record(self, now: float, call: Call, status: int) -> None:
        """Write down a request; called before its answer leaves, so that a client never outruns the log."""
        self.by_kind[call.kind] += 1
        self.by_status[status] += 1
        self.requests.append(
            Request(now, call.method, call.raw_path, call.raw_query, call.external, status, call.kind)
        )

    def harm(self, now: float, kind: str, call: Call, detail: str) -> None:
        """Write down a harm."""
        self.harms.append(Harm(now, kind, call.method, call.raw_path, detail))

    def check_query(self, now: float, call: Call) -> None:
        """Write down every secret that a query string shows to proxies and access logs."""
        for name in SECRET_PARAMS.intersection(call.query):
            self.harm(now, "secret_in_query", call, name)

    def to_json(self) -> dict[str, Any]:
        """Give the counts and the harms."""
        return {
            "requests": {
                "total": sum(self.by_kind.values()),
                "by_kind": dict(self.by_kind),
                "by_status": {str(status): count for status, count in self.by_status.items()},
            },
            "harm": [harm._asdict() for harm in self.harms],
        }
