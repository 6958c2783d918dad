from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoho_crm.operators.breaker import CUT_PAUSE_S, AdaptiveConcurrency


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.mark.parametrize("most", [1, 5, 25])
def test_begins_with_the_most(most: int) -> None:
    assert AdaptiveConcurrency(most).allowed == most


def test_halves_at_each_refusal_and_never_stops(clock: Clock) -> None:
    pace = AdaptiveConcurrency(25, clock)
    allowed = []
    for _ in range(7):
        pace.slow_down()
        allowed.append(pace.allowed)
        clock.now += CUT_PAUSE_S
    assert allowed == [12, 6, 3, 1, 1, 1, 1]


def test_refusals_of_one_moment_count_once(clock: Clock) -> None:
    pace = AdaptiveConcurrency(20, clock)
    for _ in range(20):
        pace.slow_down()
        clock.now += CUT_PAUSE_S / 25
    assert pace.allowed == 10
    clock.now += CUT_PAUSE_S
    pace.slow_down()
    assert pace.allowed == 5


def test_adds_one_for_each_round_of_answers(clock: Clock) -> None:
    pace = AdaptiveConcurrency(20, clock)
    pace.slow_down()
    rounds = []
    while pace.allowed < 20:
        before = pace.allowed
        answers = 0
        while pace.allowed == before:
            pace.speed_up()
            answers += 1
        rounds.append(answers)
    # A round is as many answers as requests are in flight, or one more for the fractions.
    assert all(abs(answers - allowed) <= 1 for answers, allowed in zip(rounds, range(10, 20), strict=True))


def test_never_goes_beyond_the_most(clock: Clock) -> None:
    pace = AdaptiveConcurrency(3, clock)
    for _ in range(100):
        pace.speed_up()
    assert pace.allowed == 3


@given(
    st.integers(1, 25),
    st.lists(st.one_of(st.just("answer"), st.just("refusal"), st.floats(0, 5)), max_size=200),
)
def test_stays_between_one_and_the_most(most: int, events: list[str | float]) -> None:
    clock = Clock()
    pace = AdaptiveConcurrency(most, clock)
    for event in events:
        if event == "answer":
            pace.speed_up()
        elif event == "refusal":
            pace.slow_down()
        elif isinstance(event, float):
            clock.now += event
        assert 1 <= pace.allowed <= most
