"""The pages over a small audit database. tests/e2e tests permissions on a real API server."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.support.ledger import JOB, MOMENT, ORIGIN, TARGET, result, run_start, take
from zoho_crm import airflow_compat
from zoho_crm.airflow_compat import DagRunEnding
from zoho_crm.core.links import Relation
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fastapi import FastAPI
    from fastapi.testclient import TestClient

    from zoho_crm.core.outcomes import Outcome

JOBS = Path(__file__).parents[4] / "include" / "jobs"
DAG_ID = f"zoho_delink__{JOB}"
RUN_ID = "scheduled__2026-07-01T00:00:00+00:00"
RELATION = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
SCRIPT = "<script>alert('x')</script>"


@dataclass
class Permissions:
    """Stands in for Airflow's auth manager: allows all but the refused methods and Dags."""

    refused: set[tuple[str, str]] = field(default_factory=set)

    def may(self, method: str, dag_id: str) -> bool:
        return (method, dag_id) not in self.refused


@dataclass(frozen=True)
class User:
    """A user of Airflow."""

    name: str

    def get_id(self) -> str:
        return self.name


@dataclass(frozen=True)
class Pages:
    """The app with an audit database, and a signed-in browser."""

    app: FastAPI
    client: TestClient
    ledger: Ledger
    rights: Permissions

    def run(self, **changes: Any) -> str:
        """Address of the sample run."""
        return f"/dags/{DAG_ID}/runs/{RUN_ID}"

    def store(
        self,
        rows: list[tuple[object, object]],
        outcomes: dict[tuple[str, str], Outcome] | None = None,
        *,
        run_key: str = "a-run",
        finished: str | None = None,
        job: str = JOB,
        chunk_size: int = 10,
        response: dict[str, Any] | None = None,
        **start: Any,
    ) -> None:
        """Store a run and outcomes of some of its links."""
        origin = replace(ORIGIN, dag_id=f"zoho_delink__{job}", dag_run_id=start.pop("run_id", RUN_ID))
        origin = replace(
            origin,
            dag_id=start.pop("dag_id", origin.dag_id),
            run_type=start.pop("run_type", origin.run_type),
        )
        target = replace(
            TARGET, relation=RELATION, dry_run=start.get("mode") == "dry_run", **start.pop("target", {})
        )
        self.ledger.runs.start(run_start(run_key, job=job, origin=origin, target=target, **start))
        plan = self.ledger.plans.create(
            run_key, RELATION, rows, chunk_size=chunk_size, max_chunks=100, origin=origin, target=target
        )
        for chunk in plan.chunks if outcomes else ():
            claim = self.ledger.claims.claim(run_key, chunk["chunk_no"], "a try")
            links = take(self.ledger, claim, 1_000, in_flight=not target.dry_run)
            results = [
                result(
                    link,
                    outcomes[link.link.external_id, link.link.related_external_id],
                    sent_at=MOMENT - timedelta(milliseconds=120),
                    **{"http_status": 200, "attempts": 1, **(response or {})},
                )
                for link in links
                if (link.link.external_id, link.link.related_external_id) in outcomes
            ]
            self.ledger.claims.settle(
                claim, results, origin=origin, target=target, job=job, in_flight=not target.dry_run
            )
        if finished:
            self.ledger.runs.finish(
                run_key, status=finished, detail=None, finished_at=MOMENT + timedelta(minutes=3)
            )


@pytest.fixture
def jobs_copy(pages: Pages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the job files for the pages to read, and return their folder."""
    shutil.copytree(JOBS.parent / "sql", tmp_path / "sql")
    folder = shutil.copytree(JOBS, tmp_path / "jobs")
    monkeypatch.setattr(pages.app.state.databases, "_jobs_folder", folder)
    return Path(folder)


@pytest.fixture
def audit_url(tmp_path: Path, empty_sqlite_ledger: Path) -> sa.URL:
    """Return the URL of an empty audit database."""
    path = shutil.copy(empty_sqlite_ledger, tmp_path / "audit.db")
    return sa.URL.create("sqlite", database=str(path))


@pytest.fixture
def pages(audit_url: sa.URL, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pages]:
    from fastapi.testclient import TestClient

    from zoho_crm.ui import auth
    from zoho_crm.ui.app import create_app
    from zoho_crm.ui.audit_databases import AuditDatabases

    monkeypatch.setattr(
        airflow_compat, "dag_run_endings", lambda runs: {each: DagRunEnding("running", []) for each in runs}
    )
    ledger = Ledger(sa.create_engine(audit_url))
    rights = Permissions()
    monkeypatch.setattr(auth.Reader, "_may", lambda _, method, dag_id: rights.may(method, dag_id))
    app = create_app(AuditDatabases(JOBS, lambda _: Ledger(sa.create_engine(audit_url))))
    for dependency in (auth.SIGNED_IN, auth.READ_RUN):
        app.dependency_overrides[dependency] = lambda: None
    app.dependency_overrides[auth.reader_of] = lambda: auth.Reader(User("viewer"))
    yield Pages(app, TestClient(app, headers={"accept": "text/html"}), ledger, rights)
    for database in app.state.databases.readable():
        database.ledger.close()
    ledger.close()
