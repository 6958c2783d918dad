"""The one ``{code, details, message, status}`` of an answer of Zoho, wherever it stands."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class ResponseItem:
    """
    What Zoho says about a call. Zoho writes it in ``data[]`` or at the top level, on errors as on successes.

    :param code: as text, even where it is a number; empty if there is none
    """

    code: str
    status: str
    message: str
    details: Mapping[str, Any]

    @property
    def record_id(self) -> str | None:
        """``details.id``, as text even where it is a number."""
        value = self.details.get("id")
        return str(value) if _is_text_or_number(value) else None

    @property
    def says_success(self) -> bool:
        """Whether it is a success of a link, unmistakably."""
        return self.status == "success" and self.code == "SUCCESS"

    @property
    def says_error(self) -> bool:
        """Whether it is an error, unmistakably."""
        return self.status != "success" and self.code not in {"", "SUCCESS"}

    @property
    def path_index(self) -> int | None:
        """Which part of the path an error is about: 0 module, 1 parent, 2 related list, 3 related record."""
        index = self.details.get("resource_path_index")
        return index if isinstance(index, int) and not isinstance(index, bool) else None

    @property
    def is_about_the_relation(self) -> bool:
        """Whether an error is about module or related list, and so about every link of the relation."""
        return "relation name" in self.message.lower() or self.path_index in {0, 2}


def parse_response_item(body: bytes) -> ResponseItem | None:
    """
    Return the one entry of an answer; None if there is not just one, or if the body cannot be read.

    A success stands in ``data[]`` alone: one at the top level tells nothing about a link, and counts as none.
    """
    answer = json_object(body)
    if answer is None:
        return None
    entry = _entry(answer)
    if "data" not in answer:
        return None if entry.says_success else entry
    if entry.says_error or entry.status == "error":
        return None
    data = answer["data"]
    if not isinstance(data, list) or len(data) != 1 or not isinstance(data[0], Mapping):
        return None
    return _entry(data[0])


def parse_response_items(body: bytes) -> list[ResponseItem] | None:
    """Return the entries in ``data[]`` of an answer about several links; None if they cannot be read."""
    answer = json_object(body)
    if answer is None or "data" not in answer:
        return None
    whole, data = _entry(answer), answer["data"]
    if whole.says_error or whole.status == "error" or not isinstance(data, list) or not data:
        return None
    if not all(isinstance(one, Mapping) for one in data):
        return None
    return [_entry(one) for one in data]


def json_object(body: bytes) -> Mapping[str, Any] | None:
    """Return a body that is a JSON object, None for any other."""
    try:
        answer = json.loads(body, object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        return None
    return answer if isinstance(answer, Mapping) else None


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse an object that says the same thing twice: which of the two would count is anybody's guess."""
    answer = dict(pairs)
    if len(answer) != len(pairs):
        raise ValueError("a key occurs twice")
    return answer


def _entry(raw: Mapping[str, Any]) -> ResponseItem:
    code = raw.get("code", "")
    if not isinstance(code, str):
        # An older form: {"code": 429, "error": "TOO_MANY_REQUESTS", "error_info": "..."}
        error = raw.get("error")
        code = error if isinstance(error, str) else code
    status = raw.get("status")
    message = raw.get("message", raw.get("error_info", ""))
    details = raw.get("details")
    return ResponseItem(
        code=str(code) if _is_text_or_number(code) else "",
        status=status if isinstance(status, str) else "",
        message=message if isinstance(message, str) else "",
        details=details if isinstance(details, Mapping) else {},
    )


def _is_text_or_number(value: object) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool)
