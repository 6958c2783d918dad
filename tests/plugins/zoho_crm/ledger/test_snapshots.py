from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.ledger import ORIGIN, RUN, drive, pairs, planned, rows_of, settle, take
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import ClaimLostError, PlanError
from zoho_crm.ledger import tables

if TYPE_CHECKING:
    import sqlalchemy as sa

    from zoho_crm.ledger.claims import Claim
    from zoho_crm.ledger.ledger import Ledger

ROLE = '{"Contact_Role": {"id": "7", "name": "Käufer"}}'


@pytest.fixture
def claim(ledger: Ledger) -> Claim:
    """A claim on the second of two chunks of four links each."""
    planned(ledger, pairs(8), chunk_size=4)
    return ledger.claims.claim(RUN, 1, "a try")


def snapshots(engine: sa.Engine, table: sa.Table = tables.links) -> list[str | None]:
    return [row["snapshot"] for row in rows_of(engine, table, "seq")]


def test_links_without_a_snapshot_are_handed_out_once_each(ledger: Ledger, claim: Claim) -> None:
    handed_out = [[link.seq for link in ledger.claims.without_snapshot(claim, 3)] for _ in range(3)]

    assert handed_out == [[4, 5, 6], [7], []]
    assert ledger.claims.without_snapshot(claim, 0) == []


def test_snapshot_comes_along_and_is_kept_with_the_outcome(
    ledger: Ledger, engine: sa.Engine, claim: Claim
) -> None:
    ledger.claims.store_snapshots(claim, {4: ROLE, 5: "{}"})

    links = take(ledger, claim, 3)
    settle(ledger, claim, links)

    assert [link.snapshot for link in links] == [ROLE, "{}", None]
    assert snapshots(engine) == [None] * 4 + [ROLE, "{}", None, None]
    assert snapshots(engine, tables.audit) == [ROLE, "{}", None]
    assert list(ledger.chain.verify()) == []


def test_next_try_reads_what_the_one_before_has_not_stored(ledger: Ledger, claim: Claim) -> None:
    ledger.claims.without_snapshot(claim, 4)
    ledger.claims.store_snapshots(claim, {4: ROLE, 6: "{}"})

    again = ledger.claims.claim(RUN, 1, "next try")

    assert [link.seq for link in ledger.claims.without_snapshot(again, 9)] == [5, 7]


def test_link_without_an_outcome_is_read_even_if_an_earlier_try_may_have_sent_it(
    ledger: Ledger, claim: Claim
) -> None:
    first, second, third = take(ledger, claim, 3)
    settle(ledger, claim, [first])
    settle(ledger, claim, [second], Outcome.FAILED)

    again = ledger.claims.claim(RUN, 1, "next try")

    assert [link.seq for link in ledger.claims.without_snapshot(again, 9)] == [second.seq, third.seq, 7]
    ledger.claims.store_snapshots(again, {third.seq: ROLE})
    (taken,) = [link for link in take(ledger, again, 9) if link.seq == third.seq]
    assert (taken.snapshot, taken.ambiguous_before) == (ROLE, True)


def test_attributes_read_before_any_request_show_that_this_run_saw_the_link(
    ledger: Ledger, claim: Claim
) -> None:
    ledger.claims.store_snapshots(claim, {4: ROLE, 5: "{}"})
    read_at = ledger.runs.now()
    take(ledger, claim, 4)

    again = ledger.claims.claim(RUN, 1, "next try")
    seen, missing, *unread = take(ledger, again, 4)

    assert seen.seen_linked_at is not None
    assert abs(read_at - seen.seen_linked_at) < timedelta(seconds=5)
    assert [link.seen_linked_at for link in (missing, *unread)] == [None] * 3
    assert all(link.ambiguous_before for link in (seen, missing, *unread))


def test_attributes_read_after_a_request_in_doubt_are_kept_and_show_nothing(
    ledger: Ledger, claim: Claim
) -> None:
    take(ledger, claim, 2)
    again = ledger.claims.claim(RUN, 1, "next try")
    ledger.claims.store_snapshots(again, {4: ROLE, 6: ROLE})

    doubtful, _, clear, _ = take(ledger, again, 4)

    assert (doubtful.snapshot, doubtful.ambiguous_before, doubtful.seen_linked_at) == (ROLE, True, None)
    assert (clear.snapshot, clear.ambiguous_before) == (ROLE, False)
    assert clear.seen_linked_at is not None


def test_link_in_doubt_that_is_gone_keeps_the_attributes_that_are_known(
    ledger: Ledger, engine: sa.Engine, claim: Claim
) -> None:
    take(ledger, claim, 2)
    again = ledger.claims.claim(RUN, 1, "next try")
    ledger.claims.store_snapshots(again, {4: ROLE, 5: "{}"})
    take(ledger, again, 2)

    third = ledger.claims.claim(RUN, 1, "third try")

    assert [link.seq for link in ledger.claims.without_snapshot(third, 9)] == [4, 5, 6, 7]
    ledger.claims.store_snapshots(third, {4: "{}", 5: ROLE})
    assert snapshots(engine)[4:] == [ROLE, ROLE, None, None]


def test_link_that_is_being_sent_or_has_an_outcome_gets_no_snapshot(ledger: Ledger, claim: Claim) -> None:
    first, second = take(ledger, claim, 2)
    settle(ledger, claim, [first])

    for link in (first, second):
        with pytest.raises(PlanError, match=rf"link {link.seq} .* has been sent by now"):
            ledger.claims.store_snapshots(claim, {7: ROLE, link.seq: ROLE})


def test_nothing_is_stored_if_one_link_is_refused(ledger: Ledger, engine: sa.Engine, claim: Claim) -> None:
    take(ledger, claim, 1)

    with pytest.raises(PlanError, match="has been sent by now"):
        ledger.claims.store_snapshots(claim, {5: ROLE, 4: ROLE})
    with pytest.raises(PlanError, match=r"link 3 .* is not in chunk 1"):
        ledger.claims.store_snapshots(claim, {5: ROLE, 3: ROLE})

    assert snapshots(engine) == [None] * 8
    ledger.claims.store_snapshots(claim, {5: ROLE})


def test_try_that_was_fenced_out_stores_nothing(ledger: Ledger, engine: sa.Engine, claim: Claim) -> None:
    ledger.claims.claim(RUN, 1, "next try")

    with pytest.raises(ClaimLostError):
        ledger.claims.store_snapshots(claim, {4: ROLE})
    assert snapshots(engine) == [None] * 8


def test_link_that_is_closed_keeps_its_snapshot_with_the_outcome(
    ledger: Ledger, engine: sa.Engine, claim: Claim
) -> None:
    ledger.claims.store_snapshots(claim, {4: ROLE})
    take(ledger, claim, 1)

    ledger.finalizer.close_unfinished_links(RUN, origin=ORIGIN)

    assert snapshots(engine, tables.audit) == [None] * 4 + [ROLE, None, None, None]


def test_text_that_no_database_holds_is_escaped(ledger: Ledger, engine: sa.Engine, claim: Claim) -> None:
    ledger.claims.store_snapshots(claim, {4: '{"Contact_Role": "\x00\udc80"}'})
    drive(ledger, 1)

    assert snapshots(engine)[4] == '{"Contact_Role": "\\u0000\\udc80"}'
    assert list(ledger.chain.verify()) == []
