from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from tests.support.ledger import (
    JOB,
    MOMENT,
    ORIGIN,
    RELATION,
    RUN,
    TARGET,
    drive,
    planned,
    result,
    rows_of,
    run_start,
    settle,
    take,
)
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import ClaimLostError, PlanError
from zoho_crm.ledger import pseudonymize, tables
from zoho_crm.ledger.chain import is_pseudonym, pseudonym
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.ledger.pseudonymize import names_any

LATER = MOMENT + timedelta(days=1)
PEOPLE = [(f"person-{number // 2:03}", f"deal-{number:03}") for number in range(8)]
ROLE = '{"Contact_Role": {"id": "7", "name": "Jo of person-000"}}'


def finish(ledger: Ledger, run_key: str = RUN, *, at: datetime = MOMENT) -> None:
    ledger.runs.finish(run_key, status="partial", detail=None, finished_at=at)


@pytest.fixture
def done(ledger: Ledger) -> Ledger:
    """A finished and sealed run with all that names people: ids, attributes, messages, invalid links, a failed one."""
    ledger.runs.start(run_start(params={"external_id_prefix": "person-001"}, reason="because"))
    ledger.plans.create(
        RUN,
        RELATION,
        [*PEOPLE, ("person-bad", None)],
        chunk_size=4,
        max_chunks=9,
        origin=ORIGIN,
        target=TARGET,
    )
    claim = ledger.claims.claim(RUN, 0, "a try")
    ledger.claims.store_snapshots(claim, {0: ROLE})
    first, second, *others = take(ledger, claim, 4)
    results = [
        result(first, zoho_message="relation removed", detail="found at /Contacts/PERSON-000"),
        result(second, Outcome.FAILED, zoho_message="no record deal%2D001", detail="asked twice"),
        *(result(link) for link in others),
    ]
    ledger.claims.settle(claim, results, origin=ORIGIN, target=TARGET, job=JOB)
    drive(ledger, 1)
    finish(ledger)
    ledger.finalizer.seal(RUN)
    return ledger


def everything(engine: sa.Engine) -> str:
    """All that the database holds, as one text."""
    return repr([rows_of(engine, table) for table in tables.metadata.sorted_tables])


def test_no_id_is_left_and_the_audit_still_verifies(done: Ledger, engine: sa.Engine) -> None:
    before = everything(engine).casefold()
    assert "person-000" in before
    assert "deal-007" in before
    assert "person-bad" in before

    assert done.retention.pseudonymize(RUN) == 9

    after = everything(engine).casefold()
    for word in ("person", "deal-", "deal%2d"):
        assert word not in after
    assert list(done.chain.verify()) == []
    assert done.runs.get(RUN) is not None


def test_each_value_is_replaced_by_its_own_hash(done: Ledger, engine: sa.Engine) -> None:
    before = rows_of(engine, tables.audit)

    done.retention.pseudonymize(RUN)

    after = rows_of(engine, tables.audit)
    for old, new in zip(before, after, strict=True):
        assert new["external_id"] == pseudonym(old["external_id"])
        assert new["related_external_id"] == pseudonym(old["related_external_id"])
        unchanged = set(old) - {"external_id", "related_external_id", "snapshot", "zoho_message", "detail"}
        assert {name: new[name] for name in unchanged} == {name: old[name] for name in unchanged}
    first, second = (row for row in after if row["seq"] in {0, 1})
    assert first["snapshot"] == pseudonym(ROLE)
    assert first["detail"] == pseudonym("found at /Contacts/PERSON-000")
    assert (first["zoho_message"], second["detail"]) == ("relation removed", "asked twice")
    assert is_pseudonym(second["zoho_message"])


def test_run_says_when_and_keeps_what_is_no_id(done: Ledger, engine: sa.Engine) -> None:
    before = done.runs.get(RUN)
    assert before is not None

    Ledger(engine, clock=lambda _: LATER.timestamp()).retention.pseudonymize(RUN)

    after = done.runs.get(RUN)
    assert after == replace(before, params={}, pseudonymized_at=LATER)
    assert rows_of(engine, tables.links) == []
    labels = [row["first_external_id"] for row in rows_of(engine, tables.chunks)]
    assert labels == [pseudonym("person-000"), pseudonym("person-002")]
    plan = done.plans.get(RUN)
    assert plan is not None
    assert (plan.planned, plan.invalid, len(plan.chunks)) == (9, 1, 2)
    assert done.runs.counts(RUN) == {Outcome.REMOVED: 7, Outcome.FAILED: 1, Outcome.INVALID: 1}


def test_altered_row_is_found_as_before(done: Ledger, engine: sa.Engine) -> None:
    done.retention.pseudonymize(RUN)
    (event_id,) = (row["event_id"] for row in rows_of(engine, tables.audit) if row["seq"] == 5)
    for name, value in {"external_id": pseudonym("x"), "outcome": "failed", "detail": "x"}.items():
        column = tables.audit.c[name]
        mine = tables.audit.c.event_id == event_id
        with engine.begin() as connection:
            old = connection.scalar(sa.select(column).where(mine))
            connection.execute(sa.update(tables.audit).where(mine).values({name: value}))

        assert [finding.event_id for finding in done.chain.verify()] == [event_id]

        with engine.begin() as connection:
            connection.execute(sa.update(tables.audit).where(mine).values({name: old}))


def test_run_is_not_driven_any_more(done: Ledger) -> None:
    claim = done.claims.claim(RUN, 0, "a try that hangs")

    done.retention.pseudonymize(RUN)

    with pytest.raises(PlanError, match=r"was pseudonymized at .* the IDs of its links are gone"):
        done.claims.claim(RUN, 0, "after a clear")
    with pytest.raises(ClaimLostError):
        take(done, claim, 1)


def test_call_that_was_cut_short_is_finished_by_the_next(
    done: Ledger, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pseudonymize, "BATCH_LINKS", 2)
    replace_batch, calls = pseudonymize.Pseudonymizer._replace_batch, []

    def dies(*args: Any) -> int | None:
        calls.append(args)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return replace_batch(*args)

    monkeypatch.setattr(pseudonymize.Pseudonymizer, "_replace_batch", dies)
    with pytest.raises(KeyboardInterrupt):
        done.retention.pseudonymize(RUN)
    assert "person-00" in everything(engine)
    assert list(done.chain.verify()) == []
    with pytest.raises(PlanError, match="was pseudonymized"):
        done.claims.claim(RUN, 1, "a try")
    assert done.retention.due_runs(JOB, LATER) == [RUN]

    assert done.retention.pseudonymize(RUN) == 5

    assert "person-00" not in everything(engine)
    assert list(done.chain.verify()) == []
    assert done.retention.due_runs(JOB, LATER) == []


def test_call_that_was_killed_before_its_seal_is_due_again(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger.runs.open(run_start())
    finish(ledger)
    ledger.finalizer.seal(RUN)

    with monkeypatch.context() as patch:
        patch.setattr("zoho_crm.ledger.finalize.seal_head", kill)
        with pytest.raises(KeyboardInterrupt):
            ledger.retention.pseudonymize(RUN)

    assert ledger.retention.due_runs(JOB, LATER) == [RUN]
    ledger.retention.pseudonymize(RUN)
    assert list(ledger.chain.verify()) == []
    assert ledger.retention.due_runs(JOB, LATER) == []


def kill(*_: object) -> str:
    raise KeyboardInterrupt


def test_doing_it_again_changes_nothing(done: Ledger, engine: sa.Engine) -> None:
    done.retention.pseudonymize(RUN)
    before = everything(engine)

    assert done.retention.pseudonymize(RUN) == 0
    assert everything(engine) == before


def test_run_that_is_needed_is_refused(ledger: Ledger, engine: sa.Engine) -> None:
    with pytest.raises(PlanError, match="holds no run"):
        ledger.retention.pseudonymize("no such run")
    planned(ledger, PEOPLE)
    before = everything(engine)

    with pytest.raises(PlanError, match="is not finished"):
        ledger.retention.pseudonymize(RUN)
    assert everything(engine) == before

    drive(ledger, outcome=Outcome.FAILED)
    finish(ledger)
    claim = ledger.claims.claim(RUN, 0, "after a clear")
    links = take(ledger, claim, 3)
    with pytest.raises(PlanError, match="3 of its links have no outcome yet; nothing was changed"):
        ledger.retention.pseudonymize(RUN)
    settle(ledger, claim, links)
    assert ledger.retention.pseudonymize(RUN) == 11


def test_runs_are_found_by_job_and_age(ledger: Ledger) -> None:
    ages = {"old": 10, "older": 20, "young": 1, "open": 10, "running": None}
    for key, days in ages.items():
        planned(ledger, PEOPLE[:2], run_key=key)
        drive(ledger, run_key=key, outcome=Outcome.FAILED)
        if days:
            finish(ledger, key, at=MOMENT - timedelta(days=days))
    take(ledger, ledger.claims.claim("open", 0, "after a clear"), 1)
    ledger.runs.start(run_start("of another job", job="another"))
    finish(ledger, "of another job", at=MOMENT - timedelta(days=10))

    assert ledger.retention.due_runs(JOB, MOMENT - timedelta(days=5)) == ["old", "older"]
    assert ledger.retention.due_runs("another", MOMENT - timedelta(days=5)) == ["of another job"]
    in_future = datetime.now(UTC) + timedelta(days=1)
    assert sorted(ledger.retention.unfinished_runs(JOB, in_future)) == ["open", "running"]
    assert ledger.retention.unfinished_runs(JOB, MOMENT) == []
    ledger.retention.pseudonymize("old")
    assert ledger.retention.due_runs(JOB, MOMENT - timedelta(days=5)) == ["older"]


def test_other_runs_keep_their_ids(done: Ledger, engine: sa.Engine) -> None:
    planned(done, PEOPLE, run_key="another")

    done.retention.pseudonymize(RUN)

    kept = [row["external_id"] for row in rows_of(engine, tables.links)]
    assert sorted(kept) == sorted(parent for parent, _ in PEOPLE)


def test_finished_run_without_links_is_done_at_once(ledger: Ledger) -> None:
    planned(ledger)
    finish(ledger, at=datetime(2026, 1, 1, tzinfo=UTC))

    assert ledger.retention.pseudonymize(RUN) == 0
    assert ledger.retention.due_runs(JOB, LATER) == []


@pytest.mark.parametrize(
    ("text", "external_id", "expected"),
    [
        ("relation removed", "c-1", False),
        ("no record c-1 here", "c-1", True),
        ("no record C-1 here", "c-1", True),
        ("GET /Contacts/a%20b", "a b", True),
        ("GET /Contacts/J%C3%BCrgen", "Jürgen", True),
        ('{"id": "J\\u00fcrgen"}', "Jürgen", True),
        ("'J\\xfcrgen'", "Jürgen", True),
        ("HTTP 412", "1", True),
        ("x" * 1000, "c-1", True),
        ("nothing", "", False),
    ],
)
def test_text_that_names_an_id_is_found(text: str, external_id: str, *, expected: bool) -> None:
    assert names_any(text, [external_id]) is expected
