"""
The Airflow plugin, registered by the entry point ``airflow.plugins``.

It adds a page to the navigation, a tab to each Dag run, and a link to each task that works on links.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

from airflow.plugins_manager import AirflowPlugin
from airflow.sdk import BaseOperatorLink

from zoho_crm.airflow_compat import base_url
from zoho_crm.lineage import hide_ids_of_forms

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator
    from airflow.sdk.types import TaskInstanceKey

URL_PREFIX = "/zoho-delinks"
RUN_ROUTE = "zoho-delink-run"
"""Route of the tab that Airflow adds to a Dag run."""


class DelinkRunLink(BaseOperatorLink):
    """
    Link from a task to the page of its run, also while the task runs and after it has failed.

    The plugin registers it, so that the API server builds it. A link that an operator declares itself is built by the
    worker at the end of a task and stored in XCom.
    """

    @property
    def name(self) -> str:
        """Label of the link."""
        return "Zoho delinks"

    @property
    def operators(self) -> list[type[BaseOperator]]:  # type: ignore[override]
        """The operators whose tasks have the link, imported on first use."""
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
        """Return the path of the run's tab, below the path that Airflow is served at."""
        root = urlsplit(base_url() or "").path.rstrip("/")
        dag_id, run_id = quote(ti_key.dag_id, safe=""), quote(ti_key.run_id, safe="")
        return f"{root}/dags/{dag_id}/runs/{run_id}/plugin/{RUN_ROUTE}"


class ZohoDelinkPlugin(AirflowPlugin):
    """
    Adds the pages of :mod:`zoho_crm.ui.app` to Airflow's API server.

    Every component of Airflow loads plugins, and so does each task. The app takes a second to import, so it is created
    on first use, which happens in the API server only.
    """

    name = "zoho_delinks"
    # No leading slash: Airflow may be served below a path.
    external_views: list[Any] = [  # noqa: RUF012 - declared like this by Airflow
        {
            "name": "Zoho delinks",
            "href": "zoho-delinks/",
            "destination": "nav",
            "category": "browse",
            "url_route": "zoho-delinks",
        },
        {
            "name": "Zoho delinks",
            "href": "zoho-delinks/dags/{DAG_ID}/runs/{RUN_ID}",
            "destination": "dag_run",
            "url_route": RUN_ROUTE,
        },
    ]

    operator_extra_links: list[Any] = [DelinkRunLink()]  # noqa: RUF012 - as above

    @classmethod
    def on_load(cls, *args: Any, **kwargs: Any) -> None:
        """Hide external ids from the events of other plugins; every component loads this plugin."""
        hide_ids_of_forms()

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Return the app that the API server mounts."""
        from zoho_crm.ui.app import create_app

        return [{"app": create_app(), "url_prefix": URL_PREFIX, "name": "Zoho delinks"}]
