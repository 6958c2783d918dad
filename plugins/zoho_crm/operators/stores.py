"""Where a try gets its links from and leaves their outcomes: a claimed chunk in the ledger, or memory."""

from __future__ import annotations

import logging
import time
import uuid
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

import tenacity

from zoho_crm import telemetry
from zoho_crm.core.links import Link, PairKeys, Relation, link_fault, storable_text, to_external_id
from zoho_crm.core.models import LinkResult, Origin, PlannedLink, Target
from zoho_crm.operators.credit_usage import spent_by

if TYPE_CHECKING:
    from collections import deque
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from zoho_crm.core.outcomes import Outcome
    from zoho_crm.ledger.claims import Claim
    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.operators.chunk_run import Store
    from zoho_crm.operators.credit_usage import CreditUsage

log = logging.getLogger(__name__)

T = TypeVar("T")

DRY_RUN_BATCH = 1_000
"""Links of one transaction where nothing is sent."""

LEASE_S = 90.0
"""Seconds a slot of the org stays with a task that no longer renews it."""

DATABASE_PATIENCE_S = 120.0
"""Seconds that outcomes are held in memory while the audit database is away."""


@dataclass
class ChunkStore:
    """
    A chunk of a stored plan under this try's claim.

    :param in_flight: whether links are marked in flight when they are taken; not for a dry run, which sends nothing
    :param spending: what the try costs; None where nothing is sent
    """

    ledger: Ledger
    claim: Claim
    origin: Origin
    target: Target
    job: str
    in_flight: bool = True
    spending: CreditUsage | None = None

    def settle(self, results: Sequence[LinkResult], take: int) -> list[PlannedLink]:
        """
        Write outcomes and take further links in one transaction; wait for a database that is away.

        :raises ClaimLostError: a newer try has taken the chunk over
        """
        with spent_by(self.spending) as spent:
            taken = retry_while_database_away(
                lambda: self.ledger.claims.settle(
                    self.claim,
                    results,
                    origin=self.origin,
                    target=self.target,
                    job=self.job,
                    take=take,
                    in_flight=self.in_flight,
                    credits_used=spent.credits_used,
                    reading=spent.reading,
                )
            )
        _count(results, self.job, self.target)
        return taken

    def stop_reason(self) -> str | None:
        """Return why another task has stopped the run, if one has."""
        return self.ledger.runs.stop_reason(self.claim.run_key)

    def stop_run(self, why: str) -> None:
        """Keep the other tasks of the run from sending."""
        self.ledger.runs.stop(self.claim.run_key, why)


@dataclass
class MemoryStore:
    """A list of links without a ledger: what happened to them is known to the task's log and summary alone."""

    links: deque[PlannedLink]
    job: str
    target: Target
    results: list[LinkResult] = field(default_factory=list)

    def settle(self, results: Sequence[LinkResult], take: int) -> list[PlannedLink]:
        """Keep outcomes and hand out further links."""
        self.results.extend(results)
        _count(results, self.job, self.target)
        return [self.links.popleft() for _ in range(min(take, len(self.links)))]

    def stop_reason(self) -> str | None:
        """Return None: there are no other tasks to hear from."""
        return None

    def stop_run(self, why: str) -> None:
        """Tell nobody: there are no other tasks."""


@dataclass
class LeasedSlots:
    """
    Slots of the org, leased in the ledger database, so that all tasks of a connection together stay in its limit.

    :param connection: id of the Zoho connection the slots belong to
    :param holder: who leases: one try of one task
    :param wanted: slots this try can use
    :param limit: slots the org has
    """

    ledger: Ledger
    connection: str
    holder: str
    wanted: int
    limit: int
    renew_every_s: float = LEASE_S / 6

    def hold(self) -> int:
        """Renew the slots held and lease more where there are free ones; return how many are held."""
        held = self.ledger.slots.lease(
            self.connection, self.holder, wanted=self.wanted, limit=self.limit, lease_s=LEASE_S
        )
        self._measure()
        return len(held)

    def release(self) -> None:
        """Give the slots back."""
        self.ledger.slots.release(self.connection, self.holder)
        self._measure()

    def _measure(self) -> None:
        from sqlalchemy.exc import SQLAlchemyError

        with suppress(SQLAlchemyError):  # slots that cannot be counted are held nevertheless
            telemetry.set_slots_leased(self.connection, self.ledger.slots.count(self.connection), self.limit)


def count_links(counts: Mapping[Outcome, int], job: str, target: Target) -> None:
    """Count links whose outcome has been written."""
    telemetry.count_links(
        counts, job=job, relation=target.relation, operation=target.operation, dry_run=target.dry_run
    )


def settle_unverified(store: Store, outcome: Outcome) -> Counter[Outcome]:
    """Settle all links of a store as a dry run that asks Zoho nothing; return their number."""
    counts: Counter[Outcome] = Counter()
    results: list[LinkResult] = []
    while True:
        links = store.settle(results, DRY_RUN_BATCH)
        counts[outcome] += len(results)
        if not links:
            return counts
        now = datetime.now(UTC)
        results = [LinkResult(link, outcome, now) for link in links]


def _count(results: Sequence[LinkResult], job: str, target: Target) -> None:
    count_links(Counter(result.outcome for result in results), job, target)


@contextmanager
def one_slot(
    ledger: Ledger, connection: str, limit: int, *, sleep: Callable[[float], None] = time.sleep
) -> Iterator[None]:
    """
    Hold one of the org's slots, for requests that are made one after the other; wait until one is free.

    :param connection: id of the Zoho connection
    :param limit: slots the org has
    :param sleep: for tests
    """
    slots = LeasedSlots(ledger, connection, uuid.uuid4().hex, wanted=1, limit=limit)
    try:
        while not slots.hold():
            sleep(1.0)
        yield
    finally:
        slots.release()


def deduplicate_links(
    pairs: Iterable[tuple[object, object]], relation: Relation
) -> tuple[list[PlannedLink], list[tuple[PlannedLink, str]]]:
    """
    Check and de-duplicate pairs.

    :return: the links that can be sent, sorted so that those of one parent sit together, and those that cannot,
        each with the reason
    """
    keys = PairKeys(relation)
    sendable: dict[str, Link] = {}
    invalid: dict[str, tuple[Link, str]] = {}
    for pair in pairs:
        first, second = (to_external_id(value) for value in pair)
        link = Link(_as_text(first), _as_text(second))
        key = keys.of(link.external_id, link.related_external_id)
        if fault := link_fault(first, second):
            invalid.setdefault(key, (link, fault))
        else:
            sendable.setdefault(key, link)
    ordered = sorted(sendable.items(), key=lambda item: (item[1].external_id, item[1].related_external_id))
    planned = [PlannedLink(seq, link, key) for seq, (key, link) in enumerate(ordered)]
    refused = [
        (PlannedLink(len(planned) + place, link, key), fault)
        for place, (key, (link, fault)) in enumerate(invalid.items())
    ]
    return planned, refused


def _as_text(value: object) -> str:
    if value is None:
        return ""
    try:
        return str(value)
    except Exception:
        # Such as an integer of thousands of digits, which Python refuses to write out.
        return storable_text(value)


def retry_while_database_away(call: Callable[[], T]) -> T:
    """Make a call to the audit database, again and again for a while if it is away."""
    from sqlalchemy.exc import InterfaceError, OperationalError

    retrying = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type((OperationalError, InterfaceError)),
        stop=tenacity.stop_after_delay(DATABASE_PATIENCE_S),
        wait=tenacity.wait_random_exponential(multiplier=0.5, max=10),
        before_sleep=tenacity.before_sleep_log(log, logging.WARNING),
        reraise=True,
    )
    return retrying(call)
