"""Each decision about a run is an event, and the events, the row of the run and the texts verify one another."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.support.ledger import MOMENT, ORIGIN, RELATION, RUN, TARGET, drive, pairs, rows_of, run_start
from zoho_crm.ledger import tables
from zoho_crm.ledger.chain import canonical, digest, pseudonym
from zoho_crm.ledger.run_queries import RunQueries

if TYPE_CHECKING:
    from zoho_crm.ledger.ledger import Ledger

EVENTS, RUNS = tables.run_events, tables.runs
TEXTS = {"job_file": "schedule: null\n", "source.sql_file": "SELECT 1 -- ü"}
CHECKS = [{"limit": "max_links", "says": "4 links planned, 3 allowed", "breached": True}]


@pytest.fixture
def decided(ledger: Ledger) -> Ledger:
    """A finished and sealed run that exceeded a limit and was approved."""
    runs = ledger.runs
    runs.open(run_start(reason="audit of July", params={"verify": True}, texts=TEXTS))
    ledger.plans.create(RUN, RELATION, pairs(4), chunk_size=4, max_chunks=9, origin=ORIGIN, target=TARGET)
    runs.record_source_facts(RUN, baseline_links=40, source_as_of=MOMENT)
    runs.record_guard(RUN, "breached: 4 links planned, 3 allowed", checks=CHECKS, texts=TEXTS)
    runs.ask_approval(RUN, "a" * 64, until=MOMENT + timedelta(hours=1))
    runs.record_approval(RUN, approval="approved", approved_by="grace", approved_at=MOMENT)
    runs.mark_running(RUN)
    drive(ledger)
    runs.finish(RUN, status="succeeded", detail=None, finished_at=MOMENT)
    ledger.finalizer.seal(RUN)
    return ledger


def change(engine: sa.Engine, statement: sa.Executable) -> None:
    with engine.begin() as connection:
        connection.execute(statement)


def findings(ledger: Ledger) -> list[tuple[str, str]]:
    return [(str(each.kind), each.detail) for each in ledger.chain.verify()]


def at(event_no: int) -> sa.ColumnElement[bool]:
    return EVENTS.c.event_no == event_no


def test_each_decision_is_an_event(decided: Ledger) -> None:
    events = RunQueries(decided.engine).events(RUN)

    assert [(event.event_no, event.kind) for event in events] == [
        (1, "opened"),
        (2, "planned"),
        (3, "measured"),
        (4, "guard_decided"),
        (5, "approval_requested"),
        (6, "approval_decided"),
        (7, "started"),
        (8, "finished"),
    ]
    opened, plan, _, guard, _, approval, _, finished = (event.facts for event in events)
    assert {name: opened[name] for name in ("triggered_by", "reason", "mode", "org_id", "code_version")} == {
        "triggered_by": "timetable",
        "reason": "audit of July",
        "mode": "apply",
        "org_id": "70000001",
        "code_version": events[0].code_version,
    }
    assert json.loads(opened["texts"]) == {name: digest(text) for name, text in TEXTS.items()}
    assert (plan["planned"], plan["chunks"]) == (4, 1)
    assert (guard["guard_decision"], guard["checks"]) == ("breached: 4 links planned, 3 allowed", CHECKS)
    assert approval == {
        "approval": "approved",
        "approved_by": "grace",
        "approved_at": "2026-07-01T02:03:04.567891+00:00",
    }
    assert (finished["status"], finished["removed"], finished["failed"]) == ("succeeded", 4, 0)
    assert findings(decided) == []


def test_values_of_the_form_are_stored_as_hash_alone(decided: Ledger) -> None:
    assert RunQueries(decided.engine).events(RUN)[0].facts["params"] == "sha256:" + digest('{"verify": true}')


def test_failure_stop_and_organization_are_events(ledger: Ledger) -> None:
    ledger.runs.start(run_start(target=replace(TARGET, org_id=None)))
    for _ in range(2):
        ledger.runs.record_org(RUN, "70000001")
        ledger.runs.stop(RUN, "credits are used up")
        ledger.runs.record_failure(RUN, "Task delink failed: it was killed", status="failed")

    events = [(event.kind, event.facts) for event in RunQueries(ledger.engine).events(RUN)[1:]]
    assert events == [
        ("prepared", {"org_id": "70000001"}),
        ("stopped", {"stop_reason": "credits are used up"}),
        ("failed", {"failure": "Task delink failed: it was killed", "status": "failed"}),
    ]
    assert findings(ledger) == []


def test_a_changed_job_file_is_an_event(ledger: Ledger) -> None:
    ledger.runs.open(run_start(texts=TEXTS))
    ledger.runs.open(run_start(texts=TEXTS))
    changed = TEXTS | {"job_file": "schedule: '0 5 * * *'\n"}
    ledger.runs.open(run_start(texts=changed))

    queries = RunQueries(ledger.engine)
    assert [event.kind for event in queries.events(RUN)] == ["opened", "prepared"]
    assert queries.texts(ledger.runs.existing(RUN)) == changed
    assert len(rows_of(ledger.engine, tables.source_texts)) == 3
    assert findings(ledger) == []


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("triggered_by", "another user"),
        ("reason", None),
        ("window_start", MOMENT),
        ("mode", "dry_run"),
        ("status", "partial"),
        ("removed", 3),
        ("guard_decision", "passed: 4 links planned, 9 allowed"),
        ("approved_by", "the requester"),
        ("params", "{}"),
        ("org_id", "70000002"),
        ("texts", "{}"),
    ],
)
def test_changed_row_of_a_run_is_found(decided: Ledger, engine: sa.Engine, column: str, value: Any) -> None:
    change(engine, sa.update(RUNS).values({column: value}))

    assert findings(decided) == [("altered", f"the row of the run differs from its events: {column}")]


@pytest.mark.parametrize(
    "values",
    [
        {"facts": '{"approved_by":"the requester"}'},
        {"facts": "not JSON"},
        {"facts": '{"approved_by":' + "[" * 100_000},
        {"facts": '{"approved_by":' + "[" * 600 + "]" * 600 + "}"},
        {"facts": '{"approved_by":"\\ud800"}'},
        {"kind": "measured"},
        {"recorded_at": MOMENT},
        {"code_version": "0"},
        {"event_hash": "0" * 64},
    ],
    ids=lambda values: next(iter(values.items()))[0],
)
def test_changed_event_is_found(decided: Ledger, engine: sa.Engine, values: dict[str, Any]) -> None:
    change(engine, sa.update(EVENTS).where(at(6)).values(values))

    kind = values.get("kind", "approval_decided")
    assert findings(decided) == [
        ("altered", f"event 6 ({kind}): it, or the event before it, differs from what was written")
    ]


def test_removed_events_are_found(decided: Ledger, engine: sa.Engine) -> None:
    change(engine, sa.delete(EVENTS).where(at(8)))
    assert findings(decided) == [("missing", "event 8 is missing")]

    change(engine, sa.delete(EVENTS).where(EVENTS.c.event_no.in_([4, 5])))
    assert findings(decided) == [("missing", "events 4 to 5 are missing")]

    change(engine, sa.delete(EVENTS))
    assert findings(decided) == [("missing", "events 1 to 8 are missing")]

    change(engine, sa.delete(tables.seals))
    assert findings(decided)[0] == ("missing", "the events of the run are missing")


def test_added_event_is_found(decided: Ledger, engine: sa.Engine) -> None:
    (event,) = (row for row in rows_of(engine, EVENTS) if row["event_no"] == 6)
    change(engine, sa.insert(EVENTS).values(event | {"event_no": 9}))
    assert findings(decided) == [
        ("altered", "event 9 (approval_decided): it, or the event before it, differs from what was written")
    ]

    change(engine, sa.update(EVENTS).where(at(9)).values(event_no=0))
    assert findings(decided) == [("added", "event 0 (approval_decided): its position is below 1")]


def test_row_that_no_event_opened_is_found(decided: Ledger, engine: sa.Engine) -> None:
    (row,) = rows_of(engine, RUNS)
    change(engine, sa.insert(RUNS).values(row | {"run_key": "invented", "planned_at": None}))

    assert findings(decided) == [("missing", "the events of the run are missing")]


def test_changed_or_removed_text_is_found(decided: Ledger, engine: sa.Engine) -> None:
    texts, key = tables.source_texts, digest(TEXTS["source.sql_file"])
    change(engine, sa.update(texts).where(texts.c.text_hash == key).values(content="SELECT 2"))
    assert findings(decided) == [
        ("altered", f"the stored text of source.sql_file differs from its hash: {key}")
    ]

    change(engine, sa.delete(texts).where(texts.c.text_hash == key))
    assert findings(decided) == [("missing", f"the stored text of source.sql_file is missing: {key}")]


def test_texts_of_each_event_are_verified(ledger: Ledger, engine: sa.Engine) -> None:
    ledger.runs.open(run_start(texts=TEXTS))
    ledger.runs.open(run_start(texts={"source.sql_file": "SELECT 2"}))
    texts, key = tables.source_texts, digest(TEXTS["source.sql_file"])
    assert findings(ledger) == []

    change(engine, sa.delete(texts).where(texts.c.text_hash == key))

    assert findings(ledger) == [("missing", f"the stored text of source.sql_file is missing: {key}")]


def test_texts_that_are_replaced_by_their_hash_are_found(decided: Ledger, engine: sa.Engine) -> None:
    (facts,) = (json.loads(row["facts"]) for row in rows_of(engine, EVENTS) if row["event_no"] == 1)
    change(
        engine,
        sa.update(EVENTS).where(at(1)).values(facts=canonical(facts | {"texts": pseudonym(facts["texts"])})),
    )
    change(engine, sa.update(tables.runs).values(texts=pseudonym(facts["texts"])))

    assert findings(decided) == [("altered", "event 1 (opened): its texts are not names and hashes")]


@pytest.mark.parametrize("added", ['"reason":"forged",', " "])
def test_facts_in_another_form_are_found(decided: Ledger, engine: sa.Engine, added: str) -> None:
    (facts,) = (row["facts"] for row in rows_of(engine, EVENTS) if row["event_no"] == 1)

    change(engine, sa.update(EVENTS).where(at(1)).values(facts="{" + added + facts[1:]))

    assert [kind for kind, _ in findings(decided)] == ["altered"]


def test_retention_is_an_event_and_is_sealed(decided: Ledger) -> None:
    decided.retention.pseudonymize(RUN)

    event = RunQueries(decided.engine).events(RUN)[-1]
    assert (event.kind, sorted(event.facts)) == ("pseudonymized", ["params", "pseudonymized_at"])
    assert findings(decided) == []


def test_event_after_the_last_seal_is_reported(decided: Ledger) -> None:
    decided.runs.finish(RUN, status="partial", detail="changed its mind", finished_at=MOMENT)

    assert findings(decided) == [("unsealed", "no seal of the run covers what was written last: 1 event")]
    decided.finalizer.seal(RUN)
    assert findings(decided) == []
