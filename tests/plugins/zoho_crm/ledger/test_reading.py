"""What pages read, on every database: in order, found by keys, and told of the last try."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tests.plugins.zoho_crm.ledger.samples import (
    JOB,
    MOMENT,
    ORIGIN,
    RUN,
    TARGET,
    drive,
    planned,
    result,
    run_start,
    settle,
)
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger import link_queries
from zoho_crm.ledger.link_history import link_history
from zoho_crm.ledger.link_queries import OPEN, LinkFilter, page_of_links, stream_links
from zoho_crm.ledger.progress_queries import progress, reasons
from zoho_crm.ledger.run_queries import (
    RunFilter,
    RunPlace,
    dags_and_jobs,
    outcomes_by_day,
    page_of_runs,
    runs_of_dag_run,
    runs_started_from,
)
from zoho_crm.ledger.tables import runs

if TYPE_CHECKING:
    import pytest

    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.ledger.runs import StoredRun

VISIBLE = {(ORIGIN.dag_id, JOB)}
# Ids of all kinds, in no order; the last three cannot be sent.
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


def stored(ledger: Ledger, run_key: str = RUN) -> StoredRun:
    run = ledger.runs.get(run_key)
    assert run is not None
    return run


def found(ledger: Ledger, **wanted: Any) -> list[str]:
    rows = page_of_links(ledger.engine, stored(ledger), LinkFilter(**wanted))
    return [row.external_id for row in rows]


def test_links_are_found_by_how_their_id_begins_in_every_alphabet(ledger: Ledger):
    planned(ledger, [(each, "d") for each in IDS])
    everything = found(ledger)
    assert len(everything) == len(IDS)

    for prefix in ["a", "A", "ab", "a%", "a_", "_", "é", "z", "Z", "1", "10", "..", " ", "b", "\U0001f600"]:
        assert found(ledger, external_id=prefix) == [each for each in everything if each.startswith(prefix)]


def test_links_are_paged_filtered_and_streamed_without_loss(ledger: Ledger):
    planned(ledger, [(f"c-{n:03}", f"d-{n % 5}") for n in range(95)] + [("..", "d-0")])
    drive(ledger, 0, Outcome.FAILED)
    drive(ledger, 1, Outcome.REMOVED)
    run = stored(ledger)

    def page(after: int = -1, **wanted: Any) -> list[int]:
        return [
            row.seq for row in page_of_links(ledger.engine, run, LinkFilter(**wanted), after=after, limit=7)
        ]

    seen: list[int] = []
    while part := page(seen[-1] if seen else -1):
        seen += part
    assert seen == list(range(96))
    assert page(outcome="failed") == list(range(7))
    assert page(6, outcome="failed") == [7, 8, 9]
    assert page(outcome=OPEN) == list(range(20, 27))
    assert page(outcome="invalid") == [95]
    assert page(related_external_id="d-3", outcome="removed") == [13, 18]
    assert page(40, related_external_id="d-3") == [43, 48, 53, 58, 63, 68, 73]
    assert [row.seq for row in stream_links(ledger.engine, run)] == list(range(96))
    assert [row.seq for row in stream_links(ledger.engine, run, "removed")] == list(range(10, 20))


def test_links_come_in_the_order_of_their_related_ids_where_many_begin_so(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(link_queries, "FEW", 9)
    rows = [(f"c-{n:03}", f"{'dé' if n % 2 else 'D'}-{n % 10}") for n in range(60)] + [("..", "dé-bad")]
    planned(ledger, rows)
    drive(ledger, 0, Outcome.FAILED)
    drive(ledger, 1, Outcome.REMOVED)
    run = stored(ledger)
    places = {pair: seq for seq, pair in enumerate(rows)}

    def paged(**wanted: Any) -> list[int]:
        seen: list[int] = []
        while part := page_of_links(
            ledger.engine, run, LinkFilter(**wanted), after=seen[-1] if seen else -1, limit=4
        ):
            seen += [row.seq for row in part]
        return seen

    def expected(*places_of: int) -> list[int]:
        return sorted(places_of, key=lambda seq: (rows[seq][1], seq))

    odd = [seq for pair, seq in places.items() if pair[1].startswith("dé-")]
    assert paged(related_external_id="dé-") == expected(*odd)
    assert paged(related_external_id="d") == expected(*odd)
    assert paged(related_external_id="dé-3") == [seq for seq in odd if rows[seq][1] == "dé-3"]
    assert paged(related_external_id="dé-", outcome="removed") == expected(*range(11, 20, 2))
    assert paged(related_external_id="dé-", outcome=OPEN) == expected(*range(21, 60, 2))
    assert paged(related_external_id="dé-", external_id="c-00") == expected(*range(1, 10, 2))
    assert paged(related_external_id="dé-", external_id="c-0") == expected(*(seq for seq in odd if seq < 60))
    assert paged(related_external_id="é") == []


def test_link_is_told_with_its_last_try(ledger: Ledger):
    planned(ledger, [("c-1", "d-1"), ("c-2", "d-2")])
    first = ledger.claims.claim(RUN, 0, "first")
    links = ledger.claims.take(first, 10)
    options = {"origin": ORIGIN, "target": TARGET, "job": JOB}
    ledger.claims.settle(
        first, [result(each, Outcome.FAILED, zoho_message="busy") for each in links], **options
    )
    second = ledger.claims.claim(RUN, 0, "second")
    (again, _) = ledger.claims.take(second, 10)
    # The clock of the second worker is behind.
    earlier = MOMENT - timedelta(hours=1)
    ledger.claims.settle(
        second, [result(again, Outcome.REMOVED, finished_at=earlier, zoho_message="gone")], **options
    )

    rows = page_of_links(ledger.engine, stored(ledger), LinkFilter())

    assert [(row.outcome, row.zoho_message, row.finished_at) for row in rows] == [
        ("removed", "gone", earlier),
        (None, "busy", MOMENT),
    ]


def test_run_whose_ids_were_replaced_has_counts_and_no_links(ledger: Ledger):
    planned(ledger, [("c-1", "d-1"), ("..", "d-1")])
    drive(ledger)
    ledger.runs.finish(RUN, status="succeeded", detail=None, finished_at=MOMENT)
    ledger.retention.pseudonymize(RUN)
    run = stored(ledger)

    assert found(ledger) == found(ledger, external_id="c") == found(ledger, outcome="removed") == []
    far = progress(ledger.engine, run)
    assert dict(far.by_outcome) == {"removed": 1, "invalid": 1}
    assert reasons(ledger.engine, run, far) == []


def test_progress_counts_links_and_chunks_while_a_run_goes_on(ledger: Ledger):
    planned(ledger, [(f"c-{n:03}", "d") for n in range(45)] + [("..", "d")])

    def told() -> tuple[int, int, dict[str, int]]:
        far = progress(ledger.engine, stored(ledger))
        assert (far.planned, far.chunks) == (46, 5)
        return far.done, far.chunks_done, dict(far.by_outcome)

    assert told() == (1, 0, {"invalid": 1})
    drive(ledger, 1, Outcome.REMOVED)
    drive(ledger, 2, Outcome.ALREADY_ABSENT)
    claim = ledger.claims.claim(RUN, 4, "a try")
    links = ledger.claims.take(claim, 10)
    settle(ledger, claim, links[:2], Outcome.REMOVED)
    assert told() == (23, 2, {"invalid": 1, "removed": 12, "already_absent": 10})
    settle(ledger, claim, links[2:], Outcome.FAILED)
    assert told() == (26, 3, {"invalid": 1, "removed": 12, "already_absent": 10, "failed": 3})
    ledger.claims.take(ledger.claims.claim(RUN, 4, "again"), 10)
    assert told() == (23, 2, {"invalid": 1, "removed": 12, "already_absent": 10})


def test_progress_of_a_finished_run_is_what_its_row_says(ledger: Ledger):
    planned(ledger, [("c-1", "d-1"), ("c-2", "d-2")])
    drive(ledger)
    ledger.runs.finish(RUN, status="succeeded", detail=None, finished_at=MOMENT)

    far = progress(ledger.engine, stored(ledger))

    assert (far.done, far.chunks_done, dict(far.by_outcome)) == (2, 1, {"removed": 2})


def test_reasons_are_of_the_last_try_and_the_most_frequent_first(ledger: Ledger):
    planned(ledger, [(f"c-{n:02}", "d") for n in range(10)] + [("", "d")])
    options = {"origin": ORIGIN, "target": TARGET, "job": JOB}
    for message in ("busy", "still busy"):
        claim = ledger.claims.claim(RUN, 0, "a try")
        links = ledger.claims.take(claim, 20)
        failed = [result(each, Outcome.FAILED, zoho_code="E", zoho_message=message) for each in links[:4]]
        locked = [result(each, Outcome.REJECTED, zoho_code="RECORD_LOCKED") for each in links[4:6]]
        ledger.claims.settle(claim, failed + locked, **options)
    run = stored(ledger)

    told = reasons(ledger.engine, run, progress(ledger.engine, run))

    assert [(each.outcome, each.zoho_code, each.message, each.links, each.of) for each in told] == [
        ("rejected", "RECORD_LOCKED", None, 4, 4),
        ("failed", "E", "still busy", 4, 4),
        ("invalid", None, "external_id is blank", 1, 1),
    ]


def test_runs_are_paged_newest_first_and_filtered(ledger: Ledger):
    for number in range(9):
        ledger.runs.start(run_start(f"run-{number}", mode="apply"))
    ledger.runs.start(run_start("other", job="another"))
    with ledger.engine.begin() as connection:
        for number in range(9):
            # Two at a time at the same moment.
            started = MOMENT + timedelta(hours=number // 2)
            connection.execute(
                sa.update(runs).where(runs.c.run_key == f"run-{number}").values(started_at=started)
            )

    def keys(wanted: RunFilter, **options: Any) -> list[str]:
        page = page_of_runs(ledger.engine, wanted, visible=VISIBLE, **options)
        return [run.run_key for run in page]

    assert keys(RunFilter()) == [f"run-{number}" for number in reversed(range(9))]
    seen: list[str] = []
    place = None
    while page := page_of_runs(ledger.engine, RunFilter(), visible=VISIBLE, after=place, limit=2):
        seen += [run.run_key for run in page]
        place = RunPlace.read(str(RunPlace.of(page[-1])))
    assert seen == [f"run-{number}" for number in reversed(range(9))]
    between = RunFilter(since=MOMENT + timedelta(hours=1), until=MOMENT + timedelta(hours=2))
    assert keys(between) == ["run-3", "run-2"]
    assert keys(RunFilter(job="another")) == []
    assert keys(RunFilter(status="failed")) == []
    assert page_of_runs(ledger.engine, RunFilter(), visible=()) == []
    assert dags_and_jobs(ledger.engine) == {*VISIBLE, (ORIGIN.dag_id, "another")}
    assert len(runs_of_dag_run(ledger.engine, ORIGIN.dag_id, ORIGIN.dag_run_id)) == 10


def test_days_count_what_finished_runs_have_changed(ledger: Ledger):
    for key, mode, target in (("one", "apply", TARGET), ("two", "apply", TARGET)):
        ledger.runs.start(run_start(key, mode=mode, target=target))
        ledger.plans.create(
            key, TARGET.relation, [("c", "d")], chunk_size=5, max_chunks=5, origin=ORIGIN, target=TARGET
        )
        drive(ledger, run_key=key)
    ledger.runs.finish("one", status="succeeded", detail=None, finished_at=MOMENT)

    (counted,) = outcomes_by_day(ledger.engine, RunFilter(), visible=VISIBLE).values()

    assert counted == {Outcome.REMOVED: 1}
    assert outcomes_by_day(ledger.engine, RunFilter(), visible=()) == {}


def test_story_is_told_the_last_first_and_with_the_run(ledger: Ledger):
    planned(ledger, [("c-1", "d-1")])
    drive(ledger, outcome=Outcome.FAILED)
    drive(ledger, outcome=Outcome.REMOVED)
    ledger.runs.start(run_start("later", reason="once more", origin_run_key=RUN))
    ledger.plans.create(
        "later", TARGET.relation, [("c-1", "d-1")], chunk_size=5, max_chunks=5, origin=ORIGIN, target=TARGET
    )
    (link,) = ledger.claims.take(ledger.claims.claim("later", 0, "a try"), 1)
    drive(ledger, outcome=Outcome.ALREADY_ABSENT, run_key="later")

    events = link_history(ledger.engine, link.pair_key, visible=VISIBLE)

    assert [(event.outcome, event.run_reason) for event in events] == [
        ("already_absent", "once more"),
        ("removed", None),
        ("failed", None),
    ]
    assert link_history(ledger.engine, link.pair_key, visible={("another", JOB)}) == []
    assert [run.run_key for run in runs_started_from(ledger.engine, stored(ledger))] == ["later"]
