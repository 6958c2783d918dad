from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoho_crm.core.batching import group_by_parent, id_lists
from zoho_crm.core.links import Link
from zoho_crm.core.models import PlannedLink
from zoho_crm.core.request import MAX_IDS, MAX_IDS_LENGTH


def page(*links: tuple[str, str], ambiguous: frozenset[int] = frozenset()) -> list[PlannedLink]:
    return [
        PlannedLink(seq, Link(*link), f"key-{seq}", ambiguous_before=seq in ambiguous)
        for seq, link in enumerate(links)
    ]


def seqs(links: list[PlannedLink]) -> list[int]:
    return [planned.seq for planned in links]


@pytest.mark.parametrize(
    ("links", "ambiguous", "parents", "single"),
    [
        pytest.param([], (), [], [], id="nothing"),
        pytest.param([("a", "1")], (), [], [0], id="one-link"),
        pytest.param([("a", "1"), ("a", "2")], (), [[0, 1]], [], id="one-parent"),
        pytest.param([("a", "1"), ("b", "1"), ("b", "2"), ("c", "1")], (), [[1, 2]], [0, 3], id="mixed"),
        pytest.param([("a", "1"), ("A", "1"), ("A", "2")], (), [[1, 2]], [0], id="case-is-another-parent"),
        pytest.param([("a", "1,2"), ("a", "3"), ("a", "4")], (), [[1, 2]], [0], id="comma-in-related-id"),
        pytest.param([("a,b", "1"), ("a,b", "2")], (), [], [0, 1], id="comma-in-parent-id"),
        pytest.param([("a", "1"), ("a", "2"), ("a", "3")], (1,), [[0, 2]], [1], id="sent-before"),
        pytest.param([("a", "1"), ("a", "2")], (0,), [], [0, 1], id="one-is-left-of-its-parent"),
        pytest.param([("a", "1"), ("a", "2")], (0, 1), [], [0, 1], id="all-sent-before"),
        pytest.param([("a", "1"), ("b", "1"), ("a", "2")], (), [], [0, 1, 2], id="not-side-by-side"),
    ],
)
def test_groups_what_one_call_can_take(
    links: list[tuple[str, str]], ambiguous: tuple[int, ...], parents: list[list[int]], single: list[int]
) -> None:
    grouped = group_by_parent(page(*links, ambiguous=frozenset(ambiguous)))
    assert [seqs(group) for group in grouped.parents] == parents
    assert sorted(seqs(grouped.single)) == single


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["1", "2", "3", "4,5"])), unique=True).map(
        sorted
    ),
    st.frozensets(st.integers(0, 11)),
)
def test_every_link_of_a_page_is_in_one_place(
    links: list[tuple[str, str]], ambiguous: frozenset[int]
) -> None:
    grouped = group_by_parent(page(*links, ambiguous=ambiguous))
    placed = [*grouped.single, *(planned for group in grouped.parents for planned in group)]
    assert sorted(seqs(placed)) == list(range(len(links)))
    for group in grouped.parents:
        assert len(group) > 1
        assert len({planned.link.external_id for planned in group}) == 1
        assert not any(planned.ambiguous_before for planned in group)


@pytest.mark.parametrize(
    ("ids", "sizes"),
    [
        pytest.param([], [], id="none"),
        pytest.param(["a"], [1], id="one"),
        pytest.param(["a", "b", "a", "b"], [2], id="repeats"),
        pytest.param([str(n) for n in range(100)], [100], id="as-many-as-fit"),
        pytest.param([str(n) for n in range(101)], [100, 1], id="one-too-many"),
        pytest.param([f"{n:019}" for n in range(100)], [100], id="record-ids-of-19-digits"),
        pytest.param([f"{n:020}" for n in range(100)], [95, 5], id="record-ids-of-20-digits"),
        pytest.param(["x" * 1000, "y" * 999], [2], id="just-long-enough"),
        pytest.param(["x" * 1000, "y" * 1000], [1, 1], id="a-character-too-long"),
        pytest.param(["x" * 255, *"abc"], [4], id="long-and-short"),
    ],
)
def test_cuts_ids_at_what_a_call_takes(ids: list[str], sizes: list[int]) -> None:
    assert [len(one) for one in id_lists(ids)] == sizes


@given(st.lists(st.text("ab1", min_size=1, max_size=255), max_size=250))
def test_no_list_is_longer_than_zoho_takes_and_none_is_lost(ids: list[str]) -> None:
    lists = list(id_lists(ids))
    assert [one for part in lists for one in part] == list(dict.fromkeys(ids))
    assert all(0 < len(part) <= MAX_IDS and len(",".join(part)) <= MAX_IDS_LENGTH for part in lists)
