"""HTML from templates, and the headers that every answer carries."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from zoho_crm import __version__

if TYPE_CHECKING:
    from fastapi import Request
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

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
    # External ids are people's data: no copy stays behind.
    "cache-control": "no-store",
}


class SafeHeaders:
    """ASGI middleware: every answer carries the headers, also one that refuses, and no route can forget them."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                sent = {name.lower() for name, _ in message["headers"]}
                message["headers"] = [
                    *message["headers"],
                    *(
                        (key.encode(), value.encode())
                        for key, value in _HEADERS.items()
                        if key.encode() not in sent
                    ),
                ]
            await send(message)

        await self._app(scope, receive, send_with_headers)


@dataclass(frozen=True, slots=True)
class Addresses:
    """
    Addresses as the browser must ask for them, also where Airflow is served below a path.

    :param plugin: where this application is, with a slash at the end
    :param airflow: where Airflow is, with a slash at the end
    """

    plugin: str
    airflow: str

    @classmethod
    def of(cls, request: Request) -> Addresses:
        """Return the addresses for a request."""
        return cls(f"{request.scope.get('root_path', '').rstrip('/')}/", request.base_url.path)

    def to(self, *parts: object) -> str:
        """Return the address of a page of ours; each part is quoted as one segment."""
        return self.plugin + "/".join(quote(str(part), safe="") for part in parts)

    def run(self, dag_id: str, dag_run_id: str, *more: object) -> str:
        """Return the address of a run's page, or of something below it."""
        return self.to("dags", dag_id, "runs", dag_run_id, *more)

    def airflow_run(self, dag_id: str, dag_run_id: str) -> str:
        """Return the address of a Dag run's page in Airflow."""
        return f"{self.airflow}dags/{quote(dag_id, safe='')}/runs/{quote(dag_run_id, safe='')}"


def page(request: Request, template: str, *, status_code: int = 200, **values: Any) -> HTMLResponse:
    """Return a page; everything that is put into a template is escaped."""
    text = (
        _environment().get_template(template).render(at=Addresses.of(request), version=__version__, **values)
    )
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
        "number": _number,
        "moment": _moment,
        "iso": _iso,
        "duration": _duration,
        "words": _words,
        "share": _share,
    }
    return environment


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}".replace(",", "\u202f")  # noqa: RUF001 - a dash for people


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
    """Return a name of the ledger, such as ``already_absent``, as words."""
    return str(value).replace("_", " ")


def _share(part: int, whole: int) -> str:
    if not whole:
        return "–"  # noqa: RUF001
    share = 100 * part / whole
    return f"{share:.0f} %" if share >= 10 or share == 0 else f"{share:.2g} %"
