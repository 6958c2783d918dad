"""The Dag of retention: read by Airflow itself, and run."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
import yaml

from include.demo.world import connections
from tests.support.ledger import take
from tests.support.releases import DagSerialization
from zoho_crm.airflow_compat import DagBag
from zoho_crm.core.links import Relation
from zoho_crm.core.models import LinkResult, Origin, RunStart, Target
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger.ledger import Ledger

if TYPE_CHECKING:
    from airflow.sdk import DAG

    from tests.support.airflow_process import Run

PROJECT = Path(__file__).parents[2]
DAG_ID = "zoho_delink_retention"

# Airflow's own reading of .airflowignore and of plugins, while it reads Dags.
pytestmark = pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three jobs: ids are kept for ever, for 30 days, and for 90."""
    folder = tmp_path / "include" / "jobs"
    folder.mkdir(parents=True)
    (folder.parent / "sql").mkdir()
    for name in ("contacts_deals.sql",):
        (folder.parent / "sql" / name).write_text((PROJECT / "include" / "sql" / name).read_text())
    sample = yaml.safe_load((PROJECT / "include" / "jobs" / "contacts_deals.yaml").read_text())
    sample["guards"] = {"max_links": 100}
    for name, days in {"for_ever": None, "month": 30, "quarter": 90}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**sample, "retention_days": days}))
    monkeypatch.setenv("ZOHO_CRM_JOBS_FOLDER", str(folder))
    return folder


def read_dag() -> DAG:
    bag = DagBag(dag_folder=PROJECT / "dags" / "zoho_delink.py")
    assert bag.import_errors == {}
    dag: DAG = bag.dags[DAG_ID]
    return dag


def test_it_is_read_without_any_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZOHO_CRM_JOBS_FOLDER", str(tmp_path))

    dag = read_dag()

    assert list(dag.task_dict) == ["pseudonymize"]
    assert {name: dag.params[name] for name in dag.params} == {"dry_run": False}
    assert (dag.catchup, dag.max_active_runs) == (False, 1)


def test_it_is_mapped_over_the_jobs_that_set_days(jobs: Path) -> None:
    dag = read_dag()

    assert dag.get_task("pseudonymize").expand_input.value == {"job_name": ["month", "quarter"]}
    stored = json.loads(json.dumps(DagSerialization.serialize_dag(dag)))
    assert set(DagSerialization.deserialize_dag(stored).task_dict) == {"pseudonymize"}


RUNS = f"""
import os, sqlite3
from zoho_crm.airflow_compat import DagBag

def run(conf):
    # Read again: within one process a mapped task keeps the params of the run before.
    dag = DagBag(dag_folder={str(PROJECT / "dags" / "zoho_delink.py")!r}).dags[{DAG_ID!r}]
    print("state", dag.test(run_conf=conf).state.value, flush=True)
    with sqlite3.connect(os.environ["AUDIT_DB"]) as connection:
        jobs = connection.execute(
            "SELECT DISTINCT job FROM zoho_delink_audit WHERE external_id LIKE 'sha256:%' ORDER BY job"
        )
        print("replaced", [job for (job,) in jobs], flush=True)

run({{"dry_run": True}})
run({{}})
os.environ["ZOHO_CRM_JOBS_FOLDER"] = os.environ["EMPTY_FOLDER"]
run({{}})
"""  # noqa: S608 - it is a program, with a path of our own


@pytest.mark.systems
def test_whole_runs_count_and_replace(jobs: Path, tmp_path: Path, run_with_airflow: Run) -> None:
    audit, empty = tmp_path / "audit.db", tmp_path / "empty"
    empty.mkdir()
    ledger = Ledger(sa.create_engine(f"sqlite:///{audit}"))
    ledger.ensure_schema()
    for job in ("for_ever", "month", "quarter"):
        _add_run(ledger, job, finished_at=datetime.now(UTC) - timedelta(days=40))
    env = {
        **connections(1, tmp_path / "warehouse.db", audit),
        "AUDIT_DB": str(audit),
        "EMPTY_FOLDER": str(empty),
    }
    done = run_with_airflow("-c", RUNS, **env)
    said = [line for line in done.stdout.splitlines() if line.startswith(("state ", "replaced "))]
    assert said == [
        "state success",
        "replaced []",
        "state success",
        "replaced ['month']",
        "state success",
        "replaced ['month']",
    ], done.stdout[-3000:] + done.stderr[-3000:]
    with closing(sqlite3.connect(audit)) as connection:
        replaced = connection.execute(
            "SELECT job, pseudonymized_at IS NOT NULL FROM zoho_delink_run ORDER BY job"
        )
        assert replaced.fetchall() == [("for_ever", 0), ("month", 1), ("quarter", 0)]
    assert list(ledger.chain.verify()) == []
    ledger.close()


def _add_run(ledger: Ledger, job: str, *, finished_at: datetime) -> None:
    relation = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
    origin = Origin("zoho_delink__" + job, "manual__1", "manual", "delink")
    target = Target(relation, "us", "v7")
    ledger.runs.start(RunStart(job, job, origin, target, mode="apply"))
    ledger.plans.create(
        job, relation, [("c-1", "d-1")], chunk_size=9, max_chunks=9, origin=origin, target=target
    )
    claim = ledger.claims.claim(job, 0, "a try")
    results = [LinkResult(link, Outcome.REMOVED, finished_at) for link in take(ledger, claim, 9)]
    ledger.claims.settle(claim, results, origin=origin, target=target, job=job)
    ledger.runs.finish(job, status="succeeded", detail=None, finished_at=finished_at)
    ledger.finalizer.seal(job)
