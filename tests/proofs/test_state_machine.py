"""
Tries are planned, claimed, killed, fenced, cleared and closed in any order: the rules hold at every step.

The machine runs the real ledger (a SQLite file), the real leases and the real link clients over an in-memory Zoho that
loses requests and responses. A try is one task run, split into steps, so that it can end between any two. Between two
steps all processes may stand still past their leases, the clocks of the workers may jump, and the connection may lead
to another organization for a while. Time passes only as the machine says.
"""

from __future__ import annotations

import asyncio
import copy
import shutil
import sqlite3
import tempfile
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.proofs.harness import JOB, ORIGIN, REPORT, latest, plan, sqlite_ledger, target
from tests.support.fake_zoho import MISHAPS, FakeZoho
from tests.support.ledger import take
from tests.support.links import RELATION, Pair
from tests.support.zoho_responses import response
from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES, Outcome
from zoho_crm.core.verdict import GONE_AND_NOT_SEEN_LINKED
from zoho_crm.errors import ClaimLostError, OtherOrgError
from zoho_crm.hooks.by_parent import ByParentDelinkClient
from zoho_crm.hooks.link_operation import DelinkClient
from zoho_crm.hooks.presence import RetryLimits
from zoho_crm.hooks.send_right import Turns
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.operators.preflight import OrgCheck
from zoho_crm.operators.report import close_run
from zoho_crm.operators.slot_keeper import SEND_LEASE_S, LeasedSlots, SlotKeeper, shared_clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.core.models import LinkResult, PlannedLink
    from zoho_crm.core.request import ZohoRequest
    from zoho_crm.hooks.zoho_response import ZohoResponse
    from zoho_crm.ledger.claims import Claim

ALL = [(f"c-{parent}", f"d-{number}") for parent in range(1, 5) for number in range(1, 4)]
PLANNED = ALL[:9]
"""The links of the first three parents; those of the fourth are not planned."""
CHUNKS = 3
ORG, OTHER_ORG = str(target().org_id), "42"
HOUR_S = 3600.0

newest_first = st.integers(0, 2)
mishaps = st.one_of(
    st.lists(st.sampled_from(MISHAPS), min_size=1, max_size=4),
    # Each DELETE is given up and seen not applied, to the end of the retries.
    st.just(["lost and late", "none"] * 2),
)


@dataclass
class Leases(LeasedSlots):
    """Leases whose wait for an earlier try takes no real time."""

    pass_time: Callable[[float], None] = field(kw_only=True)

    def hold(self) -> int:
        held = super().hold()
        if not held:
            self.pass_time(SEND_LEASE_S / 5)
        return held


class Client:
    """The client of one try: it sends under the right of the try, to the organization of the connection."""

    def __init__(self, zoho: FakeZoho, org_id: str, right: SlotKeeper) -> None:
        self.connection = SimpleNamespace(conn_id="zoho", api_version="v7")
        self._zoho, self._org_id = zoho, org_id
        self._turns = Turns(right, 1)

    async def send(self, request: ZohoRequest) -> ZohoResponse:
        if request.segments[2:] == ("org",):
            return response(200, {"org": [{"zgid": self._org_id}]})
        async with self._turns.turn():
            self._turns.check()
            return await self._zoho.send(request)


@dataclass(eq=False)
class LiveTry:
    """A live try: its right to send, the links it has taken, and the results it has not written yet."""

    claim: Claim
    right: SlotKeeper
    client: Any
    clock: Callable[[], float]
    open: list[PlannedLink] = field(default_factory=list)
    results: list[LinkResult] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    empty: Path
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(dir=self.folder)) / "audit.db"
        shutil.copy(self.empty, self.path)
        self.clocks = pytest.MonkeyPatch()
        self.now_s = self.started_s = time.time()
        self.really_started_s = time.monotonic()
        self.ledger = Ledger(sa.create_engine(f"sqlite:///{self.path}"), clock=lambda _: self.read_clock())
        self.set_worker_clocks(0.0)
        self.tries: list[LiveTry] = []
        self.numbers = count(1)
        self.plans = self.closes = 0
        self.claims = dict.fromkeys(range(CHUNKS), 0)
        self.last_sent = dict.fromkeys(range(CHUNKS), 0)
        self.sending: LiveTry | None = None
        self.events: dict[str, Any] = {}
        self.final: dict[Pair, str] = {}
        # Reads past the code under test, and much faster.
        self.reader = sqlite3.connect(self.path)
        self.reader.row_factory = sqlite3.Row

    # -- rules

    @initialize(absent=st.sets(st.sampled_from(PLANNED), max_size=4))
    def begin(self, absent: set[Pair]) -> None:
        self.before = frozenset(ALL) - absent
        self.zoho = FakeZoho(set(self.before), before_delete=self.check_delete)
        self.elsewhere = FakeZoho(set(ALL))
        self.chunks = plan(self.ledger, PLANNED, chunk_size=3).chunks
        assert [chunk["links"] for chunk in self.chunks] == [3] * CHUNKS

    @precondition(lambda self: self.plans < 1)
    @rule(rows_now=st.lists(st.sampled_from(ALL)))
    def plan_again(self, rows_now: list[Pair]) -> None:
        self.plans += 1
        assert plan(self.ledger, rows_now, chunk_size=2).chunks == self.chunks

    @precondition(lambda self: sum(bool(one.open or one.results) for one in self.tries) < 4)
    @rule(chunk_no=st.integers(0, CHUNKS - 1), count=st.integers(2, 3))
    def start(self, chunk_no: int, count: int) -> None:
        """Start a first try, a retry or a clear; the code under test sees no difference."""
        one = self.claim(chunk_no)
        self.check_org(one)
        one.open = take(self.ledger, one.claim, count)

    @rule(chunk_no=st.integers(0, CHUNKS - 1))
    def start_elsewhere(self, chunk_no: int) -> None:
        """Start a try while the connection leads to another organization: it stops and says so."""
        one = self.claim(chunk_no, org_id=OTHER_ORG)
        if self.ledger.claims.has_unsettled(one.claim):
            with pytest.raises(
                OtherOrgError, match=f"plan is for organization {ORG}; .* to {OTHER_ORG}.*clear"
            ):
                self.check_org(one)
        self.tries.remove(one)

    @precondition(lambda self: sum(bool(one.open or one.results) for one in self.tries) < 3)
    @rule(chunk_no=st.integers(0, CHUNKS - 1), freezes=st.booleans())
    def overtake(self, chunk_no: int, freezes: bool) -> None:
        """Stop a try between two links, let a newer one work, then let the first continue: it sends nothing."""
        first, second = self.claim(chunk_no), None
        first.open = take(self.ledger, first.claim, CHUNKS)
        if first.open:
            self.process(first, [first.open.pop(0)], [])
            if freezes:
                self.freeze()
            second = self.claim(chunk_no)
            second.open = take(self.ledger, second.claim, CHUNKS)
            self.process(second, [second.open.pop(0)], [])
        sent = self.zoho.deletes
        for planned in first.open:
            self.process(first, [planned], [])
        assert self.zoho.deletes == sent
        self.tries.remove(first)
        first.right.release()
        if second and second.open:
            # The release has left the lease of the newer try alone.
            self.process(second, [second.open.pop(0)], [])

    @precondition(lambda self: self.tries)
    @rule()
    def freeze(self) -> None:
        """Let all processes stand still until no lease is left; any of them may go on first."""
        self.pass_time(SEND_LEASE_S + 1)

    @precondition(lambda self: self.tries)
    @rule(hours=st.sampled_from([-1, 0, 1]))
    def jump(self, hours: int) -> None:
        """Set the clocks of all workers: nothing that is selected, ordered or leased depends on them."""
        self.set_worker_clocks(hours * HOUR_S)

    @precondition(lambda self: any(one.open for one in self.tries))
    @rule(which=newest_first, mishaps=mishaps)
    def send_one(self, which: int, mishaps: list[str]) -> None:
        """Send one link of a try; a fenced try does not know about its newer claim yet."""
        one = self.pick(which, [one for one in self.tries if one.open])
        self.process(one, [one.open.pop(0)], mishaps)

    @precondition(lambda self: any(one.open for one in self.tries))
    @rule(which=newest_first, mishaps=mishaps)
    def send_all(self, which: int, mishaps: list[str]) -> None:
        """Send all links that a try has taken, those of one parent together."""
        one = self.pick(which, [one for one in self.tries if one.open])
        unit, one.open = one.open, []
        self.process(one, unit, mishaps)

    @precondition(lambda self: self.zoho.late)
    @rule()
    def apply_late_requests(self) -> None:
        """Process requests whose responses were given up before."""
        self.zoho.apply_late_requests()

    @precondition(lambda self: self.tries)
    @rule(which=newest_first, releases=st.booleans())
    def end(self, which: int, releases: bool) -> None:
        """End a try before, between or after requests, possibly with results in memory; or kill it, with its leases."""
        one = self.pick(which, self.tries)
        self.tries.remove(one)
        if releases:
            one.right.release()

    @precondition(lambda self: any(one.results for one in self.tries))
    @rule(which=newest_first, take=st.integers(0, 2), response_is_lost=st.booleans())
    def write(self, which: int, take: int, response_is_lost: bool) -> None:
        one = self.pick(which, [one for one in self.tries if one.results])
        before = copy.deepcopy(one.claim)
        try:
            taken = self.settle(one.claim, one.results, take)
        except ClaimLostError:
            assert not self.is_current(one), "the current try was rejected as fenced"
            self.tries.remove(one)
            return
        assert self.is_current(one)
        if response_is_lost:
            # Repeat the write: it must not be applied twice, and the try cannot know that it was applied.
            with pytest.raises(ClaimLostError):
                self.settle(before, one.results, take)
            self.tries.remove(one)
            return
        one.open += taken
        one.results = []

    @precondition(lambda self: self.tries and self.closes < 2)
    @rule()
    def close(self) -> None:
        """Report the run; a clear may follow."""
        self.closes += 1
        # It waits for the end of all leases.
        self.pass_time(SEND_LEASE_S + 1)
        close_run(self.ledger, "run", origin=REPORT, tolerance=0.0)
        self.claims = dict(map(tuple, self.read("SELECT chunk_no, claim_no FROM zoho_delink_chunk")))
        assert len(latest(self.ledger)) == len(PLANNED)

    # -- invariants

    def check_delete(self, links: list[Pair]) -> None:
        """Check that each DELETE is for planned links in flight, by the only try that may send links of the chunk."""
        assert self.sending is not None
        assert set(links) <= set(PLANNED)
        states = self.states()
        # A fenced try sends what it has taken until its lease ends; the newer try waits for that.
        assert {states[link] for link in links} == {"in_flight"}
        claim = self.sending.claim
        (chunk,) = self.read(f"SELECT * FROM zoho_delink_chunk WHERE chunk_no = {claim.chunk_no}")  # noqa: S608
        assert chunk["sender"] == claim.holder
        assert chunk["send_until"] > self.now_s
        assert claim.claim_no >= self.last_sent[claim.chunk_no], "a newer try has sent before"
        self.last_sent[claim.chunk_no] = claim.claim_no

    @invariant()
    def rules_hold(self) -> None:
        if hasattr(self, "zoho"):
            self.check_links()
            self.check_plan()
            self.check_audit()

    def check_links(self) -> None:
        """Check that only planned links are gone, and none of another organization."""
        assert self.elsewhere.linked == set(ALL)
        assert self.before - self.zoho.linked <= set(PLANNED)
        assert self.zoho.linked <= self.before

    def check_plan(self) -> None:
        """Check that the plan is unchanged, and that settled links stay settled with a true final outcome."""
        found = self.read("SELECT * FROM zoho_delink_link ORDER BY seq")
        assert [(row["external_id"], row["related_external_id"]) for row in found] == PLANNED
        for link, row in zip(PLANNED, found, strict=True):
            if row["state"] == "settled":
                assert self.final.setdefault(link, row["outcome"]) == row["outcome"]
                assert Outcome(row["outcome"]) not in RETRYABLE_OUTCOMES
                assert link not in self.zoho.linked
                assert row["outcome"] != "removed" or link in self.before
                assert row["outcome"] != "already_absent" or link not in self.before
            else:
                assert link not in self.final
            if row["outcome"] in {"failed", "not_attempted"}:
                assert (link in self.zoho.linked) is (link in self.before)
                assert link not in self.zoho.late

    def check_audit(self) -> None:
        """Check that rows are only added, and that the latest outcome of a settled link is its final one."""
        events = {
            row["event_id"]: tuple(row)
            for row in self.read("SELECT * FROM zoho_delink_audit ORDER BY event_id")
        }
        assert {key: events.get(key) for key in self.events} == self.events
        # Their order is that of the database's clock, and so that in which they were written.
        assert list(events)[: len(self.events)] == list(self.events)
        self.events = events
        found = self.read("SELECT * FROM zoho_delink_latest")
        said = {(row["external_id"], row["related_external_id"]): row["outcome"] for row in found}
        assert len(said) == len(found)
        assert {link: said.get(link) for link in self.final} == self.final

    def teardown(self) -> None:
        """Check that tries without mishaps finish the run, and that a further one sends nothing."""
        try:
            if hasattr(self, "zoho"):
                self.check_end()
        finally:
            self.clocks.undo()

    def check_end(self) -> None:
        self.tries.clear()
        self.finish()
        sent = self.zoho.deletes
        self.finish()
        assert self.zoho.deletes == sent
        self.check_times()
        self.reader.close()
        self.ledger.close()
        shutil.rmtree(self.path.parent)

    def finish(self) -> None:
        for chunk_no in range(CHUNKS):
            one = self.claim(chunk_no)
            self.check_org(one)
            taken = take(self.ledger, one.claim, 2)
            while taken:
                self.process(one, taken, [])
                taken = self.settle(one.claim, one.results, 2)
                one.results = []
        status, counts = close_run(self.ledger, "run", origin=REPORT, tolerance=0.0)
        assert (status, counts.total()) == ("succeeded", len(PLANNED))
        assert self.zoho.linked == self.before - set(PLANNED)
        for link, row in latest(self.ledger).items():
            if row["outcome"] == "presumed_removed":
                # Whether a request removed the link cannot be known, and the detail says so.
                assert GONE_AND_NOT_SEEN_LINKED in row["detail"]
            else:
                assert row["outcome"] == ("removed" if link in self.before else "already_absent")
        assert counts == self.ledger.runs.counts("run")
        self.rules_hold()

    def check_times(self) -> None:
        """Check that all times are the database's, whatever the clocks of the workers said."""
        # The clock of a try starts with the database's, and then also counts the seconds that this machine needs.
        needed_s = time.monotonic() - self.really_started_s
        first, last = (
            datetime.fromtimestamp(one, UTC) for one in (self.started_s - 1, self.now_s + needed_s + 1)
        )
        for row in self.read("SELECT sent_at, finished_at FROM zoho_delink_audit"):
            for text in filter(None, row):
                assert first <= datetime.fromisoformat(text).replace(tzinfo=UTC) <= last

    # -- helpers

    def process(self, one: LiveTry, unit: list[PlannedLink], mishaps: list[str]) -> None:
        async def no_pause(_: float) -> None:
            return

        self.zoho.mishaps = list(mishaps)
        patience = RetryLimits(sends=2, waits=2, verifications=2)
        single = DelinkClient(
            one.client,
            RELATION,
            "v7",
            patience,
            sleep=no_pause,
            now=lambda: datetime.fromtimestamp(one.clock(), UTC),
        )
        delinker = single if len(unit) == 1 else ByParentDelinkClient(single)
        self.sending = one
        settled = asyncio.run(delinker.process_unit(unit))
        self.sending = None
        assert {why for _, why in settled} == {None}
        assert sorted(result.planned.seq for result, _ in settled) == [planned.seq for planned in unit]
        one.results += [result for result, _ in settled]

    def settle(self, claim: Claim, results: list[LinkResult], take: int) -> list[PlannedLink]:
        return self.ledger.claims.settle(claim, results, origin=ORIGIN, target=target(), job=JOB, take=take)

    def read(self, statement: str) -> list[Any]:
        return self.reader.execute(statement).fetchall()

    def states(self) -> dict[Pair, str]:
        found = self.read("SELECT external_id, related_external_id, state FROM zoho_delink_link")
        return {(row["external_id"], row["related_external_id"]): row["state"] for row in found}

    def is_current(self, one: LiveTry) -> bool:
        return one.claim.claim_no == self.claims[one.claim.chunk_no]

    def claim(self, chunk_no: int, org_id: str = ORG) -> LiveTry:
        holder = f"try {next(self.numbers)}"
        claim = self.ledger.claims.claim("run", chunk_no, holder)
        self.claims[chunk_no] = claim.claim_no
        leases = Leases(
            self.ledger,
            "zoho",
            holder,
            wanted=1,
            limit=10,
            claim=claim,
            renew_every_s=0.0,
            pass_time=self.pass_time,
        )

        async def is_stopped() -> bool:
            return False

        right = SlotKeeper(leases, is_stopped, clock=lambda: self.now_s)
        client = Client(self.zoho if org_id == ORG else self.elsewhere, org_id, right)
        self.tries.append(LiveTry(claim, right, client, shared_clock(self.ledger)))
        return self.tries[-1]

    def check_org(self, one: LiveTry) -> None:
        """Do what a try does before it takes a link."""
        run = self.ledger.runs.existing("run")
        store: Any = SimpleNamespace(claim=one.claim, target=target())
        assert asyncio.run(OrgCheck(self.ledger, run, store)(one.client)) is None

    def read_clock(self) -> float:
        self.now_s += 0.001
        return self.now_s

    def pass_time(self, seconds: float) -> None:
        self.now_s += seconds

    def set_worker_clocks(self, skew_s: float) -> None:
        self.clocks.undo()
        real = time.time
        self.clocks.setattr(time, "time", lambda: real() + skew_s)
        self.clocks.setattr(time, "time_ns", lambda: int((real() + skew_s) * 1e9))

    @staticmethod
    def pick(which: int, tries: list[LiveTry]) -> LiveTry:
        return tries[-1 - which % len(tries)]


@pytest.mark.parametrize("examples", [15, pytest.param(60, marks=pytest.mark.systems)])
def test_rules_hold_in_any_order_of_steps(tmp_path: Path, examples: int) -> None:
    empty = tmp_path / "empty.db"
    sqlite_ledger(empty).close()

    class LocalMachine(Machine):
        pass

    LocalMachine.empty, LocalMachine.folder = empty, tmp_path
    LocalMachine.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=30,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    LocalMachine.TestCase("runTest").runTest()
