"""The calls under ``/_local``, for when the local Zoho runs in another process than its users."""

from typing import Annotated, Any

from fastapi import Body, FastAPI, HTTPException, Query

from zoho_crm.testing.local_zoho.faults import FaultRule
from zoho_crm.testing.local_zoho.seed import fill_crm
from zoho_crm.testing.local_zoho.state import LocalState

MAX_LISTED = 10_000


def admin_app(state: LocalState) -> FastAPI:  # noqa: C901  # nine small routes over one state
    """
    Build the FastAPI application of the admin calls.

    - ``GET /_local/state?include_links=true``: see :meth:`LocalState.to_json`
    - ``GET /_local/requests?offset=0&limit=100``: ``{"total", "requests": [...]}`` with time, method, path, query,
      external, status and kind of each
    - ``POST /_local/seed?replace=false``: adds a seed's records and links; with ``replace`` begins again with it
    - ``POST /_local/faults``: a rule, or a list of rules, replaces all rules; ``DELETE`` drops them
    - ``POST /_local/config``: ``{setting: value}``; ``GET`` shows them
    - ``POST /_local/reset``: begins again with the first seed and settings
    - ``POST /_local/revoke``: revokes every access token

    The response to bad input is 400 and a ``detail`` that names it.
    """
    app = FastAPI(title="Local Zoho", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/_local/state")
    async def show_state(*, include_links: bool = True) -> dict[str, Any]:
        return state.to_json(include_links=include_links)

    @app.get("/_local/requests")
    async def show_requests(
        offset: Annotated[int, Query(ge=0)] = 0, limit: Annotated[int, Query(ge=0, le=MAX_LISTED)] = 100
    ) -> dict[str, Any]:
        requests = list(state.journal.requests)
        return {
            "total": len(requests),
            "requests": [one._asdict() for one in requests[offset : offset + limit]],
        }

    @app.post("/_local/seed")
    async def add_seed(body: Annotated[dict[str, Any], Body()], *, replace: bool = False) -> dict[str, Any]:
        try:
            if replace:
                state.reseed(body)
            else:
                fill_crm(state.crm, body)
        except (KeyError, TypeError, ValueError) as error:
            raise _bad_request(error) from error
        return {"records": {name: state.crm.count(name) for name in state.crm.modules}}

    @app.post("/_local/faults")
    async def set_faults(body: Annotated[dict[str, Any] | list[dict[str, Any]], Body()]) -> dict[str, int]:
        try:
            rules = [FaultRule.from_json(one) for one in (body if isinstance(body, list) else [body])]
        except (TypeError, ValueError) as error:
            raise _bad_request(error) from error
        state.faults.rules[:] = rules
        return {"rules": len(rules)}

    @app.delete("/_local/faults")
    async def drop_faults() -> dict[str, int]:
        state.faults.clear()
        return {"rules": 0}

    @app.get("/_local/config")
    async def show_config() -> dict[str, Any]:
        return state.settings.to_json()

    @app.post("/_local/config")
    async def configure(body: Annotated[dict[str, Any], Body()]) -> dict[str, Any]:
        try:
            state.configure(**body)
        except ValueError as error:
            raise _bad_request(error) from error
        return state.settings.to_json()

    @app.post("/_local/reset")
    async def reset() -> dict[str, bool]:
        state.reset()
        return {"reset": True}

    @app.post("/_local/revoke")
    async def revoke() -> dict[str, bool]:
        state.tokens.revoke_all()
        return {"revoked": True}

    return app


def _bad_request(error: Exception) -> HTTPException:
    return HTTPException(400, detail=f"{type(error).__name__}: {error}")
