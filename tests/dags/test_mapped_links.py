"""The two operators on links, mapped in both ways Airflow has, in a Dag that runs through Airflow itself."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from include.demo.world import connections
from tests.support.airflow_process import MAKE_EXECUTION_API_ONCE
from zoho_crm.testing.local_zoho import LocalZoho

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.airflow_process import Run

RUN = """
import runpy, sys
runpy.run_path(sys.argv[1], run_name="__main__")
"""

DAG = """
from datetime import datetime, timedelta, timezone

from airflow.sdk import dag, task
from zoho_crm.core.links import Relation
from zoho_crm.core.models import Origin, RunStart, Target
from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator
from zoho_crm.operators.relink import RelinkByExternalIdOperator

RELATION = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
NAMES = dict(
    module="Contacts",
    external_field="External_Contact_ID",
    related_list="Deals",
    related_module=None,
    related_external_field="External_Deal_ID",
    zoho_conn_id="zoho_crm_default",
    audit_conn_id="zoho_delink_audit",
)
ALL = dict(
    NAMES,
    task_concurrency=3,
    credit_reserve=10,
    breaker_share=0.25,
    wait_patience=timedelta(hours=1),
    max_plan_age=timedelta(days=1),
    execution_timeout=timedelta(minutes=10),
)


@dag(schedule=None)
def mapped():
    @task
    def plan(key, operation, first, mode="apply", reported=None):
        from zoho_crm.ledger.ledger import Ledger

        ledger = Ledger.from_conn_id("zoho_delink_audit")
        ledger.ensure_schema()
        origin = Origin("mapped", key, "manual", "plan")
        target = Target(RELATION, "us", "v7", operation=operation, dry_run=mode == "dry_run")
        params = reported or {}
        ledger.runs.start(
            RunStart(key, "mapped", origin, target, mode=mode, params=params, guard_decision="passed")
        )
        pairs = [(f"c-{number}", f"d-{number}") for number in range(first, first + 6)]
        summary = ledger.plans.create(
            key, RELATION, pairs, chunk_size=2, max_chunks=9, origin=origin, target=target
        )
        return summary.chunks

    @task
    def arguments(chunks, more=None):
        return [dict(ALL, chunk=chunk, **(more or {})) for chunk in chunks]

    delink = DeleteRelatedByExternalIdOperator.partial(
        task_id="delink",
        map_index_template="{{ task.chunk['label'] }}",
        task_concurrency=2,
        **NAMES,
    ).expand(chunk=plan("delink", "delink", 0))
    relink = RelinkByExternalIdOperator.partial(task_id="relink", task_concurrency=2, **NAMES).expand(
        chunk=plan("relink", "relink", 0)
    )
    more = {"strategy": "by_parent", "snapshot_fields": ["Contact_Role"]}
    delink_by_kwargs = DeleteRelatedByExternalIdOperator.partial(
        task_id="delink_by_kwargs", map_index_template="{{ task.chunk['label'] }}"
    ).expand_kwargs(arguments(plan("delink_by_kwargs", "delink", 10), more))
    relink_by_kwargs = RelinkByExternalIdOperator.partial(task_id="relink_by_kwargs").expand_kwargs(
        arguments(plan("relink_by_kwargs", "relink", 10))
    )
    dry_run = RelinkByExternalIdOperator.partial(task_id="dry_run").expand_kwargs(
        arguments(plan("dry_run", "relink", 10, "dry_run", {"verify": True}))
    )
    delink >> relink
    delink_by_kwargs >> dry_run >> relink_by_kwargs


mapped = mapped()
if __name__ == "__main__":
    run = mapped.test()
    for one in run.get_task_instances():
        print(one.task_id, one.state, one.rendered_map_index)
    print("run", run.state.value, "-", flush=True)
"""


@pytest.mark.systems
def test_both_operators_work_when_mapped_over_chunks_and_over_arguments(
    tmp_path: Path, run_with_airflow: Run
) -> None:
    audit, dag_file = tmp_path / "audit.db", tmp_path / "mapped.py"
    dag_file.write_text(DAG)
    pairs = [(f"c-{number}", f"d-{number}") for number in (*range(6), *range(10, 16))]
    with LocalZoho() as zoho:
        for parent, related in pairs:
            zoho.state.link("Contacts", parent, "Deals", related)
        env = {
            **connections(zoho.port, tmp_path / "warehouse.db", audit),
            "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path),
        }
        done = run_with_airflow("-c", MAKE_EXECUTION_API_ONCE + RUN, str(dag_file), **env)
        assert "run success -" in done.stdout, done.stdout[-6000:] + done.stderr[-6000:]
        assert zoho.state.links("Contacts", "Deals") == set(pairs)
        assert list(zoho.state.journal.harms) == []
    assert "delink_by_kwargs success 1/3" in done.stdout
    with closing(sqlite3.connect(audit)) as connection:
        rows = connection.execute(
            "SELECT run_key, operation, outcome, count(*) FROM zoho_delink_latest GROUP BY 1, 2, 3 ORDER BY 1"
        ).fetchall()
    assert rows == [
        ("delink", "delink", "removed", 6),
        ("delink_by_kwargs", "delink", "removed", 6),
        ("dry_run", "relink", "would_relink", 6),
        ("relink", "relink", "relinked", 6),
        ("relink_by_kwargs", "relink", "relinked", 6),
    ]
