"""The demo's world: a local Zoho with records and links, a warehouse and an audit database in SQLite."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from include.demo.cases import DUPLICATES, kept_links, stale_links
from zoho_crm.testing.local_zoho import LocalZoho, default_connection

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from zoho_crm.testing.local_zoho.state import LocalState

JOB = "contacts_deals"
DAG_ID = f"zoho_delink__{JOB}"
AUDIT_TABLES = ("zoho_delink_run", "zoho_delink_link", "zoho_delink_audit", "zoho_delink_latest")
LATENCY_S = 0.02


@dataclass(frozen=True, slots=True)
class DemoWorld:
    """
    A running local Zoho and the databases beside it.

    :param env: Airflow connections as environment variables
    :param warehouse: SQLite file with the table ``crm_links_to_remove``
    :param audit: SQLite file the plan and the audit are written to
    """

    zoho: LocalZoho
    env: dict[str, str]
    warehouse: Path
    audit: Path


@contextmanager
def start_demo_world(home: Path) -> Iterator[DemoWorld]:
    """
    Start the local Zoho and make the warehouse; the audit database of an earlier call is kept.

    :param home: folder for the databases; made when it is missing
    """
    home.mkdir(parents=True, exist_ok=True)
    warehouse, audit = (home / "warehouse.db").resolve(), (home / "audit.db").resolve()
    make_warehouse(warehouse)
    with LocalZoho(latency_s=LATENCY_S) as zoho:
        fill_crm(zoho.state)
        yield DemoWorld(zoho, connections(zoho.port, warehouse, audit), warehouse, audit)


def connections(zoho_port: int, warehouse: Path, audit: Path) -> dict[str, str]:
    """Return the connections the sample jobs name, in the form Airflow reads from its environment."""
    connection = {
        "zoho_crm_default": default_connection("127.0.0.1", zoho_port),
        "warehouse": {"conn_type": "sqlite", "host": str(warehouse)},
        "zoho_delink_audit": {"conn_type": "sqlite", "host": str(audit)},
    }
    return {f"AIRFLOW_CONN_{name.upper()}": json.dumps(value) for name, value in connection.items()}


def make_warehouse(path: Path) -> None:
    """Recreate the warehouse, its rows marked over the last six days."""
    cases = stale_links()
    rows = [(JOB, case.parent_id, case.related_id) for case in [*cases, *cases[:DUPLICATES]]]
    rows += [("campaigns_leads", f"k-{n % 5}", f"l-{n:03}") for n in range(40)]
    now = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE IF EXISTS crm_links_to_remove")
        connection.execute(
            "CREATE TABLE crm_links_to_remove (relation TEXT, parent_id TEXT, related_id TEXT, marked_at TEXT)"
        )
        connection.executemany(
            "INSERT INTO crm_links_to_remove VALUES (?, ?, ?, ?)",
            [
                (*row, f"{now - timedelta(hours=1 + 24 * (place % 6)):%Y-%m-%d %H:%M:%S}.000000")
                for place, row in enumerate(rows)
            ],
        )


def fill_crm(state: LocalState) -> None:
    """Add the records and links of both sample jobs."""
    contacts: set[str] = {f"c-{n:04}" for n in range(270)}
    deals: set[str] = {f"d-{n:04}" for n in range(90)}
    for case in stale_links():
        if case.outcome in {"removed", "already_absent"}:
            contacts.add(case.parent_id)
            deals.add(case.related_id)
    for contact in sorted(contacts):
        state.add_record("Contacts", {"External_Contact_ID": contact})
    for deal in sorted(deals):
        state.add_record("Deals", {"External_Deal_ID": deal})
    stale = [(case.parent_id, case.related_id) for case in stale_links() if case.outcome == "removed"]
    for contact, deal in [*stale, *kept_links()]:
        state.link("Contacts", contact, "Deals", deal)
    for number in range(60):
        state.link("Campaigns", f"k-{number % 5}", "Leads", f"l-{number:03}")
