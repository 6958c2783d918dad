"""
The hash chain of audit rows: the hash of a row, and the check of a chunk's rows against it.

The hash of a row is SHA-256 over the hash of the row before it (nothing for the first row of a run and chunk) and the
row as a JSON object: sorted keys, no spaces, ASCII only, times as ``2026-07-01T02:03:04.567891+00:00``. External IDs,
attributes and texts that may contain them enter as their own SHA-256, so that a row still verifies after they have
been replaced by it. Pure and fast: every row that is written passes through here.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

CHUNK_OF_PLAN = -1
"""``chunk_no`` of the rows that the plan itself writes."""

CHUNK_OF_EVENTS = -2
"""Stands for the events of the run in the ends that a seal records."""

COMMON = (
    "api_version",
    "chunk_no",
    "claim_no",
    "dag_id",
    "dag_run_id",
    "data_center",
    "data_interval_end",
    "data_interval_start",
    "dry_run",
    "external_field",
    "job",
    "logical_date",
    "map_index",
    "module",
    "operation",
    "org_id",
    "related_external_field",
    "related_list",
    "related_module",
    "run_key",
    "run_type",
    "strategy",
    "task_id",
    "triggered_by",
    "try_number",
)
"""Columns with the same value in all rows of one write: their JSON is built once."""

OWN = (
    "attempts",
    "chain_no",
    "detail",
    "duration_ms",
    "event_id",
    "external_id",
    "finished_at",
    "http_status",
    "outcome",
    "pair_key",
    "related_external_id",
    "sent_at",
    "seq",
    "snapshot",
    "zoho_code",
    "zoho_message",
    "zoho_record_id",
)
"""Columns that differ from row to row."""

REPLACEABLE = ("external_id", "related_external_id", "snapshot", "zoho_message", "detail")
"""Columns that enter as their SHA-256, and may be replaced by it."""

common_of: Callable[[Mapping[str, Any]], tuple[Any, ...]] = itemgetter(*COMMON)
own_of: Callable[[Mapping[str, Any]], tuple[Any, ...]] = itemgetter(*OWN)

_PSEUDONYM = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ChainEnd:
    """
    The end of a chunk's chain.

    :param chain_no: number of its rows
    :param row_hash: hash of the last row; empty if there is none
    """

    chain_no: int = 0
    row_hash: str = ""


class RowHashes:
    """Hashes of rows, one after the other. The common part is built again only when it changes."""

    def __init__(self) -> None:
        self._common: tuple[Any, ...] | None = None
        self._template = ""

    def of(self, previous: str, common: tuple[Any, ...], own: tuple[Any, ...]) -> str:
        """
        Return the hash of a row.

        :param previous: hash of the row before it; empty for the first
        :param common: values of the columns :data:`COMMON`
        :param own: values of the columns :data:`OWN`
        """
        if common != self._common:
            self._template = _template(common)
            self._common = common
        row = self._template % tuple([to_json(value) for to_json, value in zip(_OWN_JSON, own, strict=True)])
        return digest(previous + row)


class Kind(StrEnum):
    """What is wrong with the audit."""

    ALTERED = "altered"
    """A row differs from what was written."""
    ADDED = "added"
    """A row that no task wrote."""
    MISSING = "missing"
    """Rows that were written are gone."""
    UNSEALED = "unsealed"
    """Rows that no seal covers: they were written after the last report."""
    BROKEN_SEAL = "broken_seal"
    """A seal differs from what was written or anchored, is gone, or covers other rows."""
    UNANCHORED = "unanchored"
    """A seal without its anchor."""
    BROKEN_ANCHOR = "broken_anchor"
    """A file among the anchors that is not one, or lacks a valid signature."""


@dataclass(frozen=True, slots=True)
class Finding:
    """
    One thing that is wrong with the audit.

    :param run_key: the run
    :param event_id: the audit row; None if it is not about a single row
    :param detail: which rows, in words
    """

    run_key: str
    kind: Kind
    event_id: str | None
    detail: str


class ChainRow(NamedTuple):
    """
    An audit row as it is read.

    :param common: values of the columns :data:`COMMON`
    :param own: values of the columns :data:`OWN`
    """

    event_id: str
    chain_no: int
    row_hash: str
    common: tuple[Any, ...]
    own: tuple[Any, ...]


class SealedEnd(NamedTuple):
    """The end of a chunk's chain as a seal recorded it."""

    seal_no: int
    end: ChainEnd


@dataclass(slots=True)
class ChunkCheck:
    """
    The check of one chunk's chain, up to its first break: what follows a break cannot be trusted.

    :param end: the end of the chain by the chunk's row; without a hash where that is unknown; None if nothing is known
    :param sealed: the ends that seals recorded, oldest first
    """

    run_key: str
    chunk_no: int
    end: ChainEnd | None
    sealed: Sequence[SealedEnd] = ()
    _last: ChainEnd = ChainEnd()
    _last_event: str | None = None

    @property
    def unsealed(self) -> int:
        """Rows after those that the last seal covers."""
        return max(0, self._last.chain_no - (self.sealed[-1].end.chain_no if self.sealed else 0))

    def first_break(self, rows: Iterable[ChainRow]) -> Finding | None:
        """
        Return the first row that does not continue the chain, or what is missing at its end; None if all is intact.

        :param rows: the chunk's rows, ordered by ``chain_no``
        """
        hashes = RowHashes()
        for row in rows:
            if finding := self._break_at(row, hashes):
                return finding
            self._last, self._last_event = ChainEnd(row.chain_no, row.row_hash), row.event_id
        ends = [self.end, *(sealed.end for sealed in self.sealed)]
        last_no = max((end.chain_no for end in ends if end), default=0)
        return self._missing(last_no) if last_no > self._last.chain_no else None

    def _break_at(self, row: ChainRow, hashes: RowHashes) -> Finding | None:
        if row.chain_no < 1:
            return self._finding(Kind.ADDED, row, "its position is below 1")
        if row.chain_no <= self._last.chain_no:
            return self._finding(Kind.ADDED, row, f"event {self._last_event} has the same position")
        if self.end and row.chain_no > self.end.chain_no:
            return self._finding(Kind.ADDED, row, f"only {self.end.chain_no} rows were written")
        if row.chain_no > self._last.chain_no + 1:
            return self._missing(row.chain_no - 1)
        if row.row_hash != hashes.of(self._last.row_hash, row.common, row.own):
            before = f", or the row before it does, event {self._last_event}" if self._last_event else ""
            return self._finding(Kind.ALTERED, row, f"it differs from what was written{before}")
        return self._other_end(row)

    def _other_end(self, row: ChainRow) -> Finding | None:
        """Compare an intact row with the ends recorded elsewhere: the whole chain may have been rewritten."""
        end = self.end
        if end and end.row_hash and end.chain_no == row.chain_no and end.row_hash != row.row_hash:
            return self._finding(Kind.ALTERED, row, "the chunk's row records another last row")
        for sealed in self.sealed:
            if sealed.end.chain_no == row.chain_no and sealed.end.row_hash != row.row_hash:
                why = f"seal {sealed.seal_no} covers another row: the rows up to here were rewritten"
                return self._finding(Kind.BROKEN_SEAL, row, why)
        return None

    def _missing(self, last: int) -> Finding:
        first = self._last.chain_no + 1
        rows = f"row {first}" if first == last else f"rows {first} to {last}"
        verb = "is" if first == last else "are"
        where = f"after event {self._last_event}" if self._last_event else "at the beginning"
        return Finding(self.run_key, Kind.MISSING, None, f"{rows} of {self._name()} {verb} missing, {where}")

    def _finding(self, kind: Kind, row: ChainRow, why: str) -> Finding:
        return Finding(self.run_key, kind, row.event_id, f"row {row.chain_no} of {self._name()}: {why}")

    def _name(self) -> str:
        return "the plan" if self.chunk_no == CHUNK_OF_PLAN else f"chunk {self.chunk_no}"


def event_hash(
    previous: str,
    *,
    run_key: str,
    event_no: int,
    kind: str,
    facts: Mapping[str, Any],
    recorded_at: datetime,
    code_version: str,
) -> str:
    """
    Return the hash of an event of a run. Texts among its facts enter as their own SHA-256.

    :param previous: hash of the event before it; empty for the first
    """
    content = [run_key, event_no, kind, hidden(facts), moment(recorded_at), code_version]
    return digest(previous + canonical(content))


def hidden(value: Any) -> Any:
    """Return a JSON value with each text replaced by its :func:`pseudonym`."""
    if isinstance(value, str):
        return pseudonym(value)
    if isinstance(value, dict):
        return {name: hidden(part) for name, part in value.items()}
    if isinstance(value, list):
        return [hidden(part) for part in value]
    return value


def pseudonym(text: str) -> str:
    """Return ``sha256:`` and the SHA-256 of a text; a pseudonym is returned unchanged."""
    if is_pseudonym(text):
        return text
    return f"sha256:{digest(text)}"


def is_pseudonym(text: str) -> bool:
    """Return whether a text is a pseudonym, as :func:`pseudonym` returns it."""
    return text.startswith("sha256:") and _PSEUDONYM.fullmatch(text) is not None


def canonical(value: Any) -> str:
    """Return numbers, texts and lists of them as JSON in its one canonical form."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(text: str) -> str:
    """Return the SHA-256 of a text as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def moment(value: datetime) -> str:
    """Return an aware time in UTC with microseconds, e.g. ``2026-07-01T02:03:04.567891+00:00``."""
    return (value if value.tzinfo is UTC else value.astimezone(UTC)).isoformat(timespec="microseconds")


def _template(common: tuple[Any, ...]) -> str:
    """Return the row's JSON with a ``%s`` for each value of the columns ``OWN``."""
    parts = {name: _json(value).replace("%", "%%") for name, value in zip(COMMON, common, strict=True)}
    parts |= dict.fromkeys(OWN, "%s")
    return "{" + ",".join(f'"{name}":{parts[name]}' for name in sorted(parts)) + "}"


def _json(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, datetime):
        return f'"{moment(value)}"'
    return json.dumps(value)


def _number(value: int | None) -> str:
    return "null" if value is None else str(value)


def _text(value: str | None) -> str:
    return "null" if value is None else encode_basestring_ascii(value)


def _hidden(value: str | None) -> str:
    return "null" if value is None else f'"{pseudonym(value)}"'


_hidden_often = lru_cache(maxsize=1024)(_hidden)
"""Zoho has the same few messages for most links."""

_JSON_OF_COLUMN: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("attempts", "chain_no", "duration_ms", "http_status", "seq"), _number),
    **dict.fromkeys(("finished_at", "sent_at"), _json),
    **dict.fromkeys(("external_id", "related_external_id", "snapshot"), _hidden),
    **dict.fromkeys(("detail", "zoho_message"), _hidden_often),
}
_OWN_JSON = tuple(_JSON_OF_COLUMN.get(name, _text) for name in OWN)
