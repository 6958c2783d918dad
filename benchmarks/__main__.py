"""Measure, print tables, and draw the chart: ``python -m benchmarks``, run by `make bench`."""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from benchmarks.comparison import dag_section, measure_on_airflow, measure_sdk, today_section
from benchmarks.figures import save_json, save_picture, show
from benchmarks.plan_sizes import plan_section
from benchmarks.throughput import PER_PARENT, audit_section, by_parent_section, limit_section, remove_links
from benchmarks.world import PROJECT, postgres_connection, sqlite_connection
from include.stack import LocalPostgres

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.figures import Section

PARTS = ("operator", "airflow", "plan")


@dataclass(frozen=True, slots=True)
class Sizes:
    """Number of links of each benchmark."""

    single: int = 10_000
    by_parent: int = 20_000
    dag: int = 20_000
    per_link: int = 200
    sdk: int = 150
    plans: tuple[int, ...] = (10_000, 100_000, 1_000_000)


TINY = Sizes(single=400, by_parent=1_000, dag=400, per_link=10, sdk=10, plans=(1_000, 10_000))


def main() -> None:
    """Run the selected benchmarks."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--tiny", action="store_true", help="quick trial with few links; the figures mean nothing"
    )
    parser.add_argument(
        "--only", choices=PARTS, action="append", help="measure only this part; may be repeated"
    )
    parser.add_argument("--picture", type=Path, default=PROJECT / "docs" / "performance.svg")
    options = parser.parse_args()
    parts = tuple(options.only or PARTS)
    complete = not options.tiny and "operator" in parts and "airflow" in parts
    console, started = Console(width=110), time.monotonic()
    cache = PROJECT / ".cache"
    cache.mkdir(exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="bench.", dir=cache))
    machine = describe_machine()
    console.print(machine)
    sections: list[Section] = []
    try:
        for section in measure(folder, parts, TINY if options.tiny else Sizes()):
            show(console, section)
            sections.append(section)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    save_json(cache / "bench.json", sections)
    if complete:
        save_picture(options.picture, sections, machine)
    console.print(f"{time.monotonic() - started:.0f} s in total; {describe_load()} at the end")


def measure(folder: Path, parts: tuple[str, ...], sizes: Sizes) -> Iterator[Section]:
    """Yield each section once it is measured."""
    ours: dict[str, float] = {}
    with LocalPostgres(folder / "postgres") as postgres:
        if "operator" in parts:
            audits = {
                "SQLite": sqlite_connection(folder / "audit.db"),
                "PostgreSQL": postgres_connection(postgres, "audit"),
            }
            single = {name: remove_links(folder, audit, links=sizes.single) for name, audit in audits.items()}
            yield limit_section(single)
            by_parent = {
                name: remove_links(
                    folder, audit, links=sizes.by_parent, per_parent=PER_PARENT, strategy="by_parent"
                )
                for name, audit in audits.items()
            }
            ours = {"single": single["PostgreSQL"].per_s, "by_parent": by_parent["PostgreSQL"].per_s}
            yield by_parent_section(by_parent, single["PostgreSQL"])
            yield audit_section(single)
        if "plan" in parts:
            yield plan_section(folder, postgres, sizes.plans)
    if "airflow" in parts:
        sdk_per_s = measure_sdk(folder, sizes.sdk)
        mapped, few, many = measure_on_airflow(folder, links=sizes.dag, per_link=sizes.per_link)
        yield today_section(mapped, sdk_per_s, many, ours, per_link=sizes.per_link, links=sizes.dag)
        yield dag_section(few, many, links=sizes.dag)


def describe_machine() -> str:
    """Describe the machine and its load."""
    model = "unknown processor"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.partition(":")[2].strip()
            for line in cpuinfo.read_text().splitlines()
            if "model name" in line
        ]
        model = names[0] if names else model
    return f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores ({model}), {describe_load()} at the start"


def describe_load() -> str:
    """Return the load average of the last minute."""
    return f"load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    main()
