"""Lists of runs, progress and reasons, on every database."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import sqlalchemy as sa

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
    settle,
    stored,
    take,
)
from zoho_crm.core.models import ENDINGS
from zoho_crm.core.outcomes import Outcome, RunStatus
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.ledger.link_queries import LinkFilter, LinkQueries
from zoho_crm.ledger.run_queries import RunFilter, RunPosition, RunQueries
from zoho_crm.ledger.tables import runs

VISIBLE = {(ORIGIN.dag_id, JOB)}


def test_pseudonymized_run_has_counts_but_no_links(ledger: Ledger):
    queries = RunQueries(ledger.engine)
    planned(ledger, [("c-1", "d-1"), ("..", "d-1")])
    drive(ledger)
    ledger.runs.finish(RUN, status="succeeded", detail=None, finished_at=MOMENT)
    ledger.retention.pseudonymize(RUN)
    run = stored(ledger)

    for wanted in (LinkFilter(), LinkFilter(external_id="c"), LinkFilter(outcome="removed")):
        assert LinkQueries(ledger.engine).page(run, wanted) == []
    far = queries.progress(run)
    assert dict(far.by_outcome) == {"removed": 1, "invalid": 1}
    assert queries.reasons(run, far) == []


def test_progress_counts_links_and_chunks_of_an_unfinished_run(ledger: Ledger):
    queries = RunQueries(ledger.engine)
    planned(ledger, [(f"c-{n:03}", "d") for n in range(45)] + [("..", "d")])

    def progress() -> tuple[int, int, dict[str, int]]:
        far = queries.progress(stored(ledger))
        assert (far.planned, far.chunks) == (46, 5)
        return far.done, far.chunks_done, dict(far.by_outcome)

    assert progress() == (1, 0, {"invalid": 1})
    drive(ledger, 1, Outcome.REMOVED)
    drive(ledger, 2, Outcome.ALREADY_ABSENT)
    claim = ledger.claims.claim(RUN, 4, "a try")
    links = take(ledger, claim, 10)
    settle(ledger, claim, links[:2], Outcome.REMOVED)
    assert progress() == (23, 2, {"invalid": 1, "removed": 12, "already_absent": 10})
    settle(ledger, claim, links[2:], Outcome.FAILED)
    assert progress() == (26, 3, {"invalid": 1, "removed": 12, "already_absent": 10, "failed": 3})
    take(ledger, ledger.claims.claim(RUN, 4, "again"), 10)
    assert progress() == (23, 2, {"invalid": 1, "removed": 12, "already_absent": 10})


def test_progress_of_a_finished_run_comes_from_its_row(ledger: Ledger):
    queries = RunQueries(ledger.engine)
    planned(ledger, [("c-1", "d-1"), ("c-2", "d-2")])
    drive(ledger)
    ledger.runs.finish(RUN, status="succeeded", detail=None, finished_at=MOMENT)

    far = queries.progress(stored(ledger))

    assert (far.done, far.chunks_done, dict(far.by_outcome)) == (2, 1, {"removed": 2})


def test_reasons_come_from_the_last_try_most_frequent_first(ledger: Ledger):
    queries = RunQueries(ledger.engine)
    planned(ledger, [(f"c-{n:02}", "d") for n in range(10)] + [("", "d")])
    options = {"origin": ORIGIN, "target": TARGET, "job": JOB}
    for message in ("busy", "still busy"):
        claim = ledger.claims.claim(RUN, 0, "a try")
        links = take(ledger, claim, 20)
        failed = [result(each, Outcome.FAILED, zoho_code="E", zoho_message=message) for each in links[:4]]
        locked = [result(each, Outcome.REJECTED, zoho_code="RECORD_LOCKED") for each in links[4:6]]
        ledger.claims.settle(claim, failed + locked, **options)
    run = stored(ledger)

    reasons = queries.reasons(run, queries.progress(run))

    assert [(each.outcome, each.zoho_code, each.message, each.links, each.of) for each in reasons] == [
        ("rejected", "RECORD_LOCKED", None, 4, 4),
        ("failed", "E", "still busy", 4, 4),
        ("invalid", None, "external_id is blank", 1, 1),
    ]


def test_pages_and_filters_runs_newest_first(ledger: Ledger):
    queries = RunQueries(ledger.engine)
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
        page = queries.page(wanted, visible=VISIBLE, **options)
        return [run.run_key for run in page]

    assert keys(RunFilter()) == [f"run-{number}" for number in reversed(range(9))]
    seen: list[str] = []
    place = None
    while page := queries.page(RunFilter(), visible=VISIBLE, after=place, limit=2):
        seen += [run.run_key for run in page]
        place = RunPosition.parse(str(RunPosition.of(page[-1])))
    assert seen == [f"run-{number}" for number in reversed(range(9))]
    between = RunFilter(since=MOMENT + timedelta(hours=1), until=MOMENT + timedelta(hours=2))
    assert keys(between) == ["run-3", "run-2"]
    assert keys(RunFilter(search="UN-3")) == ["run-3"]
    assert keys(RunFilter(search=JOB[1:].upper(), ending="planned")) == keys(RunFilter())
    assert keys(RunFilter(search=ORIGIN.dag_run_id)) == keys(RunFilter())
    for text in ("run_3", "%", "run-3\\", "'", "nowhere"):
        assert keys(RunFilter(search=text)) == []
    assert keys(RunFilter(job="another")) == []
    assert keys(RunFilter(ending="failed")) == []
    assert queries.page(RunFilter(), visible=()) == []
    assert queries.dags_and_jobs() == {*VISIBLE, (ORIGIN.dag_id, "another")}
    assert len(queries.of_dag_run(ORIGIN.dag_id, ORIGIN.dag_run_id)) == 10


def test_filter_by_ending_is_that_of_the_runs(ledger: Ledger):
    counts = [
        {"removed": 10},
        {"rejected": 1},
        {"invalid": 1},
        {"presumed_removed": 1},
        {"presumed_relinked": 1},
        {"parent_not_found": 3, "related_not_found": 2},
        {"parent_not_found": 3, "related_not_found": 3},
        {"detail": "look here"},
        {"detail": ""},
        {"approval": "asked"},
        {"approval": "approved"},
        {"planned": None},
        {"planned": None, "related_not_found": 1},
    ]
    for status in RunStatus:
        for number, values in enumerate(counts):
            key = f"{status}-{number}"
            ledger.runs.start(run_start(key))
            values = {"planned": 10, "status": status.value, **values}
            with ledger.engine.begin() as connection:
                connection.execute(sa.update(runs).where(runs.c.run_key == key).values(values))
    queries = RunQueries(ledger.engine)
    every = queries.page(RunFilter(), visible=VISIBLE, limit=1000)

    for ending in ENDINGS:
        found = {run.run_key for run in queries.page(RunFilter(ending=ending), visible=VISIBLE, limit=1000)}
        assert found == {run.run_key for run in every if run.ending == ending}
        assert found


def test_outcomes_by_day_count_finished_runs_that_applied(ledger: Ledger):
    queries = RunQueries(ledger.engine)
    for key, mode, target in (("one", "apply", TARGET), ("two", "apply", TARGET)):
        ledger.runs.start(run_start(key, mode=mode, target=target))
        ledger.plans.create(
            key, TARGET.relation, [("c", "d")], chunk_size=5, max_chunks=5, origin=ORIGIN, target=TARGET
        )
        drive(ledger, run_key=key)
    ledger.runs.finish("one", status="succeeded", detail=None, finished_at=MOMENT)

    (counted,) = queries.outcomes_by_day(RunFilter(), visible=VISIBLE).values()

    assert counted == {Outcome.REMOVED: 1}
    assert queries.outcomes_by_day(RunFilter(), visible=()) == {}


def test_reasons_include_records_that_were_not_found(ledger: Ledger):
    planned(ledger, [("c-1", "d")])
    drive(ledger, 0, Outcome.RELATED_NOT_FOUND)
    queries = RunQueries(ledger.engine)
    run = stored(ledger)

    (reason,) = queries.reasons(run, queries.progress(run))
    assert (reason.outcome, reason.links, reason.of) == ("related_not_found", 1, 1)


def test_runs_of_a_trend_are_read_without_the_dry_runs_between_them(sqlite_engine: sa.Engine):
    ledger = Ledger(sqlite_engine)
    ledger.ensure_schema()
    steps: list[int] = []
    sa.event.listen(
        sqlite_engine, "checkout", lambda dbapi, *_: dbapi.set_progress_handler(lambda: steps.append(1), 100)
    )
    store_runs(ledger, dry=0, applied=40)

    def read() -> list[str]:
        steps.clear()
        wanted = RunFilter(job=JOB, mode="apply", operation="delink")
        return [run.run_key for run in RunQueries(sqlite_engine).page(wanted, visible=VISIBLE, limit=30)]

    few, cost = read(), len(steps)
    store_runs(ledger, dry=3_000, applied=0)

    assert read() == few == [f"applied-{number:04}" for number in range(30)]
    assert len(steps) <= 1.5 * cost


def store_runs(ledger: Ledger, *, dry: int, applied: int) -> None:
    """Store finished runs, the first ones the newest; dry runs are newer than applied ones."""
    ledger.runs.start(run_start("model"))
    with ledger.engine.begin() as connection:
        model = connection.execute(sa.select(runs).where(runs.c.run_key == "model")).mappings().one()
        rows = [
            {
                **model,
                "run_key": f"{name}-{number:04}",
                "mode": mode,
                "started_at": MOMENT - timedelta(days=days, minutes=number),
                "finished_at": MOMENT,
            }
            for name, mode, days, count in (("dry", "dry_run", 0, dry), ("applied", "apply", 9, applied))
            for number in range(count)
        ]
        connection.execute(sa.insert(runs), rows)
        connection.execute(sa.delete(runs).where(runs.c.run_key == "model"))
