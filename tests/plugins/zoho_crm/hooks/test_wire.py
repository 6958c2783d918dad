"""For any ids at all, what hook and async client put on the wire is the one call that was meant, or nothing."""

from __future__ import annotations

import json
import string
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from zoho_crm.core.links import Link
from zoho_crm.core.request import delete_related, put_related
from zoho_crm.errors import UnsafeRequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.core.links import Relation
    from zoho_crm.hooks.zoho_response import ZohoResponse

UNRESERVED = set((string.ascii_letters + string.digits + "-._~").encode())
NASTY = [
    "/",
    "\\",
    "?",
    "#",
    "%",
    "%2F",
    "%2e%2e",
    ";",
    "&",
    "=",
    "+",
    " ",
    "..",
    ".",
    "../",
    "@",
    ":",
    "//",
    "\r\n",
    "\x00",
    "ä",
    "🦄",
]
IDS = st.one_of(
    st.text(max_size=20),
    st.lists(st.sampled_from(NASTY), max_size=4).map("".join),
    st.lists(st.sampled_from([*NASTY, "a", "1"]), min_size=1, max_size=6).map("".join),
    # The others are refused more often than sent.
    st.text("ab1/?#%.:;äß🦄", min_size=3, max_size=20),
)


def percent_encoded(text: str) -> str:
    return "".join(chr(byte) if byte in UNRESERVED else f"%{byte:02X}" for byte in text.encode())


def test_any_ids(zoho: Any, send: Callable[[Any], ZohoResponse], relation: Relation) -> None:
    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(external_id=IDS, related_external_id=IDS)
    @example("..", "..")
    @example("c-1", "..")
    @example("c-1", ".")
    @example("%2E%2E", "%2e")
    @example("a/../../Deals", "1")
    @example("a?b", "a#b")
    @example("", "d-1")
    @example("ä" * 255, "🦄" * 255)
    def check(external_id: str, related_external_id: str) -> None:
        before = len(zoho.seen)
        try:
            one = delete_related("v7", relation, Link(external_id, related_external_id))
        except UnsafeRequestError:
            assert len(zoho.seen) == before
            return
        assert send(one).status == 200
        (seen,) = zoho.seen[before:]
        expected = (
            f"/crm/v7/Contacts/{percent_encoded(external_id)}/Deals/{percent_encoded(related_external_id)}"
        )
        assert seen.line == f"DELETE {expected} HTTP/1.1"
        assert seen.header("X-EXTERNAL") == relation.x_external
        assert seen.header("Host") == f"127.0.0.1:{zoho.port}"

    check()
    assert len(zoho.seen) > 10


ATTRIBUTES = st.dictionaries(
    st.sampled_from(["Contact_Role", "Member_Status"]), st.one_of(st.none(), st.booleans(), IDS), max_size=2
)


def test_any_ids_and_attributes_of_a_link_that_is_relinked(
    zoho: Any, send: Callable[[Any], ZohoResponse], relation: Relation
) -> None:
    @settings(max_examples=100, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(external_id=IDS, related_external_id=IDS, attributes=ATTRIBUTES)
    @example("..", "d-1", {})
    @example("c-1", "..", {})
    @example("c-1/Deals/d-1", "d-1", {})
    @example("c-1", "d-1?x#y", {"Contact_Role": "7\r\nX-EXTERNAL: Deals.id"})
    @example("ä" * 255, "🦄" * 255, {"Contact_Role": "\ud800"})
    def check(external_id: str, related_external_id: str, attributes: dict[str, Any]) -> None:
        before = len(zoho.seen)
        try:
            one = put_related("v7", relation, Link(external_id, related_external_id), attributes)
        except UnsafeRequestError:
            assert len(zoho.seen) == before
            return
        assert send(one).status == 200
        (seen,) = zoho.seen[before:]
        assert seen.line == f"PUT /crm/v7/Contacts/{percent_encoded(external_id)}/Deals HTTP/1.1"
        assert seen.header("X-EXTERNAL") == relation.x_external
        assert seen.header("Content-Type") == "application/json"
        assert seen.header("Host") == f"127.0.0.1:{zoho.port}"
        assert seen.header("Content-Length") == str(len(seen.body))
        assert seen.body == one.body
        assert json.loads(seen.body) == {"data": [{"External_Deal_ID": related_external_id, **attributes}]}

    check()
    assert len(zoho.seen) > 10
