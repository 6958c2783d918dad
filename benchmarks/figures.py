"""The figures of the benchmarks: tables, chart and JSON."""

from __future__ import annotations

import inspect
import json
import re
from dataclasses import asdict, dataclass, field
from io import StringIO
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_BAR_CELLS = 56
# Without the external font.
_SVG_FORMAT = re.sub(
    r"@font-face \{\{.*?\}\}",
    "",
    inspect.signature(Console.save_svg).parameters["code_format"].default,
    flags=re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Figure:
    """
    One line of a table.

    :param target: the target, if any
    :param met: whether the target is met; None without a target
    """

    what: str
    measured: str
    target: str = ""
    met: bool | None = None


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of the chart."""

    what: str
    links_per_s: float


@dataclass(frozen=True, slots=True)
class Section:
    """The figures of one benchmark."""

    title: str
    figures: list[Figure]
    bars: list[Bar] = field(default_factory=list)


def at_most(what: str, value: float, limit: float, unit: str = "", digits: int = 1) -> Figure:
    """Return a figure that should be at most ``limit``."""
    return Figure(what, f"{value:,.{digits}f}{unit}", f"<= {limit:g}{unit}", met=value <= limit)


def at_least(what: str, value: float, limit: float, unit: str = "", digits: int = 1) -> Figure:
    """Return a figure that should be at least ``limit``."""
    return Figure(what, f"{value:,.{digits}f}{unit}", f">= {limit:g}{unit}", met=value >= limit)


def show(console: Console, section: Section) -> None:
    """Print a section as a table."""
    table = Table(title=section.title, title_justify="left", min_width=100)
    table.add_column("figure", ratio=3)
    for column in ("measured", "target", ""):
        table.add_column(column, justify="right", no_wrap=True)
    for figure in section.figures:
        mark = {None: "", True: "[green]met[/]", False: "[red]missed[/]"}[figure.met]
        table.add_row(figure.what, figure.measured, figure.target, mark)
    console.print(table)


def save_picture(path: Path, sections: Iterable[Section], subtitle: str) -> None:
    """Draw the bars of all sections, fastest first, scaled to links per second."""
    bars = sorted((bar for section in sections for bar in section.bars), key=lambda bar: -bar.links_per_s)
    if not bars:
        return
    console = Console(record=True, width=120, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text(subtitle, style="dim"))
    longest = bars[0].links_per_s
    for bar in bars:
        line = Text(f"{bar.what:<44} ")
        line.append(_bar(bar.links_per_s / longest), style="cyan")
        line.append(f" {bar.links_per_s:,.{0 if bar.links_per_s >= 100 else 1}f}/s", style="bold")
        console.print(line, overflow="ignore", no_wrap=True, crop=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    console.save_svg(str(path), title="Links removed per second", code_format=_SVG_FORMAT, unique_id="bench")


def save_json(path: Path, sections: Sequence[Section]) -> None:
    """Write all figures as JSON."""
    path.write_text(json.dumps([asdict(section) for section in sections], indent=1))


def _bar(share: float) -> str:
    eighths = max(1, round(share * _BAR_CELLS * 8))
    return "█" * (eighths // 8) + ("", "▏", "▎", "▍", "▌", "▋", "▊", "▉")[eighths % 8]
