"""
What a run was asked to do: its mode and its window, from the trigger form and the kind of run.

Airflow does not check everything a person types into the form, so it is checked here, in the run's first task,
and an error names the form's field.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pendulum

from zoho_crm.errors import ZohoConfigError

APPLY = "apply"
DRY_RUN = "dry_run"
MODES = ("auto", DRY_RUN, APPLY)

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Start of the window of a run that takes everything still pending."""

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_RUN_TYPES_THAT_APPLY = frozenset({"scheduled", "backfill", "asset_triggered", "asset_materialization"})
_RUN_TYPES_WITH_INTERVAL = frozenset({"scheduled", "backfill"})


@dataclass(frozen=True, slots=True)
class RunRequest:
    """
    What one run is to do.

    :param mode: ``apply`` or ``dry_run``
    :param window_start: start of the half-open window, aware, in UTC
    :param window_end: its end
    :param links: pairs pasted into the trigger form, which take the place of the SQL; or None
    :param max_links: limit that overrides the job's, or None
    """

    mode: str
    window_start: datetime
    window_end: datetime
    links: list[tuple[object, object]] | None = None
    max_links: int | None = None
    reason: str | None = None


def read_run_request(
    params: Mapping[str, Any],
    *,
    run_type: str,
    run_after: datetime,
    data_interval: tuple[datetime, datetime] | None,
) -> RunRequest:
    """
    Read the trigger form.

    :param params: the form's values: ``mode``, ``window_start``, ``window_end``, ``links``, ``max_links``,
        ``reason``; all may be missing
    :param run_type: Airflow's kind of the run: manual, scheduled, backfill, asset_triggered, ...
    :param run_after: when the run was due; the end of a window that nothing else ends
    :param data_interval: the run's data interval, if it has one
    :raises ZohoConfigError: a field is wrong; the message names it
    """
    window_start, window_end = _window(params, run_type, run_after, data_interval)
    reason = _text(params, "reason")
    max_links = _limit(params.get("max_links"))
    links = pasted_links(params.get("links"))
    if links == []:
        # Taken for "no list", it would mean everything that the SQL yields.
        raise ZohoConfigError(
            "links: the list is empty; leave the field empty to take the links of the job's SQL"
        )
    if max_links is not None and not reason:
        raise ZohoConfigError("reason: say why, when max_links overrides the job's limit")
    return RunRequest(
        mode=_mode(params.get("mode"), run_type),
        window_start=window_start,
        window_end=window_end,
        links=links,
        max_links=max_links,
        reason=reason,
    )


def pasted_links(value: Any, field: str = "links") -> list[tuple[object, object]] | None:
    """
    Return a list of pairs as it may be written in the form or in a Dag file.

    :param value: a list of ``{"external_id": ..., "related_external_id": ...}`` or of two-element lists; None
        stands for no list at all
    :raises ZohoConfigError: an entry is neither; the message names it by its place
    """
    if value is None:
        return None
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise ZohoConfigError(f"{field}: not a list of links")
    return [_pair(entry, f"{field}[{place}]") for place, entry in enumerate(value)]


def run_key(job: str, *parts: object) -> str:
    """
    Return the key of a run: the same for the same Dag run, whatever is retried or cleared in it.

    :param job: what the run belongs to; kept readable in the key
    :param parts: what tells the run from others: Dag id, run id, and for a single task its id and map index
    """
    digest = hashlib.sha256()
    for part in parts:
        raw = str(part).encode()
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return f"{job[:80]}:{digest.hexdigest()[:32]}"


def _pair(entry: Any, place: str) -> tuple[object, object]:
    if isinstance(entry, Mapping):
        if set(entry) != {"external_id", "related_external_id"}:
            raise ZohoConfigError(f"{place}: needs external_id and related_external_id, and nothing else")
        return entry["external_id"], entry["related_external_id"]
    # Two bytes are a sequence of two numbers, which would be ids of links nobody named.
    if isinstance(entry, Sequence) and not isinstance(entry, str | bytes | bytearray) and len(entry) == 2:
        return entry[0], entry[1]
    raise ZohoConfigError(f"{place}: neither a pair nor an object with external_id and related_external_id")


def _mode(value: Any, run_type: str) -> str:
    mode = value or "auto"
    if mode not in MODES:
        raise ZohoConfigError(f"mode: {mode!r} is none of {', '.join(MODES)}")
    if mode == "auto":
        return APPLY if run_type in _RUN_TYPES_THAT_APPLY else DRY_RUN
    return str(mode)


def _window(
    params: Mapping[str, Any],
    run_type: str,
    run_after: datetime,
    data_interval: tuple[datetime, datetime] | None,
) -> tuple[datetime, datetime]:
    start, end = _instant(params, "window_start"), _instant(params, "window_end")
    if (start is None) != (end is None):
        missing = "window_start" if start is None else "window_end"
        raise ZohoConfigError(f"{missing}: missing; give both ends of the window, or neither")
    if start is not None and end is not None:
        if start >= end:
            raise ZohoConfigError("window_end: must lie after window_start")
        return start, end
    if data_interval and run_type in _RUN_TYPES_WITH_INTERVAL and data_interval[0] < data_interval[1]:
        return data_interval[0].astimezone(UTC), data_interval[1].astimezone(UTC)
    return BEGINNING, run_after.astimezone(UTC)


def _instant(params: Mapping[str, Any], field: str) -> datetime | None:
    value = _text(params, field)
    if value is None:
        return None
    with suppress(OverflowError, ValueError):
        parsed = pendulum.parse(value, strict=True) if _DATE.match(value) else None
        if isinstance(parsed, pendulum.DateTime):
            return datetime.fromisoformat(parsed.in_timezone("UTC").isoformat())
    raise ZohoConfigError(f"{field}: {value!r} is no time; write it like 2026-11-22T00:00:00+00:00")


def _text(params: Mapping[str, Any], field: str) -> str | None:
    value = params.get(field)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise ZohoConfigError(f"{field}: must be text")
    return value.strip()


def _limit(value: Any) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ZohoConfigError("max_links: must be a whole number, 0 or more")
    return value
