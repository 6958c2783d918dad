"""
What a run on past runs was asked to do: which links of which of them, as the forms of its two Dags say.

Mode, limit, reason and window are read as for every run (:mod:`zoho_crm.core.run_request`); here is what is added.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoho_crm.core.audit_condition import check_condition
from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES, Outcome
from zoho_crm.errors import ZohoConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime

    from zoho_crm.core.run_request import RunRequest

REDRIVE_DAG_ID = "zoho_delink_redrive"
RELINK_DAG_ID = "zoho_relink"


@dataclass(frozen=True, slots=True)
class RetryRequest:
    """
    Which links to drive again.

    :param run: an Airflow run id or a run key; None if there is a window
    :param window: half-open window that the windows of the runs meant lie in, aware, in UTC; None if there is a run
    :param outcomes: the last outcomes after which a link is driven again
    """

    run: str | None
    window: tuple[datetime, datetime] | None
    outcomes: frozenset[Outcome]


@dataclass(frozen=True, slots=True)
class RelinkRequest:
    """
    Which removed links to put back.

    :param run: an Airflow run id or a run key
    :param links: pairs that alone are meant, or None
    :param where: a checked condition on the audit rows of the links that alone are meant, or None
    """

    run: str
    links: Sequence[tuple[object, object]] | None = None
    where: str | None = None


def parse_retry_request(params: Mapping[str, Any], request: RunRequest) -> RetryRequest:
    """
    Read the form of ``zoho_delink_redrive``.

    :param params: the form's values: ``run``, or ``window_start`` and ``window_end``; ``outcomes``
    :param request: what was read of its other fields
    :raises ZohoConfigError: a field is wrong; the message names it
    """
    run = _text(params, "run")
    has_window = bool(_text(params, "window_start"))
    if run and has_window:
        raise ZohoConfigError("run: give a run, or the window of several, but not both")
    if not run and not has_window:
        raise ZohoConfigError(
            "run: missing; give the run whose links are meant, or the window of several runs"
        )
    return RetryRequest(
        run=run,
        window=(request.window_start, request.window_end) if has_window else None,
        outcomes=_outcomes(params.get("outcomes")),
    )


def parse_relink_request(
    params: Mapping[str, Any], request: RunRequest, columns: Collection[str]
) -> RelinkRequest:
    """
    Read the form of ``zoho_relink``.

    :param params: the form's values: ``run``, ``where``
    :param request: what was read of its other fields, ``links`` among them
    :param columns: columns that ``where`` may use
    :raises ZohoConfigError: a field is wrong; the message names it
    """
    run, where = _text(params, "run"), _text(params, "where")
    if run is None:
        raise ZohoConfigError("run: missing; give the run whose links are to be put back")
    if where is not None and request.links is not None:
        raise ZohoConfigError("where: give links or a condition, but not both")
    return RelinkRequest(
        run=run, links=request.links, where=None if where is None else check_condition(where, columns)
    )


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
            raise ZohoConfigError(
                f"outcomes: {outcome!r} cannot be driven again; those that can are {allowed}"
            )
    return frozenset(Outcome(outcome) for outcome in value)


def _text(params: Mapping[str, Any], field: str) -> str | None:
    value = params.get(field)
    if value is None:
        return None
    if not isinstance(value, str):
        raise ZohoConfigError(f"{field}: must be text")
    return value.strip() or None
