"""The state of a local Zoho, in one place that tests and the admin calls can reach."""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from typing import TYPE_CHECKING, Any, NamedTuple

from zoho_crm.testing.local_zoho.access import Limits, Tokens
from zoho_crm.testing.local_zoho.faults import Faults
from zoho_crm.testing.local_zoho.seed import build_crm, read_seed
from zoho_crm.testing.local_zoho.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from zoho_crm.testing.local_zoho.crm import Attributes, Crm
    from zoho_crm.testing.local_zoho.wire import Call


SECRET_PARAMS = frozenset(
    {"access_token", "authtoken", "oauth_token", "token", "refresh_token", "client_secret"}
)


class Request(NamedTuple):
    """One request: path and query are as on the wire; status 0 means that no response was sent."""

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
        """Record a request; called before the response is sent, so that a client never outruns the log."""
        self.by_kind[call.kind] += 1
        self.by_status[status] += 1
        self.requests.append(
            Request(now, call.method, call.raw_path, call.raw_query, call.external, status, call.kind)
        )

    def harm(self, now: float, kind: str, call: Call, detail: str) -> None:
        """Record a harm."""
        self.harms.append(Harm(now, kind, call.method, call.raw_path, detail))

    def check_query(self, now: float, call: Call) -> None:
        """Record every secret that a query string exposes to proxies and access logs."""
        for name in SECRET_PARAMS.intersection(call.query):
            self.harm(now, "secret_in_query", call, name)

    def to_json(self) -> dict[str, Any]:
        """Return the counts and the harms."""
        return {
            "requests": {
                "total": sum(self.by_kind.values()),
                "by_kind": dict(self.by_kind),
                "by_status": {str(status): count for status, count in self.by_status.items()},
            },
            "harm": [harm._asdict() for harm in self.harms],
        }


class LocalState:
    """
    The state of a local Zoho.

    :param seed: see :func:`zoho_crm.testing.local_zoho.seed.default_seed`; a path is read as JSON.
    :param clock: seconds since the epoch; tests give their own.
    :param settings: values by name of :class:`zoho_crm.testing.local_zoho.settings.Settings`, over those of the seed.
    """

    crm: Crm
    tokens: Tokens
    limits: Limits
    journal: Journal
    settings: Settings
    org: dict[str, Any]

    def __init__(
        self,
        seed: Mapping[str, Any] | Path | str | None = None,
        clock: Callable[[], float] = time.time,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.clock = clock
        self.base_url = ""
        self.faults = Faults()
        self._seed = read_seed(seed)
        self._settings = dict(settings or {})
        self.reset()

    def reset(self) -> None:
        """Restart: seed, settings, tokens, faults, counters and logs as they were at the start."""
        self.settings = Settings().changed({**self._seed["settings"], **self._settings})
        self.random = random.Random(self.settings.jitter_seed)  # noqa: S311  # jitter, not a secret
        self.crm = build_crm(self._seed)
        self.org = dict(self._seed["org"])
        self.tokens = Tokens(**self._seed["oauth"], zgid=self.org["zgid"])
        self.limits = Limits()
        self.journal = Journal(self.settings.journal_size)
        self.faults.clear()

    def configure(self, **changes: Any) -> None:
        """
        Change settings while the server runs.

        :raises ValueError: for an unknown setting or value.
        """
        self.settings = self.settings.changed(changes)

    def reseed(self, seed: Mapping[str, Any]) -> None:
        """Replace the seed, and begin again with it."""
        complete = read_seed(seed)
        build_crm(complete)  # a bad seed must leave the old one in place
        self._seed = complete
        self.reset()

    def add_record(
        self, module: str, values: Mapping[str, Any] | None = None, *, record_id: str | None = None
    ) -> str:
        """Add a record; see :meth:`Crm.add_record`."""
        return self.crm.add_record(module, values, record_id=record_id)

    def link(
        self, module: str, key: str, related_list: str, related_key: str, attributes: Attributes | None = None
    ) -> None:
        """Link two records, adding those that do not exist; see :meth:`Crm.link`."""
        self.crm.link(module, key, related_list, related_key, attributes)

    def linked(self, module: str, key: str, related_list: str, related_key: str) -> bool:
        """Return whether two records are linked."""
        return self.crm.linked(module, key, related_list, related_key)

    def unlink(self, module: str, key: str, related_list: str, related_key: str) -> bool:
        """Remove a link without the API."""
        return self.crm.unlink(module, key, related_list, related_key)

    def links(self, module: str, related_list: str) -> set[tuple[str, str]]:
        """Return all links of a list as pairs of keys."""
        return self.crm.links(module, related_list)

    def lock(self, module: str, key: str) -> None:
        """Lock a record: delinking it responds RECORD_LOCKED."""
        record_id = self.crm.find(module, key)
        if record_id is None:
            msg = f"no such record in {module}"
            raise KeyError(msg)
        self.crm.locked.add(record_id)

    def issue_token(self, scopes: Sequence[str] = ()) -> str:
        """Issue an access token without the OAuth call; all granted scopes by default."""
        return self.tokens.issue(self.settings, self.clock(), scopes).value

    def to_json(self, *, include_links: bool = True) -> dict[str, Any]:
        """
        Describe the state.

        :return: ``links`` (one entry per link), ``records`` (counts by module), ``harm``, ``requests`` (total, by_kind,
            by_status), ``credits_used``, ``credits_remaining``, ``in_flight``, ``max_in_flight``,
            ``too_many_requests`` (429s by limit), ``tokens_issued``, ``tokens_throttled``, ``faults``.
        """
        return {
            **self.journal.to_json(),
            **({"links": self.crm.to_json()} if include_links else {}),
            "records": {name: self.crm.count(name) for name in self.crm.modules},
            "credits_used": self.limits.credits_used,
            "credits_remaining": self.limits.remaining(self.settings, self.clock()),
            "in_flight": self.limits.in_flight,
            "max_in_flight": self.limits.max_in_flight,
            "too_many_requests": self.limits.refused,
            "tokens_issued": self.tokens.issued,
            "tokens_throttled": self.tokens.throttled,
            "faults": [
                {"do": rule.do, "when": rule.when, "applied": rule.applied} for rule in self.faults.rules
            ],
        }
