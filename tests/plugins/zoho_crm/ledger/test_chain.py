from __future__ import annotations

import hashlib
import json
import timeit
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoho_crm.ledger import tables
from zoho_crm.ledger.chain import (
    COMMON,
    OWN,
    REPLACEABLE,
    ChainEnd,
    ChainRow,
    ChunkCheck,
    Finding,
    Kind,
    RowHashes,
    SealedEnd,
    common_of,
    is_pseudonym,
    own_of,
    pseudonym,
)

MOMENT = datetime(2026, 7, 1, 2, 3, 4, 567891, tzinfo=UTC)
ROW: dict[str, Any] = {
    "api_version": "v7",
    "attempts": 1,
    "chain_no": 2,
    "chunk_no": 3,
    "claim_no": 1,
    "dag_id": "zoho_delink__contacts_deals",
    "dag_run_id": "scheduled__2026-07-01T00:00:00+00:00",
    "data_center": "eu",
    "data_interval_end": MOMENT,
    "data_interval_start": MOMENT - timedelta(days=1),
    "detail": None,
    "dry_run": False,
    "duration_ms": 12,
    "event_id": "019a0000-0000-7000-8000-000000000001",
    "external_field": "Customer_Ref",
    "external_id": "c-1",
    "finished_at": MOMENT,
    "http_status": 200,
    "job": 'say "100%s"',
    "logical_date": MOMENT,
    "map_index": 3,
    "module": "Contacts",
    "operation": "delink",
    "org_id": None,
    "outcome": "removed",
    "pair_key": "f" * 64,
    "related_external_field": "Deal_Ref",
    "related_external_id": "d-ü",
    "related_list": "Deals",
    "related_module": "Deals",
    "run_key": "contacts_deals:1",
    "run_type": "scheduled",
    "sent_at": MOMENT.replace(microsecond=0),
    "seq": 7,
    "snapshot": None,
    "strategy": "single",
    "task_id": "delink",
    "triggered_by": "Jürgen \U0001f600",
    "try_number": 1,
    "zoho_code": "SUCCESS",
    "zoho_message": "relation removed",
    "zoho_record_id": "5544",
}


def hash_of(row: dict[str, Any], previous: str = "") -> str:
    return RowHashes().of(previous, common_of(row), own_of(row))


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def by_the_book(row: dict[str, Any], previous: str = "") -> str:
    """The hash as documented, with the standard library alone."""
    content = {
        name: value.isoformat(timespec="microseconds") if isinstance(value, datetime) else value
        for name, value in row.items()
    }
    for name in ("external_id", "related_external_id", "snapshot", "zoho_message", "detail"):
        if content[name] is not None:
            content[name] = "sha256:" + sha256(content[name])
    return sha256(previous + json.dumps(content, sort_keys=True, separators=(",", ":")))


def test_every_column_of_the_audit_is_part_of_the_hash() -> None:
    assert sorted((*COMMON, *OWN, "row_hash")) == sorted(column.name for column in tables.audit.c)
    assert set(ROW) == {*COMMON, *OWN}


@pytest.mark.parametrize("previous", ["", "e" * 64])
def test_hash_is_the_one_of_the_documentation(previous: str) -> None:
    assert hash_of(ROW, previous) == by_the_book(ROW, previous)


def test_rows_after_each_other_are_hashed_like_each_by_itself() -> None:
    hashes = RowHashes()
    rows = [ROW, {**ROW, "seq": 8}, {**ROW, "task_id": "report"}, {**ROW, "org_id": "1%"}, ROW]

    assert [hashes.of("a", common_of(row), own_of(row)) for row in rows] == [
        by_the_book(row, "a") for row in rows
    ]


@pytest.mark.parametrize("name", sorted(ROW))
def test_change_of_any_column_changes_the_hash(name: str) -> None:
    value = ROW[name]
    other: Any
    if isinstance(value, bool):
        other = not value
    elif isinstance(value, int):
        other = value + 1
    elif isinstance(value, datetime):
        other = value + timedelta(microseconds=1)
    else:
        other = (value or "") + "x"

    changed = {**ROW, name: other}

    assert hash_of(changed) == by_the_book(changed) != hash_of(ROW)


@pytest.mark.parametrize("name", sorted(name for name, value in ROW.items() if value is not None))
def test_nothing_is_another_value(name: str) -> None:
    assert hash_of({**ROW, name: None}) != hash_of(ROW)
    assert hash_of({**ROW, "detail": ""}) != hash_of({**ROW, "detail": None})


def test_moment_counts_and_not_the_clock_it_was_read_from() -> None:
    elsewhere = MOMENT.astimezone(timezone(timedelta(hours=5, minutes=30)))

    assert hash_of({**ROW, "finished_at": elsewhere, "logical_date": elsewhere}) == hash_of(ROW)


@pytest.mark.parametrize("name", REPLACEABLE)
def test_pseudonym_verifies_in_the_place_of_the_text(name: str) -> None:
    row = {**ROW, name: "Jürgen's c-1"}

    assert hash_of({**row, name: pseudonym(row[name])}) == hash_of(row)
    assert hash_of({**row, name: pseudonym("another")}) != hash_of(row)


def test_pseudonym_is_the_sha_256_of_the_text() -> None:
    assert pseudonym("c-1") == "sha256:" + sha256("c-1")
    assert pseudonym(pseudonym("c-1")) == pseudonym("c-1")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sha256:" + "0" * 64, True),
        ("sha256:" + "0" * 63, False),
        ("sha256:" + "0" * 65, False),
        ("sha256:" + "G" * 64, False),
        ("sha256:" + "0" * 64 + "\n", False),
        ("sha512:" + "0" * 64, False),
        ("", False),
    ],
)
def test_pseudonym_is_recognized(text: str, *, expected: bool) -> None:
    assert is_pseudonym(text) is expected


def test_row_costs_far_less_than_the_request_it_is_about() -> None:
    hashes = RowHashes()
    rows = [{**ROW, "seq": seq, "external_id": f"c-{seq}"} for seq in range(1_000)]

    best = min(
        timeit.repeat(
            lambda: [hashes.of("f" * 64, common_of(row), own_of(row)) for row in rows], number=1, repeat=5
        )
    )

    # 25 microseconds a row are the aim, and it takes about half of them; the rest is for a busy machine.
    assert best / len(rows) < 100e-6


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


def first_break(
    rows: list[dict[str, Any]], end: ChainEnd | None = END, sealed: tuple[SealedEnd, ...] = ()
) -> Finding | None:
    ordered = sorted(rows, key=lambda row: (row["chain_no"], row["event_id"]))
    return ChunkCheck("run", 3, end, sealed).first_break(as_read(ordered))


def as_read(rows: list[dict[str, Any]]) -> list[ChainRow]:
    return [
        ChainRow(row["event_id"], row["chain_no"], row["row_hash"], common_of(row), own_of(row))
        for row in rows
    ]


def named(finding: Finding | None) -> tuple[Kind, str | None] | None:
    return finding and (finding.kind, finding.event_id)


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


def test_chain_as_written_has_no_break() -> None:
    assert first_break(ROWS) is None
    assert first_break([], ChainEnd()) is None
    assert first_break(ROWS, None) is None
    assert first_break(ROWS, END, (SealedEnd(1, ChainEnd(5, ROWS[4]["row_hash"])), SealedEnd(2, END))) is None


@given(st.data(), places, st.sampled_from(sorted({*ROW} - {"chain_no"} | {"row_hash"})))
def test_altered_column_names_its_row(data: st.DataObject, place: int, name: str) -> None:
    changed = {**ROWS[place], name: other_value(ROWS[place][name], data)}

    finding = first_break([*ROWS[:place], changed, *ROWS[place + 1 :]])

    assert named(finding) == (Kind.ALTERED, changed["event_id"])
    assert finding is not None
    assert f"row {place + 1} of chunk 3" in finding.detail


@given(places, st.integers(-3, LENGTH + 3))
def test_moved_row_breaks_the_chain(place: int, chain_no: int) -> None:
    row = ROWS[place]
    if chain_no == row["chain_no"]:
        return

    assert first_break([*ROWS[:place], {**row, "chain_no": chain_no}, *ROWS[place + 1 :]]) is not None


@given(st.sets(places, min_size=1, max_size=LENGTH))
def test_removed_rows_are_named_up_to_the_first_that_remains(places: set[int]) -> None:
    remaining = [row for place, row in enumerate(ROWS) if place not in places]
    first = min(places) + 1
    last = next((no for no in range(first, LENGTH) if no not in places), LENGTH)

    finding = first_break(remaining)

    assert finding is not None
    rows = f"row {first} of" if first == last else f"rows {first} to {last} of"
    assert (finding.kind, finding.detail.startswith(rows)) == (Kind.MISSING, True)


@pytest.mark.parametrize(
    ("rows", "detail"),
    [
        pytest.param(
            [*ROWS[:2], *ROWS[4:]], "rows 3 to 4 of chunk 3 are missing, after event event 2", id="gap"
        ),
        pytest.param(ROWS[1:], "row 1 of chunk 3 is missing, at the beginning", id="first"),
        pytest.param(ROWS[:-1], "row 8 of chunk 3 is missing, after event event 7", id="last"),
        pytest.param([], "rows 1 to 8 of chunk 3 are missing, at the beginning", id="all"),
    ],
)
def test_missing_rows_are_described_by_the_event_before_them(rows: list[dict[str, Any]], detail: str) -> None:
    finding = first_break(rows)

    assert finding is not None
    assert finding.detail == detail


@given(st.data(), st.integers(-2, LENGTH + 3))
def test_added_row_is_named(data: st.DataObject, chain_no: int) -> None:
    added = {
        **ROWS[data.draw(places)],
        "event_id": data.draw(st.sampled_from(["a", "event 0", "zzz"])),
        "chain_no": chain_no,
        "row_hash": data.draw(st.sampled_from([ROWS[3]["row_hash"], "0" * 64])),
    }

    finding = first_break([*ROWS, added])

    assert finding is not None
    assert finding.event_id == added["event_id"]
    assert finding.kind in {Kind.ADDED, Kind.ALTERED}


@given(places, places)
def test_first_of_two_swapped_rows_is_named(one: int, other: int) -> None:
    if one == other:
        return
    rows = [dict(row) for row in ROWS]
    rows[one]["chain_no"], rows[other]["chain_no"] = rows[other]["chain_no"], rows[one]["chain_no"]

    assert named(first_break(rows)) == (Kind.ALTERED, rows[max(one, other)]["event_id"])


@given(st.sets(places, min_size=2))
def test_first_of_several_altered_rows_is_named(places: set[int]) -> None:
    rows = [{**row, "outcome": "failed"} if place in places else row for place, row in enumerate(ROWS)]

    assert named(first_break(rows)) == (Kind.ALTERED, ROWS[min(places)]["event_id"])


def test_row_forged_with_a_new_hash_is_found_at_the_row_after_it() -> None:
    forged = {**ROWS[3], "outcome": "failed"}
    forged["row_hash"] = RowHashes().of(ROWS[2]["row_hash"], common_of(forged), own_of(forged))

    finding = first_break([*ROWS[:3], forged, *ROWS[4:]])

    assert named(finding) == (Kind.ALTERED, "event 5")
    assert finding is not None
    assert finding.detail.endswith("or the row before it does, event event 4")


def test_rewritten_chain_is_found_by_the_row_of_the_chunk() -> None:
    finding = first_break(chain(outcome="failed"))

    assert named(finding) == (Kind.ALTERED, "event 8")
    assert finding is not None
    assert "records another last row" in finding.detail


def test_rewritten_chain_and_chunk_are_found_by_the_seal() -> None:
    forged = chain(outcome="failed")
    sealed = (SealedEnd(7, ChainEnd(5, ROWS[4]["row_hash"])), SealedEnd(9, END))

    finding = first_break(forged, ChainEnd(LENGTH, forged[-1]["row_hash"]), sealed)

    assert named(finding) == (Kind.BROKEN_SEAL, "event 5")
    assert finding is not None
    assert "seal 7 covers another row" in finding.detail


def test_shortened_chain_and_chunk_are_found_by_the_seal() -> None:
    finding = first_break(ROWS[:4], ChainEnd(4, ROWS[3]["row_hash"]), (SealedEnd(1, END),))

    assert finding is not None
    assert finding.detail == "rows 5 to 8 of chunk 3 are missing, after event event 4"


def test_row_beyond_the_end_that_the_chunk_records_was_added() -> None:
    assert named(first_break(ROWS, ChainEnd(6, ROWS[5]["row_hash"]))) == (Kind.ADDED, "event 7")


@pytest.mark.parametrize(("sealed_rows", "expected"), [(None, 8), (5, 3), (8, 0), (12, 0)])
def test_rows_after_the_last_seal_are_counted(sealed_rows: int | None, expected: int) -> None:
    hashes = {row["chain_no"]: row["row_hash"] for row in ROWS}
    sealed = (
        [] if sealed_rows is None else [SealedEnd(1, ChainEnd(sealed_rows, hashes.get(sealed_rows, "x")))]
    )
    check = ChunkCheck("run", 3, END, sealed)
    check.first_break(as_read(ROWS))

    assert check.unsealed == expected
