"""Links of a run as files, streamed: CSV for spreadsheets, JSON Lines for programs."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from zoho_crm.core.formatting import safe_csv_cell
from zoho_crm.ledger.link_queries import LINK_FIELDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from zoho_crm.ledger.link_queries import LinkRow

_PIECE_ROWS = 500
_NOT_IN_FILE_NAMES = re.compile(r"[^A-Za-z0-9._-]+")


def csv_pieces(rows: Iterable[LinkRow], names: tuple[str, ...] = LINK_FIELDS) -> Iterator[str]:
    """
    Yield a CSV file of links, with a header.

    :param names: the columns
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\r\n")
    writer.writerow(names)
    for number, row in enumerate(rows, start=1):
        writer.writerow([safe_csv_cell(_plain(getattr(row, name))) for name in names])
        if number % _PIECE_ROWS == 0:
            yield _emptied(buffer)
    yield _emptied(buffer)


def json_lines(rows: Iterable[LinkRow]) -> Iterator[str]:
    """Yield a JSON object for each link, one a line; texts are as they are stored."""
    lines: list[str] = []
    for row in rows:
        lines.append(json.dumps(asdict(row), default=_plain, ensure_ascii=False) + "\n")
        if len(lines) == _PIECE_ROWS:
            yield "".join(lines)
            lines.clear()
    yield "".join(lines)


def file_name(*parts: str) -> str:
    """Return a name for a file, of letters that every system and every header can hold."""
    return _NOT_IN_FILE_NAMES.sub("_", "_".join(parts))[:150]


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value


def _emptied(buffer: io.StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
