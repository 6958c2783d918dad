"""The strategies by_parent and single have the same outcomes; by_parent uses fewer API credits."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from tests.proofs.harness import (
    Try,
    add_records,
    calls,
    check_harmless,
    check_truth,
    latest,
    pairs,
    plan,
    sqlite_ledger,
)
from tests.support.local_zoho import link_all, linked

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.links import Pair
    from zoho_crm.testing.local_zoho import LocalZoho


class World:
    """A few hundred links from a seed: removable, absent, without records, locked, or differing in case."""

    def __init__(self, seed: int) -> None:
        # Not for secrets: a fixed seed gives each strategy the same links.
        chance = random.Random(seed)  # noqa: S311
        self.there: list[Pair] = []
        self.absent: list[Pair] = []
        self.no_parent: list[Pair] = []
        self.no_related: list[Pair] = []
        self.locked: list[Pair] = []
        self.others: list[Pair] = []
        kinds = [self.there, self.there, self.absent, self.no_related, self.locked]
        for parent in range(24):
            name = chance.choice(["c-{}", "Ü {}/%2Fx", "c,{}", "5840000000{}"]).format(parent)
            for number in range(chance.choice([1, 2, 3, 20])):
                related = chance.choice(["d-{}", "d,{}", "D-{}", "{}", "ид{} +&?"]).format(
                    f"{parent:02}{number:02}"
                )
                kind = self.no_parent if parent % 8 == 7 else chance.choice(kinds)
                kind.append((name, related))
            self.others += [(name, f"other-{parent}"), (name.upper(), f"d-{parent:02}00x")]
        # Links that differ only in case: one is linked and planned, the other linked and not planned.
        self.there += [("case", "a"), ("case", "b"), ("CASE", "a")]
        self.others += [("case", "A"), ("Case", "a"), ("CASE", "B")]

    @property
    def planned(self) -> list[Pair]:
        return [*self.there, *self.absent, *self.no_parent, *self.no_related, *self.locked]

    def build(self, zoho: LocalZoho) -> None:
        known = {parent for parent, _ in self.no_parent}
        link_all(zoho, self.there + self.locked)
        link_all(zoho, [pair for pair in self.others if pair[0] not in known])
        add_records(zoho, self.absent)
        add_records(zoho, [(pair[0], "d-unrelated") for pair in self.no_related])
        for _, related in self.no_parent:
            add_records(zoho, [("c-unrelated", related)])
        for _, related in self.locked:
            zoho.state.lock("Deals", related)


async def run_plan(
    zoho: LocalZoho, path: Path, world: World, **options: Any
) -> tuple[dict[Pair, dict[str, Any]], int]:
    """Run the world's plan on a new Zoho; return the latest audit rows and the credits used."""
    zoho.reset()
    world.build(zoho)
    before = linked(zoho)
    ledger = sqlite_ledger(path)
    (chunk,) = plan(ledger, world.planned).chunks
    report = await Try(ledger, chunk, **options)()
    assert report.stopped is None
    check_truth(zoho, ledger, before, world.planned)
    assert before - linked(zoho) == set(world.there)
    used = zoho.state.limits.credits_used
    found = latest(ledger)
    ledger.close()
    return found, used


@pytest.mark.parametrize("partial_status", [207, 200], ids=["207", "200"])
async def test_strategies_have_the_same_outcomes(
    zoho: LocalZoho, tmp_path: Path, partial_status: int
) -> None:
    world = World(partial_status)
    single, single_credits = await run_plan(zoho, tmp_path / "single.db", world)
    zoho.state._settings["partial_status"] = partial_status
    try:
        together, credits_used = await run_plan(zoho, tmp_path / "together.db", world, strategy="by_parent")
    finally:
        del zoho.state._settings["partial_status"]

    assert len(single) == len(world.planned) > 100
    assert {link: row["outcome"] for link, row in together.items()} == {
        link: row["outcome"] for link, row in single.items()
    }
    expected = {
        "removed": world.there,
        "already_absent": world.absent,
        "parent_not_found": world.no_parent,
        "related_not_found": world.no_related,
        "rejected": world.locked,
    }
    for outcome, links in expected.items():
        assert {single[link]["outcome"] for link in links} == {outcome}
    assert {
        link: row["zoho_code"] for link, row in together.items() if row["outcome"] != "related_not_found"
    } == {link: row["zoho_code"] for link, row in single.items() if row["outcome"] != "related_not_found"}
    assert credits_used < single_credits


@pytest.mark.parametrize(
    ("strategy", "most"), [("single", 500), ("by_parent", 20)], ids=["single", "by_parent"]
)
async def test_credits_for_fifty_links_per_parent(
    zoho: LocalZoho,
    tmp_path: Path,
    strategy: str,
    most: int,
) -> None:
    links = pairs(10, 50)
    link_all(zoho, links)
    link_all(zoho, [(parent, "stays") for parent, _ in links])
    before = linked(zoho)
    ledger = sqlite_ledger(tmp_path / "audit.db")
    (chunk,) = plan(ledger, links, strategy=strategy).chunks
    await Try(ledger, chunk, strategy=strategy)()
    assert check_truth(zoho, ledger, before, links) == {"removed": 500}
    ledger.close()
    used = zoho.state.limits.credits_used
    assert used == most
    assert zoho.state.limits.refused == 0
    check_harmless(zoho)
    if strategy == "by_parent":
        assert {one.count("/") for one in calls(zoho, "DELETE")} == {5}
