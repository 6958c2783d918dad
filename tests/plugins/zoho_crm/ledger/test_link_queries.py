"""Pages, searches and streams of links, and the history of a link, on every database."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from tests.support.ledger import (
    JOB,
    MOMENT,
    ORIGIN,
    RUN,
    TARGET,
    drive,
    planned,
    result,
    run_start,
    stored,
    take,
)
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger import link_queries
from zoho_crm.ledger.link_queries import PENDING, LinkFilter, LinkQueries
from zoho_crm.ledger.run_queries import RunQueries

if TYPE_CHECKING:
    import pytest

    from zoho_crm.ledger.ledger import Ledger

VISIBLE = {(ORIGIN.dag_id, JOB)}
# Ids of all kinds, unordered; the last three are invalid.
IDS = [
    "é",
    "z",
    "A",
    "a",
    "a%",
    "a_b",
    "ab",
    "aé",
    "a\U0001f600",
    "B",
    "Z",
    "10",
    "9",
    "_",
    "..",
    " a",
    "a\x07",
]


def found(ledger: Ledger, **wanted: Any) -> list[str]:
    rows = LinkQueries(ledger.engine).page(stored(ledger), LinkFilter(**wanted))
    return [row.external_id for row in rows]


def test_finds_links_by_prefix_in_every_alphabet(ledger: Ledger):
    planned(ledger, [(each, "d") for each in IDS])
    everything = found(ledger)
    assert len(everything) == len(IDS)

    for prefix in ["a", "A", "ab", "a%", "a_", "_", "é", "z", "Z", "1", "10", "..", " ", "b", "\U0001f600"]:
        assert found(ledger, external_id=prefix) == [each for each in everything if each.startswith(prefix)]


def test_pages_filters_and_streams_links_without_loss(ledger: Ledger):
    queries = LinkQueries(ledger.engine)
    planned(ledger, [(f"c-{n:03}", f"d-{n % 5}") for n in range(95)] + [("..", "d-0")])
    drive(ledger, 0, Outcome.FAILED)
    drive(ledger, 1, Outcome.REMOVED)
    run = stored(ledger)

    def page(after: int = -1, **wanted: Any) -> list[int]:
        return [row.seq for row in queries.page(run, LinkFilter(**wanted), after=after, limit=7)]

    seen: list[int] = []
    while part := page(seen[-1] if seen else -1):
        seen += part
    assert seen == list(range(96))
    assert page(outcome="failed") == list(range(7))
    assert page(6, outcome="failed") == [7, 8, 9]
    assert page(outcome=PENDING) == list(range(20, 27))
    assert page(outcome="invalid") == [95]
    assert page(related_external_id="d-3", outcome="removed") == [13, 18]
    assert page(40, related_external_id="d-3") == [43, 48, 53, 58, 63, 68, 73]
    assert [row.seq for row in queries.stream(run)] == list(range(96))
    assert [row.seq for row in queries.stream(run, "removed")] == list(range(10, 20))


def test_orders_links_by_related_id_when_a_search_matches_too_many_to_sort(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    queries = LinkQueries(ledger.engine)
    monkeypatch.setattr(link_queries, "FEW", 9)
    rows = [(f"c-{n:03}", f"{'dé' if n % 2 else 'D'}-{n % 10}") for n in range(60)] + [("..", "dé-bad")]
    planned(ledger, rows)
    drive(ledger, 0, Outcome.FAILED)
    drive(ledger, 1, Outcome.REMOVED)
    run = stored(ledger)
    places = {pair: seq for seq, pair in enumerate(rows)}

    def paged(**wanted: Any) -> list[int]:
        seen: list[int] = []
        while part := queries.page(run, LinkFilter(**wanted), after=seen[-1] if seen else -1, limit=4):
            seen += [row.seq for row in part]
        return seen

    def expected(*places_of: int) -> list[int]:
        return sorted(places_of, key=lambda seq: (rows[seq][1], seq))

    odd = [seq for pair, seq in places.items() if pair[1].startswith("dé-")]
    assert paged(related_external_id="dé-") == expected(*odd)
    assert paged(related_external_id="d") == expected(*odd)
    assert paged(related_external_id="dé-3") == [seq for seq in odd if rows[seq][1] == "dé-3"]
    assert paged(related_external_id="dé-", outcome="removed") == expected(*range(11, 20, 2))
    assert paged(related_external_id="dé-", outcome=PENDING) == expected(*range(21, 60, 2))
    assert paged(related_external_id="dé-", external_id="c-00") == expected(*range(1, 10, 2))
    assert paged(related_external_id="dé-", external_id="c-0") == expected(*(seq for seq in odd if seq < 60))
    assert paged(related_external_id="é") == []


def test_link_row_has_the_audit_row_of_the_last_try(ledger: Ledger):
    planned(ledger, [("c-1", "d-1"), ("c-2", "d-2")])
    first = ledger.claims.claim(RUN, 0, "first")
    links = take(ledger, first, 10)
    options = {"origin": ORIGIN, "target": TARGET, "job": JOB}
    ledger.claims.settle(
        first, [result(each, Outcome.FAILED, zoho_message="busy") for each in links], **options
    )
    second = ledger.claims.claim(RUN, 0, "second")
    (again, _) = take(ledger, second, 10)
    # The clock of the second worker is behind.
    earlier = MOMENT - timedelta(hours=1)
    ledger.claims.settle(
        second, [result(again, Outcome.REMOVED, finished_at=earlier, zoho_message="gone")], **options
    )

    rows = LinkQueries(ledger.engine).page(stored(ledger), LinkFilter())

    assert [(row.outcome, row.zoho_message, row.finished_at) for row in rows] == [
        ("removed", "gone", earlier),
        (None, "busy", MOMENT),
    ]


def test_history_is_newest_first_and_has_facts_of_the_run(ledger: Ledger):
    planned(ledger, [("c-1", "d-1")])
    drive(ledger, outcome=Outcome.FAILED)
    drive(ledger, outcome=Outcome.REMOVED)
    ledger.runs.start(run_start("later", reason="once more", origin_run_key=RUN))
    ledger.plans.create(
        "later", TARGET.relation, [("c-1", "d-1")], chunk_size=5, max_chunks=5, origin=ORIGIN, target=TARGET
    )
    (link,) = take(ledger, ledger.claims.claim("later", 0, "a try"), 1)
    drive(ledger, outcome=Outcome.ALREADY_ABSENT, run_key="later")

    events = LinkQueries(ledger.engine).history([link.pair_key], visible=VISIBLE)

    assert [(event.outcome, event.reason) for event in events] == [
        ("already_absent", "once more"),
        ("removed", None),
        ("failed", None),
    ]
    assert LinkQueries(ledger.engine).history([link.pair_key], visible={("another", JOB)}) == []
    assert [run.run_key for run in RunQueries(ledger.engine).started_from(stored(ledger))] == ["later"]
