"""
Spans of OpenTelemetry below the one that Airflow opens for a task.

They go where Airflow's own go, which `[traces] otel_on` says; without it they cost next to nothing. Attributes are
counts and names of jobs, runs and modules, never an external id.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airflow.sdk.exceptions import TaskDeferred
from opentelemetry import trace
from opentelemetry.trace import Status, StatusCode

from zoho_crm import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from opentelemetry.trace import Span

    from zoho_crm.core.outcomes import Outcome

PREFIX = "zoho_crm."

_tracer = trace.get_tracer("zoho_crm", __version__)


@contextmanager
def span(name: str, **attributes: str | int | float | bool | None) -> Iterator[Span]:
    """
    Open a span below the current one, for as long as the block takes.

    An error leaves its class alone in the span: its message and its stack may hold more than a trace is to keep.

    :param name: without the prefix ``zoho_crm.``, which attributes get as well
    :param attributes: those that are None are left out
    """
    with _tracer.start_as_current_span(
        PREFIX + name,
        attributes={PREFIX + key: value for key, value in attributes.items() if value is not None},
        record_exception=False,
        set_status_on_exception=False,
    ) as opened:
        try:
            yield opened
        except TaskDeferred:
            opened.set_attribute(f"{PREFIX}deferred", True)
            raise
        except BaseException as error:
            opened.set_status(Status(StatusCode.ERROR, type(error).__name__))
            raise


def set_span_outcomes(opened: Span, counts: Mapping[Outcome, int]) -> None:
    """Write the number of links by outcome onto a span, those that there are."""
    for outcome, count in counts.items():
        if count:
            opened.set_attribute(f"{PREFIX}links.{outcome.value}", count)
