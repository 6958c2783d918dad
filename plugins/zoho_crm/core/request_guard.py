"""Compare a prepared request with the one that was built, the last step before it is sent."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from zoho_crm.core.request import X_EXTERNAL, ZohoRequest
from zoho_crm.errors import UnsafeRequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

METHODS = ("GET", "DELETE", "PUT")


def check_prepared_request(
    request: ZohoRequest,
    base_url: str,
    *,
    method: str,
    url: str,
    headers: Mapping[str, str],
    body: object = None,
) -> None:
    """
    Compare the request that an HTTP library is about to send with the one that was built.

    Libraries normalize addresses: they resolve dot segments, decode and encode again. For this API one such
    step turns the removal of a link into the deletion of a record, so any difference at all is refused.

    :param base_url: scheme, host and port the request is meant for
    :param method: method of the prepared request
    :param url: full address of the prepared request, as encoded for the wire
    :param headers: headers of the prepared request, in any case; a duplicate header is compared twice
    :param body: bytes of the prepared request; None or empty without any
    :raises UnsafeRequestError: any of them differs, or a DELETE or PUT is not one of links
    """
    faults = []
    if method != request.method:
        faults.append("method")
    if url != base_url + request.target:
        faults.append("address")
    if _decoded_segments(url) != request.segments:
        faults.append("path segments")
    if request.method not in METHODS:
        faults.append("kind of request")
    if method in {"DELETE", "PUT"} and not request.touches_links_only(method):
        faults.append("number of path segments")
    if "#" in url:
        faults.append("fragment")
    named = [value for name, value in headers.items() if name.upper() == X_EXTERNAL]
    if named != ([] if request.x_external is None else [request.x_external]):
        faults.append(f"{X_EXTERNAL} header")
    if (body or b"") != (request.body or b""):
        faults.append("body")
    if faults:
        raise UnsafeRequestError(
            f"The prepared request differs from the one asked for in: {', '.join(faults)}. Nothing was sent.",
            path=request.path,
        )


def _decoded_segments(url: str) -> tuple[str, ...] | None:
    try:
        return tuple(unquote(part, errors="strict") for part in urlsplit(url).path.split("/")[1:])
    except ValueError:
        return None
