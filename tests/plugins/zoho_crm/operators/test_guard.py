"""Limits between planning and sending."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.plugins.zoho_crm.operators.world import (
    Audit,
    Warehouse,
    context,
    jobs_folder,
    make_job,
    pairs,
)
from zoho_crm.errors import GuardError, PlanError, ZohoConfigError
from zoho_crm.operators.guard import GuardOperator
from zoho_crm.operators.plan import PlanOperator

LINKS = 10


@pytest.fixture(autouse=True)
def ten_links(audit: Audit, warehouse: Warehouse) -> None:
    audit.ledger()
    warehouse.add(pairs(LINKS))


def decide(sql_path: Path, job_limit: int | None, **params: Any) -> str:
    job = make_job(guards={"max_links": job_limit})
    PlanOperator(task_id="plan", job=job, jobs_folder=jobs_folder(sql_path)).execute(
        context("plan", params=params)
    )
    return GuardOperator(task_id="guard", job=job, jobs_folder=Path()).execute(
        context("guard", params=params)
    )


@pytest.mark.parametrize(
    ("max_links", "decision"),
    [
        (None, "passed: 10 links planned, no limit set"),
        (10, "passed: 10 links planned, 10 allowed"),
        (11, "passed: 10 links planned, 11 allowed"),
    ],
)
def test_a_plan_within_the_limit_passes(
    audit: Audit, sql_path: Path, max_links: int | None, decision: str
) -> None:
    assert decide(sql_path, max_links, mode="apply") == decision
    assert audit.run()["guard_decision"] == decision


@pytest.mark.parametrize("max_links", [0, 9])
def test_a_larger_plan_stops_and_leaves_its_reason(audit: Audit, sql_path: Path, max_links: int) -> None:
    decision = f"breached: 10 links planned, {max_links} allowed"
    with pytest.raises(
        GuardError, match=rf"^{decision}\. Nothing was sent. To let it pass, start a run with"
    ):
        decide(sql_path, max_links, mode="apply")
    assert audit.run()["guard_decision"] == decision


def test_a_dry_run_only_says_what_would_happen(sql_path: Path) -> None:
    assert decide(sql_path, 5, mode="dry_run") == "breached: 10 links planned, 5 allowed"


def test_the_form_overrides_the_limit_with_a_reason(audit: Audit, sql_path: Path) -> None:
    decision = decide(sql_path, 5, mode="apply", max_links=10, reason="spring cleaning")
    assert decision == "passed: 10 links planned, 10 allowed (limit set for this run: spring cleaning)"
    assert audit.run()["guard_decision"] == decision


def test_the_form_can_tighten_the_limit_too(sql_path: Path) -> None:
    with pytest.raises(GuardError, match="10 links planned, 3 allowed"):
        decide(sql_path, None, mode="apply", max_links=3, reason="careful")


def test_an_override_without_a_reason_is_refused(audit: Audit) -> None:
    with pytest.raises(ZohoConfigError, match=r"^reason:"):
        GuardOperator(task_id="guard", job=make_job(), jobs_folder=Path()).execute(
            context("guard", params={"max_links": 100})
        )


def test_a_run_without_a_plan_is_told(audit: Audit) -> None:
    with pytest.raises(PlanError, match="has no plan"):
        GuardOperator(task_id="guard", job=make_job(), jobs_folder=Path()).execute(context("guard"))
