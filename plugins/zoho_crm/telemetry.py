"""
Metrics, spans and log lines of the package.

Metrics go to the backend that Airflow is configured for: StatsD, Datadog, OpenTelemetry or none. No call blocks, calls
Airflow's API or raises, so that all may be made on the thread of an event loop. Spans go where Airflow's own go
(``[traces] otel_on``), below the span of the task. Tags and attributes hold counts and names of jobs, runs, connections
and modules, never an external ID.
"""

from __future__ import annotations

import logging
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, Any, ParamSpec

from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from zoho_crm import __version__
from zoho_crm.airflow_compat import TaskDeferred, stats
from zoho_crm.core.outcomes import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from opentelemetry.trace import Span

    from zoho_crm.core.links import Relation
    from zoho_crm.core.models import ChunkRef, PlanSummary, StoredRun, Target
    from zoho_crm.operators.chunk_run import ChunkReport

log = logging.getLogger(__name__)

P = ParamSpec("P")


class Kind(StrEnum):
    """How a backend aggregates the values of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    TIMER = "timer"


@dataclass(frozen=True, slots=True)
class Metric:
    """
    One metric, as the documentation and the dashboard know it.

    :param name: without the prefix that the deployment sets, which is ``airflow`` by default
    :param unit: of its values; timers are in milliseconds for every backend
    """

    name: str
    kind: Kind
    unit: str
    tags: tuple[str, ...]


LINKS = Metric(
    "zoho_crm.links", Kind.COUNTER, "links", ("delink_job", "relation", "operation", "outcome", "dry_run")
)
REQUESTS = Metric("zoho_crm.request", Kind.TIMER, "ms", ("connection", "method", "status"))
THROTTLED = Metric("zoho_crm.throttled", Kind.COUNTER, "responses", ("connection", "kind"))
CREDITS = Metric("zoho_crm.credits_remaining", Kind.GAUGE, "credits", ("connection",))
IN_FLIGHT = Metric("zoho_crm.in_flight", Kind.GAUGE, "requests", ("connection",))
IN_FLIGHT_LIMIT = Metric("zoho_crm.in_flight_limit", Kind.GAUGE, "requests", ("connection",))
TOKENS = Metric("zoho_crm.token_refreshes", Kind.COUNTER, "requests", ("connection", "result"))
RUNS = Metric("zoho_crm.runs", Kind.COUNTER, "runs", ("delink_job", "operation", "status", "dry_run"))

METRICS = (LINKS, REQUESTS, THROTTLED, CREDITS, IN_FLIGHT, IN_FLIGHT_LIMIT, TOKENS, RUNS)
"""All metrics of the package."""

NO_RESPONSE = "no_response"
"""Status tag of a request that was sent and got no readable response."""
NOT_SENT = "not_sent"
"""Status tag of a request for which there was no connection."""

_LONGEST_TAG = 50
"""StatsD names include the tags, and Airflow drops names above 250 characters."""
_NOT_IN_A_TAG = re.compile(r"[^A-Za-z0-9_./-]")

_PREFIX = "zoho_crm."
_tracer = trace.get_tracer("zoho_crm", __version__)
_warned: set[str] = set()


@contextmanager
def span(name: str, **attributes: str | int | float | bool | None) -> Iterator[Span]:
    """
    Open a span below the current one for the duration of the block.

    Of an error only the class is recorded: its message and traceback may contain external IDs.

    :param name: without the prefix ``zoho_crm.``, which attributes get as well
    :param attributes: None values are left out
    """
    with _tracer.start_as_current_span(
        _PREFIX + name,
        attributes={_PREFIX + key: value for key, value in attributes.items() if value is not None},
        record_exception=False,
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except TaskDeferred:
            opened.set_attribute(f"{_PREFIX}deferred", True)
            raise
        except BaseException as error:
            opened.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


@contextmanager
def chunk_span(
    log: Any, job: str, target: Target, *, links: int, chunk: ChunkRef | None = None
) -> Iterator[Callable[[ChunkReport], None]]:
    """
    Log the start and the end of one try at a chunk, and open a span around it.

    :param log: Airflow's logger of the task, which writes keys and values
    :param links: number of links of the chunk
    :param chunk: None for links without a stored plan
    :return: function that the block calls with its report
    """
    facts: dict[str, Any] = {
        "job": job,
        **({"run_key": chunk["run_key"], "chunk": chunk["chunk_no"]} if chunk else {}),
        "operation": target.operation,
        "relation": target.relation.label,
        "strategy": target.strategy,
        "dry_run": target.dry_run,
        "links": links,
    }
    result: dict[str, Any] = {}
    started = time.monotonic()
    log.info("Chunk started", **facts)
    with span("chunk", **facts) as opened:

        def record(report: ChunkReport) -> None:
            for outcome, count in report.counts.items():
                if count:
                    result[outcome.value] = count
                    opened.set_attribute(f"{_PREFIX}links.{outcome.value}", count)
            if report.stopped:
                result["stopped"] = report.reason.value if report.reason else "other"
                opened.set_attribute(f"{_PREFIX}stopped", result["stopped"])

        try:
            yield record
        except BaseException as error:
            result["error"] = type(error).__name__
            raise
        finally:
            log.info("Chunk ended", **facts, duration_s=round(time.monotonic() - started, 3), **result)


def log_plan(log: Any, run: StoredRun, plan: PlanSummary, *, is_new: bool) -> None:
    """
    Log a plan, and count its invalid links.

    :param log: Airflow's logger of the task, which writes keys and values
    :param is_new: whether this try has stored the plan; the links of an older plan are counted already
    """
    log.info(
        "Plan stored" if is_new else "Plan found",
        job=run.job,
        run_key=run.run_key,
        operation=run.operation,
        mode=run.mode,
        window_start=run.window_start and run.window_start.isoformat(),
        window_end=run.window_end and run.window_end.isoformat(),
        source_start=run.source_start and run.source_start.isoformat(),
        planned=plan.planned,
        chunks=len(plan.chunks),
        invalid=plan.invalid,
        source_rows=plan.source_rows,
        duplicates=plan.duplicates,
    )
    if is_new:
        count_links(
            {Outcome.INVALID: plan.invalid},
            job=run.job,
            relation=run.relation,
            operation=run.operation,
            dry_run=run.dry_run,
        )


def _never_raises(measure: Callable[P, None]) -> Callable[P, None]:
    """Log errors of a metrics backend, each class once in a process, and raise nothing."""

    @wraps(measure)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            measure(*args, **kwargs)
        except Exception as error:  # noqa: BLE001, RUF100 - a backend may raise anything
            kind = type(error).__name__
            if kind not in _warned:
                _warned.add(kind)
                log.warning("Metrics not written: error=%s", kind)

    return call


@_never_raises
def count_links(
    counts: Mapping[Outcome, int], *, job: str, relation: Relation, operation: str, dry_run: bool
) -> None:
    """Count links whose outcome has just been written: one for each audit row."""
    for outcome, count in counts.items():
        if count:
            values = (job, relation.label, operation, outcome.value, _format_bool(dry_run))
            stats.incr(LINKS.name, count, tags=_tags(LINKS, values))


@_never_raises
def time_request(connection: str, method: str, status: int | str, duration_s: float) -> None:
    """
    Record the duration of a request, from before it is sent to the end of its response.

    :param status: HTTP status, :data:`NO_RESPONSE` or :data:`NOT_SENT`
    """
    stats.timing(REQUESTS.name, duration_s * 1_000, tags=_tags(REQUESTS, (connection, method, str(status))))


@_never_raises
def count_throttled(connection: str, *, credits_used_up: bool) -> None:
    """Count a response 429: too many requests in flight, or the credits of 24 hours are used up."""
    kind = "credits" if credits_used_up else "concurrency"
    stats.incr(THROTTLED.name, tags=_tags(THROTTLED, (connection, kind)))


@_never_raises
def set_credits_remaining(connection: str, remaining: int) -> None:
    """Set the gauge of remaining API credits, as Zoho has just reported them."""
    stats.gauge(CREDITS.name, remaining, tags=_tags(CREDITS, (connection,)))


@_never_raises
def set_slots_leased(connection: str, leased: int, limit: int) -> None:
    """
    Set the gauges of requests that all tasks together may have in flight.

    :param leased: slots of the org that tasks hold, over all workers
    :param limit: slots that the org has
    """
    stats.gauge(IN_FLIGHT.name, leased, tags=_tags(IN_FLIGHT, (connection,)))
    stats.gauge(IN_FLIGHT_LIMIT.name, limit, tags=_tags(IN_FLIGHT_LIMIT, (connection,)))


@_never_raises
def count_token_refresh(connection: str, result: str) -> None:
    """
    Count a request for a new access token.

    :param result: ``ok``, ``throttled``, ``refused`` or ``failed``
    """
    stats.incr(TOKENS.name, tags=_tags(TOKENS, (connection, result)))


@_never_raises
def count_run(job: str, operation: str, status: str, *, dry_run: bool) -> None:
    """Count a run whose report has just been written; a resumed run counts again."""
    stats.incr(RUNS.name, tags=_tags(RUNS, (job, operation, status, _format_bool(dry_run))))


def _format_bool(value: bool) -> str:
    return "true" if value else "false"


@lru_cache(maxsize=512)
def _tags(metric: Metric, values: tuple[str, ...]) -> dict[str, str]:
    """Return tags that every backend accepts. The dict is cached: do not change it."""
    return {
        tag: _NOT_IN_A_TAG.sub("_", value)[:_LONGEST_TAG] or "none"
        for tag, value in zip(metric.tags, values, strict=True)
    }
