"""
Conditions that people write to choose rows of the audit, such as ``zoho_code = 'OK' AND finished_at < '2026-11-22'``.

What a person writes becomes part of a statement, so that it is read word by word: columns, values, comparisons and a
few functions pass, and everything else is refused by name. There is no way to another table, to a second statement or
to a function that does more than compute.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING

from zoho_crm.errors import ZohoConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

MAX_LENGTH = 10_000
MAX_DEPTH = 50

KEYWORDS = frozenset(
    {"and", "or", "not", "in", "like", "between", "is", "null", "true", "false", "escape"}
    | {"case", "when", "then", "else", "end"}
)
FUNCTIONS = frozenset({"abs", "coalesce", "length", "lower", "nullif", "replace", "substr", "trim", "upper"})

_TOKEN = re.compile(
    r"""
      (?P<blank>\s+)
    | (?P<comment>--|/\*|\*/)
    | (?P<value>'(?:[^'\\\x00]|'')*'|\d+(?:\.\d+)?(?![\w.]))
    | (?P<word>[A-Za-z_]\w*)
    | (?P<sign><>|!=|<=|>=|\|\||[=<>(),+\-*/%])
    """,
    re.VERBOSE | re.ASCII,
)


def check_condition(text: str, columns: Collection[str], field: str = "where") -> str:
    """
    Return a condition as it may stand behind ``WHERE``, in parentheses.

    :param text: what a person wrote
    :param columns: names of the columns it may use
    :param field: what it is called where it was written
    :raises ZohoConfigError: it holds something else than columns, values, comparisons and the functions above
    """
    if len(text) > MAX_LENGTH:
        raise ZohoConfigError(f"{field}: is longer than {MAX_LENGTH} characters")
    depth = 0
    tokens = [*_tokens(text, field), ""]
    for token, following in pairwise(tokens):
        depth += {"(": 1, ")": -1}.get(token, 0)
        if not 0 <= depth <= MAX_DEPTH:
            raise ZohoConfigError(f"{field}: the parentheses do not match, or are nested too deeply")
        if token[0].isalpha() or token[0] == "_":
            _check_word(token.lower(), following, columns, field)
    if depth:
        raise ZohoConfigError(f"{field}: a parenthesis is not closed")
    if len(tokens) == 1:
        raise ZohoConfigError(f"{field}: is empty")
    return f"({text.strip()})"


def _tokens(text: str, field: str) -> Iterator[str]:
    place = 0
    while place < len(text):
        match = _TOKEN.match(text, place)
        if match is None or match.lastgroup == "comment":
            found = text[place : place + 2] if match else text[place]
            raise ZohoConfigError(
                f"{field}: {found!r} at character {place + 1} does not belong into a condition on the columns of "
                "zoho_delink_latest: write it like zoho_code = 'SUCCESS' AND finished_at < '2026-11-22'"
            )
        if match.lastgroup != "blank":
            yield match[0]
        place = match.end()


def _check_word(word: str, following: str, columns: Collection[str], field: str) -> None:
    if word in KEYWORDS:
        return
    known = FUNCTIONS if following == "(" else columns
    if word not in known:
        what = "function that may be used" if following == "(" else "column of zoho_delink_latest"
        raise ZohoConfigError(f"{field}: {word} is no {what}; there are: {', '.join(sorted(known))}")
