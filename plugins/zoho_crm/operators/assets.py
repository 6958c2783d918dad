"""The asset that stands for a relation in Zoho CRM, and the event that says what a run has done to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset, AssetAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from zoho_crm.core.links import Relation
    from zoho_crm.ledger.runs import StoredRun

TOLD_STATUSES = frozenset({"succeeded", "partial"})
"""How a run has ended of which an event tells; Airflow drops those of a task that fails."""


def relation_asset(zoho_conn_id: str, relation: Relation) -> Asset:
    """
    Return the asset of a relation, e.g. ``zoho://zoho_crm_default/Contacts/Deals``, which is its name and its URI.

    :param zoho_conn_id: says which organisation, which is not known when a Dag is read
    """
    return Asset(f"zoho://{zoho_conn_id}/{relation.module}/{relation.related_list}")


def updates_of(dag_id: str) -> AssetAlias:
    """Return the outlet of a Dag's report: an alias, since a plain asset would be updated by a dry run as well."""
    return AssetAlias(f"zoho_crm/{dag_id}")


def emit_asset_event(
    outlets: list[Any],
    context: Context,
    asset: Asset,
    run: StoredRun,
    status: str,
    outcomes: Mapping[str, int],
) -> None:
    """
    Have Airflow record an update of a relation, once the task has succeeded.

    A dry run, and a run that stopped or failed, updates nothing. The window is that of the run, under the names that a
    job reads which is scheduled by the asset.

    :param outlets: of the task; its aliases get the event
    :param outcomes: number of links by outcome
    """
    if run.dry_run or status not in TOLD_STATUSES:
        return
    extra: dict[str, Any] = {
        "job": run.job,
        "run_key": run.run_key,
        "operation": run.operation,
        "mode": run.mode,
        "status": status,
        "outcomes": dict(outcomes),
        "window_start": run.window_start and run.window_start.isoformat(),
        "window_end": run.window_end and run.window_end.isoformat(),
    }
    for outlet in outlets:
        if isinstance(outlet, AssetAlias):
            context["outlet_events"][outlet].add(asset, extra=extra)
