"""Read what Airflow says of its own health."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


def unhealthy_components(health: Mapping[str, Any], expected: Iterable[str], *, since: datetime) -> list[str]:
    """
    Return which components are not healthy yet, each with the reason.

    :param health: the answer of ``GET /api/v2/monitor/health``.
    :param expected: names of the components that must be healthy, as in the answer.
    :param since: heartbeats before this moment do not count: they are an earlier process's, and Airflow believes
        them for another half minute.
    """
    reasons = {name: _reason(name, health.get(name) or {}, since) for name in expected}
    return [f"{name}: {reason}" for name, reason in reasons.items() if reason]


def _reason(name: str, said: Mapping[str, Any], since: datetime) -> str | None:
    status = said.get("status")
    if status != "healthy":
        return str(status or "not started")
    if name == "metadatabase":
        return None
    heartbeat = said.get(f"latest_{name}_heartbeat")
    if heartbeat is None:
        return "no heartbeat"
    beaten_at = datetime.fromisoformat(heartbeat)
    if beaten_at.tzinfo is None:
        beaten_at = beaten_at.replace(tzinfo=UTC)
    return None if beaten_at >= since else "no heartbeat since its start"
