"""The application of the pages: its routes, and what it answers when something is wrong."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import sqlalchemy as sa
from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response
from starlette.exceptions import HTTPException as StarletteHTTPException

from zoho_crm.ui import link_pages, overview, run_pages
from zoho_crm.ui.audit_databases import AuditDatabases, default_jobs_folder
from zoho_crm.ui.auth import SIGNED_IN
from zoho_crm.ui.rendering import STATIC, SafeHeaders, page

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
    """Return a file of the pages; its address changes with the version."""
    if name not in _STATIC_TYPES:
        raise HTTPException(404, "There is no such file.")
    return FileResponse(
        STATIC / name,
        media_type=_STATIC_TYPES[name],
        headers={"cache-control": "private, max-age=3600"},
    )


@rest.api_route("/{path:path}", methods=_METHODS)
def nothing_here(path: str) -> Response:
    """Answer all other addresses, so that nobody learns without a session which there are."""
    raise HTTPException(404, "There is no such page.")


def create_app(sources: AuditDatabases | None = None) -> FastAPI:
    """
    Return the application.

    :param sources: the audit databases; by default those of the job files that the Dags read
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, redirect_slashes=False)
    app.state.sources = sources or AuditDatabases(default_jobs_folder())
    app.add_middleware(SafeHeaders)
    for router in (overview.router, run_pages.router, link_pages.router, rest):
        app.include_router(router)
    handlers: dict[type[Exception], ExceptionHandler] = {
        StarletteHTTPException: _refused,
        RequestValidationError: _not_understood,
        sa.exc.OperationalError: _database_away,
        sa.exc.TimeoutError: _database_away,
    }
    for error, handler in handlers.items():
        app.add_exception_handler(error, handler)
    return app


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, StarletteHTTPException)  # noqa: S101 - so it was registered
    return _problem(request, error.status_code, str(error.detail))


def _not_understood(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - so it was registered
    names = sorted({str(fault["loc"][-1]) for fault in error.errors()})
    return _problem(request, 400, f"These values cannot be used: {', '.join(names)}.")


def _database_away(request: Request, error: Exception) -> Response:
    log.warning("The audit database does not answer: %s", getattr(error, "orig", None) or error)
    return _problem(request, 503, "The audit database does not answer: the log of the API server says why.")


def _problem(request: Request, status_code: int, detail: str) -> Response:
    # Nobody who is not signed in gets a page of ours, not even an empty one.
    if status_code == 401 or "text/html" not in request.headers.get("accept", ""):
        return JSONResponse({"detail": detail}, status_code)
    return page(request, "problem.html", status_code=status_code, detail=detail)
