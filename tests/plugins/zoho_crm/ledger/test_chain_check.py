"""Whatever is done to a chain of rows is found, and the row it was done to is named."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.plugins.zoho_crm.ledger.test_chain import MOMENT, ROW
from zoho_crm.ledger.chain import ChainEnd, RowHashes, common_of, own_of
from zoho_crm.ledger.chain_check import ChainRow, ChunkCheck, Finding, Kind, SealedEnd

LENGTH = 8


def chain(length: int = LENGTH, **changes: Any) -> list[dict[str, Any]]:
    """Rows of a chunk as they are written."""
    hashes, previous, rows = RowHashes(), "", []
    for chain_no in range(1, length + 1):
        row = {
            **ROW,
            "chain_no": chain_no,
            "event_id": f"event {chain_no}",
            "seq": chain_no * 3,
            "finished_at": MOMENT + timedelta(seconds=chain_no),
            **changes,
        }
        previous = hashes.of(previous, common_of(row), own_of(row))
        rows.append({**row, "row_hash": previous})
    return rows


ROWS = chain()
END = ChainEnd(LENGTH, ROWS[-1]["row_hash"])


def found(
    rows: list[dict[str, Any]], end: ChainEnd | None = END, sealed: tuple[SealedEnd, ...] = ()
) -> list[Finding]:
    ordered = sorted(rows, key=lambda row: (row["chain_no"], row["event_id"]))
    read = [
        ChainRow(row["event_id"], row["chain_no"], row["row_hash"], common_of(row), own_of(row))
        for row in ordered
    ]
    return list(ChunkCheck("run", 3, end, sealed).findings(read))


def summary(findings: list[Finding]) -> list[tuple[str, str | None]]:
    return [(finding.kind.value, finding.event_id) for finding in findings]


def missing_places(findings: list[Finding]) -> set[int]:
    """Places, from 0, of the rows that are said to be missing."""
    named: set[int] = set()
    for finding in findings:
        if finding.kind is Kind.MISSING:
            words = finding.detail.split(" of chunk")[0].split()
            named.update(range(int(words[1]) - 1, int(words[-1])))
    return named


places = st.integers(0, LENGTH - 1)


def other_value(value: Any, draw: st.DataObject) -> Any:
    """Another value of the same column."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return draw.draw(st.integers(-(2**31), 2**31).filter(lambda other: other != value))
    if hasattr(value, "microsecond"):
        return value + timedelta(microseconds=draw.draw(st.integers(1, 10**12)))
    return draw.draw(st.text().filter(lambda other: other != value))


def test_chain_as_it_was_written_has_no_findings() -> None:
    assert found(ROWS) == []
    assert found([], ChainEnd()) == []
    assert found(ROWS, None) == []
    assert found(ROWS, END, (SealedEnd(1, ChainEnd(5, ROWS[4]["row_hash"])), SealedEnd(2, END))) == []


@given(st.data(), places, st.sampled_from(sorted({*ROW} - {"chain_no"} | {"row_hash"})))
def test_altered_column_names_its_row_alone(data: st.DataObject, place: int, name: str) -> None:
    changed = {**ROWS[place], name: other_value(ROWS[place][name], data)}

    findings = found([*ROWS[:place], changed, *ROWS[place + 1 :]])

    assert summary(findings) == [("altered", changed["event_id"])]
    assert f"row {place + 1} of chunk 3" in findings[0].detail


@given(places, st.integers(-3, LENGTH + 3))
def test_row_that_was_moved_is_named(place: int, chain_no: int) -> None:
    row = ROWS[place]
    if chain_no == row["chain_no"]:
        return

    findings = found([*ROWS[:place], {**row, "chain_no": chain_no}, *ROWS[place + 1 :]])

    assert row["event_id"] in {finding.event_id for finding in findings}
    assert place in missing_places(findings)


@given(st.sets(places, min_size=1, max_size=LENGTH))
def test_removed_rows_are_named_by_their_places(places: set[int]) -> None:
    left = [row for place, row in enumerate(ROWS) if place not in places]

    findings = found(left)

    assert {finding.kind for finding in findings} == {Kind.MISSING}
    assert missing_places(findings) == places


def test_removed_rows_are_told_with_the_events_around_them() -> None:
    assert [finding.detail for finding in found([*ROWS[:2], *ROWS[4:]])] == [
        "rows 3 to 4 of chunk 3 are missing, between events event 2 and event 5, "
        "which itself cannot be checked without them"
    ]
    assert [finding.detail for finding in found(ROWS[1:])] == [
        "row 1 of chunk 3 is missing, before event event 2, which itself cannot be checked without them"
    ]
    assert [finding.detail for finding in found(ROWS[:-1])] == [
        "row 8 of chunk 3 is missing, after event event 7"
    ]
    assert [finding.detail for finding in found([])] == ["rows 1 to 8 of chunk 3 are missing, all of them"]


@given(st.data(), st.integers(-2, LENGTH + 3))
def test_added_row_is_named(data: st.DataObject, chain_no: int) -> None:
    added = {
        **ROWS[data.draw(places)],
        "event_id": data.draw(st.sampled_from(["a", "event 0", "zzz"])),
        "chain_no": chain_no,
        "row_hash": data.draw(st.sampled_from([ROWS[3]["row_hash"], "0" * 64])),
    }

    findings = found([*ROWS, added])

    named = {finding.event_id: finding.kind for finding in findings}
    assert added["event_id"] in named
    assert named[added["event_id"]] in {Kind.ADDED, Kind.ALTERED}
    assert not {row["event_id"] for row in ROWS} & set(named)


@given(places, places)
def test_rows_that_changed_places_are_named(one: int, other: int) -> None:
    if one == other:
        return
    rows = [dict(row) for row in ROWS]
    rows[one]["chain_no"], rows[other]["chain_no"] = rows[other]["chain_no"], rows[one]["chain_no"]

    named = {finding.event_id for finding in found(rows)}

    assert {rows[one]["event_id"], rows[other]["event_id"]} <= named


@given(st.sets(places, min_size=2))
def test_each_of_several_altered_rows_is_named(places: set[int]) -> None:
    rows = [{**row, "outcome": "failed"} if place in places else row for place, row in enumerate(ROWS)]

    assert {finding.event_id for finding in found(rows)} == {ROWS[place]["event_id"] for place in places}


def test_row_with_a_new_hash_is_told_by_the_row_after_it() -> None:
    forged = {**ROWS[3], "outcome": "failed"}
    forged["row_hash"] = RowHashes().of(ROWS[2]["row_hash"], common_of(forged), own_of(forged))

    (finding,) = found([*ROWS[:3], forged, *ROWS[4:]])

    assert (finding.kind, finding.event_id) == (Kind.ALTERED, "event 5")
    assert finding.detail.endswith("or the row before it is not, event event 4")


def test_chain_written_anew_is_told_by_the_chunks_row() -> None:
    (finding,) = found(chain(outcome="failed"))

    assert (finding.kind, finding.event_id) == (Kind.ALTERED, "event 8")
    assert "knows another one as its last" in finding.detail


def test_chain_and_chunk_written_anew_are_told_by_the_seal() -> None:
    forged = chain(outcome="failed")
    sealed = (SealedEnd(7, ChainEnd(5, ROWS[4]["row_hash"])), SealedEnd(9, END))

    findings = found(forged, ChainEnd(LENGTH, forged[-1]["row_hash"]), sealed)

    assert summary(findings) == [("broken_seal", "event 5"), ("broken_seal", "event 8")]
    assert "seal 7 holds another row" in findings[0].detail


def test_chain_and_chunk_cut_short_are_told_by_the_seal() -> None:
    (finding,) = found(ROWS[:4], ChainEnd(4, ROWS[3]["row_hash"]), (SealedEnd(1, END),))

    assert (finding.kind, finding.detail) == (
        Kind.MISSING,
        "rows 5 to 8 of chunk 3 are missing, after event event 4",
    )


def test_row_that_the_chunk_knows_nothing_of_is_added() -> None:
    assert summary(found(ROWS, ChainEnd(6, ROWS[5]["row_hash"]))) == [
        ("added", "event 7"),
        ("added", "event 8"),
    ]


@pytest.mark.parametrize(("sealed_rows", "expected"), [(None, 8), (5, 3), (8, 0), (12, 0)])
def test_rows_after_the_last_seal_are_counted(sealed_rows: int | None, expected: int) -> None:
    sealed = [] if sealed_rows is None else [SealedEnd(1, ChainEnd(sealed_rows, "x"))]
    check = ChunkCheck("run", 3, END, sealed)
    list(
        check.findings(
            ChainRow(r["event_id"], r["chain_no"], r["row_hash"], common_of(r), own_of(r)) for r in ROWS
        )
    )

    assert check.unsealed == expected
