"""API credits that a run uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.plugins.zoho_crm.operators.test_delete_related import impatient
from tests.support.databases import AUDIT, Audit, Warehouse
from tests.support.local_zoho import ZOHO, link_all
from tests.support.operators import context, delink, jobs_folder, make_job, pairs
from zoho_crm.errors import UnfinishedLinksError, ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.http_transport import Meter
from zoho_crm.hooks.zoho_response import ZohoResponse
from zoho_crm.operators.chunk_store import CreditUsage
from zoho_crm.operators.job_operator import origin_of
from zoho_crm.operators.plan_links import PlanLinksOperator
from zoho_crm.operators.preflight import PreflightOperator
from zoho_crm.operators.report import close_run

if TYPE_CHECKING:
    from pathlib import Path

    from zoho_crm.testing.local_zoho import LocalZoho


def asked(zoho: LocalZoho) -> int:
    """The calls of the API that reached Zoho."""
    return sum(1 for one in zoho.state.journal.requests if one.path.startswith("/crm/"))


def metered(requests: int) -> Meter:
    """Return a meter that has seen this many requests."""
    meter = Meter(ZOHO)
    for _ in range(requests):
        meter.answered("DELETE", ZohoResponse(200, {}, b"", 0.1))
    return meter


def test_each_call_costs_a_credit_unless_it_was_turned_away_or_never_left() -> None:
    meter = metered(2)
    for status in (401, 429):
        meter.answered("DELETE", ZohoResponse(status, {}, b"", 0.1))
    meter.answered("GET", ZohoResponse(500, {}, b"", 0.1))
    meter.failed("DELETE", ZohoUnansweredError("sent"), 0.1)
    meter.failed("DELETE", ZohoNotSentError("no connection"), 0.1)

    assert meter.credits_used == 4


def test_credits_of_a_failed_write_are_stored_with_the_next_one() -> None:
    usage = CreditUsage(metered(2))

    with pytest.raises(RuntimeError), usage.to_write():
        raise RuntimeError
    with usage.to_write() as credits_used:
        assert credits_used == 2
    usage.meter.answered("DELETE", ZohoResponse(200, {}, b"", 0.1))
    with usage.to_write() as credits_used:
        assert credits_used == 1


def test_run_counts_the_calls_of_its_checks_and_of_every_try(
    zoho: LocalZoho, audit: Audit, warehouse: Warehouse, sql_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    impatient(monkeypatch)
    link_all(zoho, pairs(6))
    warehouse.add(pairs(6))
    given = {"job": make_job(chunk_size=4), "jobs_folder": jobs_folder(sql_path)}
    checks, plan = PreflightOperator(task_id="preflight", **given), PlanLinksOperator(task_id="plan", **given)
    params = {"mode": "apply"}

    def drive(try_number: int) -> int:
        """Run all tasks up to the last; return what the checks have cost."""
        known = checks.execute(context("preflight", params=params, try_number=try_number))
        chunks = plan.execute(context("plan", preflight=known, params=params, try_number=try_number))
        audit.ledger().runs.record_guard(chunks[0]["run_key"], "passed")
        for number, chunk in enumerate(chunks):
            delink(chunk=chunk, audit_conn_id=AUDIT).execute(context(map_index=number, try_number=try_number))
        credits: int = known["credits"]
        return credits

    # One response is lost, and the link cannot be verified before the next try.
    zoho.state.faults.add(do="reset", when="after", match={"method": "DELETE", "path": "c-00001"}, times=1)
    silent = zoho.state.faults.add(
        do="status", status=500, match={"method": "GET", "path": "c-00001"}, times=None
    )
    with pytest.raises(UnfinishedLinksError):
        drive(1)
    first = asked(zoho)
    zoho.state.faults.rules.remove(silent)
    of_checks = drive(2)

    run = audit.run()
    assert (run["credits"], run["preflight_credits"], run["environment"]) == (None, 2 * of_checks, "local")
    ledger = audit.ledger()
    close_run(ledger, run["run_key"], origin=origin_of(context("report")), tolerance=0.0)
    assert audit.run()["credits"] == asked(zoho) > first + of_checks
    # The link whose response was lost is gone, and its run had not seen it linked.
    assert (audit.run()["removed"], audit.run()["presumed_removed"]) == (5, 1)
