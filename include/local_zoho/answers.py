"""The bodies Zoho answers with: success entries, and errors in both of its shapes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.local_zoho.wire import RefusedError, Reply, json_reply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from include.local_zoho.settings import Settings

Entry = dict[str, Any]

INVALID_PARENT = "the related id given seems to be invalid"
INVALID_RELATION = "The relation name given seems to be invalid"
RELATION_NOT_FOUND = "relation not found"


def entry(code: str, message: str, details: Mapping[str, Any] | None = None, status: str = "error") -> Entry:
    """Make one error entry: alone it is the top-level shape (T), inside ``data[]`` the per-record shape (R)."""
    return {"code": code, "details": dict(details or {}), "message": message, "status": status}


def success(message: str, details: Mapping[str, Any]) -> Entry:
    """Make one success entry of ``data[]``."""
    return entry("SUCCESS", message, details, "success")


def top(http_status: int, code: str, message: str, details: Mapping[str, Any] | None = None) -> Reply:
    """Answer with one error at the top level (T)."""
    return json_reply(http_status, entry(code, message, details))


def refuse(
    http_status: int, code: str, message: str, details: Mapping[str, Any] | None = None
) -> RefusedError:
    """Make the exception that ends a call with a top-level error (T)."""
    return RefusedError(top(http_status, code, message, details))


def listed(entries: Sequence[Entry], partial_status: int = 207) -> Reply:
    """
    Answer with ``data[]``: 200 when all succeeded, 400 when none did, else ``partial_status``.

    :param entries: one per id, in the order of the request.
    """
    good = sum(one["status"] == "success" for one in entries)
    status = 200 if good == len(entries) else partial_status if good else 400
    return json_reply(status, {"data": list(entries)})


def no_content() -> Reply:
    """Answer 204: nothing related, or no such record."""
    return Reply(204)


def invalid_url() -> Reply:
    """Answer that no call has this path."""
    return top(404, "INVALID_URL_PATTERN", "Please check if the URL trying to access is a correct one")


def invalid_module() -> RefusedError:
    """Refuse an unknown module (``resource_path_index`` 0)."""
    return refuse(
        400, "INVALID_MODULE", "The module name given seems to be invalid", {"resource_path_index": 0}
    )


def invalid_method() -> RefusedError:
    """Refuse a method the call does not have; Zoho answers 400, not 405."""
    return refuse(400, "INVALID_REQUEST_METHOD", "The http request method type is not a valid one")


def missing_param(name: str, code: str = "REQUIRED_PARAM_MISSING") -> RefusedError:
    """Refuse a call without a mandatory query parameter; ``ids`` has the code MANDATORY_NOT_FOUND."""
    return refuse(400, code, "One of the expected parameter is missing", {"param_name": name})


def limit_exceeded(name: str, limit: int) -> RefusedError:
    """Refuse a parameter that holds too much."""
    return refuse(
        400,
        "LIMIT_EXCEEDED",
        "The limit of the parameter is exceeded",
        {"limit": str(limit), "param_name": name},
    )


def unparsable_ids() -> RefusedError:
    """Refuse ``ids`` that are not record ids where record ids are expected."""
    return refuse(
        400,
        "UNABLE_TO_PARSE_DATA_TYPE",
        "either the request body or parameters is in wrong format",
        {"param_name": "ids"},
    )


def wrong_external_id(field: str) -> Entry:
    """Describe an external id no record has; ``details`` names the external field."""
    return entry("INVALID_DATA", "invalid data", {"api_name": field})


def refuse_external_id(field: str, settings: Settings) -> RefusedError:
    """Refuse a call whose path holds an unknown external id, in the shape the settings ask for."""
    error = wrong_external_id(field)
    return RefusedError(
        json_reply(400, {"data": [error]} if settings.shape_wrong_external_id == "R" else error)
    )
