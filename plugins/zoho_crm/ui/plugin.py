"""
The Airflow plugin, found by the entry point ``airflow.plugins``.

A page in the navigation, a tab on each run, a link on each task that works on links.
"""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

from zoho_crm.lineage import hide_ids_of_forms
from zoho_crm.ui.extra_link import RUN_ROUTE, DelinkRunLink

URL_PREFIX = "/zoho-delinks"


class ZohoDelinkPlugin(AirflowPlugin):
    """
    Adds the pages of :mod:`zoho_crm.ui.app` to Airflow's API server.

    Every component of Airflow loads plugins, each task as well: the app, whose imports take a second, is made where
    it is asked for, which only the API server does.
    """

    name = "zoho_delinks"
    # Addresses have no slash in front: Airflow may be served below a path.
    external_views: list[Any] = [  # noqa: RUF012 - Airflow declares it so
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
        """Keep external ids out of what other plugins tell; every component loads this one."""
        hide_ids_of_forms()

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Return what the API server mounts."""
        from zoho_crm.ui.app import create_app

        return [{"app": create_app(), "url_prefix": URL_PREFIX, "name": "Zoho delinks"}]
