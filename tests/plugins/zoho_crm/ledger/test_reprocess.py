"""Links of earlier runs that a new run starts from, on every database."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.support.ledger import JOB, MOMENT, ORIGIN, RELATION, TARGET, result, rows_of, run_start, take
from zoho_crm.core.links import Relation, pair_key
from zoho_crm.core.models import RELINK
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.relink_request import RelinkFilter
from zoho_crm.errors import PlanError, ZohoConfigError
from zoho_crm.ledger import reprocess, tables
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.ledger.reprocess import Since, ineligibility_reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoho_crm.core.models import StoredRun

Pair = tuple[str, str]
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def pair(number: int) -> Pair:
    return f"c-{number:04}", f"d-{number:04}"


def run(
    ledger: Ledger,
    run_key: str,
    outcomes: Mapping[Pair, Outcome | None],
    *,
    job: str = JOB,
    snapshot: str | None = None,
    finish: bool = True,
    target: Mapping[str, Any] | None = None,
    **start: Any,
) -> StoredRun:
    """Store a run whose links end with the given outcomes; with None, in flight."""
    dry_run = start.get("mode") == "dry_run"
    aim = replace(TARGET, dry_run=dry_run, **(target or {}))
    ledger.runs.start(run_start(run_key, job=job, target=aim, **start))
    ledger.plans.create(
        run_key, aim.relation, outcomes, chunk_size=1000, max_chunks=10, origin=ORIGIN, target=aim
    )
    claim = ledger.claims.claim(run_key, 0, "a try")
    links = take(ledger, claim, len(outcomes), in_flight=not dry_run)
    results = [
        result(replace(link, snapshot=snapshot), outcome)
        for link in links
        if (outcome := outcomes[link.link.external_id, link.link.related_external_id])
    ]
    # The ledger compares what was taken; a snapshot comes with it once it is stored.
    claim._open.update({each.planned.seq: each.planned for each in results})
    ledger.claims.settle(claim, results, origin=ORIGIN, target=aim, job=job, in_flight=not dry_run)
    if finish:
        ledger.finalizer.close_unfinished_links(run_key, origin=ORIGIN)
        ledger.runs.finish(run_key, status="succeeded", detail=None, finished_at=NOW)
    stored = ledger.runs.get(run_key)
    assert stored is not None
    return stored


def still_open(ledger: Ledger, *past: StoredRun, org_id: str | None = None) -> dict[Pair, str]:
    found = [
        ((one.link.external_id, one.link.related_external_id), f"{one.operation} {one.outcome}")
        for one in ledger.reprocess.unfinished_links(past, org_id)
    ]
    assert len(dict(found)) == len(found), "a link came twice"
    return dict(found)


def removed(ledger: Ledger, past: StoredRun, **choice: Any) -> dict[Pair, str]:
    found = [
        (
            (one.link.external_id, one.link.related_external_id),
            str(one.since) if one.outcome is Outcome.REMOVED else f"{one.outcome}, {one.since}",
        )
        for one in ledger.reprocess.removed_links(past, **choice)
    ]
    assert len(dict(found)) == len(found), "a link came twice"
    return dict(found)


def test_links_that_a_run_left_open_come_with_their_last_outcome_over_all_runs(ledger: Ledger) -> None:
    first = run(
        ledger,
        "first",
        {
            pair(0): Outcome.REMOVED,
            pair(1): Outcome.FAILED,
            pair(2): Outcome.UNKNOWN,
            pair(3): Outcome.NOT_ATTEMPTED,
            pair(4): Outcome.FAILED,
            pair(5): Outcome.FAILED,
            pair(6): Outcome.REJECTED,
        },
    )
    run(ledger, "second", {pair(4): Outcome.REMOVED, pair(5): Outcome.UNKNOWN, pair(0): Outcome.FAILED})
    assert still_open(ledger, first) == {
        pair(1): "delink failed",
        pair(2): "delink unknown",
        pair(3): "delink not_attempted",
        pair(4): "delink removed",
        pair(5): "delink unknown",
    }


def test_a_dry_run_never_counts(ledger: Ledger) -> None:
    first = run(ledger, "first", {pair(0): Outcome.FAILED})
    run(ledger, "dry", {pair(0): Outcome.WOULD_REMOVE}, mode="dry_run")
    assert still_open(ledger, first) == {pair(0): "delink failed"}


def test_a_run_of_another_job_counts_and_one_of_another_relation_does_not(ledger: Ledger) -> None:
    first = run(ledger, "first", {pair(0): Outcome.FAILED, pair(1): Outcome.FAILED})
    run(ledger, "other job", {pair(0): Outcome.REMOVED}, job="another")
    elsewhere = Relation("Leads", "Ref", "Campaigns", "Campaigns", "Ref")
    run(ledger, "other relation", {pair(1): Outcome.REMOVED}, target={"relation": elsewhere})
    assert still_open(ledger, first) == {pair(0): "delink removed", pair(1): "delink failed"}


def test_rows_of_another_organization_do_not_count(ledger: Ledger) -> None:
    first = run(ledger, "first", {pair(0): Outcome.FAILED, pair(1): Outcome.REMOVED})
    run(ledger, "sandbox", {pair(0): Outcome.REMOVED, pair(1): Outcome.REMOVED}, target={"org_id": "42"})
    assert still_open(ledger, first, org_id=TARGET.org_id) == {pair(0): "delink failed"}
    assert still_open(ledger, first) == {pair(0): "delink removed"}
    assert removed(ledger, first, org_id=TARGET.org_id) == {pair(1): Since.STILL_REMOVED}
    assert removed(ledger, first) == {pair(1): Since.REMOVED_AGAIN}


def test_the_last_claim_of_a_run_decides_whatever_clocks_say(
    ledger: Ledger,
) -> None:
    first = run(ledger, "first", {pair(0): Outcome.FAILED})
    # The clock of the database is set back before the later try.
    ledger = Ledger(ledger.engine, clock=lambda _: 1.0)
    claim = ledger.claims.claim("first", 0, "a later try")
    (link,) = take(ledger, claim, 1)
    ledger.claims.settle(claim, [result(link, Outcome.UNKNOWN)], origin=ORIGIN, target=TARGET, job=JOB)
    assert still_open(ledger, first) == {pair(0): "delink unknown"}


def test_a_link_that_several_runs_left_open_comes_once(ledger: Ledger) -> None:
    first = run(ledger, "first", {pair(0): Outcome.FAILED, pair(1): Outcome.FAILED})
    second = run(
        ledger, "second", {pair(1): Outcome.UNKNOWN, pair(0): Outcome.REJECTED, pair(2): Outcome.FAILED}
    )
    assert still_open(ledger, first, second) == {
        pair(0): "delink rejected",
        pair(1): "delink unknown",
        pair(2): "delink failed",
    }


def test_a_link_that_was_put_back_says_so(ledger: Ledger) -> None:
    first = run(ledger, "first", {pair(0): Outcome.FAILED})
    run(ledger, "back", {pair(0): Outcome.FAILED}, target={"operation": RELINK})
    assert still_open(ledger, first) == {pair(0): "relink failed"}


def test_pages_leave_no_link_out(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reprocess, "PAGE_LINKS", 3)
    outcomes = {pair(n): (Outcome.FAILED, Outcome.REMOVED, None)[n % 3] for n in range(20)}
    first = run(ledger, "first", outcomes)
    assert set(still_open(ledger, first)) == {pair(n) for n in range(20) if n % 3 != 1}
    assert set(removed(ledger, first)) == {pair(n) for n in range(20) if n % 3 == 1}
    keys = {pair_key(RELATION, *pair(n)) for n in range(20)}
    assert set(removed(ledger, first, pair_keys=keys)) == {pair(n) for n in range(20) if n % 3 == 1}


def test_removed_links_come_with_what_became_of_them(ledger: Ledger) -> None:
    first = run(
        ledger,
        "first",
        {
            **{pair(n): Outcome.REMOVED for n in range(6)},
            pair(6): Outcome.ALREADY_ABSENT,
            pair(7): Outcome.FAILED,
            pair(8): None,
        },
    )
    run(ledger, "dry", {pair(0): Outcome.ALREADY_LINKED}, mode="dry_run", target={"operation": RELINK})
    run(
        ledger,
        "back",
        {
            pair(1): Outcome.RELINKED,
            pair(2): Outcome.ALREADY_LINKED,
            pair(3): Outcome.FAILED,
            pair(4): Outcome.RELINKED,
        },
        target={"operation": RELINK},
    )
    run(ledger, "again", {pair(4): Outcome.REMOVED, pair(5): Outcome.ALREADY_ABSENT})
    assert removed(ledger, first) == {
        pair(0): Since.STILL_REMOVED,
        pair(1): Since.RELINKED,
        pair(2): Since.RELINKED,
        pair(3): Since.STILL_REMOVED,
        pair(4): Since.REMOVED_AGAIN,
        pair(5): Since.STILL_REMOVED,
    }


def test_links_presumed_removed_come_apart_and_prove_no_other_removal(ledger: Ledger) -> None:
    first = run(
        ledger,
        "first",
        {
            **{pair(n): Outcome.REMOVED for n in range(3)},
            **{pair(n): Outcome.PRESUMED_REMOVED for n in range(3, 7)},
        },
    )
    run(
        ledger,
        "back",
        {
            pair(1): Outcome.PRESUMED_RELINKED,
            pair(2): Outcome.RELINKED,
            pair(4): Outcome.RELINKED,
            pair(5): Outcome.RELINKED,
        },
        target={"operation": RELINK},
    )
    second = run(
        ledger,
        "second",
        {
            pair(0): Outcome.PRESUMED_REMOVED,
            pair(2): Outcome.PRESUMED_REMOVED,
            pair(5): Outcome.REMOVED,
            pair(6): Outcome.REMOVED,
        },
    )
    assert removed(ledger, first) == {
        pair(0): "still_removed",
        pair(1): "relinked",
        pair(2): "relinked",
        pair(3): "presumed_removed, still_removed",
        pair(4): "presumed_removed, relinked",
        pair(5): "presumed_removed, removed_again",
        pair(6): "presumed_removed, removed_again",
    }
    assert removed(ledger, second) == {
        pair(0): "presumed_removed, still_removed",
        pair(2): "presumed_removed, still_removed",
        pair(5): "still_removed",
        pair(6): "still_removed",
    }


def test_a_link_presumed_removed_is_not_retried(ledger: Ledger) -> None:
    first = run(ledger, "first", {pair(0): Outcome.PRESUMED_REMOVED, pair(1): Outcome.UNKNOWN})
    run(ledger, "second", {pair(1): Outcome.PRESUMED_REMOVED})
    assert still_open(ledger, first) == {pair(1): "delink presumed_removed"}


IDS_BY_PREFIX = {
    "%": {"%"},
    "_": {"_"},
    "'": {"'"},
    '"': {'"'},
    "a%": {"a%b", "a%(x)s"},
    "a_": {"a_b"},
    "a\\": {"a\\b"},
    "a/": {"a/b"},
    "a%(x)s": {"a%(x)s"},
    "ab": {"ab"},
    "A": {"Ab"},
    "a ": {"a b"},
    "ab ": set(),
    "ä": {"äb"},
    "日": {"日本語"},
    "日本語 ": set(),
    "' OR 1 = 1 --": set(),
    "abc": set(),
}


@pytest.mark.parametrize("field", ["external_id", "related_external_id"])
def test_prefix_is_compared_literally(ledger: Ledger, field: str) -> None:
    ids = sorted(set().union(*IDS_BY_PREFIX.values()))
    by_id = {each: (each, "other") if field == "external_id" else ("other", each) for each in ids}
    first = run(ledger, "first", dict.fromkeys(by_id.values(), Outcome.REMOVED))
    found = {
        prefix: set(removed(ledger, first, wanted=RelinkFilter(**{f"{field}_prefix": prefix})))
        for prefix in IDS_BY_PREFIX
    }
    assert found == {prefix: {by_id[each] for each in ids} for prefix, ids in IDS_BY_PREFIX.items()}


SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param({}, {0, 1, 2, 3}, id="nothing"),
        pytest.param({"external_id_prefix": "c-0001"}, {1}, id="external ID"),
        pytest.param({"related_external_id_prefix": "d-0002"}, {2}, id="related external ID"),
        pytest.param({"finished_from": MOMENT + SECOND}, {1, 2, 3}, id="from, included"),
        pytest.param({"finished_to": MOMENT + SECOND}, {0}, id="to, excluded"),
        pytest.param(
            {"finished_from": MOMENT + SECOND, "finished_to": MOMENT + 3 * SECOND}, {1, 2}, id="a range"
        ),
        pytest.param(
            {"finished_from": (MOMENT + SECOND).astimezone(timezone(timedelta(hours=5)))},
            {1, 2, 3},
            id="another time zone",
        ),
        pytest.param({"zoho_code": "SUCCESS"}, {0, 1, 2}, id="Zoho code"),
        pytest.param({"zoho_code": "success"}, set(), id="Zoho code in another case"),
        pytest.param({"zoho_code": "SUCCESS", "finished_from": MOMENT + SECOND}, {1, 2}, id="two filters"),
        pytest.param(
            {"external_id_prefix": "c-0001", "zoho_code": "OTHER"}, set(), id="filters that exclude"
        ),
    ],
)
def test_filters_choose_among_the_removed_links_of_that_run(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, Any], expected: set[int]
) -> None:
    monkeypatch.setattr(reprocess, "PAGE_LINKS", 3)
    run(ledger, "other", {pair(9): Outcome.REMOVED})
    first = run(ledger, "first", {**{pair(n): Outcome.REMOVED for n in range(4)}, pair(4): Outcome.FAILED})
    with ledger.engine.begin() as connection:
        for n in range(5):
            connection.execute(
                sa.update(tables.audit)
                .where(tables.audit.c.external_id == pair(n)[0])
                .values(finished_at=MOMENT + n * SECOND, zoho_code="SUCCESS" if n < 3 else None)
            )
    found = removed(ledger, first, wanted=RelinkFilter(**wanted))
    assert set(found) == {pair(n) for n in expected}
    keys = {pair_key(RELATION, *pair(n)) for n in (0, 1, 9)}
    chosen = removed(ledger, first, wanted=RelinkFilter(**wanted), pair_keys=keys)
    assert set(chosen) == {pair(n) for n in expected & {0, 1}}


def test_filter_applies_to_the_last_row_of_a_link(ledger: Ledger) -> None:
    first = run(ledger, "first", {pair(0): Outcome.FAILED})
    with ledger.engine.begin() as connection:
        connection.execute(sa.update(tables.audit).values(outcome="removed", zoho_code="EARLIER"))
    claim = ledger.claims.claim("first", 0, "a later try")
    (link,) = take(ledger, claim, 1)
    ledger.claims.settle(claim, [result(link, zoho_code="LATER")], origin=ORIGIN, target=TARGET, job=JOB)
    assert removed(ledger, first, wanted=RelinkFilter(zoho_code="EARLIER")) == {}
    assert removed(ledger, first, wanted=RelinkFilter(zoho_code="LATER")) == {pair(0): Since.STILL_REMOVED}


def test_snapshots_come_from_the_removal_and_no_other_run(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reprocess, "COPY_LINKS", 2)
    outcomes = {pair(n): Outcome.REMOVED for n in range(5)}
    run(ledger, "before", outcomes, snapshot='{"Contact_Role": "old"}')
    run(ledger, "first", outcomes, snapshot='{"Contact_Role": "Buyer"}')
    run(ledger, "bare", outcomes)
    for key, origin in (("back", "first"), ("back bare", "bare")):
        ledger.runs.start(run_start(key, target=replace(TARGET, operation=RELINK), origin_run_key=origin))
        ledger.plans.create(
            key, RELATION, outcomes, chunk_size=2, max_chunks=10, origin=ORIGIN, target=TARGET
        )
        for _ in range(2):
            ledger.reprocess.copy_snapshots(key, origin)
    claim = ledger.claims.claim("back", 1, "a try")
    assert {link.snapshot for link in take(ledger, claim, 9)} == {'{"Contact_Role": "Buyer"}'}
    stored = {
        key: {row["snapshot"] for row in rows_of(ledger.engine, tables.links) if row["run_key"] == key}
        for key in ("back", "back bare")
    }
    assert stored == {"back": {'{"Contact_Role": "Buyer"}'}, "back bare": {None}}


def test_retry_that_finds_a_link_gone_keeps_the_attributes_that_the_run_before_read(ledger: Ledger) -> None:
    role, links = '{"Contact_Role": "Buyer"}', [pair(0), pair(1)]
    ledger.runs.start(run_start("first"))
    ledger.plans.create("first", RELATION, links, chunk_size=9, max_chunks=1, origin=ORIGIN, target=TARGET)
    claim = ledger.claims.claim("first", 0, "a try")
    ledger.claims.store_snapshots(claim, {0: role, 1: "{}"})
    take(ledger, claim, 2)
    ledger.finalizer.close_unfinished_links("first", origin=ORIGIN)

    ledger.runs.start(run_start("again"))
    ledger.plans.create("again", RELATION, links, chunk_size=9, max_chunks=1, origin=ORIGIN, target=TARGET)
    ledger.reprocess.carry_over_in_flight("again")
    claim = ledger.claims.claim("again", 0, "a try")
    assert [link.seq for link in ledger.claims.without_snapshot(claim, 9)] == [0, 1]
    ledger.claims.store_snapshots(claim, {0: "{}", 1: "{}"})
    taken = take(ledger, claim, 2)
    # What another run has read is no evidence of what this one saw.
    assert [(one.snapshot, one.seen_linked_at) for one in taken] == [(role, None), ("{}", None)]
    results = [result(one, Outcome.PRESUMED_REMOVED) for one in taken]
    ledger.claims.settle(claim, results, origin=ORIGIN, target=TARGET, job=JOB)

    relink = replace(TARGET, operation=RELINK)
    ledger.runs.start(run_start("back", target=relink, origin_run_key="again"))
    ledger.plans.create("back", RELATION, links, chunk_size=9, max_chunks=1, origin=ORIGIN, target=relink)
    ledger.reprocess.copy_snapshots("back", "again")
    claim = ledger.claims.claim("back", 0, "a try")
    assert [one.snapshot for one in take(ledger, claim, 2)] == [role, "{}"]


def test_dry_run_over_a_link_in_doubt_says_that_an_earlier_run_may_have_sent_it(ledger: Ledger) -> None:
    run(ledger, "first", {pair(0): Outcome.UNKNOWN})
    ledger.runs.start(run_start("again"))
    ledger.plans.create(
        "again", RELATION, [pair(0)], chunk_size=9, max_chunks=1, origin=ORIGIN, target=TARGET
    )
    ledger.reprocess.carry_over_in_flight("again")
    claim = ledger.claims.claim("again", 0, "dry")
    with pytest.raises(
        PlanError,
        match="'again' cannot continue as a dry run: an earlier try or run may have sent link 0, without a recorded",
    ):
        take(ledger, claim, 1, in_flight=False)


def test_a_link_that_a_request_may_have_reached_is_asked_about_first(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reprocess, "PAGE_LINKS", 2)
    outcomes = {pair(n): (Outcome.FAILED, Outcome.UNKNOWN, Outcome.NOT_ATTEMPTED)[n % 3] for n in range(9)}
    run(ledger, "first", {**outcomes, pair(9): None})
    run(ledger, "back", dict.fromkeys(outcomes, Outcome.UNKNOWN), target={"operation": RELINK})
    ledger.runs.start(run_start("again"))
    rows = [*outcomes, pair(9), pair(10)]
    ledger.plans.create("again", RELATION, rows, chunk_size=20, max_chunks=1, origin=ORIGIN, target=TARGET)
    ledger.reprocess.carry_over_in_flight("again")
    claim = ledger.claims.claim("again", 0, "a try")
    taken = take(ledger, claim, 20)
    doubtful = {pair(n) for n in (1, 4, 7, 9)}
    assert {
        (link.link.external_id, link.link.related_external_id) for link in taken if link.ambiguous_before
    } == doubtful

    # Cleared after it was driven: what is known by now stays.
    results = [result(link, Outcome.FAILED) for link in taken if not link.ambiguous_before]
    ledger.claims.settle(claim, results, origin=ORIGIN, target=TARGET, job=JOB)
    before = rows_of(ledger.engine, tables.links)
    ledger.reprocess.carry_over_in_flight("again")
    assert rows_of(ledger.engine, tables.links) == before


@pytest.mark.parametrize(
    ("target", "start"),
    [({"org_id": "42"}, {}), ({"data_center": "us"}, {}), ({}, {"environment": "sandbox"})],
    ids=["organization", "data center", "environment"],
)
def test_doubt_of_another_organization_is_not_carried_over(
    ledger: Ledger, target: dict[str, Any], start: dict[str, Any]
) -> None:
    run(ledger, "first", {pair(0): Outcome.UNKNOWN}, target=target, **start)
    run(ledger, "mine", {pair(1): Outcome.UNKNOWN})
    assert carried_over(ledger, [pair(0), pair(1)]) == {pair(1)}


@pytest.mark.parametrize(
    ("later", "carried"),
    [
        (Outcome.REMOVED, False),
        (Outcome.PRESUMED_REMOVED, False),
        # What a removal leaves behind.
        (Outcome.ALREADY_ABSENT, True),
        (Outcome.REJECTED, True),
        (Outcome.PARENT_NOT_FOUND, True),
        (Outcome.FAILED, True),
        (Outcome.NOT_ATTEMPTED, True),
    ],
)
def test_doubt_is_carried_over_until_a_later_run_shows_what_became_of_the_link(
    ledger: Ledger, later: Outcome, carried: bool
) -> None:
    run(ledger, "settled before", {pair(0): Outcome.REMOVED})
    run(ledger, "first", {pair(0): Outcome.UNKNOWN})
    run(ledger, "elsewhere", {pair(0): Outcome.REMOVED}, target={"org_id": "42"})
    run(ledger, "later", {pair(0): later})
    assert carried_over(ledger, [pair(0)]) == ({pair(0)} if carried else set())


@pytest.mark.parametrize(
    ("later", "carried"),
    [
        (Outcome.RELINKED, False),
        (Outcome.PRESUMED_RELINKED, False),
        (Outcome.ALREADY_LINKED, True),
        (Outcome.REJECTED, True),
    ],
)
def test_doubt_of_a_relink_is_carried_over_to_the_next_relink(
    ledger: Ledger, later: Outcome, carried: bool
) -> None:
    relink = {"operation": RELINK}
    run(ledger, "removed", {pair(0): Outcome.REMOVED})
    run(ledger, "back", {pair(0): Outcome.UNKNOWN}, target=relink)
    run(ledger, "later", {pair(0): later}, target=relink)
    expected = {pair(0)} if carried else set()
    assert carried_over(ledger, [pair(0)], **relink) == expected


def test_doubt_is_not_carried_over_to_the_other_operation(ledger: Ledger) -> None:
    run(ledger, "first", {pair(0): Outcome.UNKNOWN}, target={"operation": RELINK})
    assert carried_over(ledger, [pair(0)]) == set()


def test_doubt_is_not_carried_over_to_a_dry_run(ledger: Ledger) -> None:
    run(ledger, "first", {pair(0): Outcome.UNKNOWN})
    assert carried_over(ledger, [pair(0)], dry_run=True) == set()


def test_carried_over_link_of_a_run_that_never_started_is_not_attempted_and_stays_in_doubt(
    ledger: Ledger,
) -> None:
    run(ledger, "first", {pair(0): Outcome.UNKNOWN})
    ledger.runs.start(run_start("never approved"))
    rows = [pair(0), pair(1)]
    ledger.plans.create(
        "never approved", RELATION, rows, chunk_size=20, max_chunks=1, origin=ORIGIN, target=TARGET
    )
    ledger.reprocess.carry_over_in_flight("never approved")
    closed = ledger.finalizer.close_unfinished_links("never approved", origin=ORIGIN)
    assert closed == {Outcome.NOT_ATTEMPTED: 2}
    assert carried_over(ledger, rows) == {pair(0)}


def carried_over(ledger: Ledger, rows: list[Pair], **changes: Any) -> set[Pair]:
    """Plan a run, and return the links of it that a request of an earlier run may have reached."""
    target = replace(TARGET, **changes)
    mode = "dry_run" if target.dry_run else "apply"
    ledger.runs.start(run_start("again", target=target, mode=mode))
    ledger.plans.create("again", RELATION, rows, chunk_size=20, max_chunks=1, origin=ORIGIN, target=target)
    ledger.reprocess.carry_over_in_flight("again")
    claim = ledger.claims.claim("again", 0, "a try")
    taken = take(ledger, claim, 20, in_flight=not target.dry_run)
    return {(one.link.external_id, one.link.related_external_id) for one in taken if one.ambiguous_before}


def test_order_of_runs_is_that_of_the_databases_clock(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(ledger, "first", {pair(0): Outcome.REMOVED})
    # The clock of the next worker is an hour slow, and that of the last one an hour fast.
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() - 3600)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() - 3600 * 10**9)
    run(ledger, "back", {pair(0): Outcome.RELINKED}, target={"operation": RELINK})
    assert removed(ledger, first) == {pair(0): Since.RELINKED}
    monkeypatch.setattr(time, "time", lambda: real() + 3600)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + 3600 * 10**9)
    second = run(ledger, "second", {pair(0): Outcome.REMOVED})
    monkeypatch.undo()
    run(ledger, "back again", {pair(0): Outcome.RELINKED}, target={"operation": RELINK})
    assert removed(ledger, second) == {pair(0): Since.RELINKED}
    started = [row["started_at"] for row in rows_of(ledger.engine, tables.runs, "started_at")]
    assert started[-1] - started[0] < timedelta(minutes=10)


def test_a_run_is_found_by_its_key_and_by_airflows_id(ledger: Ledger) -> None:
    stored = run(ledger, "a key", {pair(0): Outcome.REMOVED}, origin=replace(ORIGIN, dag_run_id="manual__1"))
    assert ledger.runs.find(JOB, "a key") == stored
    assert ledger.runs.find(JOB, "manual__1") == stored
    with pytest.raises(ZohoConfigError, match=r"^run: .*no run 'manual__1' of another"):
        ledger.runs.find("another", "manual__1")
    run(
        ledger,
        "its retry",
        {pair(0): Outcome.REMOVED},
        origin=replace(ORIGIN, dag_id="zoho_delink_retry", dag_run_id="manual__1"),
    )
    with pytest.raises(ZohoConfigError, match=r"^run: 2 runs .*: a key, its retry$"):
        ledger.runs.find(JOB, "manual__1")


def test_runs_in_a_window_are_those_whose_own_window_lies_in_it(ledger: Ledger) -> None:
    day = timedelta(days=1)
    windows = {
        "before": (NOW - 2 * day, NOW - day),
        "across": (NOW - day / 2, NOW + day / 2),
        "first": (NOW, NOW + day),
        "second": (NOW + day, NOW + 2 * day),
        "all": (datetime(1970, 1, 1, tzinfo=UTC), NOW + day),
        "none": (None, None),
    }
    for key, (start, end) in windows.items():
        run(ledger, key, {pair(0): Outcome.FAILED}, window_start=start, window_end=end)
    run(ledger, "other", {pair(0): Outcome.FAILED}, job="another", window_start=NOW, window_end=NOW + day)
    found = ledger.runs.in_window(JOB, NOW, NOW + 2 * day)
    assert [one.run_key for one in found] == ["first", "second"]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({}, None, id="fine"),
        pytest.param({"job": "another"}, "is a run of another, not of contacts_deals", id="another job"),
        pytest.param(
            {"operation": RELINK, "origin_run_key": "r0"},
            "is a relink; to finish it, relink the run 'r0' again",
            id="relink",
        ),
        pytest.param({"related_list": "Accounts"}, "was for Contacts.* -> Accounts", id="relation"),
        pytest.param({"mode": "dry_run"}, "was a dry run", id="dry run"),
        pytest.param({"finished_at": None}, "is not finished", id="unfinished"),
        pytest.param({"planned_at": None}, "is not finished", id="never planned"),
        pytest.param(
            {"pseudonymized_at": NOW}, "was pseudonymized at 2026-11-23 00:00 UTC", id="pseudonymized"
        ),
        pytest.param({"org_id": "42"}, r"was for the organization 42 \(eu\)", id="another organization"),
        pytest.param({"org_id": None}, None, id="organization not known"),
    ],
)
def test_ineligible_runs_have_a_reason(ledger: Ledger, changes: dict[str, Any], says: str | None) -> None:
    stored = replace(run(ledger, "first", {pair(0): Outcome.FAILED}), **changes)
    fault = ineligibility_reason(stored, JOB, TARGET)
    if says is None:
        assert fault is None
    else:
        assert fault is not None
        assert re.match(says, fault), fault
