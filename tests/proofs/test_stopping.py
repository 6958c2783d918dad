"""Stopping early: a refusal that affects every link stops the run after a few requests; a clear resumes it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.proofs.harness import REPORT, Try, calls, check_truth, outcomes, pairs, plan, spread, until
from tests.support.local_zoho import link_all, linked
from zoho_crm.core.outcomes import Outcome
from zoho_crm.core.verdict import StopReason
from zoho_crm.operators.breaker import BREAKER_AFTER, SAME_REFUSALS
from zoho_crm.operators.report import close_run

if TYPE_CHECKING:
    from zoho_crm.core.models import ChunkRef
    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.testing.local_zoho import LocalZoho

CONCURRENCY = 5


def error(code: str, message: str, **details: Any) -> str:
    return json.dumps({"code": code, "details": details, "message": message, "status": "error"})


REFUSALS = {
    "scope": (401, error("OAUTH_SCOPE_MISMATCH", "invalid oauth scope to access this URL")),
    "permission": (403, error("NO_PERMISSION", "permission denied", permissions=["Crm_Implied_View"])),
    "right": (400, error("AUTHORIZATION_FAILED", "no privilege")),
    "list": (
        400,
        error("INVALID_DATA", "The relation name given seems to be invalid", resource_path_index=2),
    ),
    "module": (400, error("INVALID_MODULE", "The module name given seems to be invalid")),
}


def refuse(zoho: LocalZoho, kind: str, **match: Any) -> None:
    status, body = REFUSALS[kind]
    zoho.state.faults.add(
        do="status", status=status, body=body, times=None, match={"method": "DELETE", **match}
    )


def chunks_of(zoho: LocalZoho, ledger: Ledger, parents: int, each: int, chunk_size: int) -> list[ChunkRef]:
    links = pairs(parents, each)
    link_all(zoho, links)
    return plan(ledger, links, chunk_size=chunk_size).chunks


@pytest.mark.parametrize("strategy", ["single", "by_parent"])
@pytest.mark.parametrize("kind", REFUSALS)
async def test_repeated_refusals_stop_the_run_and_a_clear_resumes_it(
    zoho: LocalZoho, ledger: Ledger, kind: str, strategy: str
) -> None:
    zoho.state.configure(latency_s=0.002)
    # A page of a hundred links gets one refusal: more pages are needed than refusals that stop the run.
    size = 300 if strategy == "single" else 1_000
    first, second = chunks_of(zoho, ledger, 2 * size // 10, 10, size)
    before = linked(zoho)
    refuse(zoho, kind)

    report = await Try(ledger, first, strategy, concurrency=CONCURRENCY)()

    assert report.reason is StopReason.REFUSED
    assert json.loads(REFUSALS[kind][1])["code"] in (report.stopped or "")
    # Five refusals plus the requests in flight with the fifth; by_parent sends each as two calls.
    most = (SAME_REFUSALS + CONCURRENCY - 1) * (2 if strategy == "by_parent" else 1)
    assert SAME_REFUSALS <= len(calls(zoho, "DELETE")) <= most
    assert set(report.counts) <= {"failed", "not_attempted"}
    assert report.counts.total() >= SAME_REFUSALS

    sent = len(calls(zoho, "DELETE"))
    other = await Try(ledger, second, strategy, concurrency=CONCURRENCY)()
    assert other.reason is StopReason.REFUSED
    assert "another task stopped the run" in (other.stopped or "")
    assert len(calls(zoho, "DELETE")) == sent

    status, counts = close_run(ledger, "run", origin=REPORT, tolerance=0.0)
    assert status == "failed"
    assert set(spread(counts)) == {"failed", "not_attempted"}
    assert check_truth(zoho, ledger, before, before) == spread(counts)
    assert linked(zoho) == before

    zoho.state.faults.clear()
    for chunk in (first, second):
        report = await Try(ledger, chunk, strategy, try_number=2)()
        assert spread(report.counts) == {"removed": size}
    assert close_run(ledger, "run", origin=REPORT, tolerance=0.0)[0] == "succeeded"
    assert check_truth(zoho, ledger, before, before) == {"removed": 2 * size}


async def test_missing_scope_of_the_token_stops_the_run(zoho: LocalZoho, ledger: Ledger) -> None:
    zoho.state.configure(granted_scopes=["ZohoCRM.modules.READ"])
    (chunk,) = chunks_of(zoho, ledger, 20, 5, 100)
    report = await Try(ledger, chunk)()
    assert "OAUTH_SCOPE_MISMATCH" in (report.stopped or "")
    assert len(calls(zoho, "DELETE")) < 2 * SAME_REFUSALS
    # A new token would have the same scopes: none is requested.
    assert zoho.state.tokens.issued == 1


async def test_stop_reaches_other_tasks_while_they_send(zoho: LocalZoho, ledger: Ledger) -> None:
    zoho.state.configure(latency_s=0.02)
    refused, healthy = chunks_of(zoho, ledger, 100, 10, 500)
    before = linked(zoho)
    refuse(zoho, "permission", path=r"/Contacts/c-00[0-4]")
    sending = asyncio.create_task(Try(ledger, healthy, concurrency=5, renew_every_s=0.1)())
    await until(lambda: len(linked(zoho)) < 990)

    first = await Try(ledger, refused, concurrency=5)()
    second = await sending

    assert "NO_PERMISSION" in (first.stopped or "")
    assert "another task stopped the run" in (second.stopped or "")
    assert 0 < second.counts[Outcome.REMOVED] < 400
    close_run(ledger, "run", origin=REPORT, tolerance=0.0)
    check_truth(zoho, ledger, before, before)


async def test_stop_reaches_a_task_that_waits_for_a_slot(zoho: LocalZoho, ledger: Ledger) -> None:
    (chunk,) = chunks_of(zoho, ledger, 10, 10, 100)
    ledger.slots.lease("zoho_crm_default", "another task", wanted=10, limit=10, lease_s=60)
    waiting = asyncio.create_task(Try(ledger, chunk, renew_every_s=60.0)())
    await asyncio.sleep(0.2)
    ledger.runs.stop("run", "a reason")
    await asyncio.sleep(0.2)
    ledger.slots.release("zoho_crm_default", "another task")
    report = await waiting
    assert "a reason" in (report.stopped or "")
    assert calls(zoho, "DELETE") == []


@pytest.mark.parametrize("strategy", ["single", "by_parent"])
@pytest.mark.parametrize(
    ("locked", "share", "stops"),
    [(0.6, 0.5, True), (0.3, 0.5, False), (0.3, 0.1, True), (1.0, 1.0, False)],
    ids=["60-of-50", "30-of-50", "30-of-10", "all-of-all"],
)
async def test_breaker_stops_the_run_when_too_many_links_fail(
    zoho: LocalZoho, ledger: Ledger, locked: float, share: float, stops: bool, strategy: str
) -> None:
    first, second = chunks_of(zoho, ledger, 100, 10, 500)
    before = linked(zoho)
    for number, (_, related) in enumerate(sorted(before)):
        if number % 10 < locked * 10:
            zoho.state.lock("Deals", related)

    report = await Try(ledger, first, strategy, breaker_share=share, concurrency=3)()

    if not stops:
        assert report.stopped is None
        assert spread(report.counts).get("rejected") == round(500 * locked)
        return
    assert "breaker" in (report.stopped or "")
    # by_parent settles up to a hundred links at once.
    done = report.counts.total() - report.counts[Outcome.NOT_ATTEMPTED]
    assert BREAKER_AFTER <= done <= (BREAKER_AFTER + 20 if strategy == "single" else 300)
    assert "breaker" in ((await Try(ledger, second, strategy, breaker_share=share)()).stopped or "")
    assert close_run(ledger, "run", origin=REPORT, tolerance=0.0)[0] == "stopped"
    check_truth(zoho, ledger, before, before)

    zoho.state.crm.locked.clear()
    for chunk in (first, second):
        await Try(ledger, chunk, strategy, try_number=2)()
    assert set(outcomes(ledger).values()) == {"removed", "rejected"}
    # Rejected links are final and are not sent again.
    assert close_run(ledger, "run", origin=REPORT, tolerance=0.0)[0] == "succeeded"
    check_truth(zoho, ledger, before, before)
