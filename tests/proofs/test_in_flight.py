"""Links marked in flight are bounded by the requests in flight, and none is sent without its mark."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.proofs.harness import BRIEF, JOB, ORIGIN, outcomes, plan, target
from tests.support.fake_zoho import FakeZoho
from tests.support.links import RELATION
from zoho_crm.hooks.by_parent import ByParentDelinkClient
from zoho_crm.hooks.http_transport import Meter
from zoho_crm.hooks.link_operation import DelinkClient
from zoho_crm.ledger.tables import links
from zoho_crm.operators.chunk_run import ChunkRun
from zoho_crm.operators.chunk_store import ChunkStore, CreditUsage
from zoho_crm.operators.slot_keeper import FixedSlots

if TYPE_CHECKING:
    from tests.support.links import Pair
    from zoho_crm.ledger.ledger import Ledger

CONCURRENCY = 4


@dataclass
class Marks:
    """What the audit database says about links in flight each time a DELETE arrives."""

    ledger: Ledger
    counts: list[int] = field(default_factory=list)

    def look(self, sent: list[Pair]) -> None:
        with self.ledger.engine.connect() as connection:
            rows = connection.execute(
                sa.select(links.c.external_id, links.c.related_external_id).where(
                    links.c.state == "in_flight"
                )
            )
            marked = {(row.external_id, row.related_external_id) for row in rows}
        assert set(sent) <= marked, "a link was sent that is not marked in flight"
        self.counts.append(len(marked))


def some_links(per_parent: int) -> set[Pair]:
    """Return links whose IDs are digits after the prefix, as the fake Zoho wants them."""
    count = 1_000 if per_parent > 5 else 200
    return {(f"c-{number // per_parent}", f"d-{number}") for number in range(count)}


async def run_chunk(ledger: Ledger, zoho: FakeZoho, strategy: str) -> None:
    (chunk,) = plan(ledger, sorted(zoho.linked), strategy=strategy).chunks
    claim = ledger.claims.claim(chunk["run_key"], chunk["chunk_no"], "try")
    store = ChunkStore(ledger, claim, ORIGIN, target(strategy), JOB, CreditUsage(Meter("zoho")))
    single = DelinkClient(zoho, RELATION, "v7", BRIEF)
    processor = single if strategy == "single" else ByParentDelinkClient(single)
    await ChunkRun(processor, store, FixedSlots(CONCURRENCY), CONCURRENCY).run()


@pytest.mark.parametrize(
    ("strategy", "per_parent", "most"),
    [
        pytest.param("single", 5, 2 * CONCURRENCY, id="single"),
        pytest.param("by_parent", 10, 100 * (CONCURRENCY + 1), id="by_parent"),
        pytest.param("by_parent", 1, 2 * CONCURRENCY, id="by_parent-alone"),
    ],
)
async def test_links_in_flight_are_bounded(
    any_ledger: Ledger, strategy: str, per_parent: int, most: int
) -> None:
    marks = Marks(any_ledger)
    zoho = FakeZoho(some_links(per_parent), before_delete=marks.look)

    await run_chunk(any_ledger, zoho, strategy)

    assert set(outcomes(any_ledger).values()) == {"removed"}
    assert zoho.linked == set()
    assert max(marks.counts) <= most
