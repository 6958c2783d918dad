from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoho_crm.testing.local_zoho.wire import parse_external, segments_of


@pytest.mark.parametrize(
    ("path", "segments"),
    [
        ("/crm/v7/Contacts/a%2Fb/Deals/d", ["crm", "v7", "Contacts", "a/b", "Deals", "d"]),
        ("/crm/v7/Contacts//Deals/d", ["crm", "v7", "Contacts", "", "Deals", "d"]),
        ("/crm/v7/Contacts/c/Deals/..", ["crm", "v7", "Contacts", "c"]),
        ("/crm/v7/Contacts/c/Deals/%2e%2E", ["crm", "v7", "Contacts", "c"]),
        ("/crm/v7/Contacts/../Deals/d", ["crm", "v7", "Deals", "d"]),
        ("/crm/v7/Contacts/c/./d", ["crm", "v7", "Contacts", "c", "d"]),
        ("/crm/v7/Contacts/c/Deals/", ["crm", "v7", "Contacts", "c", "Deals"]),
        ("/../../x", ["x"]),
        ("/a+b%20c", ["a+b c"]),
        ("/", []),
    ],
)
def test_path_is_split_before_it_is_decoded(path: str, segments: list[str]) -> None:
    assert segments_of(path.encode()) == segments


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(
        lambda value: value not in {".", ".."}
    )
)
def test_quoted_value_is_one_segment_and_unchanged(value: str) -> None:
    assert segments_of(f"/crm/v7/Contacts/{quote(value, safe='')}/Deals".encode()) == [
        "crm", "v7", "Contacts", value, "Deals",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("header", "fields"),
    [
        ("Contacts.A", {"Contacts": "A"}),
        ("Contacts.A,Deals.B", {"Contacts": "A", "Deals": "B"}),
        ("Deals.B, Contacts.A", {"Contacts": "A", "Deals": "B"}),
        ("Contacts.Account_Name.C,Contacts.A", {"Contacts": "A"}),
        ("nonsense", {}),
    ],
)
def test_external_header(header: str, fields: dict[str, str]) -> None:
    assert parse_external(header) == fields
