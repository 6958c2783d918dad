from __future__ import annotations

import asyncio
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
import sqlalchemy as sa

from zoho_crm.errors import ClaimLostError, ZohoError, ZohoNotSentError
from zoho_crm.hooks.oauth import FETCH_S
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.operators import slot_keeper
from zoho_crm.operators.slot_keeper import (
    ONE_REQUEST_LEASE_S,
    SEND_LEASE_S,
    UNRENEWED_LEASE_S,
    LeasedSlots,
    SlotKeeper,
    one_slot,
    refresh_lock,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.databases import Audit


@dataclass
class FakeLedger:
    """A ledger with one lock that is free at a certain asking, and notes what it is asked."""

    free_at: int | None = 1
    failure: Exception | None = None
    asked: list[tuple[str, str]] = field(default_factory=list)
    released: list[tuple[str, str]] = field(default_factory=list)

    @property
    def slots(self) -> FakeLedger:
        return self

    def lease(self, connection: str, holder: str, *, wanted: int, limit: int, lease_s: float) -> list[int]:
        assert (wanted, limit, lease_s) == (1, 1, UNRENEWED_LEASE_S)
        self.asked.append((connection, holder))
        if self.failure:
            raise self.failure
        return [0] if self.free_at is not None and len(self.asked) >= self.free_at else []

    def release(self, connection: str, holder: str) -> None:
        self.released.append((connection, holder))
        if self.failure:
            raise self.failure

    def as_ledger(self) -> Ledger:
        return cast("Ledger", self)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    ledger = Ledger(sa.create_engine(f"sqlite:///{tmp_path / 'audit.db'}"))
    ledger.ensure_schema()
    yield ledger
    ledger.close()


def test_holds_one_lock_a_connection_and_gives_it_back() -> None:
    fake = FakeLedger()
    with refresh_lock(fake.as_ledger(), "zoho_eu"):
        assert fake.released == []
    ((name, holder),) = fake.asked
    assert name == "zoho_eu: access token"
    assert fake.released == [(name, holder)]


def test_waits_until_the_lock_is_free(caplog: pytest.LogCaptureFixture) -> None:
    fake, slept = FakeLedger(free_at=4), []
    with (
        caplog.at_level(logging.INFO),
        refresh_lock(fake.as_ledger(), "zoho", sleep=slept.append),
    ):
        assert slept == [0.25] * 3
    assert "Waited for another worker to refresh the access token: waited_s=" in caplog.text
    assert len(set(fake.asked)) == 1


def test_goes_on_beside_a_worker_that_keeps_the_lock_too_long(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    seconds = iter(range(0, 10_000, 30))
    monkeypatch.setattr(slot_keeper, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    fake = FakeLedger(free_at=None)
    with caplog.at_level(logging.WARNING), refresh_lock(fake.as_ledger(), "zoho", sleep=lambda _: None):
        pass
    assert 3 <= len(fake.asked) <= 5
    assert "without the lock: held_by_others_s=90" in caplog.text


def test_goes_without_a_lock_when_the_database_is_away(caplog: pytest.LogCaptureFixture) -> None:
    fake = FakeLedger(failure=sa.exc.OperationalError("SELECT secret-id", {}, Exception("away")))
    with caplog.at_level(logging.WARNING), refresh_lock(fake.as_ledger(), "zoho"):
        entered = True
    assert entered
    assert "without the lock: error=OperationalError" in caplog.text
    assert "secret-id" not in caplog.text


def test_gives_the_lock_back_after_an_error() -> None:
    fake = FakeLedger()
    with pytest.raises(RuntimeError, match="of the caller"), refresh_lock(fake.as_ledger(), "zoho"):
        raise RuntimeError("of the caller")
    assert fake.released == fake.asked


def test_one_worker_at_a_time_holds_the_lock_of_a_connection(ledger: Ledger) -> None:
    inside, most, guard = 0, 0, threading.Lock()

    def work(_: int) -> None:
        nonlocal inside, most
        with refresh_lock(ledger, "zoho", sleep=threading.Event().wait):
            with guard:
                inside += 1
                most = max(most, inside)
            threading.Event().wait(0.002)
            with guard:
                inside -= 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(12)))
    assert (inside, most) == (0, 1)


def test_connections_do_not_wait_for_each_other_nor_for_slots(ledger: Ledger) -> None:
    def must_not_wait(_: float) -> None:
        raise AssertionError

    ledger.slots.lease("zoho", "a task", wanted=5, limit=5, lease_s=60)
    with (
        refresh_lock(ledger, "zoho", sleep=must_not_wait),
        refresh_lock(ledger, "other", sleep=must_not_wait),
    ):
        assert len(ledger.slots.renew("zoho", "a task", 60)) == 5


def test_lock_of_a_dead_worker_opens_by_itself(tmp_path: Path) -> None:
    now = [1_000_000.0]
    ledger = Ledger(sa.create_engine(f"sqlite:///{tmp_path / 'audit.db'}"), clock=lambda _: now[0])
    ledger.ensure_schema()
    dead = cast("Callable[..., None]", refresh_lock(ledger, "zoho").__enter__)
    dead()

    def pass_time(_: float) -> None:
        now[0] += 30.0

    with refresh_lock(ledger, "zoho", sleep=pass_time):
        assert now[0] - 1_000_000.0 >= UNRENEWED_LEASE_S
    del dead  # releases its lock, for which it needs the ledger
    ledger.close()


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
    assert LeasedSlots(None, "zoho", "x", wanted=1, limit=1).renew_every_s * 3 <= SEND_LEASE_S  # type: ignore[arg-type]


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


# -- the right to send


@dataclass
class World:
    """Slots of a database, a clock of this process, and a run that others may stop."""

    slots: list[int | Exception] = field(default_factory=lambda: [3])
    now: float = 100.0
    holds: int = 0
    call_s: float = 0.0
    is_stopped: bool = False
    lease_s: float = 50.0
    renew_every_s: float = 0.001
    waits_for: str = "a free slot"

    def hold(self) -> int:
        self.holds += 1
        found = self.slots.pop(0) if len(self.slots) > 1 else self.slots[0]
        self.now += self.call_s
        if isinstance(found, Exception):
            raise found
        return found

    def release(self) -> None:
        pass

    def keeper(self) -> SlotKeeper:
        async def is_stopped() -> bool:
            return self.is_stopped

        return SlotKeeper(self, is_stopped, clock=lambda: self.now)


async def test_right_expires_by_the_clock_of_this_process() -> None:
    world = World()
    keeper = world.keeper()
    assert keeper.held == 0
    await keeper.acquire()
    world.now += 44.9
    assert keeper.held == 3
    world.now += 0.1
    assert keeper.held == 0
    await keeper.renew()
    assert (keeper.held, world.holds) == (3, 2)


async def test_lease_counts_from_before_its_request() -> None:
    world = World(call_s=40.0)
    keeper = world.keeper()
    await keeper.acquire()
    assert keeper.held == 3
    world.now += 5.0
    assert keeper.held == 0


async def test_expired_right_is_renewed_once_for_all_that_wait() -> None:
    world = World()
    keeper = world.keeper()
    await asyncio.gather(*(keeper.renew() for _ in range(10)))
    assert world.holds == 1


async def test_renewal_waits_for_the_database_and_for_a_slot() -> None:
    world = World(slots=[OSError("away"), 0, 2])
    keeper = world.keeper()
    await keeper.renew()
    assert (keeper.held, world.holds) == (2, 3)


async def test_renewal_ends_with_the_reason() -> None:
    world = World(slots=[0], call_s=61.0)
    with pytest.raises(ZohoError, match="not sent: waited 120 s for a free slot"):
        await world.keeper().renew()
    assert world.holds == 2
    world = World(is_stopped=True)
    with pytest.raises(ZohoError, match="not sent: the run stopped"):
        await world.keeper().renew()
    assert world.holds == 0


async def test_wait_for_the_database_is_named_as_such_and_not_as_a_wait_for_a_slot() -> None:
    world = World(slots=[0, OSError("away"), 2, OSError("away")])
    keeper, said = world.keeper(), []
    assert keeper.waits_for == "the audit database"

    async def changed() -> None:
        said.append(keeper.waits_for)
        if len(said) == 4:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await keeper.keep_renewed(changed)
    assert said == [
        "a free slot",
        "the audit database (OSError)",
        "a free slot",
        "the audit database (OSError)",
    ]


async def test_look_for_a_stop_that_the_database_does_not_answer_is_a_wait_for_the_database() -> None:
    async def is_stopped() -> bool:
        raise OSError("away")

    async def changed() -> None:
        raise asyncio.CancelledError

    keeper = SlotKeeper(World(), is_stopped)
    with pytest.raises(asyncio.CancelledError):
        await keeper.keep_renewed(changed)
    assert keeper.waits_for == "the audit database (OSError)"


async def test_lost_claim_ends_the_right_at_once_and_for_good() -> None:
    world = World(slots=[3, ClaimLostError("a newer try")])
    keeper, renewed = world.keeper(), []
    await keeper.acquire()
    keeper.raise_if_lost()

    async def changed() -> None:
        renewed.append(keeper.held)

    await keeper.keep_renewed(changed)
    assert renewed == [0]
    with pytest.raises(ClaimLostError):
        keeper.raise_if_lost()
    with pytest.raises(ClaimLostError):
        await keeper.renew()
    assert world.holds == 2


def test_one_slot_is_renewed_before_each_request(audit: Audit) -> None:
    now, other = [1_783_000_000.0], []
    ledger = Ledger(audit.ledger().engine, clock=lambda _: now[0])

    def sleep(_: float) -> None:
        now[0] += ONE_REQUEST_LEASE_S / 2

    with one_slot(ledger, "zoho", 1, sleep=sleep) as renew:
        for _ in range(3):
            now[0] += ONE_REQUEST_LEASE_S - 1
            other.append(ledger.slots.lease("zoho", "other", wanted=1, limit=1, lease_s=10.0))
            renew()
        assert other == [[]] * 3
        now[0] += ONE_REQUEST_LEASE_S + 1
        assert ledger.slots.lease("zoho", "other", wanted=1, limit=1, lease_s=10.0) == [0]
        before = now[0]
        renew()
        assert now[0] > before, "it did not wait for the other holder"
        assert ledger.slots.lease("zoho", "other", wanted=1, limit=1, lease_s=10.0) == []
    assert ledger.slots.lease("zoho", "other", wanted=1, limit=1, lease_s=10.0) == [0]


def test_one_slot_waits_for_a_limited_time(audit: Audit, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 10_000, 300))
    monkeypatch.setattr(slot_keeper, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
    ledger = audit.ledger()
    LeasedSlots(ledger, "zoho", "busy", wanted=2, limit=2).hold()
    with (
        pytest.raises(
            ZohoNotSentError,
            match=r"'zoho': waited 900 s for a free slot: other tasks use all requests .* \(2\); nothing was sent",
        ),
        one_slot(ledger, "zoho", 2, sleep=lambda _: None),
    ):
        raise AssertionError("it holds no slot")
    assert len(audit.leases()) == 2


def test_a_token_is_fetched_within_the_lease_of_its_lock() -> None:
    assert FETCH_S < UNRENEWED_LEASE_S
