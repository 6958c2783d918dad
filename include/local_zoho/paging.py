"""Pages of rows, and the fields asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from include.local_zoho import answers
from include.local_zoho.wire import Reply, json_reply

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_PER_PAGE = 200
MAX_WITHOUT_TOKEN = 2000
TOKEN_PREFIX = "offset-"  # noqa: S105  # a page token, no secret


def page_of(rows: Sequence[Mapping[str, Any]], query: Mapping[str, str]) -> Reply:
    """
    Answer one page of rows: ``{"data": [...], "info": {...}}``, or 204 when it is empty.

    ``per_page`` is 200 by default and at most; rows beyond 2000 need the ``page_token`` of the page before, which
    excludes ``page`` (page "Get Related Records").

    :raises RefusedError: 400 for a bad number, or a page too far.
    """
    per_page = _number(query, "per_page", MAX_PER_PAGE)
    if per_page > MAX_PER_PAGE:
        raise answers.limit_exceeded("per_page", MAX_PER_PAGE)
    token = query.get("page_token")
    if token is None:
        start = (_number(query, "page", 1) - 1) * per_page
        if start + per_page > MAX_WITHOUT_TOKEN:
            raise answers.limit_exceeded("page", MAX_WITHOUT_TOKEN)
    elif "page" in query or not token.removeprefix(TOKEN_PREFIX).isdigit():
        raise answers.refuse(400, "INVALID_DATA", "invalid data", {"param_name": "page_token"})
    else:
        start = int(token.removeprefix(TOKEN_PREFIX))
    shown = rows[start : start + per_page]
    if not shown:
        return answers.no_content()
    more = start + per_page < len(rows)
    info = {
        "per_page": per_page,
        "count": len(shown),
        "page": start // per_page + 1,
        "more_records": more,
        "next_page_token": f"{TOKEN_PREFIX}{start + per_page}" if more else None,
        "page_token_expiry": None,
    }
    return json_reply(200, {"data": list(shown), "info": info})


def project(record: Mapping[str, Any], fields: str | None) -> dict[str, Any]:
    """
    Give the fields asked for; ``id`` always, a field without a value as null.

    :param fields: names separated by commas, None for all.
    """
    if fields is None:
        return dict(record)
    return {**{name: record.get(name) for name in fields.split(",") if name}, "id": record["id"]}


def _number(query: Mapping[str, str], name: str, default: int) -> int:
    raw = query.get(name, str(default))
    if not raw.isascii() or not raw.isdigit() or int(raw) < 1:
        raise answers.refuse(400, "INVALID_DATA", "invalid data", {"param_name": name})
    return int(raw)
