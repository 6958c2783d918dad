"""The Airflow plugin, found by the entry point ``airflow.plugins``."""

from __future__ import annotations

from typing import Any

from airflow.plugins_manager import AirflowPlugin

URL_PREFIX = "/zoho-delinks"


class ZohoDelinkPlugin(AirflowPlugin):
    """
    Adds the pages of :mod:`zoho_crm.ui.app` to Airflow's API server.

    Every component of Airflow loads plugins, each task as well: the app, whose imports take a second, is made where
    it is asked for, which only the API server does.
    """

    name = "zoho_delinks"

    @property
    def fastapi_apps(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """Return what the API server mounts."""
        from zoho_crm.ui.app import app

        return [{"app": app, "url_prefix": URL_PREFIX, "name": "Zoho delinks"}]
