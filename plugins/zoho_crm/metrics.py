"""
What is measured, and the one place that hands it to Airflow's metrics: StatsD, Datadog, OpenTelemetry or none.

Where a deployment has set none, a call costs a few microseconds. No call waits for anybody or asks Airflow's API, so
that it may be made on the thread of an event loop. None raises: a metric that cannot be written is not worth a link.
Tags hold names of jobs, connections and modules, never an id.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, wraps
from typing import TYPE_CHECKING, ParamSpec

from airflow.sdk.observability import stats

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from zoho_crm.core.links import Relation
    from zoho_crm.core.outcomes import Outcome

log = logging.getLogger(__name__)

P = ParamSpec("P")


class Kind(StrEnum):
    """What is kept of the values of a metric."""

    COUNTER = "counter"
    GAUGE = "gauge"
    TIMER = "timer"


@dataclass(frozen=True, slots=True)
class Metric:
    """
    One metric, as the documentation and the dashboard know it.

    :param name: without the prefix that the deployment sets, which is ``airflow`` by default
    :param unit: of its values; a timer's are milliseconds for every backend
    """

    name: str
    kind: Kind
    unit: str
    tags: tuple[str, ...]


LINKS = Metric(
    "zoho_crm.links", Kind.COUNTER, "links", ("delink_job", "relation", "operation", "outcome", "dry_run")
)
REQUESTS = Metric("zoho_crm.request", Kind.TIMER, "ms", ("connection", "method", "status"))
THROTTLED = Metric("zoho_crm.throttled", Kind.COUNTER, "answers", ("connection", "kind"))
CREDITS = Metric("zoho_crm.credits_remaining", Kind.GAUGE, "credits", ("connection",))
IN_FLIGHT = Metric("zoho_crm.in_flight", Kind.GAUGE, "requests", ("connection",))
IN_FLIGHT_LIMIT = Metric("zoho_crm.in_flight_limit", Kind.GAUGE, "requests", ("connection",))
TOKENS = Metric("zoho_crm.token_refreshes", Kind.COUNTER, "requests", ("connection", "result"))
RUNS = Metric("zoho_crm.runs", Kind.COUNTER, "runs", ("delink_job", "operation", "status", "dry_run"))

METRICS = (LINKS, REQUESTS, THROTTLED, CREDITS, IN_FLIGHT, IN_FLIGHT_LIMIT, TOKENS, RUNS)
"""All that there are."""

NO_ANSWER = "no_answer"
"""Stands for the status of a request that was sent and not answered, or not to be read."""
NOT_SENT = "not_sent"
"""Stands for the status of a request for which there was no connection."""

_LONGEST_TAG = 50
"""StatsD's names hold their tags, and Airflow drops one above 250 characters."""
_NOT_IN_A_TAG = re.compile(r"[^A-Za-z0-9_./-]")


_told: set[str] = set()


def _harmless(measure: Callable[P, None]) -> Callable[P, None]:
    """Have a function log what goes wrong, each kind once in a process, and raise nothing."""

    @wraps(measure)
    def call(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            measure(*args, **kwargs)
        except Exception as error:  # noqa: BLE001, RUF100 - what a backend raises is its own affair
            kind = type(error).__name__
            if kind not in _told:
                _told.add(kind)
                log.warning("Metrics cannot be written: %s", kind)

    return call


@_harmless
def links_settled(
    counts: Mapping[Outcome, int], *, job: str, relation: Relation, operation: str, dry_run: bool
) -> None:
    """Count links whose outcome has just been written: one for each audit row."""
    for outcome, count in counts.items():
        if count:
            values = (job, relation.label, operation, outcome.value, _truth(dry_run))
            stats.incr(LINKS.name, count, tags=_tags(LINKS, values))


@_harmless
def request_done(connection: str, method: str, status: int | str, duration_s: float) -> None:
    """
    Time one request, from before it was sent to the end of its answer.

    :param status: HTTP status, :data:`NO_ANSWER` or :data:`NOT_SENT`
    """
    stats.timing(REQUESTS.name, duration_s * 1_000, tags=_tags(REQUESTS, (connection, method, str(status))))


@_harmless
def throttled(connection: str, *, credits_used_up: bool) -> None:
    """Count an answer 429: too many requests in flight, or the credits of 24 hours used up."""
    kind = "credits" if credits_used_up else "concurrency"
    stats.incr(THROTTLED.name, tags=_tags(THROTTLED, (connection, kind)))


@_harmless
def credits_remaining(connection: str, left: int) -> None:
    """Say how many API credits the org has left, as Zoho has just told."""
    stats.gauge(CREDITS.name, left, tags=_tags(CREDITS, (connection,)))


@_harmless
def slots_leased(connection: str, held: int, limit: int) -> None:
    """
    Say how many requests all tasks together may have in flight now.

    :param held: slots of the org that tasks hold, over all workers
    :param limit: slots that the org has
    """
    stats.gauge(IN_FLIGHT.name, held, tags=_tags(IN_FLIGHT, (connection,)))
    stats.gauge(IN_FLIGHT_LIMIT.name, limit, tags=_tags(IN_FLIGHT_LIMIT, (connection,)))


@_harmless
def token_asked(connection: str, result: str) -> None:
    """
    Count a request for a new access token.

    :param result: ``ok``, ``throttled``, ``refused`` or ``failed``
    """
    stats.incr(TOKENS.name, tags=_tags(TOKENS, (connection, result)))


@_harmless
def run_closed(job: str, operation: str, status: str, *, dry_run: bool) -> None:
    """Count a run whose report has just been written; one that is gone on with counts again."""
    stats.incr(RUNS.name, tags=_tags(RUNS, (job, operation, status, _truth(dry_run))))


def _truth(value: bool) -> str:
    return "true" if value else "false"


@lru_cache(maxsize=512)
def _tags(metric: Metric, values: tuple[str, ...]) -> dict[str, str]:
    """Return tags that every backend takes; nobody may change what is returned."""
    return {
        tag: _NOT_IN_A_TAG.sub("_", value)[:_LONGEST_TAG] or "none"
        for tag, value in zip(metric.tags, values, strict=True)
    }
