"""
The hash chain of audit rows: what a row's hash is made of.

The hash of a row is SHA-256 over the hash of the row before it (nothing for the first of its run and chunk) and the
row as a JSON object: keys sorted, no blanks, other than ASCII escaped, times as ``2026-07-01T02:03:04.567891+00:00``.
External ids, attributes and texts that may name them enter as their own SHA-256, so that a row still verifies when
they have been replaced by just that. Pure, and fast: it stands in the way of every row that is written.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from operator import itemgetter
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CHUNK_OF_PLAN = -1
"""``chunk_no`` of the rows that the plan itself writes."""

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
"""Columns that all rows of one write have in common: their JSON is made once."""

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
"""Columns that enter by their SHA-256, and may be replaced by it."""

common_of: Callable[[Mapping[str, Any]], tuple[Any, ...]] = itemgetter(*COMMON)
own_of: Callable[[Mapping[str, Any]], tuple[Any, ...]] = itemgetter(*OWN)

_PSEUDONYM = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ChainEnd:
    """
    Where the chain of a chunk ends.

    :param chain_no: how many rows it has
    :param row_hash: hash of the last of them; empty if there is none
    """

    chain_no: int = 0
    row_hash: str = ""


class RowHashes:
    """Hashes of rows, one after the other. What rows have in common is worked out when it changes."""

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


def pseudonym(text: str) -> str:
    """Return ``sha256:`` and the SHA-256 of a text; a text that is such a pseudonym already stands for itself."""
    if is_pseudonym(text):
        return text
    return f"sha256:{digest(text)}"


def is_pseudonym(text: str) -> bool:
    """Say whether a text stands in the place of an external id, as :func:`pseudonym` returns it."""
    return text.startswith("sha256:") and _PSEUDONYM.fullmatch(text) is not None


def canonical(value: Any) -> str:
    """Return numbers, texts and lists of them as JSON that has one form alone."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def digest(text: str) -> str:
    """Return the SHA-256 of a text as 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def moment(value: datetime) -> str:
    """Return an aware time in UTC with microseconds, e.g. ``2026-07-01T02:03:04.567891+00:00``."""
    return (value if value.tzinfo is UTC else value.astimezone(UTC)).isoformat(timespec="microseconds")


def _template(common: tuple[Any, ...]) -> str:
    """Return the row's JSON with a ``%s`` in the place of each value of its own."""
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
"""Zoho says the same few things of most links."""

_JSON_OF_COLUMN: dict[str, Callable[[Any], str]] = {
    **dict.fromkeys(("attempts", "chain_no", "duration_ms", "http_status", "seq"), _number),
    **dict.fromkeys(("finished_at", "sent_at"), _json),
    **dict.fromkeys(("external_id", "related_external_id", "snapshot"), _hidden),
    **dict.fromkeys(("detail", "zoho_message"), _hidden_often),
}
_OWN_JSON = tuple(_JSON_OF_COLUMN.get(name, _text) for name in OWN)
