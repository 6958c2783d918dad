from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor

from zoho_crm.ledger.audit import EventIds

MOMENT_NS = 1_783_000_000_123_456_789


def test_id_is_a_uuid_of_version_7_with_its_time() -> None:
    event = uuid.UUID(EventIds(lambda: MOMENT_NS)())

    assert (event.version, event.variant) == (7, uuid.RFC_4122)
    assert event.int >> 80 == MOMENT_NS // 1_000_000


def test_ids_keep_their_order_while_the_clock_stands_still_or_goes_back() -> None:
    times = iter([MOMENT_NS] * 5000 + [MOMENT_NS - 10**9] * 5000)
    new_id = EventIds(lambda: next(times))

    ids = [new_id() for _ in range(10_000)]

    assert ids == sorted(set(ids))


def test_ids_of_a_later_clock_sort_later() -> None:
    times = iter([MOMENT_NS, MOMENT_NS + 1000, MOMENT_NS + 10**6, MOMENT_NS + 10**12])
    new_id = EventIds(lambda: next(times))

    ids = [new_id() for _ in range(4)]

    assert ids == sorted(ids)


def test_time_does_not_run_ahead_when_many_ids_are_made() -> None:
    times = iter(range(MOMENT_NS, MOMENT_NS + 20_000 * 1000, 1000))
    new_id = EventIds(lambda: next(times))

    last = [new_id() for _ in range(20_000)][-1]

    assert uuid.UUID(last).int >> 80 == (MOMENT_NS + 19_999_000) // 1_000_000


def test_threads_never_share_an_id() -> None:
    new_id = EventIds(lambda: MOMENT_NS)

    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: new_id(), range(4000)))

    assert len(set(ids)) == 4000
