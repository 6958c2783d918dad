from __future__ import annotations

import asyncio
import logging
import threading
from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from requests.structures import CaseInsensitiveDict

from zoho_crm.core.links import Link
from zoho_crm.core.models import LinkResult, PlannedLink
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.verdict import StopReason
from zoho_crm.errors import ClaimLostError, ZohoError
from zoho_crm.hooks.zoho_response import ZohoResponse
from zoho_crm.operators import chunk_run
from zoho_crm.operators.breaker import BREAKER_AFTER, SAME_REFUSALS
from zoho_crm.operators.chunk_run import ChunkReport, ChunkRun
from zoho_crm.operators.slot_keeper import FixedSlots

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

NOW = datetime(2026, 11, 22, 2, tzinfo=UTC)


@pytest.fixture(autouse=True)
def no_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a finished link wait for no clock."""
    monkeypatch.setattr(chunk_run, "_TICK_S", 0.001)


def planned(seq: int, *, ambiguous: bool = False) -> PlannedLink:
    return PlannedLink(seq, Link(f"c-{seq}", f"d-{seq}"), f"key-{seq}", ambiguous_before=ambiguous)


def result(link: PlannedLink, outcome: Outcome = Outcome.REMOVED, **changes: Any) -> LinkResult:
    return LinkResult(link, outcome, NOW, **changes)


@dataclass
class MemoryStore:
    """
    Links and outcomes in memory, with the ledger's strictness: a link is settled once, and only after it was taken.

    :param failures: what the next writes raise; None for a write that goes well
    :param before_write: called in the thread of each write
    """

    links: deque[PlannedLink]
    written: list[LinkResult] = field(default_factory=list)
    failures: deque[Exception | None] = field(default_factory=deque)
    before_write: Callable[[], None] = lambda: None
    others_say: str | None = None
    reported: list[str] = field(default_factory=list)
    overlaps: int = 0
    _open: dict[int, PlannedLink] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, count: int, **options: Any) -> MemoryStore:
        return cls(deque(planned(seq) for seq in range(count)), **options)

    def settle(
        self, results: Sequence[LinkResult], take: int, select: Callable[[list[PlannedLink]], int] = len
    ) -> list[PlannedLink]:
        if not self._lock.acquire(blocking=False):
            self.overlaps += 1
            self._lock.acquire()
        try:
            self.before_write()
            if self.failures and (failure := self.failures.popleft()):
                raise failure
            for one in results:
                assert self._open.pop(one.planned.seq) == one.planned
                self.written.append(one)
            upcoming = list(islice(self.links, take))
            taken = [self.links.popleft() for _ in range(select(upcoming))]
            self._open |= {link.seq: link for link in taken}
            return taken
        finally:
            self._lock.release()

    def stop_reason(self) -> str | None:
        return self.others_say

    def stop_run(self, why: str) -> None:
        self.reported.append(why)

    @property
    def outcomes(self) -> dict[int, Outcome]:
        assert len({one.planned.seq for one in self.written}) == len(self.written), "a link was settled twice"
        return {one.planned.seq: one.outcome for one in self.written}

    @property
    def left_in_flight(self) -> set[int]:
        return set(self._open)


@dataclass
class Slots:
    """Slots whose number a test sets, and which notes what is asked of it."""

    number: int = 5
    renew_every_s: float = 0.001
    lease_s: float = 60.0
    waits_for: str = "a free slot"
    failure: Exception | None = None
    before_hold: Callable[[], None] = lambda: None
    done: list[str] = field(default_factory=list)

    def hold(self) -> int:
        self.before_hold()
        self.done.append("hold")
        if self.failure:
            raise self.failure
        return self.number

    def release(self) -> None:
        self.done.append("release")


@dataclass
class FakeDelinker:
    """
    Settles links with the given outcomes.

    :param answer: what comes back for a link; an exception is raised
    :param gate: what a unit waits for before it is settled
    """

    answer: Callable[[PlannedLink], Any] = result
    unit_size: int = 1
    gate: Callable[[], Any] = lambda: asyncio.sleep(0)
    units: list[list[int]] = field(default_factory=list)
    in_flight: int = 0
    most_in_flight: int = 0
    observe: Callable[[ZohoResponse], None] = lambda _: None

    def unit_length(self, links: Sequence[PlannedLink]) -> int:
        return len(links)

    def watch(self, observe: Callable[[ZohoResponse], None], is_stopped: Callable[[], bool]) -> None:
        self.observe = observe

    async def process_unit(self, unit: Sequence[PlannedLink]) -> list[tuple[LinkResult, StopReason | None]]:
        self.units.append([link.seq for link in unit])
        self.in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            await self.gate()
            settled = []
            for link in unit:
                answer = self.answer(link)
                if isinstance(answer, Exception):
                    raise answer
                if answer is not None:
                    settled.append(answer if isinstance(answer, tuple) else (answer, None))
            return settled
        finally:
            self.in_flight -= 1

    @property
    def sent(self) -> list[int]:
        return [seq for unit in self.units for seq in unit]


class Gate:
    """Lets units through one by one."""

    def __init__(self) -> None:
        self._permits = asyncio.Semaphore(0)

    async def __call__(self) -> None:
        await self._permits.acquire()

    def let(self, count: int = 1) -> None:
        for _ in range(count):
            self._permits.release()


async def until(condition: Callable[[], object]) -> None:
    """Wait until something has happened; fail when it does not."""
    for _ in range(5_000):
        if condition():
            return
        await asyncio.sleep(0.001)
    pytest.fail("it did not happen in time")


async def settled_down() -> None:
    """Give everything that can happen by itself the time to happen."""
    for _ in range(20):
        await asyncio.sleep(0.001)


async def run(
    delinker: FakeDelinker, store: MemoryStore, slots: Any = None, concurrency: int = 5, **options: Any
) -> ChunkReport:
    async with asyncio.timeout(10):
        return await ChunkRun(delinker, store, slots or FixedSlots(concurrency), concurrency, **options).run()


def answer(status: int = 200, **headers: str) -> ZohoResponse:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ZohoResponse(status, CaseInsensitiveDict(named), b"", 0.01)


# -- each link has one result


SETTLED = st.sampled_from([outcome for outcome in Outcome if outcome is not Outcome.INVALID])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    outcomes=st.lists(st.one_of(SETTLED, st.just("raises"), st.just("missing")), max_size=70),
    concurrency=st.integers(1, 7),
    unit_size=st.integers(1, 9),
    ambiguous=st.sets(st.integers(0, 69)),
    stop_after=st.one_of(st.none(), st.integers(0, 70)),
)
def test_every_link_has_exactly_one_result(
    outcomes: list[Any], concurrency: int, unit_size: int, ambiguous: set[int], stop_after: int | None
) -> None:
    links = [planned(seq, ambiguous=seq in ambiguous) for seq in range(len(outcomes))]
    store = MemoryStore(deque(links))

    def settle(link: PlannedLink) -> Any:
        outcome = outcomes[link.seq]
        if stop_after is not None and len(delinker.units) >= stop_after:
            chunk.stop("enough")
        if outcome == "raises":
            return RuntimeError("no")
        return None if outcome == "missing" else result(link, outcome)

    delinker = FakeDelinker(settle, unit_size)
    chunk = ChunkRun(delinker, store, FixedSlots(concurrency), concurrency)
    report = asyncio.run(chunk.run())

    taken = len(links) - len(store.links)
    assert sorted(store.outcomes) == list(range(taken))
    assert store.left_in_flight == set()
    assert report.counts == Counter(store.outcomes.values())
    assert delinker.most_in_flight <= concurrency
    assert sorted(delinker.sent) == sorted(set(delinker.sent))
    is_stopped = stop_after is not None and 1 <= len(delinker.units) >= stop_after
    assert report.stopped == ("enough" if is_stopped else None)
    if report.stopped is None:
        assert taken == len(links)
        assert sorted(delinker.sent) == list(range(len(links)))
    for seq, outcome in store.outcomes.items():
        reported = outcomes[seq] if seq in delinker.sent else "missing"
        if reported == "raises":
            assert outcome is Outcome.UNKNOWN
        elif reported == "missing":
            assert outcome is (Outcome.UNKNOWN if seq in ambiguous else Outcome.NOT_ATTEMPTED) or (
                unit_of(delinker, seq) & {one for one in delinker.sent if outcomes[one] == "raises"}
            )
        else:
            assert outcome is reported or (
                unit_of(delinker, seq) & {one for one in delinker.sent if outcomes[one] == "raises"}
            )


def unit_of(delinker: FakeDelinker, seq: int) -> set[int]:
    return next((set(unit) for unit in delinker.units if seq in unit), set())


async def test_no_links_are_no_work() -> None:
    delinker, store, slots = FakeDelinker(), MemoryStore.of(0), Slots()
    assert await run(delinker, store, slots) == ChunkReport(Counter())
    assert (delinker.units, store.written) == ([], [])
    assert slots.done[-1] == "release"


async def test_links_leave_in_the_order_of_the_plan_and_only_after_they_were_taken() -> None:
    store = MemoryStore.of(45)
    seen: list[int] = []

    def settle(link: PlannedLink) -> LinkResult:
        seen.append(link.seq)
        assert link.seq in store.left_in_flight
        return result(link)

    await run(FakeDelinker(settle), store, concurrency=1)
    assert seen == list(range(45))


@pytest.mark.parametrize(
    ("unit_size", "slots", "most"),
    [
        pytest.param(1, 4, 8, id="single"),
        pytest.param(1, 1, 2, id="one-slot"),
        pytest.param(10, 4, 50, id="pages"),
        pytest.param(10, 1, 20, id="one-slot-pages"),
    ],
)
async def test_marks_no_more_links_in_flight_than_are_sent_next(
    unit_size: int, slots: int, most: int
) -> None:
    marked: list[int] = []

    def settle(link: PlannedLink) -> LinkResult:
        marked.append(len(store.left_in_flight))
        return result(link)

    store, delinker = MemoryStore.of(500), FakeDelinker(settle, unit_size)
    await run(delinker, store, Slots(number=slots), concurrency=4)
    assert max(marked) == most
    assert len(store.written) == 500


async def test_marks_no_link_while_nothing_may_be_sent() -> None:
    gate, slots = Gate(), Slots(number=2)
    store, delinker = MemoryStore.of(30), FakeDelinker(gate=gate)
    running = asyncio.create_task(run(delinker, store, slots))
    await until(lambda: delinker.in_flight == 2)
    slots.number = 0
    held = len(slots.done)
    await until(lambda: len(slots.done) > held + 1)
    gate.let(2)
    await until(lambda: len(store.written) == 2)
    await settled_down()
    assert store.left_in_flight == {2, 3}
    slots.number = 2
    gate.let(30)
    assert (await running).counts == {Outcome.REMOVED: 30}


async def test_writes_in_batches_and_not_link_by_link() -> None:
    sizes: list[int] = []
    store = MemoryStore.of(400)
    store.before_write = lambda: sizes.append(len(store.written))
    await run(FakeDelinker(gate=lambda: asyncio.sleep(0.01)), store, concurrency=20)
    assert len(sizes) <= 400 / 8


# -- slots


async def test_never_has_more_in_flight_than_the_slots_held() -> None:
    gate, slots = Gate(), Slots(number=3)
    store, delinker = MemoryStore.of(40), FakeDelinker(gate=gate)
    running = asyncio.create_task(run(delinker, store, slots, concurrency=10))
    await until(lambda: delinker.in_flight == 3)
    await settled_down()
    assert delinker.in_flight == 3
    gate.let(40)
    assert (await running).counts == {Outcome.REMOVED: 40}
    assert delinker.most_in_flight == 3


async def test_never_has_more_in_flight_than_its_own_concurrency() -> None:
    delinker = FakeDelinker()
    await run(delinker, MemoryStore.of(60), Slots(number=25), concurrency=4)
    assert delinker.most_in_flight == 4


async def test_uses_slots_that_come_free() -> None:
    gate, slots = Gate(), Slots(number=1)
    store, delinker = MemoryStore.of(20), FakeDelinker(gate=gate)
    running = asyncio.create_task(run(delinker, store, slots, concurrency=6))
    await until(lambda: delinker.in_flight == 1)
    slots.number = 4
    await until(lambda: delinker.in_flight == 4)
    await settled_down()
    assert delinker.in_flight == 4
    gate.let(20)
    await running


async def test_sends_nothing_further_while_more_is_in_flight_than_the_slots_left() -> None:
    gate, slots = Gate(), Slots(number=5)
    store, delinker = MemoryStore.of(30), FakeDelinker(gate=gate)
    running = asyncio.create_task(run(delinker, store, slots, concurrency=5))
    await until(lambda: delinker.in_flight == 5)
    slots.number = 2
    held = len(slots.done)
    await until(lambda: len(slots.done) > held + 1)
    in_flight = []
    for _ in range(8):
        gate.let()
        await settled_down()
        in_flight.append(delinker.in_flight)
    assert in_flight == [4, 3, 2, 2, 2, 2, 2, 2]
    gate.let(30)
    await running
    assert len(store.written) == 30


@pytest.mark.parametrize(
    "throttled",
    [answer(429), ZohoResponse(400, {}, b'{"code": "TOO_MANY_REQUESTS", "status": "error"}', 0.01)],
    ids=["429", "400"],
)
async def test_sends_fewer_requests_at_once_while_zoho_is_overloaded(throttled: ZohoResponse) -> None:
    gate, delinker, store = Gate(), FakeDelinker(), MemoryStore.of(40)
    delinker.gate = gate
    running = asyncio.create_task(run(delinker, store, concurrency=8))
    await until(lambda: delinker.in_flight == 8)
    delinker.observe(throttled)
    gate.let(8)
    await settled_down()
    assert delinker.in_flight == 4
    for _ in range(5):
        delinker.observe(answer(200))
    gate.let(1)
    await settled_down()
    assert delinker.in_flight == 5
    gate.let(40)
    await running


async def test_sends_nothing_while_the_slots_cannot_be_renewed(caplog: pytest.LogCaptureFixture) -> None:
    gate, slots = Gate(), Slots(number=2, lease_s=0.1)
    store, delinker = MemoryStore.of(10), FakeDelinker(gate=gate)
    chunk = ChunkRun(delinker, store, slots, 5)
    running = asyncio.create_task(chunk.run())
    await until(lambda: delinker.in_flight == 2)
    with caplog.at_level(logging.CRITICAL, "zoho_crm.operators.slot_keeper"):
        slots.failure = OSError("the database is away")
        await until(lambda: chunk.right.held == 0)
        gate.let(10)
        await until(lambda: delinker.in_flight == 0)
        await settled_down()
        assert len(delinker.sent) == 2
        slots.failure = None
        assert (await running).counts == {Outcome.REMOVED: 10}


async def test_waits_for_a_first_slot(monkeypatch: pytest.MonkeyPatch) -> None:
    slots, delinker = Slots(number=0), FakeDelinker()
    patient, waits = asyncio.sleep, []

    async def sleep(seconds: float) -> None:
        if seconds == 1.0:
            waits.append(len(delinker.sent))
            slots.number = 2 if len(waits) == 3 else 0
        await patient(0 if seconds == 1.0 else seconds)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    slots.renew_every_s = 3600.0
    assert (await run(delinker, MemoryStore.of(0), slots)).counts == {}
    assert waits == [0, 0, 0]
    assert slots.done == ["hold"] * 4 + ["release"]


async def test_waits_for_a_first_slot_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoho_crm.operators.chunk_run.SLOT_WAIT_S", 0.1)
    slots, store, delinker = Slots(number=0), MemoryStore.of(3), FakeDelinker()
    async with asyncio.timeout(5):
        report = await run(delinker, store, slots)
    assert report.reason is StopReason.NO_SLOT
    assert report.stopped == f"waited 0.1 s for {slots.waits_for}"
    assert (len(store.links), store.written, delinker.sent) == (3, [], [])
    assert slots.done[-1] == "release"


async def test_waits_for_a_lost_slot_for_a_limited_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoho_crm.operators.chunk_run.SLOT_WAIT_S", 0.2)
    gate, slots, store = Gate(), Slots(number=2), MemoryStore.of(10)
    delinker = FakeDelinker(gate=gate)
    chunk = ChunkRun(delinker, store, slots, 2)
    running = asyncio.create_task(chunk.run())
    await until(lambda: delinker.in_flight == 2)
    slots.number = 0
    await until(lambda: chunk.right.held == 0)
    gate.let(10)
    async with asyncio.timeout(5):
        report = await running
    assert (report.stopped, report.reason) == ("waited 0.2 s for a free slot", StopReason.NO_SLOT)
    assert len(delinker.sent) == 2
    assert report.counts[Outcome.REMOVED] == 2


async def test_page_at_work_waits_for_lost_slots_no_longer_than_the_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zoho_crm.operators.chunk_run.SLOT_WAIT_S", 0.2)
    monkeypatch.setattr("zoho_crm.operators.slot_keeper.RENEWAL_PATIENCE_S", 0.01)
    slots, store = Slots(number=2), MemoryStore.of(10)
    waits: list[str] = []

    async def send_links_of_a_page() -> None:
        slots.number = 0
        await until(lambda: chunk.right.held == 0)
        while not any("the run stopped" in why for why in waits):
            with pytest.raises(ZohoError) as error:
                await chunk.right.renew()
            waits.append(str(error.value))

    delinker = FakeDelinker(unit_size=10, gate=send_links_of_a_page)
    chunk = ChunkRun(delinker, store, slots, 2)
    async with asyncio.timeout(3):
        report = await chunk.run()
    assert (report.stopped, report.reason) == ("waited 0.2 s for a free slot", StopReason.NO_SLOT)
    assert waits[0] == "not sent: waited 0 s for a free slot"


@pytest.mark.parametrize("who", ["itself", "others"])
async def test_can_be_stopped_while_it_waits_for_a_first_slot(
    monkeypatch: pytest.MonkeyPatch, who: str
) -> None:
    slots = Slots(number=0, renew_every_s=3600.0)
    store, delinker = MemoryStore.of(3), FakeDelinker()
    chunk = ChunkRun(delinker, store, slots, 2)
    patient = asyncio.sleep

    async def sleep(seconds: float) -> None:
        if seconds == 1.0:
            if who == "itself":
                chunk.stop("asked to end")
            else:
                store.others_say = "enough"
        await patient(0)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    async with asyncio.timeout(5):
        report = await chunk.run()
    assert report.stopped == ("asked to end" if who == "itself" else "another task stopped the run: enough")
    assert (len(store.links), store.written, delinker.sent) == (3, [], [])
    assert slots.done[-1] == "release"


# -- stopping


async def test_stop_waits_for_what_is_in_flight_and_leaves_the_rest_not_attempted() -> None:
    gate = Gate()
    links = deque(planned(seq, ambiguous=seq == 4) for seq in range(12))
    store, delinker = MemoryStore(links), FakeDelinker(gate=gate)
    chunk = ChunkRun(delinker, store, FixedSlots(3), 3)
    running = asyncio.create_task(chunk.run())
    await until(lambda: delinker.in_flight == 3)
    chunk.stop("asked to end")
    chunk.stop("a later reason")
    await settled_down()
    assert not running.done()
    gate.let(3)
    report = await running
    assert delinker.sent == [0, 1, 2]
    assert report.stopped == "asked to end"
    assert report.reason is None
    assert store.outcomes == {
        **dict.fromkeys(range(3), Outcome.REMOVED),
        **dict.fromkeys(range(3, 6), Outcome.NOT_ATTEMPTED),
        4: Outcome.UNKNOWN,
    }
    details = {one.detail for one in store.written if one.planned.seq >= 3}
    assert details == {"the run stopped before it was sent"}
    assert store.reported == []


def refusal(
    link: PlannedLink, said: str = "no", reason: StopReason = StopReason.REFUSED, **changes: Any
) -> Any:
    given = {"zoho_code": "NO_PERMISSION", "zoho_message": said, "http_status": 403, **changes}
    return result(link, Outcome.FAILED, **given), reason


async def test_identical_refusals_stop_the_run_for_all_its_tasks() -> None:
    store, delinker = MemoryStore.of(40), FakeDelinker(refusal)
    report = await run(delinker, store, concurrency=1)
    assert delinker.sent == list(range(SAME_REFUSALS))
    assert report.stopped == "Zoho refuses every link with NO_PERMISSION: no"
    assert report.reason is StopReason.REFUSED
    assert store.reported == [report.stopped]
    assert Counter(store.outcomes.values())[Outcome.FAILED] == SAME_REFUSALS


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"zoho_code": None}, "403: no", id="status-without-a-code"),
        pytest.param(
            {"zoho_message": None, "detail": "why"}, "NO_PERMISSION: why", id="detail-without-a-message"
        ),
        pytest.param({"zoho_message": None}, "NO_PERMISSION: no reason given", id="neither"),
    ],
)
async def test_says_what_it_was_refused_with(changes: dict[str, Any], says: str) -> None:
    report = await run(FakeDelinker(lambda link: refusal(link, **changes)), MemoryStore.of(9), concurrency=1)
    assert report.stopped == f"Zoho refuses every link with {says}"


async def test_refusals_that_differ_or_are_interrupted_do_not_stop() -> None:
    def settle(link: PlannedLink) -> Any:
        if link.seq < 16:
            return refusal(link, said=f"reason {link.seq % 4}")
        return result(link) if link.seq % 4 == 0 else refusal(link)

    report = await run(FakeDelinker(settle), MemoryStore.of(40), concurrency=1)
    assert report.stopped is None
    assert report.counts.total() == 40


async def test_a_link_that_was_not_attempted_does_not_reset_refusals() -> None:
    delinker = FakeDelinker(
        lambda link: result(link, Outcome.NOT_ATTEMPTED) if link.seq % 2 else refusal(link)
    )
    report = await run(delinker, MemoryStore.of(40), concurrency=1)
    assert report.reason is StopReason.REFUSED
    assert len(delinker.sent) == 2 * SAME_REFUSALS - 1


@pytest.mark.parametrize(
    ("reason", "says"),
    [
        (StopReason.CREDITS, "the org's API credits are used up (NO_PERMISSION: no)"),
        (
            StopReason.OVERLOADED,
            "Zoho is overloaded: too many requests in flight, after all retries (NO_PERMISSION: no)",
        ),
        (StopReason.NO_TOKEN, "there is no access token (no)"),
        (StopReason.THROTTLED, "there is no access token (no)"),
    ],
    ids=str,
)
async def test_what_waits_for_every_link_alike_stops_at_once(reason: StopReason, says: str) -> None:
    store = MemoryStore.of(30)
    delinker = FakeDelinker(lambda link: result(link) if link.seq < 3 else refusal(link, reason=reason))
    report = await run(delinker, store, concurrency=1)
    assert delinker.sent == [0, 1, 2, 3]
    assert (report.stopped, report.reason) == (says, reason)
    assert store.reported == []


@pytest.mark.parametrize("bad", [Outcome.FAILED, Outcome.REJECTED, Outcome.UNKNOWN], ids=str)
async def test_a_share_of_failures_stops_the_run(bad: Outcome) -> None:
    store = MemoryStore.of(400)
    delinker = FakeDelinker(lambda link: result(link, bad if link.seq % 2 else Outcome.REMOVED))
    report = await run(delinker, store, concurrency=1, breaker_share=0.4)
    assert len(delinker.sent) == BREAKER_AFTER
    assert (
        report.stopped
        == "25 of 50 links failed, were refused or are unknown, above the breaker's share of 0.4"
    )
    assert report.reason is StopReason.REFUSED
    assert store.reported == [report.stopped]


@pytest.mark.parametrize(
    ("bad", "share"),
    [
        pytest.param(Outcome.FAILED, 0.5, id="just-the-share"),
        pytest.param(Outcome.FAILED, 1.0, id="switched-off"),
        pytest.param(Outcome.PARENT_NOT_FOUND, 0.0, id="final-outcomes"),
        pytest.param(Outcome.ALREADY_ABSENT, 0.0, id="absent"),
    ],
)
async def test_the_breaker_leaves_alone(bad: Outcome, share: float) -> None:
    delinker = FakeDelinker(lambda link: result(link, bad if link.seq % 2 else Outcome.REMOVED))
    report = await run(delinker, MemoryStore.of(200), concurrency=1, breaker_share=share)
    assert report.stopped is None
    assert report.counts.total() == 200


async def test_few_links_do_not_break() -> None:
    delinker = FakeDelinker(lambda link: result(link, Outcome.FAILED))
    report = await run(delinker, MemoryStore.of(BREAKER_AFTER - 1), breaker_share=0.0)
    assert report.stopped is None


async def test_stops_when_another_task_has_stopped_the_run() -> None:
    gate, slots = Gate(), Slots(number=2)
    store, delinker = MemoryStore.of(30), FakeDelinker(gate=gate)
    running = asyncio.create_task(run(delinker, store, slots))
    await until(lambda: delinker.in_flight == 2)
    store.others_say = "a refusal"
    await until(lambda: Outcome.NOT_ATTEMPTED in store.outcomes.values())
    gate.let(2)
    report = await running
    assert (report.stopped, report.reason) == ("another task stopped the run: a refusal", StopReason.REFUSED)
    assert len(delinker.sent) == 2
    assert store.reported == []


async def test_begins_nothing_when_the_run_is_stopped_already() -> None:
    store, slots, delinker = MemoryStore.of(3, others_say="enough"), Slots(), FakeDelinker()
    report = await run(delinker, store, slots)
    assert report.stopped == "another task stopped the run: enough"
    assert (delinker.sent, store.written, slots.done) == ([], [], ["release"])


@pytest.mark.parametrize(
    ("left", "stops"), [("99", True), ("100", False), (None, False), ("none", False)], ids=str
)
async def test_leaves_the_reserve_of_credits_alone(left: str | None, stops: bool) -> None:
    delinker = FakeDelinker()
    headers = {} if left is None else {"X_API_CREDITS_REMAINING": left}

    def settle(link: PlannedLink) -> LinkResult:
        delinker.observe(answer(**headers))
        return result(link)

    delinker.answer = settle
    report = await run(delinker, MemoryStore.of(30), concurrency=1, credit_reserve=100)
    assert report.reason is (StopReason.CREDITS if stops else None)
    assert len(delinker.sent) == (1 if stops else 30)
    if stops:
        assert report.stopped == "99 API credits of the org are left, 100 are reserved"


# -- what goes wrong


async def test_an_unexpected_error_makes_a_link_unknown_and_loses_none(
    caplog: pytest.LogCaptureFixture,
) -> None:
    store = MemoryStore.of(30)
    with caplog.at_level(logging.ERROR):
        report = await run(
            FakeDelinker(lambda link: ValueError("secret c-7") if link.seq == 7 else result(link)), store
        )
    assert report.counts == {Outcome.REMOVED: 29, Outcome.UNKNOWN: 1}
    (lost,) = [one for one in store.written if one.outcome is Outcome.UNKNOWN]
    assert (lost.planned.seq, lost.detail) == (7, "unexpected ValueError")
    assert "Links not processed" in caplog.text


async def test_a_link_that_a_unit_leaves_out_was_not_attempted() -> None:
    store = MemoryStore(deque(planned(seq, ambiguous=seq == 3) for seq in range(8)))
    delinker = FakeDelinker(lambda link: result(link) if link.seq % 4 < 2 else None, unit_size=4)
    await run(delinker, store, concurrency=1)
    assert delinker.units == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert [store.outcomes[seq].value for seq in range(8)] == [
        "removed", "removed", "not_attempted", "unknown", "removed", "removed", "not_attempted", "not_attempted",
    ]  # fmt: skip


async def test_a_lost_claim_ends_it_and_gives_the_slots_back() -> None:
    failures: deque[Exception | None] = deque([None, *[ClaimLostError("a newer try carries on")] * 9])
    store, slots, delinker = MemoryStore.of(60, failures=failures), Slots(), FakeDelinker()
    with pytest.raises(ClaimLostError, match="a newer try"):
        await run(delinker, store, slots, concurrency=2)
    sent = len(delinker.sent)
    await settled_down()
    assert len(delinker.sent) == sent
    assert store.written == []
    assert slots.done[-1] == "release"


async def test_results_survive_a_write_that_fails() -> None:
    failures: deque[Exception | None] = deque([None, OSError("the database is away")])
    store, slots, delinker = MemoryStore.of(60, failures=failures), Slots(), FakeDelinker()
    with pytest.raises(OSError, match="away"):
        await run(delinker, store, slots, concurrency=2)
    assert set(delinker.sent) <= set(store.outcomes)
    assert [store.outcomes[seq] for seq in delinker.sent] == [Outcome.REMOVED] * len(delinker.sent)
    assert store.left_in_flight == set()
    assert {store.outcomes[seq] for seq in set(store.outcomes) - set(delinker.sent)} <= {
        Outcome.NOT_ATTEMPTED
    }
    assert slots.done[-1] == "release"


async def test_slots_are_given_back_even_if_the_last_write_fails() -> None:
    failures: deque[Exception | None] = deque([None, *[OSError("the database is away")] * 5])
    slots = Slots()
    with pytest.raises(OSError, match="away"):
        await run(FakeDelinker(), MemoryStore.of(10, failures=failures), slots)
    assert slots.done[-1] == "release"


async def test_a_cancellation_writes_what_is_done_and_gives_the_slots_back() -> None:
    gate, slots = Gate(), Slots(number=2)
    store, delinker = MemoryStore.of(30), FakeDelinker(gate=gate)
    running = asyncio.create_task(run(delinker, store, slots, concurrency=2))
    await until(lambda: delinker.in_flight == 2)
    gate.let(3)
    await until(lambda: len(delinker.sent) == 5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert {seq for seq, outcome in store.outcomes.items() if outcome is Outcome.REMOVED} == {0, 1, 2}
    # The two in flight are for the next try to verify; the others, which were never sent, are not.
    assert store.left_in_flight == {3, 4}
    assert {outcome for seq, outcome in store.outcomes.items() if seq > 4} <= {Outcome.NOT_ATTEMPTED}
    assert slots.done[-1] == "release"


async def test_a_cancellation_during_a_write_waits_for_its_end() -> None:
    writing, go_on = threading.Event(), threading.Event()
    store, slots, delinker = MemoryStore.of(30), Slots(), FakeDelinker()

    def before_write() -> None:
        if store.left_in_flight and not writing.is_set():
            writing.set()
            go_on.wait(5)

    store.before_write = before_write
    running = asyncio.create_task(run(delinker, store, slots, concurrency=2))
    await until(writing.is_set)
    running.cancel()
    await settled_down()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert store.overlaps == 0
    assert store.left_in_flight == set()
    assert [store.outcomes[seq] for seq in delinker.sent] == [Outcome.REMOVED] * len(delinker.sent)
    assert set(store.outcomes.values()) <= {Outcome.REMOVED, Outcome.NOT_ATTEMPTED}
    assert slots.done[-1] == "release"


async def test_slots_that_are_being_renewed_are_given_back_after_it() -> None:
    renewing, go_on = threading.Event(), threading.Event()
    slots, gate = Slots(), Gate()

    def before_hold() -> None:
        if slots.done:
            renewing.set()
            go_on.wait(5)

    slots.before_hold = before_hold
    running = asyncio.create_task(run(FakeDelinker(gate=gate), MemoryStore.of(3), slots))
    await until(renewing.is_set)
    running.cancel()
    await settled_down()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running
    await settled_down()
    assert slots.done[-1] == "release"
    assert slots.done.count("release") == 1


def test_fixed_slots_never_change() -> None:
    slots = FixedSlots(7)
    slots.release()
    assert slots.hold() == 7
    assert slots.renew_every_s >= 3600


# -- units that a worker makes smaller


@dataclass
class Splitting(FakeDelinker):
    """Takes links alone, though it could take a page of them."""

    def unit_length(self, links: Sequence[PlannedLink]) -> int:
        assert 1 <= len(links) <= self.unit_size
        return 1


@pytest.mark.parametrize("concurrency", [1, 3])
async def test_links_that_go_alone_are_worked_side_by_side_within_the_slots(concurrency: int) -> None:
    delinker = Splitting(unit_size=100, gate=lambda: asyncio.sleep(0.002))
    store = MemoryStore(deque(map(planned, range(40))))
    report = await run(delinker, store, concurrency=concurrency)
    assert sorted(delinker.sent) == list(range(40))
    assert [len(unit) for unit in delinker.units] == [1] * 40
    assert delinker.most_in_flight == concurrency
    assert report.counts.total() == 40


async def test_a_worker_sees_whether_the_run_is_stopped() -> None:
    reported: list[bool] = []
    delinker = FakeDelinker(gate=lambda: asyncio.sleep(0))
    runs: list[ChunkRun] = []

    def watch(observe: Any, is_stopped: Callable[[], bool]) -> None:
        delinker.is_stopped = is_stopped  # type: ignore[attr-defined]

    delinker.watch = watch  # type: ignore[method-assign]

    def answer_once(link: PlannedLink) -> Any:
        reported.append(delinker.is_stopped())  # type: ignore[attr-defined]
        runs[0].stop("enough")
        reported.append(delinker.is_stopped())  # type: ignore[attr-defined]
        return result(link)

    delinker.answer = answer_once
    runs.append(ChunkRun(delinker, MemoryStore(deque(map(planned, range(1)))), FixedSlots(1), 1))
    async with asyncio.timeout(10):
        await runs[0].run()
    assert reported == [False, True]
