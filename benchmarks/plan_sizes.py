"""Planning: rows per second and memory, by size and database."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg

from benchmarks.figures import Figure, Section, at_most
from benchmarks.world import postgres_connection, run_child, sqlite_connection

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from include.stack import LocalPostgres

_SQL = """\
SELECT external_id, related_external_id FROM links
WHERE marked_at >= :window_start AND marked_at < :window_end
"""
# Unordered, since the factor is prime, so that the plan has to sort them.
_ROWS = """\
INSERT INTO links
SELECT 'contact-' || cast(n * 7368787 % {links} AS text), 'deal-' || cast(n AS text), {time}
FROM {numbers} AS numbers(n)
"""


def plan_section(folder: Path, postgres: LocalPostgres, sizes: Sequence[int]) -> Section:
    """Plan each size in each database, with a warehouse in the same kind of database."""
    figures = []
    (folder / "links.sql").write_text(_SQL)
    for database in ("PostgreSQL", "SQLite"):
        peaks = {}
        for links in sizes:
            connections = _warehouse(folder, postgres, database, links)
            found = run_child(
                "planning",
                {"sql_file": str(folder / "links.sql"), "links": links},
                folder=folder,
                connections=connections,
            )
            peaks[links] = found["peak_mb"]
            figures += _figures(f"{database}, {links:,} links", links, found)
        growth = 100 * (peaks[sizes[-1]] / peaks[sizes[0]] - 1)
        what = f"{database}: growth of memory from {sizes[0]:,} to {sizes[-1]:,} links"
        figures.append(at_most(what, growth, 20, " %"))
    return Section("4. Planning: from the SQL to the stored chunks", figures)


def _figures(what: str, links: int, found: Mapping[str, float]) -> list[Figure]:
    seconds = f"{links / found['wall_s']:,.0f} rows per second, in"
    timed = (
        at_most(f"{what}: {seconds}", found["wall_s"], 90, " s")
        if links >= 1_000_000
        else Figure(f"{what}: {seconds}", f"{found['wall_s']:,.1f} s")
    )
    memory = at_most(
        f"{what}: peak memory ({found['before_mb']:.0f} MB before)", found["peak_mb"], 300, " MB", 0
    )
    return [timed, memory]


def _warehouse(folder: Path, postgres: LocalPostgres, database: str, links: int) -> dict[str, dict[str, Any]]:
    """Create a warehouse and an audit database, and return their connections."""
    if database == "PostgreSQL":
        name = f"plan_{links}"
        connections = {
            "warehouse": postgres_connection(postgres, f"{name}_warehouse"),
            "zoho_delink_audit": postgres_connection(postgres, f"{name}_audit"),
        }
        numbers = f"generate_series(0::bigint, {links - 1})"
        with psycopg.connect(postgres.url(f"{name}_warehouse")) as server:
            server.execute(
                "CREATE TABLE links (external_id text, related_external_id text, marked_at timestamptz)"
            )
            server.execute(
                _ROWS.format(links=links, numbers=numbers, time="timestamptz '2026-11-20'").encode()
            )
        return connections
    path = folder / f"plan_{links}_warehouse.db"
    rows = (
        (f"contact-{n * 7368787 % links}", f"deal-{n}", "2026-11-20 00:00:00.000000") for n in range(links)
    )
    with closing(sqlite3.connect(path)) as file, file:
        file.execute("CREATE TABLE links (external_id text, related_external_id text, marked_at text)")
        file.executemany("INSERT INTO links VALUES (?, ?, ?)", rows)
    return {
        "warehouse": sqlite_connection(path),
        "zoho_delink_audit": sqlite_connection(folder / f"plan_{links}_audit.db"),
    }
