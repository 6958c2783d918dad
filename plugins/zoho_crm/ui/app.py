"""The FastAPI app of the pages: routes and error responses."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING

import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from zoho_crm.ui import downloads, link_pages, overview, run_pages
from zoho_crm.ui.audit_databases import AuditDatabases
from zoho_crm.ui.auth import SIGNED_IN
from zoho_crm.ui.rendering import STATIC, SafeResponses, page, wants_html

if TYPE_CHECKING:
    from starlette.types import ExceptionHandler

log = logging.getLogger(__name__)

_STATIC_TYPES = {
    "app.css": "text/css",
    "app.js": "text/javascript",
    "theme.js": "text/javascript",
    "chart.umd.min.js": "text/javascript",
    "chart.LICENSE.md": "text/plain",
}
_METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

rest = APIRouter(dependencies=[Depends(SIGNED_IN)])


@rest.get("/static/{name}")
def static(name: str) -> FileResponse:
    """Return a static file; its URL changes with the version."""
    if name not in _STATIC_TYPES:
        raise HTTPException(404, "There is no such file.")
    return FileResponse(
        STATIC / name,
        media_type=_STATIC_TYPES[name],
        headers={"cache-control": "private, max-age=3600"},
    )


@rest.api_route("/{path:path}", methods=_METHODS)
def not_found(path: str) -> Response:
    """Respond to all other URLs, so that only signed-in users learn which URLs exist."""
    raise HTTPException(404, "There is no such page.")


def create_app(databases: AuditDatabases | None = None) -> FastAPI:
    """
    Create the app.

    :param databases: the audit databases; default: those of the job files that the Dags read
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.databases = databases or AuditDatabases()
    app.state.downloads = Counter()
    app.add_middleware(SafeResponses)
    for router in (overview.router, downloads.router, run_pages.router, link_pages.router, rest):
        app.include_router(router)
    by_type: dict[type[Exception], ExceptionHandler] = {
        StarletteHTTPException: _http_error,
        RequestValidationError: _invalid_values,
        sa.exc.OperationalError: _database_unavailable,
        sa.exc.TimeoutError: _database_unavailable,
    }
    for error, handler in by_type.items():
        app.add_exception_handler(error, handler)
    return app


def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)  # noqa: S101 - registered for this type
    response = _error_response(request, error.status_code, str(error.detail))
    response.headers.update(error.headers or {})
    return response


def _invalid_values(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this type
    names = sorted({str(each["loc"][-1]) for each in error.errors()})
    return _error_response(request, 400, f"Not valid: {', '.join(names)}. Change the value and try again.")


def _database_unavailable(request: Request, error: Exception) -> Response:
    log.warning("Audit database unavailable: error=%s", getattr(error, "orig", None) or error)
    return _error_response(
        request, 503, "The audit database is unavailable. The log of the API server has the reason."
    )


def _error_response(request: Request, status_code: int, detail: str) -> Response:
    # Without a session, not even an empty page is sent.
    if status_code == 401 or not wants_html(request):
        return JSONResponse({"detail": detail}, status_code)
    return page(request, "error.html", status_code=status_code, detail=detail)
