"""The link from a task in Airflow to the page of its run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.sdk import BaseOperatorLink

from zoho_crm.airflow_compat import base_url

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

RUN_ROUTE = "zoho-delink-run"
"""Where Airflow shows the page of a Dag run, as the tab of the run."""


class DelinkRunLink(BaseOperatorLink):
    """
    Leads from a task to the page of its run, also while the task runs and after it has failed.

    It is registered by the plugin and made on the API server. A link that an operator names itself would be made by
    the worker at the end of each task, and kept in XCom.
    """

    @property
    def name(self) -> str:
        """Name of the link: what stands on its button."""
        return "Zoho delinks"

    @property
    def operators(self) -> list[type[BaseOperator]]:  # type: ignore[override]
        """The operators whose tasks have the link. They are imported where they are asked for."""
        from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator
        from zoho_crm.operators.guard import ApproveOperator, GuardOperator
        from zoho_crm.operators.plan_links import PlanLinksOperator
        from zoho_crm.operators.relink import RelinkByExternalIdOperator
        from zoho_crm.operators.report import ReportOperator
        from zoho_crm.operators.reprocess_plan import PlanRelinkOperator, PlanRetryOperator

        return [
            ApproveOperator,
            DeleteRelatedByExternalIdOperator,
            GuardOperator,
            PlanLinksOperator,
            PlanRetryOperator,
            PlanRelinkOperator,
            RelinkByExternalIdOperator,
            ReportOperator,
        ]

    def get_link(self, operator: Any, *, ti_key: TaskInstanceKey) -> str:
        """Return the path of the run's tab, on whatever host Airflow is asked for."""
        below = urlsplit(base_url() or "").path.rstrip("/")
        dag_id, run_id = quote(ti_key.dag_id, safe=""), quote(ti_key.run_id, safe="")
        return f"{below}/dags/{dag_id}/runs/{run_id}/plugin/{RUN_ROUTE}"
