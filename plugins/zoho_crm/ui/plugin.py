"""
The Airflow plugin: an item in the navigation, and a tab on each Dag run.

Every process of Airflow loads plugins, the ones that run tasks too, and only the API server needs the pages: so the
application is made when the first request for it comes.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

URL_PREFIX = "/zoho-delinks"


class _AppOnDemand:
    def __init__(self) -> None:
        self._app: ASGIApp | None = None
        self._lock = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._made()(scope, receive, send)

    def _made(self) -> ASGIApp:
        with self._lock:
            if self._app is None:
                from zoho_crm.ui.app import create_app

                self._app = create_app()
            return self._app


class ZohoDelinksPlugin(AirflowPlugin):
    """Pages about what was taken out of Zoho CRM and put back into it."""

    name = "zoho_delinks"
    fastapi_apps: ClassVar[list[Any]] = [
        {"app": _AppOnDemand(), "url_prefix": URL_PREFIX, "name": "Zoho delinks"}
    ]
    # Without a slash in front: Airflow may be served below a path.
    external_views: ClassVar[list[Any]] = [
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
            "url_route": "zoho-delink-run",
        },
    ]
