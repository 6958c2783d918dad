"""HTML from templates, URLs, and the security headers of every response."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from zoho_crm import __version__
from zoho_crm.core.outcomes import NOT_FOUND_OUTCOMES, PRESUMED_OUTCOMES, Outcome

if TYPE_CHECKING:
    from fastapi import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger(__name__)

OUTCOME_COLUMNS = {
    "Removed": (Outcome.REMOVED,),
    "Relinked": (Outcome.RELINKED,),
    "Presumed": PRESUMED_OUTCOMES,
    "Dry run": (Outcome.WOULD_REMOVE, Outcome.WOULD_RELINK),
    "Nothing to do": (Outcome.ALREADY_ABSENT, Outcome.ALREADY_LINKED),
    "Not found": NOT_FOUND_OUTCOMES,
    "Invalid": (Outcome.INVALID,),
    "Rejected": (Outcome.REJECTED,),
    "Failed": (Outcome.FAILED,),
    "Unknown": (Outcome.UNKNOWN,),
    "Not attempted": (Outcome.NOT_ATTEMPTED,),
}
"""The columns of the runs page: each outcome is in one, so that those of a finished run add up to the planned links."""

OUTCOME_KINDS = {
    "done": ("Removed", "Relinked", "Presumed"),
    "would change": ("Dry run",),
    "nothing to do": ("Nothing to do",),
    "not found or invalid": ("Not found", "Invalid"),
    "rejected": ("Rejected",),
    "failed or unknown": ("Failed", "Unknown"),
    "remaining": ("Not attempted",),
}
"""The segments of the progress bar of a run, each the columns that it sums; links without an outcome remain, too."""

STATIC = Path(__file__).parent / "static"
_TEMPLATES = Path(__file__).parent / "templates"

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
)
_HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "SAMEORIGIN",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    # External ids are personal data: browsers and proxies keep no copy.
    "cache-control": "no-store",
}


class SafeResponses:
    """
    ASGI middleware: security headers on every response, no NUL in a URL, and 500 for an unexpected error.

    PostgreSQL refuses text with NUL, in Airflow's permission checks as well as in the queries of the pages.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, unless its URL contains NUL."""
        started = False

        async def send_with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                sent = {name.lower() for name, _ in message["headers"]}
                missing = [
                    (key.encode(), value.encode())
                    for key, value in _HEADERS.items()
                    if key.encode() not in sent
                ]
                message["headers"] = [*message["headers"], *missing]
            await send(message)

        if scope["type"] == "http" and ("\0" in scope["path"] or b"%00" in scope["query_string"]):
            refusal = JSONResponse({"detail": "The URL contains a NUL character: remove it."}, 400)
            await refusal(scope, receive, send_with_headers)
            return
        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            if started:
                raise
            log.exception("Request failed: path=%r", scope["path"])
            failure = JSONResponse(
                {"detail": "Internal error. The log of the API server has the reason."}, 500
            )
            await failure(scope, receive, send_with_headers)


@dataclass(frozen=True, slots=True)
class Urls:
    """
    URLs for the browser, also where Airflow is served below a path.

    :param plugin: path of this app, with a trailing slash
    :param airflow: path of Airflow, with a trailing slash
    """

    plugin: str
    airflow: str

    @classmethod
    def of(cls, request: Request) -> Urls:
        """Return the URLs for a request."""
        return cls(f"{request.scope.get('root_path', '').rstrip('/')}/", request.base_url.path)

    def to(self, *parts: object) -> str:
        """Return the URL of a page; each part is quoted as one segment."""
        return self.plugin + "/".join(quote(str(part), safe="") for part in parts)

    def run(self, dag_id: str, dag_run_id: str, *more: object) -> str:
        """Return the URL of a run's page, or of a page below it."""
        return self.to("dags", dag_id, "runs", dag_run_id, *more)

    def airflow_run(self, dag_id: str, dag_run_id: str) -> str:
        """Return the URL of a Dag run in Airflow."""
        return f"{self.airflow}dags/{quote(dag_id, safe='')}/runs/{quote(dag_run_id, safe='')}"


def wants_html(request: Request) -> bool:
    """Return whether the client is a browser, not a program."""
    return "text/html" in request.headers.get("accept", "")


def page(request: Request, template: str, *, status_code: int = 200, **values: Any) -> HTMLResponse:
    """Render a template; all values are escaped."""
    text = _environment().get_template(template).render(urls=Urls.of(request), version=__version__, **values)
    return HTMLResponse(text, status_code=status_code)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": format_number,
        "moment": _moment,
        "iso": _iso,
        "duration": _duration,
        "words": _words,
        "share": _share,
    }
    return environment


def format_number(value: int | None) -> str:
    """Return a number with its digits in groups."""
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")  # noqa: RUF001 - typographic dash


def _moment(value: datetime | None) -> str:
    return "–" if value is None else f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"  # noqa: RUF001


def _iso(value: datetime | None) -> str:
    return "" if value is None else value.astimezone(UTC).isoformat()


def _duration(value: timedelta | None) -> str:
    if value is None:
        return "–"  # noqa: RUF001
    seconds = max(0, int(value.total_seconds()))
    if seconds < 60:
        return f"{seconds} s"
    minutes, seconds = divmod(seconds, 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def _words(value: object) -> str:
    """Return a name such as ``already_absent`` as words."""
    return str(value).replace("_", " ")


def _share(part: int, whole: int) -> str:
    if not whole:
        return "–"  # noqa: RUF001
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 10 or share == 0 else f"{share:.2g} %"
