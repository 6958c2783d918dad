"""The whole path of a run over ten thousand links, on each kind of database."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.databases import AUDIT, Audit, Warehouse, set_connection
from tests.support.local_zoho import harms, link_all, linked, sent, zoho_connection
from tests.support.operators import context, delink, jobs_folder, make_job, pairs
from zoho_crm.operators.plan_links import PlanLinksOperator
from zoho_crm.operators.report import ReportOperator

if TYPE_CHECKING:
    from zoho_crm.testing.local_zoho import LocalZoho


@pytest.mark.parametrize(
    ("audit", "links"),
    [
        ("sqlite", 2_000),
        *(
            pytest.param(name, 10_000, marks=pytest.mark.systems)
            for name in ("sqlite", "postgres", "mariadb")
        ),
    ],
    indirect=["audit"],
)
def test_every_link_of_thousands_has_one_story(
    zoho: LocalZoho,
    audit: Audit,
    warehouse: Warehouse,
    sql_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    links: int,
) -> None:
    zoho.state.configure(journal_size=links * 2)
    audit.ledger()  # makes the tables, as preflight does
    set_connection(monkeypatch, "zoho_crm_default", **zoho_connection(zoho, max_concurrency=20))
    stale = pairs(links)
    kept = [(f"kept-{number}", f"kept-{number}") for number in range(200)]
    gone = stale[::50]
    unknown = [(f"no-record-{number}", "d-00000") for number in range(100)]
    link_all(zoho, [*stale, *kept])
    for pair in gone:
        zoho.state.unlink("Contacts", pair[0], "Deals", pair[1])
    warehouse.add([*stale, *stale[:500], *unknown, ("", "d-00001"), ("..", "d-00001")])
    job = make_job(chunk_size=links // 4, task_concurrency=10)
    params = {"mode": "apply"}

    chunks = PlanLinksOperator(task_id="plan", job=job, jobs_folder=jobs_folder(sql_path)).execute(
        context("plan", params=params)
    )
    audit.ledger().runs.record_guard(chunks[0]["run_key"], "passed")
    with ThreadPoolExecutor(2) as pool:
        summaries = list(
            pool.map(
                lambda chunk: delink(chunk=chunk, audit_conn_id=AUDIT, task_concurrency=10).execute(
                    context(map_index=chunk["chunk_no"], params=params)
                ),
                chunks,
            )
        )
    report = ReportOperator(task_id="report", job=job, jobs_folder=Path()).execute(
        context("report", params=params)
    )

    expected = {
        **dict.fromkeys(stale, "removed"),
        **dict.fromkeys(gone, "already_absent"),
        **dict.fromkeys(unknown, "parent_not_found"),
        ("", "d-00001"): "invalid",
        ("..", "d-00001"): "invalid",
    }
    latest = audit.latest()
    assert latest == expected
    assert len(audit.events()) == len(expected)
    assert linked(zoho) == set(kept)
    assert Counter(sent(zoho)) == Counter([*stale, *unknown])
    assert not harms(zoho)
    counts = Counter(expected.values())
    assert sum((Counter(summary) for summary in summaries), Counter()) + Counter(invalid=2) == counts
    run = audit.run()
    assert {outcome: run[outcome] for outcome in counts} == dict(counts)
    assert (run["planned"], run["source_rows"], run["duplicates"]) == (
        len(expected),
        len(expected) + 500,
        500,
    )
    assert (run["status"], report["outcomes"]) == ("succeeded", dict(counts))
    assert zoho.state.limits.refused == 0
