"""
Tries are planned, claimed, killed, fenced, cleared and closed in any order: the rules hold at every step.

The machine runs the real ledger (a SQLite file) and the real link clients over an in-memory Zoho that loses requests
and responses. A try is one task run, split into steps, so that it can end between any two.
"""

from __future__ import annotations

import asyncio
import copy
import shutil
import sqlite3
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.proofs.harness import JOB, ORIGIN, REPORT, latest, plan, sqlite_ledger, target
from tests.support.fake_zoho import MISHAPS, FakeZoho
from tests.support.links import RELATION, Pair
from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES, Outcome
from zoho_crm.core.verdict import GONE_AND_NOT_SEEN_LINKED
from zoho_crm.errors import ClaimLostError
from zoho_crm.hooks.by_parent import ByParentDelinkClient
from zoho_crm.hooks.link_operation import DelinkClient
from zoho_crm.hooks.presence import RetryLimits
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.operators.report import close_run

if TYPE_CHECKING:
    from zoho_crm.core.models import LinkResult, PlannedLink
    from zoho_crm.ledger.claims import Claim

ALL = [(f"c-{parent}", f"d-{number}") for parent in range(1, 5) for number in range(1, 4)]
PLANNED = ALL[:9]
"""The links of the first three parents; those of the fourth are not planned."""
CHUNKS = 3

newest_first = st.integers(0, 2)
mishaps = st.one_of(
    st.lists(st.sampled_from(MISHAPS), min_size=1, max_size=4),
    # Each DELETE is given up and seen not applied, to the end of the retries.
    st.just(["lost and late", "none"] * 2),
)


@dataclass(eq=False)
class LiveTry:
    """A live try: the links it has taken, and the results it has not written yet."""

    claim: Claim
    open: list[PlannedLink] = field(default_factory=list)
    results: list[LinkResult] = field(default_factory=list)


class Machine(RuleBasedStateMachine):
    empty: Path
    folder: Path

    def __init__(self) -> None:
        super().__init__()
        self.path = Path(tempfile.mkdtemp(dir=self.folder)) / "audit.db"
        shutil.copy(self.empty, self.path)
        self.ledger = Ledger(sa.create_engine(f"sqlite:///{self.path}"))
        self.tries: list[LiveTry] = []
        self.plans = self.closes = 0
        self.claims = dict.fromkeys(range(CHUNKS), 0)
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
        one.open = self.ledger.claims.take(one.claim, count)

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
    @rule(which=newest_first)
    def die(self, which: int) -> None:
        """End a try before, between or after requests, possibly with results in memory."""
        self.tries.remove(self.pick(which, self.tries))

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
        close_run(self.ledger, "run", origin=REPORT, tolerance=0.0)
        self.claims = dict(map(tuple, self.read("SELECT chunk_no, claim_no FROM zoho_delink_chunk")))
        assert len(latest(self.ledger)) == len(PLANNED)

    # -- invariants

    def check_delete(self, links: list[Pair]) -> None:
        """Check that each DELETE is for planned links that are in flight in the database."""
        assert self.sending is not None
        assert set(links) <= set(PLANNED)
        states = self.states()
        if self.is_current(self.sending):
            assert {states[link] for link in links} == {"in_flight"}
        else:
            # A fenced try sends what it has taken; the newer try may have settled it meanwhile.
            assert {states[link] for link in links} <= {"in_flight", "settled"}

    @invariant()
    def rules_hold(self) -> None:
        if hasattr(self, "zoho"):
            self.check_links()
            self.check_plan()
            self.check_audit()

    def check_links(self) -> None:
        """Check that only planned links are gone."""
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
        self.events = events
        found = self.read("SELECT * FROM zoho_delink_latest")
        said = {(row["external_id"], row["related_external_id"]): row["outcome"] for row in found}
        assert len(said) == len(found)
        assert {link: said.get(link) for link in self.final} == self.final

    def teardown(self) -> None:
        """Check that tries without mishaps finish the run, and that a further one sends nothing."""
        if not hasattr(self, "zoho"):
            return
        self.tries.clear()
        self.finish()
        sent = self.zoho.deletes
        self.finish()
        assert self.zoho.deletes == sent
        self.reader.close()
        self.ledger.close()
        shutil.rmtree(self.path.parent)

    def finish(self) -> None:
        for chunk_no in range(CHUNKS):
            one = self.claim(chunk_no)
            taken = self.ledger.claims.take(one.claim, 2)
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

    # -- helpers

    def process(self, one: LiveTry, unit: list[PlannedLink], mishaps: list[str]) -> None:
        async def no_pause(_: float) -> None:
            return

        self.zoho.mishaps = list(mishaps)
        patience = RetryLimits(sends=2, waits=2, verifications=2)
        single = DelinkClient(self.zoho, RELATION, "v7", patience, sleep=no_pause)
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

    def claim(self, chunk_no: int) -> LiveTry:
        claim = self.ledger.claims.claim("run", chunk_no, "a try")
        self.claims[chunk_no] = claim.claim_no
        self.tries.append(LiveTry(claim))
        return self.tries[-1]

    @staticmethod
    def pick(which: int, tries: list[LiveTry]) -> LiveTry:
        return tries[-1 - which % len(tries)]


def test_rules_hold_in_any_order_of_steps(tmp_path: Path) -> None:
    empty = tmp_path / "empty.db"
    sqlite_ledger(empty).close()

    class LocalMachine(Machine):
        pass

    LocalMachine.empty, LocalMachine.folder = empty, tmp_path
    LocalMachine.TestCase.settings = settings(
        max_examples=40,
        stateful_step_count=30,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    LocalMachine.TestCase("runTest").runTest()
