from __future__ import annotations

from collections import deque
from decimal import Decimal
from typing import TYPE_CHECKING
from uuid import UUID

import pytest

from tests.support.links import RELATION
from tests.support.operators import RUN_AFTER
from zoho_crm.core.models import LinkResult, Target
from zoho_crm.core.outcomes import Outcome
from zoho_crm.operators.drivers import MemoryStore, deduplicate_links

if TYPE_CHECKING:
    from zoho_crm.core.models import PlannedLink


def removed(link: PlannedLink) -> LinkResult:
    return LinkResult(link, Outcome.REMOVED, RUN_AFTER)


def test_memory_store_hands_out_every_link_once() -> None:
    links, _ = deduplicate_links([("c", str(n)) for n in range(5)], RELATION)
    store = MemoryStore(deque(links), "a job", Target(RELATION, "us", "v7"))
    first = store.settle([], 3)
    second = store.settle([removed(one) for one in first], 9)
    assert [*first, *second] == links
    assert store.settle([removed(one) for one in second], 9) == []
    store.stop_run("there are no other tasks")
    assert store.stop_reason() is None


def test_links_are_validated_sorted_and_deduplicated() -> None:
    sendable, invalid = deduplicate_links(
        [
            ("b", "2"),
            ("a", "9"),
            ("b", "1"),
            ("b", "2"),
            ("", "x"),
            (None, "x"),
            ("..", "x"),
            ("a", None),
            ("A", "9"),
        ],
        RELATION,
    )
    assert [(one.seq, one.link.external_id, one.link.related_external_id) for one in sendable] == [
        (0, "A", "9"),
        (1, "a", "9"),
        (2, "b", "1"),
        (3, "b", "2"),
    ]
    assert [(link.external_id, reason) for link, reason in invalid] == [
        ("", "external_id is blank"),
        ("..", "external_id holds a dot segment or a slash at an end, which could change the address"),
        ("a", "related_external_id is missing"),
    ]
    assert len({one.pair_key for one in sendable}) == 4


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (7, "7"),
        (Decimal("5840000000000001"), "5840000000000001"),
        (Decimal("7.0"), "7"),
        (UUID("6f2c1d9e-0b1a-4c55-9a53-0d6f0f3d2a10"), "6f2c1d9e-0b1a-4c55-9a53-0d6f0f3d2a10"),
        ("007", "007"),
    ],
    ids=str,
)
def test_values_with_one_exact_text_are_that_text(value: object, text: str) -> None:
    ((one,), invalid) = deduplicate_links([(value, value), (text, text)], RELATION)
    assert (one.link.external_id, one.link.related_external_id, invalid) == (text, text, [])


@pytest.mark.parametrize("value", [1.5, True, Decimal("1.5"), b"ab", ["a"]], ids=repr)
def test_values_without_an_exact_text_are_never_sent(value: object) -> None:
    sendable, ((_, reason),) = deduplicate_links([(value, "d")], RELATION)
    assert sendable == []
    assert reason == f"external_id is not text but {type(value).__name__}"


def test_an_integer_of_thousands_of_digits_is_never_sent() -> None:
    sendable, invalid = deduplicate_links([(10**5000, "d")], RELATION)
    assert (sendable, len(invalid)) == ([], 1)
