"""Shared parts of the proofs: plans, tries at chunks, and checks of the outcomes against the local Zoho."""

from __future__ import annotations

import asyncio
import json
import os
import uuid
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.support.links import RELATION, X_EXTERNAL, Pair
from tests.support.local_zoho import ZOHO, linked, zoho_connection
from zoho_crm.core.models import DELINK, RELINK, Origin, RunStart, Target
from zoho_crm.core.outcomes import Outcome
from zoho_crm.hooks import access_token
from zoho_crm.hooks.by_parent import ByParentDelinkClient
from zoho_crm.hooks.link_operation import DelinkClient, RelinkClient
from zoho_crm.hooks.presence import RetryLimits
from zoho_crm.hooks.zoho_crm import ZohoCRMHook
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.operators.chunk_run import ChunkReport, ChunkRun
from zoho_crm.operators.chunk_store import ChunkStore, CreditUsage
from zoho_crm.operators.slot_keeper import LeasedSlots
from zoho_crm.testing.local_zoho import LocalZoho

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from zoho_crm.core.models import ChunkRef, PlanSummary
    from zoho_crm.hooks.async_client import AsyncZohoClient
    from zoho_crm.operators.chunk_run import LinkProcessor

JOB = "contacts_deals"
ORIGIN = Origin(f"zoho_delink__{JOB}", "manual__1", "manual", "delink", triggered_by="ada")
REPORT = replace(ORIGIN, task_id="report")

BRIEF = RetryLimits(first_pause_s=0.001, longest_pause_s=0.002)
"""The real limits, with very short pauses."""


def target(strategy: str = "single", *, dry_run: bool = False, operation: str = DELINK) -> Target:
    return Target(
        RELATION,
        data_center="us",
        api_version="v7",
        strategy=strategy,
        org_id="700000001",
        dry_run=dry_run,
        operation=operation,
    )


def sqlite_ledger(path: Path) -> Ledger:
    ledger = Ledger(sa.create_engine(f"sqlite:///{path}"))
    ledger.ensure_schema()
    return ledger


def plan(
    ledger: Ledger,
    links: Iterable[tuple[object, object]],
    *,
    chunk_size: int = 10_000,
    run_key: str = "run",
    strategy: str = "single",
    operation: str = DELINK,
) -> PlanSummary:
    """Start a run and store its plan; an existing run stays unchanged."""
    aim = target(strategy, operation=operation)
    ledger.runs.start(RunStart(run_key, JOB, ORIGIN, aim, mode="apply", guard_decision="passed"))
    return ledger.plans.create(
        run_key,
        RELATION,
        links,
        chunk_size=chunk_size,
        max_chunks=1_000,
        origin=replace(ORIGIN, task_id="plan"),
        target=aim,
    )


@dataclass
class Try:
    """
    One try at one chunk, like the operator's, with pauses and timeouts chosen by the test.

    :param limit: the org's slots, of which this try leases up to ``concurrency``
    """

    ledger: Ledger
    chunk: ChunkRef
    strategy: str = "single"
    operation: str = DELINK
    concurrency: int = 5
    limit: int = 10
    patience: RetryLimits = BRIEF
    breaker_share: float = 1.0
    credit_reserve: int = 0
    try_number: int = 1
    renew_every_s: float = 0.5
    lease_s: float = 45.0
    hook: ZohoCRMHook = field(default_factory=lambda: ZohoCRMHook(read_timeout_s=5.0))
    run: ChunkRun = field(init=False)

    async def __call__(self) -> ChunkReport:
        holder = f"{os.getpid()}:{uuid.uuid4().hex[:8]}"
        claim = self.ledger.claims.claim(self.chunk["run_key"], self.chunk["chunk_no"], holder)
        store = ChunkStore(
            self.ledger,
            claim,
            replace(ORIGIN, try_number=self.try_number),
            target(self.strategy, operation=self.operation),
            JOB,
            CreditUsage(self.hook.meter),
        )
        slots = LeasedSlots(
            self.ledger,
            ZOHO,
            holder,
            wanted=self.concurrency,
            limit=self.limit,
            claim=claim,
            renew_every_s=self.renew_every_s,
            lease_s=self.lease_s,
        )
        async with self.hook.async_client(max_connections=self.concurrency) as client:
            self.run = ChunkRun(
                self._processor(client),
                store,
                slots,
                self.concurrency,
                breaker_share=self.breaker_share,
                credit_reserve=self.credit_reserve,
            )
            client.require(self.run.right)
            return await self.run.run()

    def _processor(self, client: AsyncZohoClient) -> LinkProcessor:
        if self.operation == RELINK:
            return RelinkClient(client, RELATION, "v7", self.patience)
        single = DelinkClient(client, RELATION, "v7", self.patience)
        return single if self.strategy == "single" else ByParentDelinkClient(single)


@contextmanager
def unlimited_zoho() -> Iterator[LocalZoho]:
    """Run a local Zoho without practical limits, with the Airflow connection to it and no cached token."""
    settings = {"concurrency_limit": 1_000, "tokens_per_window": 100_000, "max_alive_tokens": 100_000}
    with pytest.MonkeyPatch.context() as patch, LocalZoho(**settings) as zoho:
        patch.setattr(access_token, "_in_process", {})
        patch.setattr(access_token, "_logged_keys", set())
        patch.setenv(f"AIRFLOW_CONN_{ZOHO.upper()}", json.dumps(zoho_connection(zoho)))
        yield zoho


def rows(ledger: Ledger, table: str, order_by: str) -> list[dict[str, Any]]:
    with ledger.engine.connect() as connection:
        result = connection.exec_driver_sql(f"SELECT * FROM {table} ORDER BY {order_by}")  # noqa: S608
        return [dict(row) for row in result.mappings()]


def latest(ledger: Ledger, run_key: str = "run") -> dict[Pair, dict[str, Any]]:
    """Return the latest audit row of each link; check that there is exactly one."""
    found = [row for row in rows(ledger, "zoho_delink_latest", "run_key, seq") if row["run_key"] == run_key]
    by_link = {(row["external_id"], row["related_external_id"]): row for row in found}
    assert len(by_link) == len(found), "a link has two latest outcomes"
    return by_link


def outcomes(ledger: Ledger, run_key: str = "run") -> dict[Pair, str]:
    return {link: row["outcome"] for link, row in latest(ledger, run_key).items()}


def add_records(zoho: LocalZoho, links: Iterable[Pair]) -> None:
    """Add the records of links, without linking them."""
    for parent, related in links:
        for module, key in (("Contacts", parent), ("Deals", related)):
            if zoho.state.crm.find(module, key) is None:
                zoho.state.add_record(module, {f"External_{module[:-1]}_ID": key})


def calls(zoho: LocalZoho, method: str) -> list[str]:
    """Return path and query of each API call with this method."""
    return [
        f"{one.path}?{one.query}" if one.query else one.path
        for one in zoho.state.journal.requests
        if one.method == method and one.path.startswith("/crm/")
    ]


def count_responses(zoho: LocalZoho, status: int) -> int:
    return zoho.state.journal.by_status[status]


def check_truth(zoho: LocalZoho, ledger: Ledger, before: set[Pair], planned: Iterable[Pair]) -> Counter[str]:
    """
    Compare every latest outcome with the links in the local Zoho.

    :param before: all links before the run
    :param planned: the links of the plan that can be sent
    :return: the outcomes, counted
    """
    now, wanted = linked(zoho), set(planned)
    said = outcomes(ledger)
    assert set(said) == wanted, "a planned link has no outcome, or another link has one"
    for link, outcome in said.items():
        check_outcome(link, outcome, was_linked=link in before, is_linked=link in now)
    assert before - now <= wanted, "a link was removed that is not in the plan"
    assert now <= before, "a link was created"
    check_harmless(zoho)
    return Counter(said.values())


def check_outcome(link: Pair, outcome: str, *, was_linked: bool, is_linked: bool) -> None:
    match Outcome(outcome):
        case Outcome.REMOVED:
            assert was_linked, f"{link} is reported as removed, but was not linked"
            assert not is_linked, f"{link} is reported as removed, but is still linked"
        case Outcome.PRESUMED_REMOVED:
            assert not is_linked, f"{link} is reported as gone, but is still linked"
        case Outcome.ALREADY_ABSENT:
            assert not was_linked, f"{link} is reported as absent, but the run removed it"
            assert not is_linked, f"{link} is reported as gone, but is still linked"
        case Outcome.PARENT_NOT_FOUND | Outcome.RELATED_NOT_FOUND:
            assert not was_linked, f"{link} was linked, but its records are reported as missing"
        case Outcome.FAILED | Outcome.NOT_ATTEMPTED | Outcome.REJECTED:
            assert is_linked is was_linked, f"{link} is reported as not removed, but is gone"
        case Outcome.UNKNOWN:
            pass
        case _:
            raise AssertionError((link, outcome))


def check_harmless(zoho: LocalZoho) -> None:
    """Check that no record was deleted, no ID mixed up, and no secret sent in a URL."""
    assert list(zoho.state.journal.harms) == []
    for one in zoho.state.journal.requests:
        if one.method != "DELETE":
            continue
        segments = one.path.split("/")[1:]
        if len(segments) == 5:
            assert one.query.startswith("ids="), one
        else:
            assert len(segments) == 6, one
            assert (one.query, one.external) == ("", X_EXTERNAL), one
        assert (segments[2], segments[4]) == ("Contacts", "Deals"), one


async def until(condition: Callable[[], bool], *, seconds: float = 60.0) -> None:
    """Poll until a condition holds for a server in another thread."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - no event to wait for
            await asyncio.sleep(0.005)


def spread(counts: Counter[Outcome]) -> dict[str, int]:
    return {outcome.value: count for outcome, count in counts.items() if count}


def pairs(parents: int, each: int, start: int = 0) -> list[Pair]:
    """Return links of several parents, ``each`` per parent, in plan order."""
    return [
        (f"c-{parent:04}", f"d-{parent:04}-{number:03}")
        for parent in range(start, start + parents)
        for number in range(each)
    ]
