from __future__ import annotations

import random
import string
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

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
    pairs,
    planned,
    rows_of,
    run_start,
)
from zoho_crm.core.links import Relation, link_fault, pair_key, storable_text, to_external_id
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import PlanError, ZohoConfigError
from zoho_crm.ledger import plan, tables
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator


class _Colour(str, Enum):  # noqa: UP042 - as a warehouse client may do it, with its own str()
    RED = "red"


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "BATCH_ROWS", 50)


def test_plan_is_ordered_by_parent_and_cut_into_chunks(ledger: Ledger, engine: sa.Engine) -> None:
    rows = pairs(25)
    random.Random(1).shuffle(rows)  # noqa: S311 - an order, not a secret

    summary = planned(ledger, rows, chunk_size=10)

    assert (summary.source_rows, summary.planned, summary.duplicates, summary.invalid) == (25, 25, 0, 0)
    assert summary.chunks == [
        {"run_key": RUN, "chunk_no": 0, "links": 10, "label": "1/3 from c-00000"},
        {"run_key": RUN, "chunk_no": 1, "links": 10, "label": "2/3 from c-00003"},
        {"run_key": RUN, "chunk_no": 2, "links": 5, "label": "3/3 from c-00006"},
    ]
    stored = rows_of(engine, tables.links)
    assert [(row["external_id"], row["related_external_id"]) for row in stored] == pairs(25)
    assert [row["seq"] for row in stored] == list(range(25))
    assert [row["chunk_no"] for row in stored] == [0] * 10 + [1] * 10 + [2] * 5
    assert {(row["state"], row["outcome"]) for row in stored} == {("planned", None)}
    assert [row["pair_key"] for row in stored] == [pair_key(RELATION, *pair) for pair in pairs(25)]


def test_plan_is_noted_on_its_run(ledger: Ledger) -> None:
    planned(ledger, [*pairs(3), *pairs(2), ("", "x")])

    run = ledger.runs.get(RUN)

    assert run is not None
    assert (run.source_rows, run.planned, run.duplicates, run.invalid) == (6, 4, 2, 1)
    assert (run.chunks, run.status) == (1, "planned")
    assert run.planned_at is not None


@pytest.mark.parametrize(
    ("count", "chunk_size", "max_chunks", "sizes"),
    [
        (10, 4, 100, [4, 4, 2]),
        (10, 4, 3, [4, 4, 2]),
        (10, 4, 2, [5, 5]),
        (10, 1, 3, [4, 4, 2]),
        (10, 1, 1, [10]),
        (10, 10, 1, [10]),
        (10, 99, 5, [10]),
        (1, 1, 1, [1]),
    ],
)
def test_chunks_grow_rather_than_be_too_many(
    ledger: Ledger, count: int, chunk_size: int, max_chunks: int, sizes: list[int]
) -> None:
    summary = planned(ledger, pairs(count), chunk_size=chunk_size, max_chunks=max_chunks)

    assert [chunk["links"] for chunk in summary.chunks] == sizes
    assert sum(drive(ledger, chunk["chunk_no"]) for chunk in summary.chunks) == count
    assert ledger.runs.count_unsettled(RUN) == 0


@pytest.mark.parametrize(("chunk_size", "max_chunks"), [(0, 1), (1, 0), (-1, 5)])
def test_chunks_without_room_are_refused(ledger: Ledger, chunk_size: int, max_chunks: int) -> None:
    with pytest.raises(ZohoConfigError, match="at least 1"):
        planned(ledger, pairs(1), chunk_size=chunk_size, max_chunks=max_chunks)


def test_source_without_rows_gives_an_empty_plan(ledger: Ledger) -> None:
    summary = planned(ledger, [])

    assert (summary.source_rows, summary.planned, summary.chunks) == (0, 0, [])
    assert ledger.plans.get(RUN) == summary
    assert ledger.runs.counts(RUN) == {}


def test_source_of_invalid_rows_only_gives_a_plan_without_chunks(ledger: Ledger) -> None:
    summary = planned(ledger, [(None, "a"), ("b", ".."), (None, "a")])

    assert (summary.planned, summary.duplicates, summary.invalid, summary.chunks) == (2, 1, 2, [])
    assert ledger.runs.counts(RUN) == {Outcome.INVALID: 2}
    assert ledger.runs.count_unsettled(RUN) == 0


def test_link_named_several_times_is_planned_once(ledger: Ledger, engine: sa.Engine) -> None:
    summary = planned(ledger, [("a", 1), ("a", "1"), ("a", Decimal("1.00")), ("A", "1"), ("a", "1 ")])

    assert (summary.source_rows, summary.planned, summary.duplicates, summary.invalid) == (5, 3, 2, 1)
    valid = [row for row in rows_of(engine, tables.links) if row["outcome"] is None]
    assert [(row["external_id"], row["related_external_id"]) for row in valid] == [("A", "1"), ("a", "1")]


def test_row_that_can_be_sent_wins_over_one_that_only_looks_like_it(
    ledger: Ledger, engine: sa.Engine
) -> None:
    summary = planned(ledger, [("a", 1.5), ("a", "1.5"), ("a", 1.5)])

    assert (summary.planned, summary.duplicates, summary.invalid) == (1, 2, 0)
    assert rows_of(engine, tables.links)[0]["outcome"] is None


def test_text_of_an_enum_is_its_value(ledger: Ledger, engine: sa.Engine) -> None:
    planned(ledger, [(_Colour.RED, "a")])

    assert rows_of(engine, tables.links)[0]["external_id"] == "red"


def test_invalid_link_is_settled_and_audited_as_the_plan_is_published(
    ledger: Ledger, engine: sa.Engine
) -> None:
    planned(ledger, [("a", "b"), ("a", None)])

    invalid = rows_of(engine, tables.links)[1]
    assert (invalid["state"], invalid["outcome"], invalid["chunk_no"]) == ("settled", "invalid", None)
    assert invalid["pair_key"] == pair_key(RELATION, "a", "")
    (audited,) = rows_of(engine, tables.audit)
    assert (audited["outcome"], audited["detail"]) == ("invalid", "related_external_id is missing")
    assert (audited["seq"], audited["claim_no"], audited["pair_key"]) == (1, 0, invalid["pair_key"])
    assert (audited["job"], audited["task_id"], audited["dry_run"]) == (JOB, ORIGIN.task_id, False)
    assert (audited["sent_at"], audited["duration_ms"], audited["attempts"]) == (None, None, 0)


def test_planning_again_changes_nothing_and_reads_nothing(ledger: Ledger, engine: sa.Engine) -> None:
    def unread() -> Iterator[tuple[object, object]]:
        pytest.fail("the source was read")
        yield "a", "b"

    first = planned(ledger, pairs(5), chunk_size=2)
    drive(ledger)
    before = rows_of(engine, tables.links)

    again = planned(ledger, unread(), chunk_size=4)

    assert again == first == ledger.plans.get(RUN)
    assert rows_of(engine, tables.links) == before


def test_run_that_was_not_started_cannot_be_planned(ledger: Ledger) -> None:
    with pytest.raises(PlanError, match="start the run"):
        ledger.plans.create("other", RELATION, [], chunk_size=1, max_chunks=1, origin=ORIGIN, target=TARGET)


def test_plan_of_another_relation_is_refused_even_if_one_is_stored(ledger: Ledger) -> None:
    planned(ledger, pairs(1))
    other = Relation("Deals", "Deal_Ref", "Contacts", "Contacts", "Customer_Ref")

    with pytest.raises(PlanError, match="start a new run for another relation"):
        ledger.plans.create(RUN, other, [], chunk_size=1, max_chunks=1, origin=ORIGIN, target=TARGET)


@pytest.mark.parametrize("row", [("a",), ("a", "b", "c"), 7], ids=repr)
def test_row_that_is_not_a_pair_stops_the_plan(ledger: Ledger, row: Any) -> None:
    with pytest.raises(PlanError, match="select just these two columns"):
        planned(ledger, [("a", "b"), row])

    assert ledger.plans.get(RUN) is None


@pytest.mark.usefixtures("small_batches")
def test_source_that_breaks_leaves_nothing_behind(ledger: Ledger, engine: sa.Engine) -> None:
    def breaks() -> Iterator[tuple[object, object]]:
        yield from pairs(120)
        raise ConnectionError("the warehouse is gone")

    with pytest.raises(ConnectionError):
        planned(ledger, breaks())

    assert ledger.plans.get(RUN) is None
    assert (
        rows_of(engine, tables.links)
        == rows_of(engine, tables.staging)
        == rows_of(engine, tables.attempts)
        == []
    )
    assert planned(ledger, pairs(2)).planned == 2


def test_plan_appears_whole_or_not_at_all(
    ledger: Ledger, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(plan.audit, "append", dies)
        with pytest.raises(MemoryError):
            planned(ledger, [*pairs(5), (None, None)])

    run = ledger.runs.get(RUN)
    assert run is not None
    assert (run.planned_at, run.planned) == (None, None)
    assert rows_of(engine, tables.links) == rows_of(engine, tables.chunks) == []
    assert planned(ledger, pairs(2)).planned == 2


def test_rows_of_dead_attempts_are_cleared_away(ledger: Ledger, engine: sa.Engine) -> None:
    now = datetime.now(UTC)
    ledger.runs.start(run_start("other"))
    planned(ledger, pairs(1))
    _stage(engine, "aged", "other", now - timedelta(days=2))
    _stage(engine, "too late", RUN, now)
    _stage(engine, "alive", "other", now)

    planned(ledger, pairs(1), run_key="third")

    assert {row["attempt"] for row in rows_of(engine, tables.staging)} == {"alive"}
    assert {row["attempt"] for row in rows_of(engine, tables.attempts)} == {"alive"}


@pytest.mark.usefixtures("small_batches")
def test_plan_is_refused_if_staged_rows_are_deleted(ledger: Ledger, engine: sa.Engine) -> None:
    def deleting() -> Iterator[tuple[object, object]]:
        yield from pairs(50)
        yield from pairs(1)
        with engine.begin() as connection:
            connection.execute(sa.delete(tables.staging).where(tables.staging.c.row_no < 10))

    with pytest.raises(PlanError, match="plan again"):
        planned(ledger, deleting())


@pytest.mark.usefixtures("small_batches")
def test_slow_planner_whose_rows_were_cleared_away_returns_what_another_has_published(
    ledger: Ledger, engine: sa.Engine
) -> None:
    def slow() -> Iterator[tuple[object, object]]:
        yield from pairs(60)
        planned(ledger, pairs(3))
        planned(ledger, pairs(1), run_key="another run, which clears up")
        yield from pairs(120)[60:]

    summary = planned(ledger, slow())

    assert summary == ledger.plans.get(RUN)
    assert summary.planned == 3
    assert rows_of(engine, tables.staging) == rows_of(engine, tables.attempts) == []


def test_label_of_a_chunk_is_short(ledger: Ledger) -> None:
    (chunk,) = planned(ledger, [("x" * 255, "a")]).chunks

    assert chunk["label"].startswith("1/1 from xxx")
    assert len(chunk["label"]) == 80


@pytest.mark.usefixtures("small_batches")
def test_batches_and_pages_join_without_a_gap(ledger: Ledger, engine: sa.Engine) -> None:
    rows = [*pairs(101), *((f"{number}", " ") for number in range(51)), *pairs(3)]

    summary = planned(ledger, rows, chunk_size=30)

    assert (summary.source_rows, summary.planned, summary.duplicates) == (155, 152, 3)
    assert [chunk["links"] for chunk in summary.chunks] == [30, 30, 30, 11]
    assert ledger.runs.counts(RUN) == {Outcome.INVALID: 51}
    assert [row["seq"] for row in rows_of(engine, tables.audit, "seq")] == list(range(101, 152))


def test_times_of_a_plan_come_from_the_clock(engine: sa.Engine) -> None:
    ledger = Ledger(engine, clock=lambda _: MOMENT.timestamp())
    ledger.ensure_schema()

    planned(ledger, [(None, None)])

    run = ledger.runs.get(RUN)
    assert run is not None
    assert run.started_at == run.planned_at == MOMENT
    assert rows_of(engine, tables.audit)[0]["finished_at"] == MOMENT


def test_hostile_ids_are_planned_exactly_or_audited_as_invalid(ledger: Ledger, engine: sa.Engine) -> None:
    rows = _hostile_pairs()
    assert len(rows) >= 300
    expected = _expected(rows)

    summary = planned(ledger, rows, chunk_size=50)

    stored = {row["pair_key"]: row for row in rows_of(engine, tables.links)}
    assert stored.keys() == expected.keys()
    for key, (external_id, related_external_id, fault) in expected.items():
        row = stored[key]
        assert (row["external_id"], row["related_external_id"]) == (external_id, related_external_id)
        assert (row["outcome"], row["invalid_reason"]) == (
            (None, None) if fault is None else ("invalid", fault)
        )
    faults = Counter(fault for *_, fault in expected.values() if fault)
    assert Counter(row["detail"] for row in rows_of(engine, tables.audit)) == faults
    assert summary.invalid == faults.total()
    assert summary.planned == len(expected)
    assert summary.source_rows - summary.duplicates == summary.planned
    assert (
        sum(drive(ledger, chunk["chunk_no"]) for chunk in summary.chunks) == summary.planned - summary.invalid
    )


def _hostile_values() -> list[object]:
    texts = [
        "'; DROP TABLE zoho_delink_link; --",
        '" OR ""="',
        "%s %(a)s :b ? ?? {} \\",
        "\\u0000",
        "../../Deals/1",
        "a/b?c=d&e#f;g",
        "%2e%2e",
        ".",
        "..",
        "...",
        "",
        " ",
        " lead",
        "trail ",
        "\u00a0",
        "\u200b",
        "\ufeffbom",
        "tab\there",
        "new\nline",
        "nul\x00",
        "\x7f",
        "\x85",
        "\ud800",
        "ok\udfff",
        "😀" * 60,
        "e\u0301",
        "\u00e9",
        "\u202eright to left",
        "ﬃ",
        "ß",
        "SS",
        "ss",
        "İ",
        "null",
        "NULL",
        "None",
        "true",
        "1e3",
        "0x10",
        "007",
        "7",
        "a,b",
        '{"a": 1}',
        "[1]",
        "x" * 255,
        "x" * 256,
        "y" * 5000,
        "$$; $1",
        "`id`",
        "${7*7}",
        "\U0001d54f",
        "\U0010ffff",
    ]
    values: list[object] = [
        None,
        True,
        False,
        7,
        -7,
        0,
        10**254,
        10**300,
        10**5000,
        1.5,
        float("nan"),
        float("inf"),
        Decimal("7.00"),
        Decimal("7.5"),
        Decimal("NaN"),
        Decimal("1E+20"),
        Decimal("1E+999"),
        UUID(int=7),
        b"bytes",
        bytearray(b"x"),
        date(2026, 1, 1),
        MOMENT,
        [1],
        {"a": 1},
        object,
    ]
    return [*texts, *values, *(f"c{sign}d" for sign in string.punctuation)]


def _hostile_pairs() -> list[tuple[object, object]]:
    values = _hostile_values()
    return [
        *((value, "plain") for value in values),
        *(("plain", value) for value in values),
        *zip(values, reversed(values), strict=True),
    ]


def _expected(rows: list[tuple[object, object]]) -> dict[str, tuple[str, str, str | None]]:
    """What must be stored, worked out link by link with the rules of the core."""
    expected: dict[str, tuple[str, str, str | None]] = {}
    for row in rows:
        values = [to_external_id(value) for value in row]
        fault = link_fault(*values)
        key = pair_key(RELATION, *(_text(value) for value in values))
        if key not in expected or (expected[key][2] and not fault):
            external_id, related_external_id = (
                storable_text(value) if fault else str(value) for value in values
            )
            expected[key] = (external_id, related_external_id, fault)
    return expected


def _text(value: object) -> str:
    if value is None:
        return ""
    try:
        return str(value)
    except ValueError:
        return f"<{type(value).__name__}>"


def _stage(engine: sa.Engine, attempt: str, run_key: str, started_at: datetime) -> None:
    row = {"attempt": attempt, "row_no": 0, "pair_key": "k", "external_id": "a", "related_external_id": "b"}
    with engine.begin() as connection:
        connection.execute(
            sa.insert(tables.attempts).values(attempt=attempt, run_key=run_key, started_at=started_at)
        )
        connection.execute(sa.insert(tables.staging).values(row))
