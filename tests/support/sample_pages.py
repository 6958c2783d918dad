"""The pages over an audit database with runs in every state, served without Airflow, for tests in a browser."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.plugins.zoho_crm.ui.conftest import DAG_ID, JOBS, RELATION, Pages, Permissions
from zoho_crm import airflow_compat
from zoho_crm.airflow_compat import DagRunEnding
from zoho_crm.core.links import pair_key
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.run_request import RELINK_DAG_ID, RETRY_DAG_ID
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.ledger.tables import runs

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from fastapi import FastAPI

LINKS: list[tuple[object, object]] = [
    (f"c-{number // 3:05}", f"deal-{number:06}") for number in range(357)
] + [
    ("", "deal-blank"),
    (".", "deal-dot"),
    ("c-" + "very-long-" * 20, "deal-long"),
]
ALL_LINKS = {(str(one), str(other)): Outcome.REMOVED for one, other in LINKS[:357]}
MIXED = {
    pair: outcome
    for number, pair in enumerate(ALL_LINKS)
    for outcome in [
        (
            [Outcome.REMOVED] * 12
            + [Outcome.ALREADY_ABSENT, Outcome.PARENT_NOT_FOUND, Outcome.RELATED_NOT_FOUND]
            + [Outcome.REJECTED, Outcome.FAILED, Outcome.UNKNOWN, Outcome.PRESUMED_REMOVED]
        )[number % 19]
    ]
}
SENT_LINK = pair_key(RELATION, "c-00000", "deal-000000")
BREACH = "360 links planned, 100 allowed; 72 % of the 500 baseline links planned, 20 % allowed"
ENDED = "ended"
"""A run whose Dag run Airflow marks as failed, without a report."""


@dataclass(frozen=True)
class ServedPages:
    """
    The pages at a URL.

    :param addresses: path of each page, by a name
    """

    url: str
    addresses: dict[str, str]


@contextmanager
def served_pages(ledger_file: Path, *, with_runs: bool = True) -> Iterator[ServedPages]:
    """
    Serve the pages over a ledger in a SQLite file, as for a user with all permissions.

    :param with_runs: store a run in every state first
    """
    from fastapi.testclient import TestClient

    from zoho_crm.ui import auth
    from zoho_crm.ui.app import create_app
    from zoho_crm.ui.audit_databases import AuditDatabases

    url = f"sqlite:///{ledger_file}"
    app = create_app(AuditDatabases(JOBS, lambda _: Ledger(sa.create_engine(url))))
    for dependency in (auth.SIGNED_IN, auth.READ_RUN):
        app.dependency_overrides[dependency] = lambda: None
    app.dependency_overrides[auth.reader_of] = lambda: auth.Reader(None)
    ledger = Ledger(sa.create_engine(url))
    pages = Pages(app, TestClient(app), ledger, Permissions())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(airflow_compat, "dag_run_endings", _endings)
        patch.setattr(airflow_compat, "given_responses", lambda *_: [])
        patch.setattr(auth.Reader, "_may", lambda *_: True)
        addresses = store_runs(pages) if with_runs else {"no runs": "/", "job without runs": f"/?job={JOB}"}
        with _running(app) as base:
            yield ServedPages(base, addresses)
    ledger.close()


JOB = "contacts_deals"


def store_runs(pages: Pages) -> dict[str, str]:
    """Store a run in every state, and return the addresses of all pages."""
    day = timedelta(days=1)
    window = {
        "window_start": datetime(2026, 11, 26, tzinfo=UTC),
        "window_end": datetime(2026, 11, 27, tzinfo=UTC),
    }
    store, ledger = pages.store, pages.ledger

    def run(name: str, rows: Any = LINKS, outcomes: Any = None, **options: Any) -> None:
        store(rows, outcomes, run_key=name, run_id=name, chunk_size=100, **{**window, **options})

    def ends(name: str, status: str, detail: str | None) -> None:
        ledger.runs.finish(
            name, status=status, detail=detail, finished_at=ledger.runs.now() + timedelta(minutes=7)
        )

    for number in range(32):
        run(f"earlier-{number}", LINKS[: 20 + 6 * number], ALL_LINKS, finished="succeeded")
    run("mixed", outcomes=MIXED, reason="they moved to another region: see ticket 4711", response=_RECORD)
    ledger.runs.record_guard("mixed", f"breached: {BREACH}")
    ledger.runs.record_approval(
        "mixed", approval="approved", approved_by="ada", approved_at=ledger.runs.now()
    )
    ends("mixed", "failed", "18 of 360 links failed, 18 unknown")
    run("no-links", [], finished="succeeded")
    run("one-link", LINKS[:1], ALL_LINKS, finished="succeeded")
    run("one-link-failed", LINKS[:1], dict.fromkeys(ALL_LINKS, Outcome.FAILED), finished="failed")
    run(
        "nothing-found",
        LINKS[:60],
        dict.fromkeys(ALL_LINKS, Outcome.PARENT_NOT_FOUND),
        finished="succeeded",
    )
    run(
        "dry-run",
        outcomes=dict.fromkeys(ALL_LINKS, Outcome.WOULD_REMOVE),
        mode="dry_run",
        finished="succeeded",
    )
    run("running", outcomes=dict(list(MIXED.items())[:150]))
    ledger.runs.mark_running("running")
    run("waiting")
    ledger.runs.record_guard("waiting", f"breached: {BREACH}")
    ledger.runs.ask_approval("waiting", "digest", until=datetime(2026, 12, 1, 8, tzinfo=UTC))
    run("rejected")
    ledger.runs.record_guard("rejected", f"breached: {BREACH}")
    ledger.runs.record_approval(
        "rejected", approval="rejected", approved_by="ada", approved_at=ledger.runs.now()
    )
    ends("rejected", "rejected", "the approval was rejected by ada")
    _store_failures(pages, run, ends)
    relink = {"target": {"operation": "relink"}, "dag_id": RELINK_DAG_ID, "origin_run_key": "mixed"}
    run("relink", LINKS[:30], dict.fromkeys(ALL_LINKS, Outcome.RELINKED), finished="succeeded", **relink)
    retry = {"dag_id": RETRY_DAG_ID, "origin_run_key": "mixed"}
    run("retry", LINKS[:30], ALL_LINKS, finished="succeeded", **retry)
    run("hashed", LINKS[:30], ALL_LINKS, finished="succeeded")
    ledger.retention.pseudonymize("hashed")
    with ledger.engine.begin() as connection:
        keys = connection.scalars(sa.select(runs.c.run_key).order_by(runs.c.started_at)).all()
        for place, key in enumerate(keys):
            started = datetime.now(UTC) - (len(keys) - place) * day / 2
            values: dict[str, Any] = {"started_at": started}
            for name, minutes in (("planned_at", 1), ("finished_at", 8)):
                moment = sa.literal(started + timedelta(minutes=minutes), runs.c[name].type)
                values[name] = sa.case((runs.c[name].is_not(None), moment))
            connection.execute(sa.update(runs).where(runs.c.run_key == key).values(values))
    return _addresses(keys)


def _store_failures(pages: Pages, run: Any, ends: Any) -> None:
    """Store a run that failed in each task, and one that each cause has stopped."""
    runs_of = pages.ledger.runs
    for task, why in {
        "preflight": "ZohoAuthError: Zoho rejected the refresh token (invalid_code): create a new one",
        "plan": "SourceError: delink_contacts_deals.sql: no such table: stale_links",
        "guard": "SourceError: max_source_age: the SQL yields no row",
        "delink": "DatabaseTimeoutError: the audit database did not respond for 15m",
        "report": "OperationalError: the audit database is unavailable",
    }.items():
        name = f"failed-in-{task}"
        run(name, LINKS if task in {"delink", "report", "guard"} else [], MIXED if task == "report" else None)
        runs_of.record_failure(name, f"Task {task} failed: {why}", status="failed")
        if task in {"preflight", "plan"}:
            ends(name, "failed", f"Task {task} failed: {why}")
            _without_plan(pages, name)
    run("stopped-by-guard")
    runs_of.record_guard("stopped-by-guard", f"breached: {BREACH}")
    ends(
        "stopped-by-guard",
        "stopped",
        f"{BREACH}. Start a new run with max_links and a reason; 357 not attempted",
    )
    half = dict(list(MIXED.items())[:120])
    for name, why in {
        "breaker": "61 of 120 links failed, were refused or are unknown, above the breaker's share of 0.5",
        "credits": "1950 API credits of the org are left, 2000 are reserved",
    }.items():
        run(f"stopped-by-{name}", outcomes=half | dict.fromkeys(list(MIXED)[120:], Outcome.NOT_ATTEMPTED))
        ends(f"stopped-by-{name}", "failed", f"{why}; 237 not attempted")
    run("stopping", outcomes=half)
    runs_of.mark_running("stopping")
    runs_of.stop("stopping", "the org's API credits are used up (LIMIT_EXCEEDED: API limit exceeded)")
    run(ENDED, outcomes=half)


def _without_plan(pages: Pages, run_key: str) -> None:
    values = dict.fromkeys(("planned_at", "planned", "source_rows", "duplicates", "chunks"))
    with pages.ledger.engine.begin() as connection:
        connection.execute(sa.update(runs).where(runs.c.run_key == run_key).values(values))


def _addresses(keys: Any) -> dict[str, str]:
    dag_of = {"relink": RELINK_DAG_ID, "retry": RETRY_DAG_ID}
    found = {
        f"run {key}": f"/dags/{dag_of.get(key, DAG_ID)}/runs/{key}"
        for key in keys
        if not key.startswith("earlier-")
    }
    mixed = found["run mixed"]
    return found | {
        "runs": "/",
        "runs, nothing matches": "/?search=no-such-job",
        "runs, filtered": "/?status=failed&mode=apply",
        "job": f"/?job={JOB}",
        "job without runs": "/?job=campaigns_leads",
        "find a link": "/links",
        "link": f"/links/{SENT_LINK}",
        "link without history": f"/links/{'0' * 64}",
        "unknown run": f"/dags/{DAG_ID}/runs/no-such-run",
        "unknown page": "/nothing/here",
        "run mixed, failed links": f"{mixed}?outcome=failed",
        "run mixed, no match": f"{mixed}?outcome=not_attempted",
        "retry form": f"{mixed}/start/retry",
        "relink form": f"{mixed}/start/relink",
    }


_RECORD = {
    "zoho_record_id": "3652397000000649013",
    "zoho_message": "relation removed",
    "zoho_code": "SUCCESS",
}


def _endings(dag_runs: list[tuple[str, str]]) -> dict[tuple[str, str], DagRunEnding]:
    states = {
        ENDED: DagRunEnding("failed", ["delink"]),
        "no-such-run": DagRunEnding("deleted", []),
        **{f"failed-in-{task}": DagRunEnding("failed", [task]) for task in ("guard", "delink", "report")},
    }
    return {(dag_id, run_id): states.get(run_id, DagRunEnding("running", [])) for dag_id, run_id in dag_runs}


@contextmanager
def _running(app: FastAPI) -> Iterator[str]:
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    waited = threading.Event()
    for _ in range(300):
        if server.started:
            break
        waited.wait(0.1)
    assert server.started, "the pages are not served"
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(10)
