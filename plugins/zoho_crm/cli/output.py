"""
Output of a command: rich text on a terminal, plain text in a pipe, one JSON document with ``--json``.

Control characters in external data (ids, messages of Zoho) are escaped, so that it cannot control the terminal.
"""

from __future__ import annotations

import json
import unicodedata
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

T = TypeVar("T")

_STEP = 500
"""Rows between two updates of a progress bar."""

_HIDDEN = frozenset({"Cc", "Cf", "Co", "Cs", "Zl", "Zp"})


class Counted(Protocol):
    """Passes rows through, and counts them for a progress bar."""

    def __call__(self, rows: Iterable[T], /) -> Iterator[T]:
        """Yield the rows."""


class Output:
    """
    Print the result of one command.

    :param as_json: the command prints one :meth:`document` and nothing else
    :param stream: usually standard output
    """

    def __init__(self, *, as_json: bool, stream: IO[str]) -> None:
        self.as_json = as_json
        self.stream = stream
        self._console = Console(file=stream, highlight=False, markup=False, emoji=False)
        self._rich = self._console.is_terminal and not as_json

    def document(self, content: Mapping[str, Any]) -> None:
        """Print a JSON document."""
        self._line(json.dumps(content, default=_as_json, ensure_ascii=False, indent=2))

    @contextmanager
    def progress(self, label: str) -> Iterator[Counted]:
        """
        Show a progress bar on standard error while rows are counted; nothing in a pipe or with ``--json``.

        Yields a function that passes the rows of an iterable through and counts them, over all its calls. The bar
        disappears at the end.

        :param label: what happens to the rows
        """
        errors = Console(stderr=True)
        if not (self._rich and errors.is_terminal):
            yield iter
            return
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (
            "{task.description}",
            BarColumn(),
            TextColumn("{task.completed:,} rows"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=errors, transient=True) as bar:
            task = bar.add_task(label, total=None)

            def counted(rows: Iterable[T]) -> Iterator[T]:
                count = 0
                for count, row in enumerate(rows, start=1):
                    yield row
                    if count % _STEP == 0:
                        bar.advance(task, _STEP)
                bar.advance(task, count % _STEP)

            yield counted

    def title(self, text: str) -> None:
        """Print a heading."""
        if self._rich:
            self._console.print()
            self._console.print(Text(shown(text), style="bold"))
        else:
            self._line(f"# {shown(text)}")

    def facts(self, facts: Mapping[str, object]) -> None:
        """Print names and values, one pair per line, without values of None."""
        present = {name: shown(value) for name, value in facts.items() if value is not None}
        if not self._rich:
            for name, value in present.items():
                self._line(f"{name}: {value}")
            return
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for name, value in present.items():
            grid.add_row(name, Text(value))
        self._console.print(grid)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
        """Print a table; in a pipe, a header and the rows as tab-separated lines."""
        if not self._rich:
            self._line("\t".join(columns))
            for row in rows:
                self._line("\t".join(shown(value) for value in row))
            return
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            numbers = [isinstance(value, int) and not isinstance(value, bool) for value in row]
            table.add_row(
                *(
                    Text(shown(value), justify="right" if number else "left")
                    for value, number in zip(row, numbers, strict=True)
                )
            )
        self._console.print(table)

    def ok(self, text: str) -> None:
        """Print that a check passed."""
        self._mark("✓", "ok", "green", text)

    def error(self, text: str) -> None:
        """Print that a check failed, and why."""
        self._mark("✗", "error", "red", text)

    def warning(self, text: str) -> None:
        """Print what is allowed, but may not be meant."""
        self._mark("!", "warning", "yellow", text)

    def say(self, text: str) -> None:
        """Print a line of text."""
        if self._rich:
            self._console.print(Text(shown(text)))
        else:
            self._line(shown(text))

    def _mark(self, sign: str, word: str, colour: str, text: str) -> None:
        if self._rich:
            self._console.print(Text.assemble((f"{sign} ", colour), shown(text)))
        else:
            self._line(f"{word}: {shown(text)}")

    def _line(self, text: str) -> None:
        self.stream.write(text + "\n")


def shown(value: object) -> str:
    """Return a value as one line of text, with control characters escaped."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = str(_as_json(value)) if not isinstance(value, str | int | float) else str(value)
    return "".join(f"\\u{ord(char):04x}" if unicodedata.category(char) in _HIDDEN else char for char in text)


def duration(value: timedelta) -> str:
    """Return a duration in the notation of job files, such as ``90m`` or ``2d``."""
    seconds = int(value.total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds % length == 0:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def plain_value(value: object) -> Any:
    """Return a database value as text, number or None."""
    return value if value is None or isinstance(value, str | int | float) else _as_json(value)


def json_line(content: Mapping[str, Any]) -> str:
    """Return a JSON document on one line."""
    return json.dumps(content, default=_as_json, ensure_ascii=False, separators=(",", ":"))


def _as_json(value: object) -> Any:
    match value:
        case Enum():
            return value.value
        case datetime():
            moment = value.astimezone(UTC) if value.tzinfo else value
            return moment.isoformat().replace("+00:00", "Z")
        case date() | Path():
            return str(value)
        case timedelta():
            return duration(value)
        case set() | frozenset() | tuple():
            return sorted(map(str, value)) if isinstance(value, set | frozenset) else list(value)
    return str(value)
