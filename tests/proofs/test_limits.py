"""The limits of the organization: requests in flight, API credits and access tokens, shared by all tasks."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

from tests.proofs.harness import (
    ORIGIN,
    REPORT,
    Try,
    calls,
    check_truth,
    count_responses,
    outcomes,
    pairs,
    plan,
    spread,
    until,
)
from tests.support.databases import set_connection
from tests.support.local_zoho import ZOHO, link_all, linked, zoho_connection
from tests.support.operators import context, delink
from zoho_crm.airflow_compat import TaskDeferred
from zoho_crm.core.verdict import StopReason
from zoho_crm.errors import RunStoppedError
from zoho_crm.hooks.presence import RetryLimits
from zoho_crm.hooks.zoho_crm import ZohoCRMHook
from zoho_crm.operators import breaker
from zoho_crm.operators.report import close_run
from zoho_crm.operators.slot_keeper import refresh_lock

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from zoho_crm.core.models import ChunkRef
    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator
    from zoho_crm.testing.local_zoho import LocalZoho

log = logging.getLogger(__name__)

AUDIT = "audit"


@pytest.fixture
def operator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., DeleteRelatedByExternalIdOperator]:
    """Return a factory of operators that use the database of the fixture ``ledger``."""
    set_connection(monkeypatch, AUDIT, conn_type="sqlite", host=str(tmp_path / "audit.db"))

    def make(chunk: ChunkRef, **changes: Any) -> DeleteRelatedByExternalIdOperator:
        return delink(chunk=chunk, audit_conn_id=AUDIT, **changes)

    return make


def hook_with_lock(ledger: Ledger) -> ZohoCRMHook:
    return ZohoCRMHook(read_timeout_s=20.0, refresh_lock=partial(refresh_lock, ledger, ZOHO))


# -- requests in flight


@pytest.mark.parametrize("strategy", ["single", "by_parent"])
async def test_concurrent_chunks_stay_within_the_limit_of_the_org(
    zoho: LocalZoho, any_ledger: Ledger, strategy: str
) -> None:
    zoho.state.configure(concurrency_limit=5, latency_s=0.01, jitter_s=0.02)
    links = pairs(20, 12)
    link_all(zoho, links)
    before = linked(zoho)
    chunks = plan(any_ledger, links, chunk_size=60).chunks
    assert len(chunks) == 4
    tries = [Try(any_ledger, chunk, strategy, concurrency=4, limit=5) for chunk in chunks]
    await asyncio.gather(*(one() for one in tries))
    assert check_truth(zoho, any_ledger, before, links) == {"removed": 240}
    assert zoho.state.limits.max_in_flight <= 5
    assert zoho.state.limits.refused == count_responses(zoho, 429) == 0


def test_concurrent_operators_stay_within_the_limit_of_the_org(
    zoho: LocalZoho, ledger: Ledger, operator: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    zoho.state.configure(concurrency_limit=5, latency_s=0.01, jitter_s=0.02)
    links = pairs(30, 5)
    link_all(zoho, links)
    before = linked(zoho)
    chunks = plan(ledger, links, chunk_size=50).chunks
    set_connection(monkeypatch, ZOHO, **zoho_connection(zoho, max_concurrency=5))

    def execute(chunk: ChunkRef) -> dict[str, int]:
        summary: dict[str, int] = operator(chunk, task_concurrency=5).execute(context())
        return summary

    with ThreadPoolExecutor(3) as pool:
        summaries = list(pool.map(execute, chunks))
    assert [summary["removed"] for summary in summaries] == [50] * 3
    assert check_truth(zoho, ledger, before, links) == {"removed": 150}
    assert zoho.state.limits.max_in_flight <= 5
    assert zoho.state.limits.refused == 0


async def test_concurrency_shrinks_for_another_client_and_recovers(
    zoho: LocalZoho, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All times are a tenth of the real values.
    monkeypatch.setattr(breaker, "CUT_PAUSE_S", 0.1)
    zoho.state.configure(concurrency_limit=10, latency_s=0.03)
    links = pairs(60, 10)
    link_all(zoho, links)
    before = linked(zoho)
    (chunk,) = plan(ledger, links).chunks
    one = Try(
        ledger, chunk, concurrency=10, limit=10, patience=RetryLimits(first_pause_s=0.05, longest_pause_s=1.0)
    )
    # Another client uses half of the limit.
    zoho.state.configure(concurrency_limit=5)
    running = asyncio.create_task(one())
    await until(lambda: hasattr(one, "run") and one.run._pace.allowed <= 5)
    await until(lambda: len(linked(zoho)) <= 300)
    refused = zoho.state.limits.refused
    zoho.state.configure(concurrency_limit=10)
    report = await running
    assert spread(report.counts) == {"removed": 600}
    check_truth(zoho, ledger, before, links)
    assert one.run._pace.allowed == 10
    log.info("429 of about %s requests while another client uses half: %s", 300 + refused, refused)
    # Meanwhile less than every third request is refused; afterwards hardly any.
    assert 0 < refused < 150
    assert zoho.state.limits.refused - refused <= 5


async def test_retry_after_is_respected(zoho: LocalZoho, ledger: Ledger) -> None:
    zoho.state.configure(concurrency_limit=0, retry_after_s=1)
    links = pairs(1, 1)
    link_all(zoho, links)
    (chunk,) = plan(ledger, links).chunks
    running = asyncio.create_task(Try(ledger, chunk, patience=RetryLimits(first_pause_s=0.001))())
    await until(lambda: zoho.state.limits.refused > 0)
    zoho.state.configure(concurrency_limit=5)
    report = await running
    assert spread(report.counts) == {"removed": 1}
    refused, retried_at = (one.time for one in zoho.state.journal.requests if one.method == "DELETE")
    assert 0.95 <= retried_at - refused < 5.0


# -- credits


def test_task_defers_without_credits_and_resumes(
    zoho: LocalZoho, ledger: Ledger, operator: Callable[..., Any]
) -> None:
    zoho.state.configure(credit_limit=41)
    links = pairs(10, 10)
    link_all(zoho, links)
    before = linked(zoho)
    (chunk,) = plan(ledger, links).chunks

    with pytest.raises(TaskDeferred) as deferred:
        operator(chunk).execute(context())

    assert isinstance(deferred.value.trigger, TimeDeltaTrigger)
    assert deferred.value.method_name == "execute_after_wait"
    since = datetime.fromisoformat(deferred.value.kwargs["waiting_since"])
    assert abs(datetime.now(UTC) - since) < timedelta(minutes=1)
    counts = check_truth(zoho, ledger, before, links) if len(outcomes(ledger)) == 100 else None
    assert len(before - linked(zoho)) == 40
    assert counts is None or counts["removed"] == 40
    # Only requests in flight were refused.
    assert count_responses(zoho, 429) <= 5
    assert ledger.runs.stop_reason("run") is None

    # Still no credits: the task defers again and keeps the start of its wait.
    with pytest.raises(TaskDeferred) as deferred:
        operator(chunk).execute_after_wait(context(), waiting_since=since.isoformat())
    assert deferred.value.kwargs == {"waiting_since": since.isoformat()}

    zoho.state.configure(credit_limit=1_000)
    operator(chunk).execute_after_wait(context(), waiting_since=since.isoformat())
    assert check_truth(zoho, ledger, before, links) == {"removed": 100}
    # The second try has read the organization, and nothing else.
    assert len(calls(zoho, "DELETE")) == 100 + count_responses(zoho, 429) - 1


@pytest.mark.parametrize("daily_body", ["envelope", "legacy"])
def test_run_without_credits_stops_after_its_wait_and_can_be_cleared(
    zoho: LocalZoho, ledger: Ledger, operator: Callable[..., Any], daily_body: str
) -> None:
    zoho.state.configure(credit_limit=41, daily_body=daily_body)
    links = pairs(10, 10)
    link_all(zoho, links)
    before = linked(zoho)
    chunks = plan(ledger, links, chunk_size=50).chunks

    for chunk in chunks:
        with pytest.raises(RunStoppedError, match="credits are used up"):
            operator(chunk, wait_patience=timedelta(minutes=20)).execute(context())
    status, counts = close_run(ledger, "run", origin=REPORT, tolerance=0.0)

    assert (status, spread(counts)) == ("stopped", {"removed": 40, "not_attempted": 60})
    check_truth(zoho, ledger, before, links)
    run = ledger.runs.get("run")
    assert run is not None
    assert (run.status, run.removed, run.not_attempted) == ("stopped", 40, 60)

    zoho.state.configure(credit_limit=1_000)
    for chunk in chunks:
        operator(chunk).execute(context(try_number=2))
    status, counts = close_run(ledger, "run", origin=REPORT, tolerance=0.0)
    assert (status, spread(counts)) == ("succeeded", {"removed": 100})
    check_truth(zoho, ledger, before, links)


async def test_reserved_credits_are_not_used(zoho: LocalZoho, ledger: Ledger) -> None:
    zoho.state.configure(credit_limit=200)
    links = pairs(30, 10)
    link_all(zoho, links)
    before = linked(zoho)
    (chunk,) = plan(ledger, links).chunks
    report = await Try(ledger, chunk, concurrency=5, credit_reserve=50)()
    assert report.reason is StopReason.CREDITS
    assert "50 are reserved" in (report.stopped or "")
    left = 200 - zoho.state.limits.credits_used
    # Other requests are in flight when the response with the remaining credits arrives.
    assert 50 - 5 - 1 <= left < 50
    assert count_responses(zoho, 429) == 0
    close_run(ledger, "run", origin=REPORT, tolerance=0.0)
    assert set(check_truth(zoho, ledger, before, links)) == {"removed", "not_attempted"}


# -- access tokens


def test_fifty_workers_on_a_rejected_token_renew_it_once(
    zoho: LocalZoho, any_ledger: Ledger, variables: dict[str, str]
) -> None:
    rejected = hook_with_lock(any_ledger).token_source.get().access_token
    assert len(variables) == 1
    issued = zoho.state.tokens.issued
    ready = threading.Barrier(50)

    def work(_: int) -> str:
        source = hook_with_lock(any_ledger).token_source
        assert source.get().access_token == rejected
        ready.wait(timeout=60)
        return source.replace(rejected).access_token

    started = time.monotonic()
    with ThreadPoolExecutor(50) as pool:
        tokens = set(pool.map(work, range(50)))
    log.info("50 workers have a new token after %.1f s", time.monotonic() - started)
    assert zoho.state.tokens.issued - issued == 1
    assert len(tokens) == 1
    assert zoho.state.tokens.throttled == 0


async def test_a_token_revoked_in_the_middle_is_replaced_once(zoho: LocalZoho, any_ledger: Ledger) -> None:
    zoho.state.configure(latency_s=0.01, concurrency_limit=15)
    links = pairs(45, 8)
    link_all(zoho, links)
    before = linked(zoho)
    chunks = plan(any_ledger, links, chunk_size=120).chunks
    tries = [
        Try(any_ledger, chunk, concurrency=5, limit=15, hook=hook_with_lock(any_ledger)) for chunk in chunks
    ]
    running = asyncio.gather(*(one() for one in tries))
    await until(lambda: len(linked(zoho)) <= 300)
    issued = zoho.state.tokens.issued
    zoho.state.tokens.revoke_all()
    await running
    assert zoho.state.tokens.issued - issued == 1
    assert 0 < count_responses(zoho, 401) <= 15
    assert check_truth(zoho, any_ledger, before, links) == {"removed": 360}


@pytest.mark.parametrize("strategy", ["single", "by_parent"])
def test_task_defers_while_the_token_endpoint_throttles(
    zoho: LocalZoho, ledger: Ledger, operator: Callable[..., Any], variables: dict[str, str], strategy: str
) -> None:
    links = pairs(4, 5)
    link_all(zoho, links)
    before = linked(zoho)
    (chunk,) = plan(ledger, links, strategy=strategy).chunks
    hook_with_lock(ledger).token_source.get()
    # The tokens are revoked, and all tokens of the ten-minute window are used up.
    zoho.state.tokens.revoke_all()
    zoho.state.configure(tokens_per_window=1)

    with pytest.raises(TaskDeferred) as deferred:
        operator(chunk, strategy=strategy).execute(context())
    assert deferred.value.method_name == "execute_after_wait"
    assert deferred.value.kwargs is not None
    since = deferred.value.kwargs
    assert zoho.state.tokens.throttled == 1
    assert linked(zoho) == before

    # A worker that starts meanwhile also defers, without a request.
    with pytest.raises(TaskDeferred) as deferred:
        operator(chunk, strategy=strategy).execute_after_wait(context(), **since)
    assert deferred.value.kwargs == since
    assert zoho.state.tokens.throttled == 1

    # Ten minutes later.
    zoho.state.configure(tokens_per_window=10)
    zoho.state.tokens._grants.clear()
    variables.clear()
    summary = operator(chunk, strategy=strategy).execute_after_wait(context(), **since)
    assert summary["removed"] == 20
    assert check_truth(zoho, ledger, before, links) == {"removed": 20}


def test_refused_credentials_stop_the_run_at_once(
    zoho: LocalZoho, ledger: Ledger, operator: Callable[..., Any]
) -> None:
    links = pairs(2, 5)
    link_all(zoho, links)
    before = linked(zoho)
    (chunk,) = plan(ledger, links).chunks
    hook_with_lock(ledger).token_source.get()
    zoho.state.tokens.revoke_all()
    zoho.state.tokens.refresh_tokens.clear()
    with pytest.raises(RunStoppedError, match="no access token"):
        operator(chunk).execute(context())
    assert linked(zoho) == before
    status, counts = close_run(ledger, "run", origin=ORIGIN, tolerance=0.0)
    assert status in {"stopped", "failed"}
    assert set(counts) <= {"not_attempted", "failed"}
    zoho.state.tokens.refresh_tokens.add("local-refresh-token")
    check_truth(zoho, ledger, before, links)
