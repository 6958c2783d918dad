"""Retention of one job: which runs, counted or replaced."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from tests.support.databases import AUDIT, Audit
from tests.support.ledger import take
from tests.support.links import RELATION
from tests.support.operators import context, pairs
from zoho_crm.anchors.anchor_check import check_anchors
from zoho_crm.anchors.anchor_files import AnchorFolder
from zoho_crm.core.job_files import JobFileError
from zoho_crm.core.models import LinkResult, RunStart, Target
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger import tables
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.operators.audit_tasks import RetentionOperator
from zoho_crm.operators.job_operator import origin_of

NOW = datetime.now(UTC)
SAMPLE = Path(__file__).parents[4] / "include" / "jobs" / "contacts_deals.yaml"
JOB = "contacts_deals"


@pytest.fixture
def folder(sql_path: Path) -> Path:
    """A folder of job files with one job that keeps ids for thirty days."""
    folder = sql_path.parents[1] / "jobs"
    folder.mkdir()
    set_retention(folder, 30)
    return folder


def set_retention(folder: Path, days: int | None) -> None:
    content = yaml.safe_load(SAMPLE.read_text())
    for name in ("baseline_sql_file", "freshness_sql_file", "max_share", "max_source_age"):
        content.get("guards", {}).pop(name, None)
    content |= {"audit_conn_id": AUDIT, "retention_days": days}
    (folder / f"{JOB}.yaml").write_text(yaml.safe_dump(content))


def add_run(ledger: Ledger, run_key: str, days_ago: int | None) -> None:
    """A run of three links that ended so many days ago, or never."""
    origin, target = origin_of(context()), Target(RELATION, "us", "v7")
    ledger.runs.start(RunStart(run_key, JOB, origin, target, mode="apply"))
    ledger.plans.create(run_key, RELATION, pairs(3), chunk_size=9, max_chunks=9, origin=origin, target=target)
    claim = ledger.claims.claim(run_key, 0, "a try")
    results = [LinkResult(link, Outcome.REMOVED, NOW) for link in take(ledger, claim, 9)]
    ledger.claims.settle(claim, results, origin=origin, target=target, job=JOB)
    if days_ago is not None:
        finished_at = NOW - timedelta(days=days_ago)
        ledger.runs.finish(run_key, status="succeeded", detail=None, finished_at=finished_at)
        ledger.finalizer.seal(run_key)


@pytest.fixture
def ledger(audit: Audit) -> Ledger:
    """Runs of several ages, and one of long ago that never ended."""
    ledger = audit.ledger()
    for run_key, days_ago in {"old": 31, "older": 90, "young": 29}.items():
        add_run(ledger, run_key, days_ago)
    long_ago = (NOW - timedelta(days=99)).timestamp()
    add_run(Ledger(audit.engine, clock=lambda _: long_ago), "never", None)
    return ledger


def retain(folder: Path, **params: Any) -> dict[str, Any]:
    task = RetentionOperator(task_id="pseudonymize", job_name=JOB, jobs_folder=folder)
    result: dict[str, Any] = task.execute(context("pseudonymize", params=params))
    return result


def runs_with_ids(audit: Audit) -> set[str]:
    return {row["run_key"] for row in audit.events() if not row["external_id"].startswith("sha256:")}


def test_ids_of_old_runs_are_replaced_and_the_audit_verifies(
    audit: Audit, ledger: Ledger, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    summary = retain(folder)

    assert summary == {"job": JOB, "dry_run": False, "runs": 2, "rows": 6, "left_open": 1}
    assert runs_with_ids(audit) == {"young", "never"}
    assert list(ledger.chain.verify()) == []
    said = "".join(capfd.readouterr())
    assert "1 older runs never ended and keep their external ids; clear their report: never" in said
    assert "c-00000" not in said


@pytest.mark.filterwarnings("ignore:GitWildMatchPattern:DeprecationWarning")
def test_seals_of_retention_are_anchored(ledger: Ledger, folder: Path, tmp_path: Path) -> None:
    file, anchors = folder / f"{JOB}.yaml", AnchorFolder(f"file://{tmp_path}/anchors")
    file.write_text(f"{file.read_text()}audit_anchor: file://{tmp_path}/anchors\n")
    anchors.write_missing(ledger)

    assert retain(folder, dry_run=True)["runs"] == retain(folder)["runs"] == 2
    assert list(check_anchors(ledger, anchors)) == []
    assert len(list(anchors.read())) == 5


def test_retention_uses_a_connection_for_it(
    audit: Audit, ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = folder / f"{JOB}.yaml"
    file.write_text(f"{file.read_text()}retention_conn_id: audit_retention\n")
    monkeypatch.setenv("AIRFLOW_CONN_AUDIT_RETENTION", os.environ[f"AIRFLOW_CONN_{AUDIT.upper()}"])
    monkeypatch.delenv(f"AIRFLOW_CONN_{AUDIT.upper()}")

    assert retain(folder)["rows"] == 6


def test_dry_run_only_counts(audit: Audit, ledger: Ledger, folder: Path) -> None:
    before = audit.events()

    assert retain(folder, dry_run=True) == {"job": JOB, "dry_run": True, "runs": 2, "rows": 0, "left_open": 1}
    assert audit.events() == before


def test_second_time_nothing_is_left_to_do(ledger: Ledger, folder: Path) -> None:
    retain(folder)

    assert (retain(folder)["runs"], retain(folder)["rows"]) == (0, 0)


def test_run_that_was_cleared_a_moment_ago_does_not_hold_up_the_others(
    audit: Audit, ledger: Ledger, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with audit.engine.begin() as connection:
        connection.execute(
            sa.update(tables.links)
            .where(tables.links.c.run_key == "old", tables.links.c.seq == 0)
            .values(outcome=None, state="in_flight")
        )
    # As if it had been cleared right after the runs were looked for.
    found = ["old", "older"]
    monkeypatch.setattr("zoho_crm.ledger.ledger.Pseudonymizer.due_runs", lambda *_: found)

    assert retain(folder)["rows"] == 3
    assert runs_with_ids(audit) == {"old", "young", "never"}


def test_job_without_retention_keeps_its_ids(audit: Audit, ledger: Ledger, folder: Path) -> None:
    set_retention(folder, None)

    assert retain(folder)["runs"] == 0
    assert len(runs_with_ids(audit)) == 4


def test_database_without_tables_has_nothing_to_replace(audit_without_tables: Audit, folder: Path) -> None:
    assert retain(folder)["runs"] == 0


def test_job_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(JobFileError, match="there is no job 'contacts_deals'"):
        retain(tmp_path)
