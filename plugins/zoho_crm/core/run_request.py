"""
The request of a run: its mode, its window and its links, from the trigger form and the type of the run.

Airflow does not check all values of the form, so they are checked here, in the run's first task. An error names the
field.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pendulum

from zoho_crm.core.link_input import form_links
from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES, Outcome
from zoho_crm.errors import ZohoConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

APPLY = "apply"
DRY_RUN = "dry_run"
MODES = ("auto", DRY_RUN, APPLY)
MAX_REASON_LENGTH = 1_000

RETRY_DAG_ID = "zoho_delink_retry"
RELINK_DAG_ID = "zoho_delink_relink"

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
"""Start of the window of a run over all pending links."""

_NO_TIME = timedelta(0)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_AUTOMATIC_RUN_TYPES = frozenset({"scheduled", "backfill", "asset_triggered", "asset_materialization"})
_RUN_TYPES_WITH_INTERVAL = frozenset({"scheduled", "backfill"})


@dataclass(frozen=True, slots=True)
class RunRequest:
    """
    The request of one run.

    :param mode: ``apply`` or ``dry_run``
    :param window_start: start of the half-open window, aware, in UTC
    :param window_end: its end
    :param source_start: what the job's SQL gets as ``:window_start``: earlier than the window's by the job's lookback
    :param links: links pasted into the trigger form, which replace the SQL; or None
    :param max_links: limit that overrides the job's, or None
    :param reason: why the run was started, or None
    :param verify: whether a dry run verifies each link in Zoho
    """

    mode: str
    window_start: datetime
    window_end: datetime
    source_start: datetime
    links: list[tuple[object, object]] | None = None
    max_links: int | None = None
    reason: str | None = None
    verify: bool = False


@dataclass(frozen=True, slots=True)
class AssetEvent:
    """
    An update of an asset that started a run.

    :param asset: the asset's name
    :param timestamp: when Airflow received the update
    :param extra: values of its producer; ``window_start`` and ``window_end`` are used
    """

    asset: str
    timestamp: datetime
    extra: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RetryRequest:
    """
    Which unfinished links to retry.

    :param run: an Airflow run id or a run key; None if there is a window
    :param window: half-open window that contains the windows of the origin runs, aware, in UTC; None if there is a run
    :param outcomes: the last outcomes after which a link is retried
    """

    run: str | None
    window: tuple[datetime, datetime] | None
    outcomes: frozenset[Outcome]


def parse_run_request(
    params: Mapping[str, Any],
    *,
    run_type: str,
    run_after: datetime,
    data_interval: tuple[datetime, datetime] | None,
    automatic: str = DRY_RUN,
    lookback: timedelta = _NO_TIME,
    asset_events: Sequence[AssetEvent] = (),
    fields: Collection[str] | None = None,
) -> RunRequest:
    """
    Read the trigger form.

    :param params: the form's values: ``mode``, ``window_start``, ``window_end``, ``links``, ``max_links``,
        ``reason``, ``verify``; all may be missing
    :param run_type: Airflow's type of the run: manual, scheduled, backfill, asset_triggered, ...
    :param run_after: when the run was due; the default end of the window
    :param data_interval: the run's data interval, if it has one
    :param automatic: mode of the job's automatic runs, where the form does not say another
    :param lookback: how much earlier the SQL of the job reads, if the window is the data interval
    :param asset_events: the updates of assets that started the run, if any
    :param fields: names of the form's fields, to refuse any other; None allows them
    :raises ZohoConfigError: a field is wrong; the message names it
    """
    _check_names(params, fields)
    given, interval = _given_window(params), _interval(run_type, data_interval)
    window_start, window_end = given or interval or _window_without_interval(run_after, asset_events)
    is_interval = interval is not None and given is None
    mode = _mode(params.get("mode"), run_type, automatic)
    reason = _reason(params)
    max_links = _limit(params.get("max_links"))
    verify = parse_flag(params, "verify")
    if max_links is not None and not reason:
        raise ZohoConfigError("reason: say why, when max_links overrides the job's limit")
    if verify and mode == APPLY:
        raise ZohoConfigError("verify: is for a dry run only, and this run would remove links")
    return RunRequest(
        mode=mode,
        window_start=window_start,
        window_end=window_end,
        source_start=window_start - lookback if is_interval else window_start,
        links=form_links(params.get("links")),
        max_links=max_links,
        reason=reason,
        verify=verify,
    )


def parse_retry_request(params: Mapping[str, Any], request: RunRequest) -> RetryRequest:
    """
    Parse the form of ``zoho_delink_retry``.

    :param params: the form's values: ``run``, or ``window_start`` and ``window_end``; ``outcomes``
    :param request: the values of its other fields
    :raises ZohoConfigError: a field is wrong; the message names it
    """
    run = parse_text(params, "run")
    has_window = bool(parse_text(params, "window_start"))
    if run and has_window:
        raise ZohoConfigError("run: give a run, or the window of several, but not both")
    if not run and not has_window:
        raise ZohoConfigError(
            "run: missing; give the run whose links are to be retried, or the window of several runs"
        )
    return RetryRequest(
        run=run,
        window=(request.window_start, request.window_end) if has_window else None,
        outcomes=_outcomes(params.get("outcomes")),
    )


def default_mode(run_type: str, automatic: str) -> str:
    """
    Return the mode of a run whose form says ``auto``: a dry run, unless it is automatic and the job applies those.

    :param run_type: Airflow's type of the run
    :param automatic: mode of the job's automatic runs
    """
    return automatic if is_automatic(run_type) else DRY_RUN


def is_automatic(run_type: str) -> bool:
    """Return whether Airflow started a run: by schedule, by an asset, or in a backfill."""
    return run_type in _AUTOMATIC_RUN_TYPES


def run_key(job: str, *parts: object) -> str:
    """
    Return the key of a run: the same for the same Dag run, also after a retry or a clear.

    :param job: the job of the run; readable in the key
    :param parts: the identity of the run: Dag id, run id, and for a single task its id and map index
    """
    digest = hashlib.sha256()
    for part in parts:
        raw = str(part).encode()
        digest.update(len(raw).to_bytes(4, "big") + raw)
    return f"{job[:80]}:{digest.hexdigest()[:32]}"


def parse_instant(params: Mapping[str, Any], field: str) -> datetime | None:
    """
    Parse an ISO 8601 time of a form; without a time zone it is UTC.

    :return: an aware time in UTC, or None for an empty field
    :raises ZohoConfigError: it is not a time; the message names the field
    """
    value = parse_text(params, field)
    if value is None:
        return None
    with suppress(OverflowError, ValueError):
        parsed = pendulum.parse(value, strict=True) if _DATE.match(value) else None
        if isinstance(parsed, pendulum.DateTime):
            return datetime.fromisoformat(parsed.in_timezone("UTC").isoformat())
    raise ZohoConfigError(f"{field}: {value!r} is not a time; write it like 2026-11-22T00:00:00+00:00")


def parse_text(params: Mapping[str, Any], field: str) -> str | None:
    """
    Return a text field of a form without leading and trailing spaces, or None for an empty field.

    :raises ZohoConfigError: it is not text; the message names the field
    """
    value = params.get(field)
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    if not isinstance(value, str):
        raise ZohoConfigError(f"{field}: must be text")
    return value.strip()


def _mode(value: Any, run_type: str, automatic: str) -> str:
    mode = value or "auto"
    if mode not in MODES:
        raise ZohoConfigError(f"mode: {mode!r} is none of {', '.join(MODES)}")
    if mode == "auto":
        return default_mode(run_type, automatic)
    return str(mode)


def _check_names(params: Mapping[str, Any], fields: Collection[str] | None) -> None:
    """Refuse a value that is not of a field: a mistyped window would mean all pending links."""
    if fields is None:
        return
    for name in params:
        if name not in fields:
            raise ZohoConfigError(f"{name}: is not a field of the form; its fields are {', '.join(fields)}")


def _interval(
    run_type: str, data_interval: tuple[datetime, datetime] | None
) -> tuple[datetime, datetime] | None:
    """Return the data interval of a run that has one with a length, in UTC."""
    if data_interval is None or run_type not in _RUN_TYPES_WITH_INTERVAL:
        return None
    start, end = data_interval
    return (start.astimezone(UTC), end.astimezone(UTC)) if start < end else None


def _window_without_interval(
    run_after: datetime, asset_events: Sequence[AssetEvent]
) -> tuple[datetime, datetime]:
    if asset_events:
        windows = [_window_of_event(event) for event in asset_events]
        return min(start for start, _ in windows), max(end for _, end in windows)
    return BEGINNING, run_after.astimezone(UTC)


def _window_of_event(event: AssetEvent) -> tuple[datetime, datetime]:
    """Return the window of an event, else all pending links before it."""
    try:
        return _given_window(event.extra) or (BEGINNING, event.timestamp.astimezone(UTC))
    except ZohoConfigError as error:
        raise ZohoConfigError(f"asset {event.asset!r}, {error}") from None


def _given_window(values: Mapping[str, Any]) -> tuple[datetime, datetime] | None:
    start, end = parse_instant(values, "window_start"), parse_instant(values, "window_end")
    if start is None and end is None:
        return None
    if start is None or end is None:
        missing = "window_start" if start is None else "window_end"
        raise ZohoConfigError(f"{missing}: missing; give both ends of the window, or neither")
    if start >= end:
        raise ZohoConfigError("window_end: must lie after window_start")
    return start, end


def _reason(params: Mapping[str, Any]) -> str | None:
    reason = parse_text(params, "reason")
    if reason is not None and len(reason) > MAX_REASON_LENGTH:
        raise ZohoConfigError(f"reason: {len(reason)} characters; no more than {MAX_REASON_LENGTH} are kept")
    return reason


def parse_flag(params: Mapping[str, Any], field: str) -> bool:
    """Parse a check box; an empty field is False."""
    value = params.get(field)
    if value is None or value == "":
        return False
    if not isinstance(value, bool):
        raise ZohoConfigError(f"{field}: must be true or false")
    return value


def _outcomes(value: Any) -> frozenset[Outcome]:
    allowed = ", ".join(sorted(RETRYABLE_OUTCOMES))
    if value is None:
        return RETRYABLE_OUTCOMES
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",")]
    if not isinstance(value, list | tuple) or not value:
        raise ZohoConfigError(f"outcomes: choose one or more of {allowed}")
    for outcome in value:
        if not isinstance(outcome, str) or outcome not in RETRYABLE_OUTCOMES:
            raise ZohoConfigError(f"outcomes: {outcome!r} cannot be retried; these can: {allowed}")
    return frozenset(Outcome(outcome) for outcome in value)


def _limit(value: Any) -> int | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ZohoConfigError("max_links: must be a whole number, 0 or more")
    return value
