"""Guards: each limit row by row, and what a decision says."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from zoho_crm.core.guard_rules import Facts, Override, judge, not_found_breach, read_count, read_time
from zoho_crm.core.job import Guards
from zoho_crm.core.links import Relation
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import PlanError

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
BASELINE = {"baseline_sql_file": "known.sql"}
FRESHNESS = {"freshness_sql_file": "loaded.sql"}


def breaches(facts: dict[str, Any], guards: dict[str, Any], **options: Any) -> list[str]:
    return judge(Facts(**{"planned": 10, "now": NOW, **facts}), Guards(**guards), **options).breaches


@pytest.mark.parametrize(
    ("planned", "max_links", "breach"),
    [
        pytest.param(10, None, [], id="no limit"),
        pytest.param(9, 10, [], id="below"),
        pytest.param(10, 10, [], id="at the limit"),
        pytest.param(11, 10, ["11 links planned, 10 allowed"], id="above"),
        pytest.param(0, 0, [], id="nothing planned and nothing allowed"),
        pytest.param(1, 0, ["1 link planned, 0 allowed"], id="nothing allowed"),
    ],
)
def test_number_of_links(planned: int, max_links: int | None, breach: list[str]) -> None:
    assert breaches({"planned": planned}, {"max_links": max_links}) == breach


@pytest.mark.parametrize(
    ("planned", "known", "share", "breach"),
    [
        pytest.param(5, 100, 0.05, [], id="at the limit"),
        pytest.param(7, 100, 0.07, [], id="at a limit that no float holds"),
        pytest.param(6, 100, 0.05, ["6% of the 100 baseline links planned, 5% allowed"], id="above"),
        pytest.param(3, 2, 1.0, ["150% of the 2 baseline links planned, 100% allowed"], id="more than known"),
        pytest.param(
            1, 0, 1.0, ["1 link planned of the 0 that the baseline knows, 100% allowed"], id="none known"
        ),
        pytest.param(0, 0, 0.05, [], id="none known, none planned"),
        pytest.param(0, 100, 0.05, [], id="none planned"),
        pytest.param(
            2, 1000, 0.001, ["0.2% of the 1000 baseline links planned, 0.1% allowed"], id="a small share"
        ),
    ],
)
def test_share_of_the_baseline_links(planned: int, known: int, share: float, breach: list[str]) -> None:
    guards = {"max_share": share, **BASELINE}
    assert breaches({"planned": planned, "baseline_links": known}, guards) == breach


def test_a_share_without_a_count_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="baseline_links"):
        breaches({}, {"max_share": 0.5, **BASELINE})


@pytest.mark.parametrize(
    ("as_of", "breach"),
    [
        pytest.param(NOW, [], id="now"),
        pytest.param(NOW - 6 * HOUR, [], id="at the limit"),
        pytest.param(
            NOW - 6 * HOUR - timedelta(microseconds=1),
            ["the source is of 2026-11-23 05:59 UTC, 6 hours old, 6 hours allowed"],
            id="above by a moment",
        ),
        pytest.param(
            NOW - 50 * HOUR,
            ["the source is of 2026-11-21 10:00 UTC, 2 days 2 hours old, 6 hours allowed"],
            id="days",
        ),
        pytest.param(
            NOW.astimezone(timezone(2 * HOUR)) - 7 * HOUR,
            ["the source is of 2026-11-23 05:00 UTC, 7 hours old, 6 hours allowed"],
            id="another zone",
        ),
        pytest.param(
            NOW + timedelta(microseconds=1),
            ["the source is of 2026-11-23 12:00 UTC, which lies in the future"],
            id="the future",
        ),
        pytest.param(None, ["the age of the source is not known, 6 hours allowed"], id="no time"),
    ],
)
def test_age_of_the_source(as_of: datetime | None, breach: list[str]) -> None:
    assert breaches({"source_as_of": as_of}, {"max_source_age": "6h", **FRESHNESS}) == breach


@pytest.mark.parametrize(
    ("planned", "recent", "breach"),
    [
        pytest.param(10_000, [], [], id="no run before"),
        pytest.param(10_000, [1, 1], [], id="too few before"),
        pytest.param(30, [10, 10, 10], [], id="at the limit"),
        pytest.param(
            31,
            [10, 10, 10],
            ["31 links planned, 3 times the median of the last 3 runs (10) allowed"],
            id="above",
        ),
        pytest.param(3, [0, 0, 0], [], id="nothing is usual, and counted as one"),
        pytest.param(
            4,
            [0, 0, 0],
            ["4 links planned, 3 times the median of the last 3 runs (1) allowed"],
            id="nothing is usual",
        ),
        pytest.param(45, [10, 20, 5, 30], [], id="an even number of runs"),
        pytest.param(
            46,
            [10, 20, 5, 30],
            ["46 links planned, 3 times the median of the last 4 runs (15) allowed"],
            id="above an even number",
        ),
        pytest.param(30, [10] * 10 + [10_000] * 30, [], id="older runs do not count"),
        pytest.param(
            31,
            [10] * 10 + [10_000] * 30,
            ["31 links planned, 3 times the median of the last 10 runs (10) allowed"],
            id="older runs do not raise it",
        ),
    ],
)
def test_a_sudden_jump(planned: int, recent: list[int], breach: list[str]) -> None:
    assert (
        breaches({"planned": planned, "recent_planned": recent}, {"max_links": None, "max_jump": 3}) == breach
    )


@pytest.mark.parametrize(
    ("counts", "limit", "breached"),
    [
        pytest.param({"parent_not_found": 26, "removed": 24}, 0.5, True, id="above"),
        pytest.param({"parent_not_found": 25, "removed": 25}, 0.5, False, id="just the limit"),
        pytest.param({"related_not_found": 49}, 0.5, False, id="too few"),
        pytest.param({"related_not_found": 49, "failed": 10}, 0.5, False, id="failed links are not settled"),
        pytest.param({"related_not_found": 49, "invalid": 10}, 0.5, False, id="invalid links are not sent"),
        pytest.param({"related_not_found": 1, "already_absent": 49}, 0.0, True, id="none allowed"),
        pytest.param({"related_not_found": 50}, 1.0, False, id="all allowed"),
    ],
)
def test_share_of_links_without_a_record(counts: dict[str, int], limit: float, breached: bool) -> None:
    by_outcome = {Outcome(outcome): count for outcome, count in counts.items()}
    relation = Relation("Contacts", "A_ID", "Deals", "Deals", "B_ID")
    assert (not_found_breach(by_outcome, relation, limit) is not None) is breached


ALL = {"max_links": 5, "max_share": 0.5, "max_source_age": "6h", "max_jump": 2.5, **BASELINE, **FRESHNESS}
BAD = {"baseline_links": 12, "source_as_of": NOW - 8 * HOUR, "recent_planned": [2, 2, 2]}


def test_every_breach_is_described_with_its_figures() -> None:
    assert breaches(BAD, ALL) == [
        "10 links planned, 5 allowed",
        "83.33% of the 12 baseline links planned, 50% allowed",
        "the source is of 2026-11-23 04:00 UTC, 8 hours old, 6 hours allowed",
        "10 links planned, 2.5 times the median of the last 3 runs (2) allowed",
    ]


def test_links_that_are_not_from_the_source_are_judged_by_their_number_alone() -> None:
    assert breaches(BAD, ALL, count_only=True) == ["10 links planned, 5 allowed"]


def test_the_override_takes_the_place_of_the_one_limit_and_its_reason_stands_in_the_decision() -> None:
    guards = Guards(**{**ALL, "max_links": 20})
    decision = judge(Facts(planned=10, now=NOW, **BAD), guards, Override(10, "spring cleaning"))
    assert len(decision.breaches) == 3
    assert "10 links planned, 10 allowed (limit set for this run: spring cleaning)" in decision.text
    assert "max_links" not in decision.way_on(guards)


def test_a_decision_lists_breaches_before_passed_checks() -> None:
    guards = Guards(max_links=10, max_source_age="6h", freshness_sql_file="loaded.sql")
    decision = judge(Facts(planned=10, now=NOW, source_as_of=NOW - 8 * HOUR), guards)
    assert decision.text == (
        "breached: the source is of 2026-11-23 04:00 UTC, 8 hours old, 6 hours allowed; "
        "10 links planned, 10 allowed"
    )
    assert (
        decision.way_on(guards) == "For max_source_age, correct the source or the limit, then start a new run"
    )


def test_a_job_without_a_limit_gets_one_and_the_breach_says_how_to_raise_it() -> None:
    decision = judge(Facts(planned=1_001, now=NOW), Guards())
    says = "1001 links planned, 1000 allowed by default (the job file does not set guards.max_links)"
    assert (decision.text, decision.breaches) == (f"breached: {says}", [says])
    assert decision.way_on(Guards()) == (
        "To let it pass, raise guards.max_links in the job file, or set guards.on_breach: approve"
    )
    assert judge(Facts(planned=1_000, now=NOW), Guards()).breaches == []


@pytest.mark.parametrize(
    "guards", [{"max_links": None}, {"max_share": 0.5, **BASELINE}], ids=["null", "max_share"]
)
def test_null_or_a_limit_by_share_means_no_limit_by_count(guards: dict[str, Any]) -> None:
    facts = Facts(planned=100_000, now=NOW, baseline_links=1_000_000)
    assert judge(facts, Guards(**guards)).breaches == []


RAISED = "(raised from 1000 to 2000 by ada: the first run)"


@pytest.mark.parametrize(
    ("guards", "planned", "max_links", "requester", "text"),
    [
        pytest.param(
            {},
            1_500,
            2_000,
            "ada",
            f"breached: 1500 links planned, 1000 allowed {RAISED}",
            id="raised without the right",
        ),
        pytest.param(
            {"may_raise": ["grace", "ada"]},
            2_000,
            2_000,
            "ada",
            f"passed: 2000 links planned, 2000 allowed {RAISED}",
            id="raised with the right",
        ),
        pytest.param(
            {"may_raise": ["ada"]},
            2_001,
            2_000,
            "ada",
            f"breached: 2001 links planned, 2000 allowed {RAISED}",
            id="more than the raised limit",
        ),
        pytest.param(
            {"may_raise": ["grace"]},
            1_001,
            2_000,
            "ada",
            f"breached: 1001 links planned, 1000 allowed {RAISED}",
            id="raised by another user",
        ),
        pytest.param(
            {"may_raise": ["None"]},
            1_001,
            2_000,
            None,
            "breached: 1001 links planned, 1000 allowed (raised from 1000 to 2000 by an unknown user: the first run)",
            id="raised by an unknown user",
        ),
        pytest.param(
            {"max_links": 1_000, "on_breach": "approve"},
            1_500,
            2_000,
            "ada",
            f"breached: 1500 links planned, 1000 allowed {RAISED}",
            id="an approver decides",
        ),
        pytest.param(
            {}, 1_000, 2_000, "ada", f"passed: 1000 links planned, 1000 allowed {RAISED}", id="raised in vain"
        ),
        pytest.param(
            {},
            500,
            500,
            "ada",
            "passed: 500 links planned, 500 allowed (limit set for this run: the first run)",
            id="lowered",
        ),
        pytest.param(
            {},
            501,
            500,
            "ada",
            "breached: 501 links planned, 500 allowed (limit set for this run: the first run)",
            id="more than the lowered limit",
        ),
        pytest.param(
            {"max_links": None},
            500,
            500,
            "ada",
            "passed: 500 links planned, 500 allowed (limit set for this run: the first run)",
            id="a limit where the job has none",
        ),
    ],
)
def test_form_lowers_the_limit_for_all_and_raises_it_for_those_who_may(
    guards: dict[str, Any], planned: int, max_links: int, requester: str | None, text: str
) -> None:
    override = Override(max_links, "the first run", requester)
    assert judge(Facts(planned=planned, now=NOW), Guards(**guards), override).text == text


def test_stopped_run_names_those_who_may_raise_the_limit() -> None:
    guards = Guards(max_links=5, may_raise=["ada", "grace"])
    assert judge(Facts(planned=6, now=NOW), guards).way_on(guards) == (
        "To let it pass, raise guards.max_links in the job file, or set guards.on_breach: approve; or one of "
        "guards.may_raise (ada, grace) starts a run with a larger max_links and a reason"
    )


@pytest.mark.parametrize(
    ("guards", "text"),
    [
        (
            {},
            "passed: 10 links planned, 1000 allowed by default (the job file does not set guards.max_links)",
        ),
        ({"max_links": None}, "passed: 10 links planned, no limit set"),
        ({"max_links": 10}, "passed: 10 links planned, 10 allowed"),
        (
            {"max_links": 10, "max_jump": 3},
            "passed: 10 links planned, 10 allowed; 0 earlier runs are too few to detect a jump",
        ),
    ],
)
def test_a_decision_without_a_breach(guards: dict[str, Any], text: str) -> None:
    decision = judge(Facts(planned=10, now=NOW), Guards(**guards))
    assert (decision.text, decision.breaches, decision.way_on(Guards(**guards))) == (text, [], "")


@pytest.mark.parametrize(
    ("value", "count"), [(0, 0), (7, 7), (Decimal("7"), 7), (Decimal("7.00"), 7), (1e6, 1_000_000)]
)
def test_a_count_may_be_any_whole_number(value: object, count: int) -> None:
    assert read_count(value) == count


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "NULL"),
        (True, "another number"),
        (-1, "another number"),
        (1.5, "another number"),
        (float("inf"), "another number"),
        (Decimal("NaN"), "another number"),
        (float("nan"), "another number"),
        ("12", "str"),
        (b"12", "bytes"),
    ],
)
def test_an_invalid_count_is_refused_by_field(value: object, kind: str) -> None:
    with pytest.raises(PlanError, match=rf"^guards\.baseline_sql_file: .* yields {kind}$"):
        read_count(value)


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        pytest.param(datetime(2026, 11, 23, 12, tzinfo=UTC), NOW, id="aware"),
        pytest.param(datetime(2026, 11, 23, 14, tzinfo=timezone(2 * HOUR)), NOW, id="another zone"),
        pytest.param(datetime(2026, 11, 23, 12), NOW, id="naive is UTC"),
        pytest.param(date(2026, 11, 23), NOW - 12 * HOUR, id="a date"),
        pytest.param("2026-11-23 12:00:00.000000", NOW, id="text of SQLite"),
        pytest.param(" 2026-11-23T12:00:00Z ", NOW, id="ISO text"),
        pytest.param("2026-11-23T14:00:00+02:00", NOW, id="ISO text of another zone"),
        pytest.param("2026-11-23", NOW - 12 * HOUR, id="text of a date"),
        pytest.param(None, None, id="NULL"),
    ],
)
def test_a_time_may_be_a_datetime_a_date_or_iso_text(value: object, moment: datetime | None) -> None:
    found = read_time(value)
    assert found == moment
    assert found is None or found.utcoffset() == timedelta(0)


@pytest.mark.parametrize(
    "value",
    [
        "12:00",
        "",
        "yesterday",
        "1763899200",
        1763899200,
        1.5,
        True,
        b"2026-11-23",
        "9999-12-31T23:59:59-10:00",
    ],
)
def test_an_invalid_time_is_refused_by_field_and_not_shown(value: object) -> None:
    with pytest.raises(PlanError, match=r"^guards\.freshness_sql_file: must yield a time") as refused:
        read_time(value)
    assert not str(value) or str(value) not in str(refused.value)
