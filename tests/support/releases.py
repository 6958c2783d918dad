"""What tests need of Airflow that its releases have in different places or under different names."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from inspect import signature
from pkgutil import resolve_name
from types import ModuleType
from typing import TYPE_CHECKING, Any

from packaging.version import Version

from zoho_crm.airflow_compat import TaskDeferred, first_available, has_awaiting_input, stats

if TYPE_CHECKING:
    from collections.abc import Callable


def _named(module: str, *names: str) -> Any:
    """Return what the first name stands for that the module has."""
    found = resolve_name(module)
    return next(getattr(found, name) for name in names if hasattr(found, name))


DagSerialization = _named("airflow.serialization.serialized_objects", "DagSerialization", "SerializedDAG")

# What a task raises to wait for a person.
WaitsForResponse = (
    _named("airflow.sdk.exceptions", "TaskAwaitingInput") if has_awaiting_input() else TaskDeferred
)

LEAVES_GAPS = tuple(map(int, version("apache-airflow-core").split(".")[:2])) < (3, 4)
"""Whether data intervals can leave out a stretch of time when the clocks change."""

NAMES_REQUESTER = Version(version("apache-airflow-core")) >= Version("3.1.2")
"""Whether Airflow gives a task the name of the user who triggered its run."""

ParamValidationError = first_available(
    ["airflow.sdk.exceptions.ParamValidationError", "airflow.exceptions.ParamValidationError"]
)


def core_timetable(timetable: Any) -> Any:
    """Return the scheduler's form of a timetable; before Airflow 3.2, a Dag has no other."""
    try:
        coerce = resolve_name("airflow.serialization.encoders:coerce_to_core_timetable")
    except ImportError:
        return timetable
    return coerce(timetable)


# The shared library of metrics moved to the Task SDK with Airflow 3.2.
_METRICS = ("airflow.sdk._shared.observability.metrics", "airflow.metrics")
NoStatsLogger = first_available([f"{package}.base_stats_logger.NoStatsLogger" for package in _METRICS])
SafeOtelLogger = first_available([f"{package}.otel_logger.SafeOtelLogger" for package in _METRICS])


def statsd_factory() -> Callable[[], Any]:
    """Return what makes Airflow's StatsD client from the current settings."""
    if isinstance(stats, ModuleType):
        made: Callable[[], Any] = resolve_name(
            "airflow.sdk.observability.metrics.stats_utils:get_stats_factory"
        )()
        return made
    get_logger = first_available(
        [
            "airflow.sdk.observability.metrics.statsd_logger.get_statsd_logger",
            "airflow.metrics.statsd_logger.get_statsd_logger",
        ]
    )
    return get_logger if not signature(get_logger).parameters else partial(get_logger, None)


def set_stats_backend(factory: Callable[[], Any]) -> None:
    """Send the metrics of this process to what a factory returns."""
    if isinstance(stats, ModuleType):
        stats.initialize(factory=factory, export_legacy_names=True)
    elif hasattr(type(stats), "initialize"):
        stats.initialize(factory=factory)
    else:
        # In Airflow 3.1 a metaclass holds the factory; it would pass the class to a plain function.
        type(stats).factory = staticmethod(factory)
        stats.instance = None
