"""One operator compared with Zoho's limit, for each database and strategy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.figures import Bar, Figure, Section, at_least, at_most
from benchmarks.world import CONCURRENCY, LATENCY_S, LIMIT_PER_S, links_of, local_zoho, run_child

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

PER_PARENT = 50


@dataclass(frozen=True, slots=True)
class Measured:
    """
    The measurements of one operator.

    :param found: the result of :func:`benchmarks.delinking.measure`
    :param zoho: the counters of the local Zoho
    """

    links: int
    found: dict[str, Any]
    zoho: dict[str, Any]

    @property
    def per_s(self) -> float:
        """Links per second, from claiming the chunk to the last written outcome."""
        return self.links / float(self.found["wall_s"])

    @property
    def cpu_ms(self) -> float:
        """CPU milliseconds per link, of all threads of the task's process."""
        return 1000 * float(self.found["cpu_user_s"] + self.found["cpu_system_s"]) / self.links

    @property
    def calls(self) -> int:
        """API calls, without token requests."""
        by_kind: dict[str, int] = self.zoho["requests"]["by_kind"]
        return sum(count for kind, count in by_kind.items() if kind != "token")

    @property
    def refused(self) -> int:
        """Responses with status 429."""
        return int(self.zoho["requests"]["by_status"].get("429", 0))


def remove_links(
    folder: Path, audit: Mapping[str, Any], *, links: int, per_parent: int = 1, strategy: str = "single"
) -> Measured:
    """Remove links with one operator from a new local Zoho."""
    with local_zoho(folder) as zoho:
        zoho.seed(links_of(links, per_parent))
        found = run_child(
            "delinking",
            {"links": links, "per_parent": per_parent, "strategy": strategy},
            folder=folder,
            connections={"zoho_crm_default": zoho.connection(), "zoho_delink_audit": audit},
        )
        if zoho.links():
            raise RuntimeError("links remain")
        return Measured(links, found, zoho.state())


def limit_section(measured: Mapping[str, Measured]) -> Section:
    """Compare one operator with the possible rate."""
    figures, bars = [], []
    for database, one in measured.items():
        share = 100 * one.per_s / LIMIT_PER_S
        figures += [
            Figure(f"{database}: links removed per second", f"{one.per_s:,.1f}"),
            at_least(f"{database}: share of the possible {LIMIT_PER_S:g} per second", share, 95, " %"),
            at_most(f"{database}: CPU of the task's process per link", one.cpu_ms, 0.6, " ms", 2),
            Figure(
                f"{database}: of which in the kernel (sockets, files)",
                f"{1000 * one.found['cpu_system_s'] / one.links:.2f} ms",
            ),
            at_most(f"{database}: requests refused with 429", one.refused, 0, digits=0),
            Figure(f"{database}: maximum requests in flight", str(one.zoho["max_in_flight"])),
            Figure(f"{database}: peak memory of the task's process", f"{one.found['peak_mb']:.0f} MB"),
        ]
        bars.append(Bar(f"one operator, single, {database}", one.per_s))
    links = next(iter(measured.values())).links
    title = f"1. One operator, {links:,} links, {CONCURRENCY} in flight, {LATENCY_S * 1000:g} ms latency"
    return Section(title, figures, bars)


def by_parent_section(measured: Mapping[str, Measured], single: Measured) -> Section:
    """Compare by_parent, which removes links of one parent together, with single."""
    figures = [
        Figure("single: calls per link", f"{single.calls / single.links:.3f}"),
        Figure("single: API credits per link", f"{single.zoho['credits_used'] / single.links:.3f}"),
        Figure("single: links removed per second", f"{single.per_s:,.1f}"),
    ]
    bars = []
    for database, one in measured.items():
        figures += [
            Figure(f"by_parent, {database}: calls per link", f"{one.calls / one.links:.3f}"),
            Figure(
                f"by_parent, {database}: API credits per link", f"{one.zoho['credits_used'] / one.links:.3f}"
            ),
            Figure(f"by_parent, {database}: links removed per second", f"{one.per_s:,.1f}"),
            Figure(f"by_parent, {database}: compared with single", f"{one.per_s / single.per_s:.1f} x"),
            Figure(f"by_parent, {database}: CPU of the task's process per link", f"{one.cpu_ms:.2f} ms"),
            Figure(
                f"by_parent, {database}: time that requests waited for the ledger",
                f"{100 * _waited(one):.0f} %",
            ),
        ]
        bars.append(Bar(f"one operator, by_parent, {database}", one.per_s))
    links = next(iter(measured.values())).links
    return Section(f"5. by_parent: {links:,} links, {PER_PARENT} per parent", figures, bars)


def audit_section(measured: Mapping[str, Measured]) -> Section:
    """Measure the cost of writing plan and audit."""
    figures = []
    for database, one in measured.items():
        found = one.found
        figures += [
            at_most(
                f"{database}: request slots idle during a write, share of the chunk's time",
                100 * _waited(one),
                5,
                " %",
                2,
            ),
            at_most(
                f"{database}: CPU of writes, share of the chunk's time",
                100 * found["settle_cpu_s"] / found["wall_s"],
                5,
                " %",
                2,
            ),
            Figure(
                f"{database}: writes concurrent with requests, share of the chunk's time",
                f"{100 * found['settle_wall_s'] / found['wall_s']:.1f} %",
            ),
            Figure(
                f"{database}: transactions, and their mean duration",
                f"{found['settles']}, {1000 * found['settle_wall_s'] / found['settles']:.1f} ms",
            ),
            Figure(
                f"{database}: request slots idle for any reason",
                f"{100 * found['idle_s'] / found['wall_s']:.2f} %",
            ),
        ]
    return Section("6. Cost of writing plan and audit", figures)


def _waited(one: Measured) -> float:
    return float(one.found["idle_in_settle_s"] / one.found["wall_s"])
