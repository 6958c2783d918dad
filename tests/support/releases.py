"""What tests need of Airflow that its releases have in different places or under different names."""

from __future__ import annotations

from pkgutil import resolve_name
from typing import Any

from zoho_crm.airflow_compat import TaskDeferred, has_awaiting_input


def _named(module: str, *names: str) -> Any:
    """Return what the first name stands for that the module has."""
    found = resolve_name(module)
    return next(getattr(found, name) for name in names if hasattr(found, name))


DagSerialization = _named("airflow.serialization.serialized_objects", "DagSerialization", "SerializedDAG")

# What a task raises to wait for a person.
WaitsForResponse = (
    _named("airflow.sdk.exceptions", "TaskAwaitingInput") if has_awaiting_input() else TaskDeferred
)
