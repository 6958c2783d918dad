from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
import sqlalchemy as sa
import tenacity

from tests.plugins.zoho_crm.operators.world import RELATION, Audit, context
from zoho_crm.core.models import LinkResult, PlannedLink, RunStart, Target
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import ClaimLostError
from zoho_crm.operators import stores
from zoho_crm.operators.context import origin_of
from zoho_crm.operators.stores import (
    LEASE_S,
    ChunkStore,
    LeasedSlots,
    MemoryStore,
    deduplicate_links,
    one_slot,
)

if TYPE_CHECKING:
    from zoho_crm.ledger.ledger import Ledger

TARGET = Target(RELATION, "us", "v7")
KEY = "contacts_deals:1"


def planned(ledger: Ledger, count: int, **changes: Any) -> None:
    origin = origin_of(context("plan"))
    ledger.runs.start(RunStart(KEY, "contacts_deals", origin, TARGET, mode="apply"))
    rows = [(f"c-{n}", f"d-{n}") for n in range(count)]
    ledger.plans.create(KEY, RELATION, rows, chunk_size=100, max_chunks=1, origin=origin, target=TARGET)


def claimed(ledger: Ledger, **changes: Any) -> ChunkStore:
    claim = ledger.claims.claim(KEY, 0, "a try")
    return ChunkStore(ledger, claim, origin_of(context("delink")), TARGET, "contacts_deals", **changes)


def removed(link: PlannedLink) -> LinkResult:
    from tests.plugins.zoho_crm.operators.world import RUN_AFTER

    return LinkResult(link, Outcome.REMOVED, RUN_AFTER)


class Flaky:
    """A ledger whose writes fail for a while."""

    def __init__(self, ledger: Ledger, failures: list[Exception]) -> None:
        self._ledger = ledger
        self.failures = deque(failures)
        self.calls = 0

    @property
    def claims(self) -> Flaky:
        return self

    def settle(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.failures:
            raise self.failures.popleft()
        return self._ledger.claims.settle(*args, **kwargs)


def away() -> Exception:
    return sa.exc.OperationalError("UPDATE", {}, Exception("server closed the connection"))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", slept.append)
    return slept


# -- a claimed chunk


def test_hands_out_links_in_flight_and_takes_their_outcomes(audit: Audit) -> None:
    ledger = audit.ledger()
    planned(ledger, 3)
    store = claimed(ledger)
    first, second = store.settle([], 2)
    assert [row["state"] for row in audit.links()] == ["in_flight", "in_flight", "planned"]
    (third,) = store.settle([removed(first), removed(second)], 2)
    assert [row["state"] for row in audit.links()] == ["settled", "settled", "in_flight"]
    assert store.settle([removed(third)], 2) == []
    assert [(row["seq"], row["outcome"], row["task_id"]) for row in audit.events()] == [
        (seq, "removed", "delink") for seq in range(3)
    ]


def test_a_dry_run_marks_nothing(audit: Audit) -> None:
    ledger = audit.ledger()
    planned(ledger, 2)
    assert len(claimed(ledger, in_flight=False).settle([], 5)) == 2
    assert {row["state"] for row in audit.links()} == {"planned"}


def test_tasks_of_a_run_hear_from_each_other(audit: Audit) -> None:
    ledger = audit.ledger()
    planned(ledger, 1)
    one, other = claimed(ledger), claimed(ledger)
    assert other.stop_reason() is None
    one.stop_run("Zoho refuses every link")
    one.stop_run("a later reason")
    assert other.stop_reason() == "Zoho refuses every link"


@pytest.mark.parametrize(
    "failure",
    [away(), sa.exc.InterfaceError("SELECT", {}, Exception("gone"))],
    ids=["operational", "interface"],
)
def test_waits_for_a_database_that_is_away(audit: Audit, waits: list[float], failure: Exception) -> None:
    ledger = audit.ledger()
    planned(ledger, 1)
    store = claimed(ledger)
    flaky = Flaky(ledger, [failure] * 3)
    store.ledger = flaky  # type: ignore[assignment]
    assert len(store.settle([], 1)) == 1
    assert flaky.calls == 4
    assert len(waits) == 3
    assert all(0 <= seconds <= 10 for seconds in waits)


def test_waits_no_longer_than_its_patience(
    audit: Audit, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = audit.ledger()
    planned(ledger, 1)
    store = claimed(ledger)
    store.ledger = flaky = Flaky(ledger, [away() for _ in range(50)])  # type: ignore[assignment]
    monkeypatch.setattr(stores, "DATABASE_PATIENCE_S", 0.0)
    with pytest.raises(sa.exc.OperationalError):
        store.settle([], 1)
    assert flaky.calls == 1
    assert waits == []


@pytest.mark.parametrize(
    "failure",
    [
        ClaimLostError("a newer try"),
        sa.exc.IntegrityError("INSERT", {}, Exception("twice")),
        ValueError("else"),
    ],
    ids=["claim-lost", "integrity", "else"],
)
def test_any_other_error_is_raised_at_once(audit: Audit, waits: list[float], failure: Exception) -> None:
    ledger = audit.ledger()
    planned(ledger, 1)
    store = claimed(ledger)
    store.ledger = Flaky(ledger, [failure])  # type: ignore[assignment]
    with pytest.raises(type(failure)):
        store.settle([], 1)
    assert waits == []


# -- in memory


def test_memory_hands_out_every_link_once_and_keeps_outcomes() -> None:
    links, _ = deduplicate_links([("c", str(n)) for n in range(5)], RELATION)
    store = MemoryStore(deque(links), "a job", Target(RELATION, "us", "v7"))
    first = store.settle([], 3)
    second = store.settle([removed(one) for one in first], 9)
    assert [*first, *second] == links
    assert store.settle([removed(one) for one in second], 9) == []
    assert [one.planned for one in store.results] == links
    store.stop_run("nobody hears it")
    assert store.stop_reason() is None


# -- slots


def test_leases_what_is_free_and_gives_it_back(audit: Audit) -> None:
    ledger = audit.ledger()
    first = LeasedSlots(ledger, "zoho", "first", wanted=3, limit=4)
    second = LeasedSlots(ledger, "zoho", "second", wanted=3, limit=4)
    other = LeasedSlots(ledger, "other connection", "third", wanted=2, limit=4)
    assert (first.hold(), second.hold(), other.hold()) == (3, 1, 2)
    assert (first.hold(), second.hold()) == (3, 1)
    first.release()
    assert second.hold() == 3
    second.release()
    other.release()
    assert audit.leases() == []


def test_renews_well_before_a_lease_ends() -> None:
    assert LeasedSlots(None, "zoho", "x", wanted=1, limit=1).renew_every_s * 3 <= LEASE_S  # type: ignore[arg-type]


def test_one_slot_waits_for_a_free_one_and_gives_it_back_after_an_error(audit: Audit) -> None:
    ledger, slept = audit.ledger(), []
    busy = LeasedSlots(ledger, "zoho", "busy", wanted=2, limit=2)
    busy.hold()

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            busy.release()

    def work() -> None:
        with one_slot(ledger, "zoho", 2, sleep=sleep):
            assert len(audit.leases()) == 1
            raise RuntimeError("of the caller")

    with pytest.raises(RuntimeError, match="of the caller"):
        work()
    assert slept == [1.0, 1.0]
    assert audit.leases() == []


# -- distinct links


def test_links_are_checked_sorted_and_taken_once() -> None:
    sendable, invalid = deduplicate_links(
        [
            ("b", "2"),
            ("a", "9"),
            ("b", "1"),
            ("b", "2"),
            ("", "x"),
            (None, "x"),
            ("..", "x"),
            ("a", None),
            ("A", "9"),
        ],
        RELATION,
    )
    assert [(one.seq, one.link.external_id, one.link.related_external_id) for one in sendable] == [
        (0, "A", "9"),
        (1, "a", "9"),
        (2, "b", "1"),
        (3, "b", "2"),
    ]
    assert [(one.seq, one.link.external_id, fault) for one, fault in invalid] == [
        (4, "", "external_id is blank"),
        (5, "..", "external_id holds a dot segment or a slash at an end, which could change the address"),
        (6, "a", "related_external_id is missing"),
    ]
    assert len({one.pair_key for one in [*sendable, *(one for one, _ in invalid)]}) == 7


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (Decimal("5840000000000001"), "5840000000000001"),
        (Decimal("7.0"), "7"),
        (UUID("6f2c1d9e-0b1a-4c55-9a53-0d6f0f3d2a10"), "6f2c1d9e-0b1a-4c55-9a53-0d6f0f3d2a10"),
        ("007", "007"),
    ],
    ids=str,
)
def test_values_with_one_exact_text_are_that_text(value: object, text: str) -> None:
    ((one,), invalid) = deduplicate_links([(value, value), (text, text)], RELATION)
    assert (one.link.external_id, one.link.related_external_id, invalid) == (text, text, [])


@pytest.mark.parametrize("value", [1.5, True, Decimal("1.5"), b"ab", ["a"]], ids=repr)
def test_values_without_an_exact_text_are_never_sent(value: object) -> None:
    sendable, ((_, fault),) = deduplicate_links([(value, "d")], RELATION)
    assert sendable == []
    assert fault == f"external_id is not text but {type(value).__name__}"


def test_an_integer_of_thousands_of_digits_is_never_sent() -> None:
    sendable, invalid = deduplicate_links([(10**5000, "d")], RELATION)
    assert (sendable, len(invalid)) == ([], 1)
