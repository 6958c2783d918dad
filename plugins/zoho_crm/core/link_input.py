"""
Read links that people write: a list in a Dag file or a request, JSON or two columns pasted into a trigger form.

Errors name the position of a link, never its ids.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Mapping, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Any

from zoho_crm.core.formatting import text_of_csv_cell
from zoho_crm.errors import ZohoConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PASTED_LINKS = 10_000
"""A form is for a few links: its values stay in Airflow's database with the run."""

_MAX_TEXT_LENGTH = 5_000_000
"""More than the maximum of links needs, even with long IDs."""

Pair = tuple[object, object]

_COLUMNS = ("external_id", "related_external_id")
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_BLANKS = " \t\u00a0"
_ROUNDED = re.compile("[+-]?[0-9](?:[.,][0-9]+)?E[+-][0-9]{2,}")
"""A long number as spreadsheets show it: the digits that they leave out are lost."""


def form_links(value: Any, field: str = "links") -> list[Pair] | None:
    """
    Read the links of a trigger form.

    :param value: a list as in :func:`pasted_links`; or text: such a list as JSON, or two columns with commas,
        semicolons or tabs between them, with or without the header ``external_id,related_external_id``, a value in
        double quotes where it holds a delimiter, spaces around a value and the apostrophe with which our CSV files
        guard formulas are removed; None and blank text mean no list
    :return: at least one pair, or None
    :raises ZohoConfigError: the value cannot be read, holds no link, or more than 10,000
    """
    if isinstance(value, str):
        if len(value) > _MAX_TEXT_LENGTH:
            raise _too_many(field)
        text = value.removeprefix("\ufeff").strip("\r\n ")
        if not text:
            return None
        value = _from_json(text, field) if _is_json(text) else _from_columns(text, field)
    links = pasted_links(value, field)
    if links is not None and not links:
        # An empty list read as "no list" would mean all links of the SQL.
        raise ZohoConfigError(
            f"{field}: the list is empty; leave the field empty to take the links of the job's SQL"
        )
    if links is not None and len(links) > MAX_PASTED_LINKS:
        raise _too_many(field)
    return links


def _too_many(field: str) -> ZohoConfigError:
    return ZohoConfigError(
        f"{field}: more than {MAX_PASTED_LINKS} links, the limit for a form: use the job's SQL for more"
    )


def pasted_links(value: Any, field: str = "links") -> list[Pair] | None:
    """
    Return a list of pairs as it may be written in a Dag file or in a request.

    :param value: a list of ``{"external_id": ..., "related_external_id": ...}`` or of two-element lists; None
        means no list
    :raises ZohoConfigError: an element is neither; the message names its position
    """
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ZohoConfigError(f"{field}: not a list of links")
    return [_pair(entry, f"{field}[{place}]") for place, entry in enumerate(value)]


def _pair(entry: Any, place: str) -> Pair:
    if isinstance(entry, Mapping):
        if set(entry) != set(_COLUMNS):
            raise ZohoConfigError(f"{place}: needs external_id and related_external_id, and nothing else")
        return entry["external_id"], entry["related_external_id"]
    # Two bytes are a sequence of two numbers, which are not ids.
    if isinstance(entry, Sequence) and not isinstance(entry, str | bytes | bytearray) and len(entry) == 2:
        return entry[0], entry[1]
    raise ZohoConfigError(f"{place}: neither a pair nor an object with external_id and related_external_id")


def _is_json(text: str) -> bool:
    """Whether text is meant as JSON. Ids may begin with a brace, as some databases write their UUIDs."""
    return text.startswith("[") or (text.startswith("{") and text[1:].lstrip()[:1] in {'"', "}", ""})


def _from_json(text: str, field: str) -> Any:
    try:
        return json.loads(text, object_pairs_hook=_without_duplicates)
    except json.JSONDecodeError as error:
        raise ZohoConfigError(
            f"{field}: not valid JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from None
    except (RecursionError, ValueError):
        raise ZohoConfigError(f"{field}: JSON that cannot be read") from None


def _without_duplicates(items: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object, or an empty one if it has a duplicate key: which value counts is not defined."""
    found = dict(items)
    return found if len(found) == len(items) else {}


def _from_columns(text: str, field: str) -> list[Pair]:
    for delimiter in _DELIMITERS:
        header = _first_row(text, delimiter, field)
        if sorted(header) == sorted(_COLUMNS):
            _, *rows = _two_columns(text, delimiter, field)
            return [
                (first, second) if header[0] == _COLUMNS[0] else (second, first) for first, second in rows
            ]
        if not set(header).isdisjoint(_COLUMNS):
            raise ZohoConfigError(f"{field}: the header must be {' and '.join(_COLUMNS)}, and nothing else")
    return list(_two_columns(text, _delimiter_of(text, field), field))


def _delimiter_of(text: str, field: str) -> str:
    """Return the delimiter that gives two columns in every line, else the most frequent one."""
    fitting = [delimiter for delimiter in _DELIMITERS if _fits(text, delimiter, field)]
    if len(fitting) > 1:
        names = " and ".join(_DELIMITERS[delimiter] for delimiter in fitting)
        raise ZohoConfigError(
            f"{field}: {names} both give two columns; put a header first with the one that is meant between "
            f"{' and '.join(_COLUMNS)}"
        )
    return fitting[0] if fitting else max(_DELIMITERS, key=text.count)


def _fits(text: str, delimiter: str, field: str) -> bool:
    try:
        return all(len(cells) == 2 for _, cells in _rows(text, delimiter, field))
    except csv.Error:
        return False


def _first_row(text: str, delimiter: str, field: str) -> list[str]:
    try:
        return [cell.strip().lower() for cell in next(_rows(text, delimiter, field), (0, []))[1]]
    except csv.Error:
        return []


def _two_columns(text: str, delimiter: str, field: str) -> Iterator[tuple[str, str]]:
    line = 1
    try:
        for line, cells in _rows(text, delimiter, field):
            if len(cells) != 2:
                raise ZohoConfigError(
                    f"{field}: line {line}: {len(cells)} column{'s' if len(cells) > 1 else ''} where two are needed: "
                    "an id and a related id, with a comma, a semicolon or a tab between them"
                )
            yield _id_of(cells[0], f"{field}: line {line}"), _id_of(cells[1], f"{field}: line {line}")
    except csv.Error as error:
        raise ZohoConfigError(f"{field}: after line {line}: {error}") from None


def _id_of(cell: str, place: str) -> str:
    """Return the id in a cell, without what spreadsheets and our CSV files add to it."""
    value = text_of_csv_cell(cell.strip(_BLANKS))
    if _ROUNDED.fullmatch(value):
        raise ZohoConfigError(
            f"{place}: an ID is a number in scientific notation, as spreadsheets shorten long numbers; format the "
            "column as text and copy the original IDs again; IDs that really look like this need a JSON list"
        )
    return value


def _rows(text: str, delimiter: str, field: str) -> Iterator[tuple[int, list[str]]]:
    """
    Yield the rows that are not blank, each with the number of its last line.

    :raises csv.Error: the text is not valid
    :raises ZohoConfigError: it has more rows than a header and the maximum of links
    """
    lines = StringIO(text, newline="")
    reader = csv.reader(lines, delimiter=delimiter, skipinitialspace=True, strict=True)
    count = 0
    for cells in reader:
        if any(cell.strip() for cell in cells):
            count += 1
            if count > MAX_PASTED_LINKS + 1:
                raise _too_many(field)
            yield reader.line_num, cells
