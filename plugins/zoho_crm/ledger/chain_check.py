"""
Check a chunk's audit rows against their chain: pure, one row after the other, so that any number of them fits.

A row that does not fit is named once: the rows after it are held against what it says its hash is, and against what
its hash would be by its content.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

from zoho_crm.ledger.chain import CHUNK_OF_PLAN, ChainEnd, RowHashes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_GUESSES = 4
"""Hashes that the row before may rightly have, where it and those before it do not fit."""


class Kind(StrEnum):
    """What is wrong with the audit."""

    ALTERED = "altered"
    """A row is not what was written."""
    ADDED = "added"
    """A row that no task has written."""
    MISSING = "missing"
    """Rows that were written are gone."""
    UNSEALED = "unsealed"
    """Rows that no seal holds: they were written after the last report."""
    BROKEN_SEAL = "broken_seal"
    """A seal is not what was written, is gone, or is not one of these rows."""


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that is wrong with the audit.

    :param run_key: the run it is about
    :param event_id: the audit row; None if it is about no single one
    :param detail: which rows, in words
    """

    run_key: str
    kind: Kind
    event_id: str | None
    detail: str


class ChainRow(NamedTuple):
    """
    An audit row as it is read.

    ``common`` and ``own`` are the values of the columns that :mod:`zoho_crm.ledger.chain` names so.
    """

    event_id: str
    chain_no: int
    row_hash: str
    common: tuple[Any, ...]
    own: tuple[Any, ...]


class SealedEnd(NamedTuple):
    """Where a seal has seen the chain of a chunk end."""

    seal_no: int
    end: ChainEnd


@dataclass(slots=True)
class ChunkCheck:
    """
    The check of one chunk's chain.

    :param end: where the chain must end; without a hash where that is not known; None if nothing is known
    :param sealed: the ends that seals hold, oldest first
    """

    run_key: str
    chunk_no: int
    end: ChainEnd | None
    sealed: Sequence[SealedEnd] = ()
    _hashes: RowHashes = field(default_factory=RowHashes)
    _last_no: int = 0
    _last_event: str | None = None
    _guesses: list[str] = field(default_factory=lambda: [""])

    @property
    def unsealed(self) -> int:
        """Rows after those that the last seal holds."""
        return max(0, self._last_no - (self.sealed[-1].end.chain_no if self.sealed else 0))

    def findings(self, rows: Iterable[ChainRow]) -> Iterator[Finding]:
        """
        Check the chunk's rows.

        :param rows: ordered by ``chain_no``
        """
        for chain_no, copies in groupby(rows, key=lambda row: row.chain_no):
            yield from self._check_place(chain_no, list(copies))
        wanted = [self.end, *(sealed.end for sealed in self.sealed)]
        last_no = max((end.chain_no for end in wanted if end), default=0)
        if last_no > self._last_no:
            yield self._missing(
                last_no, f"after event {self._last_event}" if self._last_event else "all of them"
            )

    def _check_place(self, chain_no: int, copies: list[ChainRow]) -> Iterator[Finding]:
        if chain_no < 1:
            yield from (self._finding(Kind.ADDED, row, "its place is below 1") for row in copies)
            return
        if chain_no > self._last_no + 1:
            yield self._missing(chain_no - 1, self._around_gap(copies[0]))
            self._guesses = []
        row, hashes = self._true_copy(copies)
        fits = row.row_hash in hashes
        if hashes and not fits:
            yield self._finding(Kind.ALTERED, row, self._is_not_what_was_written(row))
        for other in copies:
            if other is not row or (len(copies) > 1 and not hashes):
                yield self._finding(Kind.ADDED, other, f"{len(copies)} rows hold this place")
        if self.end and chain_no > self.end.chain_no:
            yield self._finding(Kind.ADDED, row, f"only {self.end.chain_no} rows were written to it")
        elif fits or not hashes:
            yield from self._check_ends(row)
        self._last_no, self._last_event = chain_no, row.event_id
        rightly = [row.row_hash] if fits else [*(copy.row_hash for copy in copies), *hashes]
        self._guesses = rightly[:_GUESSES]

    def _true_copy(self, copies: list[ChainRow]) -> tuple[ChainRow, list[str]]:
        """Return the row that fits, or else the first one, and the hashes it may have; none where that is unknown."""
        of_each = [[self._hashes.of(guess, row.common, row.own) for guess in self._guesses] for row in copies]
        for row, hashes in zip(copies, of_each, strict=True):
            if row.row_hash in hashes:
                return row, hashes
        return copies[0], of_each[0]

    def _check_ends(self, row: ChainRow) -> Iterator[Finding]:
        """Hold a row that fits the ones before it against what is known of it elsewhere: all may be written anew."""
        end = self.end
        if end and end.row_hash and end.chain_no == row.chain_no and end.row_hash != row.row_hash:
            yield self._finding(Kind.ALTERED, row, "the chunk's row knows another one as its last")
            return
        for sealed in self.sealed:
            if sealed.end.chain_no == row.chain_no and sealed.end.row_hash != row.row_hash:
                yield self._finding(
                    Kind.BROKEN_SEAL,
                    row,
                    f"seal {sealed.seal_no} holds another row, so that these are written anew",
                )
                return

    def _is_not_what_was_written(self, row: ChainRow) -> str:
        if row.chain_no == 1:
            return "it is not what was written"
        return f"it is not what was written, or the row before it is not, event {self._last_event}"

    def _around_gap(self, after: ChainRow) -> str:
        unchecked = "which itself cannot be checked without them"
        if self._last_event is None:
            return f"before event {after.event_id}, {unchecked}"
        return f"between events {self._last_event} and {after.event_id}, {unchecked}"

    def _missing(self, last: int, where: str) -> Finding:
        first = self._last_no + 1
        rows = f"row {first}" if first == last else f"rows {first} to {last}"
        verb = "is" if first == last else "are"
        return Finding(self.run_key, Kind.MISSING, None, f"{rows} of {self._name()} {verb} missing, {where}")

    def _finding(self, kind: Kind, row: ChainRow, why: str) -> Finding:
        return Finding(self.run_key, kind, row.event_id, f"row {row.chain_no} of {self._name()}: {why}")

    def _name(self) -> str:
        return "the plan" if self.chunk_no == CHUNK_OF_PLAN else f"chunk {self.chunk_no}"
