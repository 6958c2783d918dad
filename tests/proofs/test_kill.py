"""A process that is killed repeatedly ends its run with the same outcomes as an undisturbed one."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.proofs import killed_process
from tests.proofs.harness import (
    REPORT,
    Try,
    add_records,
    check_truth,
    latest,
    outcomes,
    pairs,
    plan,
    rows,
    sqlite_ledger,
)
from tests.proofs.kills import LONG_S, database_of, kill_at, requests
from tests.support.databases import connection_to
from tests.support.local_zoho import link_all, linked, zoho_connection
from zoho_crm.core.verdict import GONE_AND_NOT_SEEN_LINKED, GONE_WITH_ITS_RECORD
from zoho_crm.operators.report import close_run

if TYPE_CHECKING:
    import multiprocessing
    from pathlib import Path

    from tests.support.links import Pair
    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.testing.local_zoho import LocalZoho

LATENCY_S = 0.02


class World:
    """Planned links of many parents, two thirds of them existing, and unplanned links of the same records."""

    def __init__(self, parents: int = 30) -> None:
        self.planned = pairs(parents, 10)
        kinds: dict[str, list[Pair]] = {"there": [], "absent": [], "parent": [], "related": [], "locked": []}
        for number, pair in enumerate(self.planned):
            parent = number // 10
            kind = {3: "parent", 13: "parent"}.get(parent, ["there", "there", "absent", "there", "there",
                "related", "there", "there", "locked", "there"][number % 10])  # fmt: skip
            kinds[kind].append(pair)
        self.kinds = kinds

    def build(self, zoho: LocalZoho) -> set[Pair]:
        zoho.reset()
        zoho.state.configure(latency_s=LATENCY_S, tokens_per_window=10_000, max_alive_tokens=10_000)
        link_all(zoho, self.kinds["there"] + self.kinds["locked"])
        add_records(zoho, self.kinds["absent"])
        add_records(zoho, [(parent, "d-other") for parent, _ in self.kinds["related"]])
        add_records(zoho, [("c-other", related) for _, related in self.kinds["parent"]])
        link_all(zoho, [(parent, f"stays-{parent}") for parent, _ in self.kinds["there"]])
        for _, related in self.kinds["locked"]:
            zoho.state.lock("Deals", related)
        return linked(zoho)


def undisturbed(zoho: LocalZoho, world: World, path: Path, strategy: str) -> dict[Pair, str]:
    """Return the outcomes of an undisturbed run."""
    before = world.build(zoho)
    ledger = sqlite_ledger(path)
    (chunk,) = plan(ledger, world.planned, strategy=strategy).chunks
    asyncio.run(Try(ledger, chunk, strategy)())
    check_truth(zoho, ledger, before, world.planned)
    said = outcomes(ledger)
    ledger.close()
    return said


@pytest.mark.parametrize(
    ("database", "strategy", "parents", "seed", "kills"),
    [
        pytest.param("sqlite", "single", 14, 1, 2, id="sqlite-single-2"),
        pytest.param("sqlite", "by_parent", 20, 3, 2, id="sqlite-by_parent-2"),
        *(
            pytest.param(database, strategy, 30, 2, kills, marks=pytest.mark.systems)
            for database, strategy, kills in (
                ("sqlite", "single", 12),
                ("postgres", "single", 12),
                ("sqlite", "by_parent", 6),
            )
        ),
    ],
)
def test_run_killed_repeatedly_ends_like_an_undisturbed_one(
    zoho: LocalZoho,
    processes: multiprocessing.context.BaseContext,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    database: str,
    strategy: str,
    parents: int,
    seed: int,
    kills: int,
) -> None:
    world = World(parents)
    expected = undisturbed(zoho, world, tmp_path / "undisturbed.db", strategy)
    before = world.build(zoho)
    ledger = ledger_in(database, request, tmp_path)
    (chunk,) = plan(ledger, world.planned, strategy=strategy).chunks
    # Not for secrets: a fixed seed repeats the same moments.
    chance = random.Random(seed)  # noqa: S311
    killed = tries = 0
    while True:
        tries += 1
        assert tries < 60
        process = processes.Process(  # type: ignore[attr-defined]
            target=killed_process.run_chunk,
            args=(
                database_of(ledger),
                zoho_connection(zoho),
                chunk,
                {"strategy": strategy, "try_number": tries},
            ),
        )
        process.start()
        step = chance.randint(1, 2 * len(world.planned) // kills if strategy == "single" else 12)
        if killed < kills:
            killed += kill_at(zoho, process, requests(zoho) + step, chance.uniform(0, 2 * LATENCY_S))
        process.join(LONG_S)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert killed >= kills // 2

    counts = check_truth(zoho, ledger, before, world.planned)
    assert before - linked(zoho) == set(world.kinds["there"])
    said = latest(ledger)
    for link, row in said.items():
        if row["outcome"] != expected[link]:
            # The only difference: whether a request removed the link cannot be known, and the detail says so.
            assert row["outcome"] == "presumed_removed"
            details = {
                "removed": GONE_AND_NOT_SEEN_LINKED,
                "already_absent": GONE_AND_NOT_SEEN_LINKED,
                "parent_not_found": GONE_WITH_ITS_RECORD,
                "related_not_found": GONE_WITH_ITS_RECORD,
            }
            assert details[expected[link]] in row["detail"]
    assert counts["removed"] <= len(world.kinds["there"]) <= counts["removed"] + counts["presumed_removed"]
    # One row per link: a killed try writes no outcome for links in flight.
    assert len(rows(ledger, "zoho_delink_audit", "event_id")) == len(world.planned)
    assert ledger.runs.count_unsettled("run") == 0
    assert close_run(ledger, "run", origin=REPORT, tolerance=0.0)[0] == "succeeded"
    if strategy == "single":
        # A removed link is not sent again, even when the response was lost with the process.
        confirmed = Counter(
            one.path for one in zoho.state.journal.requests if (one.method, one.status) == ("DELETE", 200)
        )
        assert len(confirmed) == len(world.kinds["there"])
        assert set(confirmed.values()) == {1}
    ledger.close()


def ledger_in(database: str, request: pytest.FixtureRequest, tmp_path: Path) -> Ledger:
    if database == "sqlite":
        return sqlite_ledger(tmp_path / "audit.db")
    ledger = killed_process.Ledger(sa.create_engine(request.getfixturevalue("postgres_url")))
    ledger.ensure_schema()
    return ledger


@pytest.mark.parametrize("strategy", ["single", "by_parent"])
def test_terminated_task_writes_known_outcomes(
    zoho: LocalZoho,
    processes: multiprocessing.context.BaseContext,
    ledger: Ledger,
    strategy: str,
) -> None:
    world = World()
    before = world.build(zoho)
    (chunk,) = plan(ledger, world.planned, strategy=strategy).chunks
    arguments = (connection_to(ledger.engine.url), zoho_connection(zoho), chunk, strategy)

    process = processes.Process(target=killed_process.execute, args=arguments)  # type: ignore[attr-defined]
    process.start()
    deadline = time.monotonic() + LONG_S
    while requests(zoho) < 20:
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGTERM)
    process.join(LONG_S)

    assert process.exitcode == killed_process.UNFINISHED_EXIT_CODE
    said = Counter(outcomes(ledger).values())
    assert set(said) & {"unknown", "failed"} == set()
    assert ledger.runs.count_unsettled("run") > 0
    # Nothing is in flight and no slot is held: the remaining links were not sent.
    states = Counter(row["state"] for row in rows(ledger, "zoho_delink_link", "seq"))
    assert set(states) == {"planned", "settled"}
    assert all(row["holder"] is None for row in rows(ledger, "zoho_delink_slot", "slot"))
    assert said["removed"] == len(before - linked(zoho))

    process = processes.Process(target=killed_process.execute, args=arguments)  # type: ignore[attr-defined]
    process.start()
    process.join(LONG_S)
    assert process.exitcode == 0
    assert check_truth(zoho, ledger, before, world.planned)["removed"] == len(world.kinds["there"])
    assert before - linked(zoho) == set(world.kinds["there"])
