from __future__ import annotations

import multiprocessing
import threading
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

import pytest
import sqlalchemy as sa

from tests.plugins.zoho_crm.ledger import workers
from tests.support.ledger import RUN, pairs, planned, rows_of, run_start, settle, states, take
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import ClaimLostError
from zoho_crm.ledger import schema, tables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from alembic.operations import Operations

    from zoho_crm.core.models import PlannedLink
    from zoho_crm.ledger.claims import Claim
    from zoho_crm.ledger.ledger import Ledger

PROCESSES = 8

Result = TypeVar("Result")


@pytest.fixture(scope="module")
def context() -> multiprocessing.context.BaseContext:
    # Processes are forked off a small one that has imported all they need, and has no threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([workers.__name__])
    return context


@pytest.fixture(scope="module")
def processes(context: multiprocessing.context.BaseContext) -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
        yield pool


@pytest.fixture
def address(engine: sa.Engine) -> str:
    return engine.url.render_as_string(hide_password=False)


def test_schema_is_made_once_by_eight_processes(
    engine: sa.Engine, address: str, processes: ProcessPoolExecutor
) -> None:
    list(processes.map(workers.ensure_schema, [address] * PROCESSES))

    assert [row["version"] for row in rows_of(engine, tables.versions)] == [schema.SCHEMA_VERSION]


def test_schema_is_upgraded_once_by_eight_threads(
    ledger: Ledger, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def adds_a_row(op: Operations) -> None:
        op.execute(sa.insert(tables.slot_limits).values(connection="c", slot_limit=1, lock_version=0))

    monkeypatch.setattr(schema, "SCHEMA_VERSION", 2)
    monkeypatch.setattr(schema, "REVISIONS", {2: adds_a_row})

    _at_once(8, lambda _: ledger.ensure_schema())

    assert [row["version"] for row in rows_of(engine, tables.versions)] == [1, 2]
    assert len(rows_of(engine, tables.slot_limits)) == 1


def test_run_is_started_once_by_eight_processes(
    ledger: Ledger, engine: sa.Engine, address: str, processes: ProcessPoolExecutor
) -> None:
    reasons = [f"reason {number}" for number in range(PROCESSES)]

    stored = set(processes.map(workers.start, [address] * PROCESSES, reasons))

    assert len(stored) == 1
    assert len(rows_of(engine, tables.runs)) == 1


def test_run_is_planned_once_by_four_processes(
    ledger: Ledger, engine: sa.Engine, address: str, processes: ProcessPoolExecutor
) -> None:
    ledger.runs.start(run_start())

    summaries = set(processes.map(workers.plan, [address] * 4, [0, 3_000, 6_000, 9_000]))

    assert len(summaries) == 1
    stored = rows_of(engine, tables.links)
    assert len(stored) == 300
    assert [row["seq"] for row in stored] == list(range(300))
    # All links are of the one process that published.
    assert len({int(row["related_external_id"][2:]) // 3_000 for row in stored}) == 1
    assert rows_of(engine, tables.staging) == rows_of(engine, tables.attempts) == []


def test_two_planners_that_publish_at_the_same_moment_publish_once(ledger: Ledger, engine: sa.Engine) -> None:
    ledger.runs.start(run_start())
    staged = threading.Barrier(2)

    def rows(first: int) -> Iterator[tuple[object, object]]:
        yield from pairs(first + 30)[first:]
        staged.wait(timeout=30)

    summaries = _at_once(2, lambda number: planned(ledger, rows(number * 3_000)))

    assert summaries[0] == summaries[1]
    assert len(rows_of(engine, tables.links)) == 30
    assert rows_of(engine, tables.staging) == rows_of(engine, tables.attempts) == []


def test_many_processes_settle_their_chunks_side_by_side(
    ledger: Ledger, engine: sa.Engine, address: str, processes: ProcessPoolExecutor
) -> None:
    summary = planned(ledger, pairs(480), chunk_size=20)
    chunks = [chunk["chunk_no"] for chunk in summary.chunks]

    counts = list(processes.map(workers.drive, [address] * len(chunks), chunks, [5] * len(chunks)))

    assert counts == [20] * 24
    assert ledger.runs.counts(RUN) == {Outcome.REMOVED: 480}
    assert ledger.runs.count_unsettled(RUN) == 0
    assert Counter(row["seq"] for row in rows_of(engine, tables.audit)) == Counter(range(480))


def test_of_many_claimers_one_works_on_the_chunk_and_no_link_is_taken_twice(
    ledger: Ledger, engine: sa.Engine
) -> None:
    planned(ledger, pairs(60), chunk_size=60)

    def drive(number: int) -> tuple[int, bool]:
        claim = ledger.claims.claim(RUN, 0, f"try {number}")
        try:
            links = take(ledger, claim, 4)
            while links:
                links = settle(ledger, claim, links, take=4)
        except ClaimLostError:
            return claim.claim_no, False
        return claim.claim_no, True

    tries = dict(_at_once(8, drive))

    assert sorted(tries) == list(range(1, 9))
    assert tries[8]
    assert states(engine) == [("settled", "removed")] * 60
    assert Counter(row["seq"] for row in rows_of(engine, tables.audit)) == Counter(range(60))


def test_new_claim_waits_for_a_write_under_the_old_one_and_sees_it(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, pairs(2), chunk_size=2)
    old = ledger.claims.claim(RUN, 0, "old")
    taken = take(ledger, old, 2)
    about_to_commit, may_commit = threading.Event(), threading.Event()
    claimed: list[tuple[Claim, list[PlannedLink]]] = []

    def hold(connection: sa.Connection) -> None:
        if threading.current_thread().name == "old":
            about_to_commit.set()
            assert may_commit.wait(timeout=30)

    def claim_again() -> None:
        claim = ledger.claims.claim(RUN, 0, "new")
        claimed.append((claim, take(ledger, claim, 2)))

    sa.event.listen(engine, "commit", hold)
    writer = threading.Thread(target=settle, args=(ledger, old, taken), name="old")
    claimer = threading.Thread(target=claim_again, name="new")
    writer.start()
    assert about_to_commit.wait(timeout=30)
    claimer.start()
    claimer.join(timeout=0.2)
    assert claimed == []
    may_commit.set()
    writer.join(timeout=30)
    claimer.join(timeout=30)

    ((claim, links),) = claimed
    assert (claim.claim_no, links) == (2, [])


def test_slots_are_never_leased_beyond_the_limit_by_many_threads(ledger: Ledger) -> None:
    limit, lock = 5, threading.Lock()
    in_use: dict[str, list[int]] = {}

    def use(holder: str, slots: list[int]) -> None:
        with lock:
            in_use[holder] = slots
            used = [slot for held in in_use.values() for slot in held]
            assert len(used) == len(set(used)) <= limit
            assert all(0 <= slot < limit for slot in used)

    def work(number: int) -> int:
        holder, leased = f"task {number}", 0
        for turn in range(6):
            wanted = 1 + (number + turn) % 3
            # What will not be asked for again is given up by the next lease: it is no longer used from here on.
            use(holder, in_use.get(holder, [])[:wanted])
            slots = ledger.slots.lease("zoho", holder, wanted=wanted, limit=limit, lease_s=60)
            use(holder, slots)
            leased += len(slots)
            if turn % 2:
                use(holder, [])
                ledger.slots.release("zoho", holder)
        return leased

    assert sum(_at_once(10, work)) > 0


def test_first_lease_waits_for_its_turn_when_another_process_is_the_first(
    ledger: Ledger, engine: sa.Engine
) -> None:
    if engine.name == "sqlite":
        pytest.skip("the write lock is held from the beginning")
    others: list[list[int]] = []

    def another_is_faster(*event: object) -> None:
        if not others and str(event[2]).startswith("UPDATE zoho_delink_slot_limit"):
            others.append([])
            others[0] = ledger.slots.lease("zoho", "another", wanted=2, limit=3, lease_s=60)

    sa.event.listen(engine, "after_cursor_execute", another_is_faster)

    mine = ledger.slots.lease("zoho", "me", wanted=3, limit=3, lease_s=60)

    assert (others, mine) == ([[0, 1]], [2])


def test_links_of_a_process_that_died_after_taking_them_are_ambiguous(
    ledger: Ledger, address: str, context: multiprocessing.context.BaseContext
) -> None:
    planned(ledger, pairs(5), chunk_size=5)

    _run_to_its_death(context, workers.die_after_take, address, 3)

    claim = ledger.claims.claim(RUN, 0, "second try")
    links = take(ledger, claim, 5)
    assert [link.ambiguous_before for link in links] == [True, True, True, False, False]


def test_process_that_died_while_planning_leaves_nothing_to_see(
    ledger: Ledger, engine: sa.Engine, address: str, context: multiprocessing.context.BaseContext
) -> None:
    _run_to_its_death(context, workers.die_while_staging, address)

    assert ledger.plans.get(RUN) is None
    assert rows_of(engine, tables.links) == []
    assert len(rows_of(engine, tables.staging)) == 5_000

    assert planned(ledger, pairs(3)).planned == 3
    planned(ledger, pairs(1), run_key="another run")
    assert rows_of(engine, tables.staging) == rows_of(engine, tables.attempts) == []


def _at_once(count: int, work: Callable[[int], Result]) -> list[Result]:
    """Run the same work in threads that all begin at the same moment."""
    ready = threading.Barrier(count)

    def begin(number: int) -> Result:
        ready.wait(timeout=30)
        return work(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(begin, range(count)))


def _run_to_its_death(
    context: multiprocessing.context.BaseContext, work: Callable[..., None], *args: object
) -> None:
    process = context.Process(target=work, args=args)
    process.start()
    process.join(timeout=60)
    assert process.exitcode == 1
