from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

from tests.support.ledger import rows_of
from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger import tables
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    import sqlalchemy as sa

ZOHO = "zoho_crm_default"


class _Clock:
    def __init__(self) -> None:
        self.now = 1_783_000_000.0

    def __call__(self, _: object = None) -> float:
        return self.now


@pytest.fixture
def clock() -> _Clock:
    return _Clock()


@pytest.fixture
def ledger(engine: sa.Engine, clock: _Clock) -> Ledger:
    ledger = Ledger(engine, clock=clock)
    ledger.ensure_schema()
    return ledger


def _lease(ledger: Ledger, holder: str, wanted: int, limit: int = 5, *, connection: str = ZOHO) -> list[int]:
    return ledger.slots.lease(connection, holder, wanted=wanted, limit=limit, lease_s=30)


def _alive(engine: sa.Engine, clock: _Clock) -> dict[int, str]:
    rows = rows_of(engine, tables.slots)
    return {row["slot"]: row["holder"] for row in rows if row["lease_end"] > clock.now}


def test_slots_are_shared_up_to_the_limit(ledger: Ledger) -> None:
    assert _lease(ledger, "a", 3) == [0, 1, 2]
    assert _lease(ledger, "b", 3) == [3, 4]
    assert _lease(ledger, "c", 1) == []


def test_lease_is_stored_with_its_holder_and_end(ledger: Ledger, engine: sa.Engine, clock: _Clock) -> None:
    _lease(ledger, "a", 1)

    assert rows_of(engine, tables.slots) == [
        {"connection": ZOHO, "slot": 0, "holder": "a", "lease_end": clock.now + 30}
    ]


def test_asking_again_renews_what_is_held_and_adds_the_rest(
    ledger: Ledger, engine: sa.Engine, clock: _Clock
) -> None:
    _lease(ledger, "a", 2)
    clock.now += 20

    assert _lease(ledger, "a", 3) == [0, 1, 2]
    clock.now += 20
    assert _alive(engine, clock) == {0: "a", 1: "a", 2: "a"}


def test_asking_for_less_gives_slots_back(ledger: Ledger) -> None:
    _lease(ledger, "a", 5)

    assert _lease(ledger, "a", 2) == [0, 1]
    assert _lease(ledger, "b", 5) == [2, 3, 4]
    assert _lease(ledger, "a", 0) == []
    assert _lease(ledger, "b", 5) == [0, 1, 2, 3, 4]


def test_released_slots_are_free_at_once(ledger: Ledger) -> None:
    _lease(ledger, "a", 5)
    ledger.slots.release(ZOHO, "a")

    assert _lease(ledger, "b", 5) == [0, 1, 2, 3, 4]
    assert ledger.slots.renew(ZOHO, "a", 30) == []


def test_ended_lease_is_taken_over_and_cannot_be_renewed(ledger: Ledger, clock: _Clock) -> None:
    _lease(ledger, "a", 3)
    clock.now += 30

    assert _lease(ledger, "b", 4) == [0, 1, 2, 3]
    assert ledger.slots.renew(ZOHO, "a", 30) == []
    assert _lease(ledger, "a", 3) == [4]


def test_expired_lease_must_be_leased_again(ledger: Ledger, clock: _Clock) -> None:
    _lease(ledger, "a", 3)
    clock.now += 31

    assert ledger.slots.renew(ZOHO, "a", 30) == []
    assert _lease(ledger, "a", 3) == [0, 1, 2]


def test_renewed_lease_lives_on(ledger: Ledger, clock: _Clock) -> None:
    _lease(ledger, "a", 3)
    for _ in range(5):
        clock.now += 29
        assert ledger.slots.renew(ZOHO, "a", 30) == [0, 1, 2]

    assert _lease(ledger, "b", 5) == [3, 4]


def test_lowered_limit_is_kept_while_older_leases_are_alive(
    ledger: Ledger, engine: sa.Engine, clock: _Clock
) -> None:
    _lease(ledger, "a", 3, limit=10)
    _lease(ledger, "b", 5, limit=10)

    # Eight are alive, so a new holder gets none, and those who renew keep what is below the new limit.
    assert _lease(ledger, "c", 2, limit=4) == []
    assert ledger.slots.renew(ZOHO, "b", 30) == [3]
    assert ledger.slots.renew(ZOHO, "a", 30) == [0, 1, 2]
    clock.now += 29
    ledger.slots.renew(ZOHO, "a", 30)
    ledger.slots.renew(ZOHO, "b", 30)
    clock.now += 2

    assert _alive(engine, clock) == {0: "a", 1: "a", 2: "a", 3: "b"}
    assert _lease(ledger, "c", 2, limit=4) == []


def test_holder_gives_up_what_a_lowered_limit_leaves_no_room_for(ledger: Ledger) -> None:
    _lease(ledger, "a", 4, limit=8)
    _lease(ledger, "b", 4, limit=8)

    assert _lease(ledger, "a", 4, limit=6) == [0, 1]
    assert _lease(ledger, "b", 4, limit=6) == [2, 3, 4, 5]


def test_raised_limit_gives_more(ledger: Ledger) -> None:
    _lease(ledger, "a", 5)

    assert _lease(ledger, "b", 5, limit=8) == [5, 6, 7]


def test_connections_do_not_share_slots(ledger: Ledger) -> None:
    _lease(ledger, "a", 5)

    assert _lease(ledger, "a", 5, connection="another org") == [0, 1, 2, 3, 4]
    ledger.slots.release("another org", "a")
    assert ledger.slots.renew(ZOHO, "a", 30) == [0, 1, 2, 3, 4]


def test_connection_that_was_never_leased_from_has_nothing_to_renew(ledger: Ledger) -> None:
    assert ledger.slots.renew("unheard of", "a", 30) == []
    ledger.slots.release("unheard of", "a")


@pytest.mark.parametrize("limit", [0, -3])
def test_no_slot_is_leased_below_a_limit_of_one(ledger: Ledger, limit: int) -> None:
    assert _lease(ledger, "a", 2, limit=limit) == []


@pytest.mark.parametrize(
    ("connection", "holder", "lease_s"),
    [("", "a", 30), ("x" * 251, "a", 30), (ZOHO, "", 30), (ZOHO, "x" * 251, 30), (ZOHO, "a", 0)],
    ids=["no connection", "long connection", "no holder", "long holder", "no time"],
)
def test_lease_without_a_meaning_is_refused(
    ledger: Ledger, connection: str, holder: str, lease_s: float
) -> None:
    with pytest.raises(ZohoConfigError):
        ledger.slots.lease(connection, holder, wanted=1, limit=1, lease_s=lease_s)


def test_lease_of_a_time_when_the_clock_was_ahead_ends(ledger: Ledger, clock: _Clock) -> None:
    _lease(ledger, "a", 5)
    clock.now -= 100_000

    assert _lease(ledger, "b", 5) == []
    clock.now += 121
    assert _lease(ledger, "b", 5) == [0, 1, 2, 3, 4]


def test_leases_end_by_the_clock_of_the_database(engine: sa.Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = Ledger(engine)
    ledger.ensure_schema()
    _lease(ledger, "a", 5)
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 3600)

    assert _lease(ledger, "b", 5) == []
    assert len(ledger.slots.renew(ZOHO, "a", 30)) == 5
