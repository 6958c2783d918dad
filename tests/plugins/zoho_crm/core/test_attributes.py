from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoho_crm.core.attributes import NO_ATTRIBUTES, sendable_attributes, snapshot_of
from zoho_crm.core.links import Relation
from zoho_crm.errors import UnsafeRequestError

RELATION = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
ROLE = {"name": "Buyer", "id": "4876876000000006873"}


@pytest.mark.parametrize(
    ("record", "kept"),
    [
        pytest.param({"id": "1", "Contact_Role": ROLE, "Other": 1}, {"Contact_Role": ROLE}, id="lookup"),
        pytest.param({"id": "1", "Contact_Role": None}, {}, id="null"),
        pytest.param({"id": "1"}, {}, id="nothing"),
        pytest.param({"id": "1", "Member_Status": "ä 🦄"}, {"Member_Status": "ä 🦄"}, id="text"),
        pytest.param({"id": "1", "Member_Status": ""}, {"Member_Status": ""}, id="empty-text"),
        pytest.param({"id": "1", "Member_Status": False}, {"Member_Status": False}, id="false"),
    ],
)
def test_keeps_the_fields_asked_for_as_they_came(record: dict[str, Any], kept: dict[str, Any]) -> None:
    text = snapshot_of(record, ("Contact_Role", "Member_Status"))
    assert json.loads(text) == kept
    assert text.isascii()
    assert (text == NO_ATTRIBUTES) is (kept == {})


def test_the_same_attributes_are_the_same_text() -> None:
    one = snapshot_of({"b": 1, "a": {"y": 1, "x": 2}}, ("b", "a"))
    assert one == snapshot_of({"a": {"x": 2, "y": 1}, "b": 1}, ("a", "b")) == '{"a":{"x":2,"y":1},"b":1}'


@pytest.mark.parametrize(
    ("snapshot", "sent"),
    [
        pytest.param(None, {}, id="none"),
        pytest.param("{}", {}, id="empty"),
        pytest.param(json.dumps({"Contact_Role": ROLE}), {"Contact_Role": ROLE["id"]}, id="lookup"),
        pytest.param('{"Contact_Role": "7"}', {"Contact_Role": "7"}, id="text"),
        pytest.param('{"Contact_Role": null}', {}, id="null"),
        pytest.param('{"Place": {"city": "x"}}', {"Place": {"city": "x"}}, id="object-without-id"),
        pytest.param('{"id": "1", "ID": "1", "Contact_Role": "7"}', {"Contact_Role": "7"}, id="record-id"),
        pytest.param(
            '{"External_Contact_ID": "x", "External_Deal_ID": "y", "external_deal_id": "z"}',
            {},
            id="external-ids",
        ),
        pytest.param('{"$approved": true, "a b": 1, "": 2, "Note": 3}', {"Note": 3}, id="no-field-names"),
    ],
)
def test_sends_back_attributes_and_never_an_id(snapshot: str | None, sent: dict[str, Any]) -> None:
    assert sendable_attributes(snapshot, RELATION) == sent


@pytest.mark.parametrize("snapshot", ["", "[]", "1", "null", "{", '{"a": 1, "a": 2}', "sha256:00"])
def test_refuses_what_is_no_object(snapshot: str) -> None:
    with pytest.raises(UnsafeRequestError, match="Nothing was sent"):
        sendable_attributes(snapshot, RELATION)


@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z][A-Za-z0-9_]{0,9}", fullmatch=True),
        st.one_of(
            st.text(), st.integers(), st.booleans(), st.fixed_dictionaries({"id": st.text(min_size=1)})
        ),
    )
)
def test_what_is_kept_is_what_is_sent_back(record: dict[str, Any]) -> None:
    sent = sendable_attributes(snapshot_of(record, tuple(record)), RELATION)
    ids = {"id", "external_contact_id", "external_deal_id"}
    assert sent == {
        name: value["id"] if isinstance(value, dict) else value
        for name, value in record.items()
        if name.lower() not in ids
    }
