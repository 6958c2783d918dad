"""Comparison with common alternatives, and the whole Dag compared with Zoho's limit."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.figures import Bar, Figure, Section, at_least, at_most
from benchmarks.on_airflow import bench_airflow, job_links
from benchmarks.world import LIMIT_PER_S, PROJECT, links_of, local_zoho

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from benchmarks.on_airflow import Run

SMALL = 20
"""Links of the run that measures the fixed cost of a run."""


def measure_on_airflow(folder: Path, *, links: int, per_link: int) -> tuple[Run, Run, Run]:
    """Return three runs: one mapped task per link, this project's Dag with few links, and with many."""
    jobs = {"few": SMALL, "many": links}
    with local_zoho(folder) as zoho:
        zoho.seed(links_of(per_link))
        for name, count in jobs.items():
            zoho.seed(job_links(name, count))
        with bench_airflow(folder, zoho, jobs, per_link) as bench:
            conf = {"mode": "apply"}
            # The first run creates the audit tables.
            bench.run("zoho_delink__few", {"mode": "dry_run"})
            few = bench.run("zoho_delink__few", conf)
            many = bench.run("zoho_delink__many", conf)
            mapped = bench.run("bench_per_link")
        if zoho.links():
            raise RuntimeError("links remain")
    return mapped, few, many


def measure_sdk(folder: Path, links: int) -> float:
    """Return the links per second of Zoho's SDK in a loop."""
    work = folder / "sdk"
    work.mkdir()
    with local_zoho(folder) as zoho:
        zoho.seed(links_of(links))
        command = [sys.executable, "-m", "benchmarks.sdk_loop", zoho.url, str(work), str(links)]
        done = subprocess.run(  # noqa: S603 - our own program
            command, cwd=PROJECT, capture_output=True, text=True, timeout=300, check=True
        )
        if zoho.links():
            raise RuntimeError("links remain")
    return links / float(json.loads(done.stdout)["wall_s"])


def today_section(
    mapped: Run, sdk_per_s: float, many: Run, ours: Mapping[str, float], *, per_link: int, links: int
) -> Section:
    """
    Compare one operator with common alternatives.

    :param ours: links per second of one operator, by strategy; empty unless measured
    """
    mapped_per_s = per_link / mapped.span_s("delink")
    others = {"one mapped task per link": (mapped_per_s, 50.0), "the loop": (sdk_per_s, 10.0)}
    figures = [
        Figure(
            f"HttpOperator, one mapped task per link ({per_link} links): links per second",
            f"{mapped_per_s:,.1f}",
        ),
        Figure("zohocrmsdk7-0 in a loop, one process: links per second", f"{sdk_per_s:,.1f}"),
    ]
    for what, (per_s, times) in others.items():
        if "single" in ours:
            figures.append(at_least(f"single, compared with {what}", ours["single"] / per_s, times, " x"))
    for what, (per_s, _) in others.items():
        if "by_parent" in ours:
            figures.append(Figure(f"by_parent, compared with {what}", f"{ours['by_parent'] / per_s:,.0f} x"))
    figures += [
        Figure(
            "one mapped task per link: CPU of all of Airflow per link",
            f"{1000 * mapped.cpu_s / per_link:,.0f} ms",
        ),
        Figure("this project's Dag: CPU of all of Airflow per link", f"{1000 * many.cpu_s / links:,.1f} ms"),
    ]
    bars = [
        Bar("HttpOperator, one mapped task per link", mapped_per_s),
        Bar("zohocrmsdk7-0 in a loop", sdk_per_s),
    ]
    return Section("2. Comparison with common alternatives (LocalExecutor, PostgreSQL)", figures, bars)


def dag_section(few: Run, many: Run, *, links: int) -> Section:
    """Compare the time of the whole Dag with the time that Zoho's limit requires."""
    start_s = few.wall_s - SMALL / LIMIT_PER_S
    possible_s = links / LIMIT_PER_S
    beyond_s = many.wall_s - start_s - possible_s
    chunks = sum(task["task_id"] == "delink" for task in many.tasks)
    figures = [
        Figure(f"wall time, {links:,} links in {chunks} chunks", f"{many.wall_s:,.1f} s"),
        Figure("explained by Zoho's limit", f"{possible_s:,.1f} s"),
        Figure(f"fixed start cost (the same Dag with {SMALL} links)", f"{start_s:,.1f} s"),
        at_most("remaining overhead, share of the wall time", 100 * beyond_s / many.wall_s, 10, " %"),
        Figure("delink tasks, first start to last end", f"{many.span_s('delink'):,.1f} s"),
        Figure("plan task", f"{many.span_s('plan'):,.1f} s"),
        Figure("report task", f"{many.span_s('report'):,.1f} s"),
    ]
    bars = [Bar(f"the whole Dag, {links:,} links", links / many.wall_s)]
    return Section("3. The whole Dag on a real scheduler (PostgreSQL)", figures, bars)
