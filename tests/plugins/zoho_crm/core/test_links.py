from __future__ import annotations

import dataclasses
import hashlib
import json
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from zoho_crm.core.links import (
    DOCUMENTED_RELATIONS,
    NO_ATTRIBUTES,
    Link,
    PairKeys,
    Relation,
    check_api_name,
    external_id_fault,
    link_fault,
    pair_key,
    sendable_attributes,
    snapshot_of,
    storable_text,
    to_external_id,
)
from zoho_crm.errors import UnsafeRequestError, ZohoConfigError

RELATION = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")

SENDABLE = {
    "plain": "extcontact3",
    "digits": "583472934",
    "one character": "a",
    "zero": "0",
    "255 characters": "x" * 255,
    "255 characters of four bytes": "\U0001f600" * 255,
    "blank inside": "a b",
    "three dots": "...",
    "dot before": ".a",
    "dot after": "a.",
    "percent": "100%",
    "slash inside": "a/b",
    "dots within a part": "a..b/c",
    "slash": "a/b",
    "backslash": "C:\\x",
    "query": "a?b=c&d",
    "fragment": "a#b",
    "semicolon": "a;b",
    "comma": "a,b",
    "plus": "a+b",
    "quotes": "'; DROP TABLE x; --\"",
    "tilde": "~",
    "first printable": "!",
    "last before DEL": "~",
    "just after C1 controls": "a\u00a0b",
    "soft hyphen": "a\u00adb",
    "last before surrogates": "\ud7ff",
    "first after surrogates": "\ue000",
    "highest code point": "\U0010ffff",
    "arabic digits": "\u0661\u0662",
    "composed": "\u00e9",
    "decomposed": "e\u0301",
}

FAULTY: dict[str, tuple[object, str]] = {
    "none": (None, "is missing"),
    "int": (7, "is not text but int"),
    "float": (7.0, "is not text but float"),
    "bool": (True, "is not text but bool"),
    "bytes": (b"a", "is not text but bytes"),
    "decimal": (Decimal("1.5"), "is not text but Decimal"),
    "list": (["a"], "is not text but list"),
    "empty": ("", "is blank"),
    "blank": (" ", "is blank"),
    "many blanks": (" \t\n\u3000\u00a0", "is blank"),
    "too many blanks": (" " * 256, "is blank"),
    "256 characters": ("x" * 256, "is longer than 255 characters (256)"),
    "256 emoji": ("\U0001f600" * 256, "is longer than 255 characters (256)"),
    "dot": (".", "holds a dot segment or a slash at an end, which could change the address"),
    "dots": ("..", "holds a dot segment or a slash at an end, which could change the address"),
    "percent-encoded dots": (
        "%2e%2e",
        "holds a dot segment or a slash at an end, which could change the address",
    ),
    "dots encoded twice": (
        "%252e%252e",
        "holds a dot segment or a slash at an end, which could change the address",
    ),
    "way up": ("../x", "holds a dot segment or a slash at an end, which could change the address"),
    "way up at the end": (
        "x/../..",
        "holds a dot segment or a slash at an end, which could change the address",
    ),
    "way up with a backslash": (
        "..\\x",
        "holds a dot segment or a slash at an end, which could change the address",
    ),
    "path parameter after dots": (
        "..;x",
        "holds a dot segment or a slash at an end, which could change the address",
    ),
    "slash first": ("/a", "holds a dot segment or a slash at an end, which could change the address"),
    "slash last": ("a/", "holds a dot segment or a slash at an end, which could change the address"),
    "encoded slash last": (
        "a%2F",
        "holds a dot segment or a slash at an end, which could change the address",
    ),
    "full-width dots": (
        "\uff0e\uff0e",
        "holds a dot segment or a slash at an end, which could change the address",
    ),
    "two-dot leader": ("\u2025", "holds a dot segment or a slash at an end, which could change the address"),
    "dot leader and full-width slash": (
        "\u2024\uff0fx",
        "holds a dot segment or a slash at an end, which could change the address",
    ),
    "full-width backslash last": (
        "x\uff3c",
        "holds a dot segment or a slash at an end, which could change the address",
    ),
    "encoded full-width dots": (
        "%EF%BC%8E%EF%BC%8E",
        "holds a dot segment or a slash at an end, which could change the address",
    ),
    "full-width percent sign": (
        "\uff052e",
        "holds a dot segment or a slash at an end, which could change the address",
    ),
    "nul": ("a\x00b", "holds the control character U+0000"),
    "carriage return": ("a\r\nb", "holds the control character U+000D"),
    "line feed at the end": ("a\n", "holds the control character U+000A"),
    "last C0 control": ("a\x1fb", "holds the control character U+001F"),
    "delete": ("a\x7fb", "holds the control character U+007F"),
    "first C1 control": ("a\x80b", "holds the control character U+0080"),
    "zero-width space": ("a\u200bb", "holds the invisible character U+200B"),
    "zero-width joiner": ("a\u200db", "holds the invisible character U+200D"),
    "right to left": ("\u202ea", "holds the invisible character U+202E"),
    "isolate": ("a\u2066b\u2069", "holds the invisible character U+2066"),
    "byte order mark": ("\ufeffa", "holds the invisible character U+FEFF"),
    "last C1 control": ("a\x9fb", "holds the control character U+009F"),
    "first surrogate": ("a\ud800", "holds the lone surrogate U+D800"),
    "last surrogate": ("\udfffa", "holds the lone surrogate U+DFFF"),
    "blank before": (" a", "has leading or trailing spaces"),
    "blank after": ("a ", "has leading or trailing spaces"),
    "blank before dots": (" ..", "has leading or trailing spaces"),
    "no-break space after": ("a\u00a0", "has leading or trailing spaces"),
    "line separator before": ("\u2028a", "has leading or trailing spaces"),
}


@pytest.mark.parametrize("value", SENDABLE.values(), ids=list(SENDABLE))
def test_external_id_has_no_fault_when_it_can_be_quoted(value: str) -> None:
    assert external_id_fault(value) is None


@pytest.mark.parametrize(("value", "fault"), FAULTY.values(), ids=list(FAULTY))
def test_external_id_fault_says_why_when_value_cannot_be_sent(value: object, fault: str) -> None:
    assert external_id_fault(value) == fault


@pytest.mark.parametrize(
    ("external_id", "related_external_id", "fault"),
    [
        pytest.param("a", "b", None, id="none"),
        pytest.param(
            "..",
            "b",
            "external_id holds a dot segment or a slash at an end, which could change the address",
            id="parent",
        ),
        pytest.param("a", "", "related_external_id is blank", id="related"),
        pytest.param(None, ".", "external_id is missing", id="both: parent first"),
    ],
)
def test_link_fault_names_the_id_at_fault(
    external_id: object, related_external_id: object, fault: str | None
) -> None:
    assert link_fault(external_id, related_external_id) == fault


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(0, "0", id="zero"),
        pytest.param(-7, "-7", id="negative"),
        pytest.param(2**70, "1180591620717411303424", id="beyond 64 bits"),
        pytest.param(10**254, "1" + "0" * 254, id="255 digits"),
        pytest.param(1 - 10**255, "-" + "9" * 255, id="255 digits and a sign"),
        pytest.param(Decimal(583472934), "583472934", id="decimal"),
        pytest.param(Decimal("1.00"), "1", id="decimal with zeros behind the point"),
        pytest.param(Decimal("1E+3"), "1000", id="decimal with an exponent"),
        pytest.param(Decimal("1E+254"), "1" + "0" * 254, id="decimal of 255 digits"),
        pytest.param(Decimal("-5.0"), "-5", id="negative decimal"),
        pytest.param(Decimal("-0"), "0", id="negative zero"),
        pytest.param(Decimal("0E-10"), "0", id="zero with an exponent"),
        pytest.param(
            Decimal("123456789012345678901234567890.0"),
            "123456789012345678901234567890",
            id="decimal beyond the default precision",
        ),
        pytest.param(
            UUID("8F14E45F-CEEA-467A-9575-1B1D1F1E1D1C"), "8f14e45f-ceea-467a-9575-1b1d1f1e1d1c", id="uuid"
        ),
        pytest.param(" as it is ", " as it is ", id="text"),
    ],
)
def test_as_external_id_gives_text_when_it_is_exact(value: object, text: str) -> None:
    assert to_external_id(value) == text
    assert type(to_external_id(value)) is str


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(True, id="true"),
        pytest.param(False, id="false"),
        pytest.param(7.0, id="float"),
        pytest.param(float("nan"), id="float nan"),
        pytest.param(Decimal("1.5"), id="decimal with a fraction"),
        pytest.param(Decimal("123456789012345678901234567890.5"), id="long decimal with a fraction"),
        pytest.param(Decimal("1E-7"), id="small decimal"),
        pytest.param(Decimal("NaN"), id="decimal nan"),
        pytest.param(Decimal("sNaN"), id="decimal signalling nan"),
        pytest.param(Decimal("Infinity"), id="decimal infinity"),
        pytest.param(Decimal("1E+255"), id="decimal of 256 digits"),
        pytest.param(Decimal("1E+999999999999"), id="decimal of more digits than memory holds"),
        pytest.param(10**255, id="256 digits"),
        pytest.param(-(10**255), id="256 digits and a sign"),
        pytest.param(10**5000, id="more digits than Python writes out"),
        pytest.param(b"a", id="bytes"),
        pytest.param(None, id="none"),
    ],
)
def test_as_external_id_leaves_a_value_without_exact_text_to_be_refused(value: object) -> None:
    assert to_external_id(value) is value
    assert external_id_fault(value) is not None


class _Mute:
    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        pytest.param(None, "", id="none"),
        pytest.param("", "", id="empty"),
        pytest.param(" a ", " a ", id="blanks stay"),
        pytest.param("a\x00b", "a\\u0000b", id="nul"),
        pytest.param("a\r\nb", "a\\u000d\\u000ab", id="line end"),
        pytest.param("\x7f\x9f", "\\u007f\\u009f", id="delete and C1"),
        pytest.param("\ud800\udfff", "\\ud800\\udfff", id="surrogates"),
        pytest.param("e\u0301\U0001f600", "e\u0301\U0001f600", id="other text as it is"),
        pytest.param(1.5, "1.5", id="float"),
        pytest.param(True, "True", id="bool"),
        pytest.param("x" * 300, "x" * 255, id="long"),
        pytest.param("\x00" * 300, ("\\u0000" * 43)[:255], id="long once escaped"),
        pytest.param(10**5000, "<int>", id="more digits than Python writes out"),
        pytest.param(_Mute(), "<_Mute>", id="no text at all"),
    ],
)
def test_storable_text_writes_what_any_database_can_hold(value: object, text: str) -> None:
    assert storable_text(value) == text


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=300))
def test_storable_text_is_always_storable(value: str) -> None:
    text = storable_text(value)
    assert len(text) <= 255
    assert all(char >= " " for char in text)
    assert text.encode("utf-8").decode("utf-8") == text


@pytest.mark.parametrize(
    "name", ["A", "z", "Contacts", "External_Contact_ID", "Services__s", "A1_", "a" * 100]
)
def test_check_api_name_returns_a_good_name(name: str) -> None:
    assert check_api_name("module", name) == name


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("", id="empty"),
        pytest.param("a" * 101, id="101 characters"),
        pytest.param("1a", id="digit first"),
        pytest.param("_a", id="underscore first"),
        pytest.param("Contacts\n", id="newline at the end"),
        pytest.param("\nContacts", id="newline first"),
        pytest.param(" Contacts", id="blank first"),
        pytest.param("Con tacts", id="blank inside"),
        pytest.param("K\u00f6nig", id="umlaut"),
        pytest.param("\u0410bc", id="cyrillic first letter"),
        pytest.param("A\u0661", id="arabic digit"),
        pytest.param("a.b", id="dot"),
        pytest.param("a/b", id="slash"),
        pytest.param("a,b", id="comma"),
        pytest.param("a%41", id="percent"),
        pytest.param("a-b", id="hyphen"),
        pytest.param("a\r\nX-Evil: 1", id="header"),
        pytest.param("a\x00", id="nul"),
        pytest.param(None, id="none"),
        pytest.param(7, id="int"),
        pytest.param(b"Contacts", id="bytes"),
    ],
)
def test_check_api_name_refuses_what_is_no_api_name(name: object) -> None:
    with pytest.raises(ZohoConfigError) as caught:
        check_api_name("related_list", name)
    assert str(caught.value) == (
        f"related_list {name!r} is not an API name of Zoho CRM: a letter, then letters, digits and underscores"
    )


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Relation)])
def test_relation_checks_each_of_its_names(field: str) -> None:
    with pytest.raises(ZohoConfigError, match=f"^{field} 'a/b' is not an API name"):
        dataclasses.replace(RELATION, **{field: "a/b"})


@pytest.mark.parametrize("field", ["related_list", "related_module"])
@pytest.mark.parametrize(
    "name",
    [
        "Notes",
        "notes",
        "NOTES",
        "nOtEs",
        "Attachments",
        "ATTACHMENTS",
        "Locking_Information__s",
        "locking_information__S",
    ],
)
def test_relation_refuses_lists_whose_entries_would_be_deleted(field: str, name: str) -> None:
    with pytest.raises(ZohoConfigError) as caught:
        dataclasses.replace(RELATION, **{field: name})
    assert str(caught.value) == (
        f"{field} {name!r} is refused: its records exist only under their parent record, "
        "so a delink would delete them"
    )


@pytest.mark.parametrize("name", ["Notes1", "My_Notes", "Attachments_2", "Locking_Information"])
def test_relation_allows_lists_that_only_resemble_refused_ones(name: str) -> None:
    assert dataclasses.replace(RELATION, related_list=name).related_list == name


def test_relation_names_both_fields_in_the_header_parent_first() -> None:
    relation = Relation("Leads", "Ext_L", "Entity_Cadences_leads", "Entity_Cadences__s", "Ext_C")
    assert relation.x_external == "Leads.Ext_L,Entity_Cadences__s.Ext_C"


def test_relation_reads_as_a_person_would_write_it() -> None:
    assert str(RELATION) == "Contacts.External_Contact_ID -> Deals (Deals.External_Deal_ID)"


def test_relation_and_link_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RELATION.module = "Leads"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Link("a", "b").external_id = "c"  # type: ignore[misc]


DOCUMENTED = {
    ("Appointments", "Services"): "Services",
    ("Appointments__s", "Services__s"): "Services__s",
    ("Campaigns", "Contacts"): "Contacts",
    ("Campaigns", "Leads"): "Leads",
    ("Contacts", "Deals"): "Deals",
    ("Deals", "Contact_Roles"): "Contacts",
    ("Products", "Accounts"): "Accounts",
    ("Products", "Contacts"): "Contacts",
    ("Products", "Deals"): "Deals",
    ("Products", "Leads"): "Leads",
    ("Products", "Price_Books"): "Price_Books",
}


def test_documented_relations_are_those_of_the_documentation() -> None:
    assert DOCUMENTED_RELATIONS == DOCUMENTED


@pytest.mark.parametrize(
    ("module", "related_list", "related_module"),
    [(*names, related_module) for names, related_module in sorted(DOCUMENTED.items())],
)
def test_documented_relation_is_known_as_such(module: str, related_list: str, related_module: str) -> None:
    assert Relation(module, "Ext_A", related_list, related_module, "Ext_B").is_documented


@pytest.mark.parametrize(
    ("module", "related_list", "related_module"),
    [
        ("Accounts", "Contacts", "Contacts"),
        ("Leads", "Campaigns", "Campaigns"),
        ("contacts", "Deals", "Deals"),
        ("Contacts", "DEALS", "Deals"),
        ("Contacts", "Deals", "Leads"),
        ("Deals", "Contact_Roles", "Contact_Roles"),
        ("Deals", "Contacts", "Contacts"),
        ("Contacts", "Deals_X", "Deals"),
    ],
)
def test_other_relation_is_not_documented(module: str, related_list: str, related_module: str) -> None:
    assert not Relation(module, "Ext_A", related_list, related_module, "Ext_B").is_documented


def test_pair_key_never_changes() -> None:
    # Computed once separately: SHA-256 over the seven parts in UTF-8, each after its length as four bytes, big-endian.
    golden = "0af38a0c785c2f35d4a1263a6c22a3cc258210c4012b02e36edf551188e118cb"
    assert pair_key(RELATION, "c-1", "d-\u00e9") == golden
    assert PairKeys(RELATION).of("c-1", "d-\u00e9") == golden


def test_pair_keys_may_be_asked_again_and_in_any_order() -> None:
    keys = PairKeys(RELATION)
    first = keys.of("a", "b")
    assert keys.of("b", "a") != first
    assert keys.of("a", "b") == first == pair_key(RELATION, "a", "b")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        pytest.param(("ab", "c"), ("a", "bc"), id="boundary moved"),
        pytest.param(("a|b", "c"), ("a", "b|c"), id="separator"),
        pytest.param(("a,b", "c"), ("a", "b,c"), id="comma"),
        pytest.param(("a\x00b", "c"), ("a", "b\x00c"), id="nul"),
        pytest.param(("a", "b"), ("b", "a"), id="swapped"),
        pytest.param(("ab", ""), ("", "ab"), id="one empty"),
        pytest.param(
            ("a\x00\x00\x00\x01b", "c"), ("a", "b\x00\x00\x00\x01c"), id="text that looks like a length"
        ),
        pytest.param(("\u00e9", "x"), ("e\u0301", "x"), id="composed and decomposed"),
        pytest.param(("A", "x"), ("a", "x"), id="case"),
        pytest.param(("1", "x"), ("01", "x"), id="leading zero"),
        pytest.param(("\ud800", "x"), ("?", "x"), id="surrogate"),
        pytest.param(("\ud83d\ude00", "x"), ("\U0001f600", "x"), id="surrogate pair"),
    ],
)
def test_pair_key_differs_when_ids_differ(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert pair_key(RELATION, *one) != pair_key(RELATION, *other)


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Relation)])
def test_pair_key_differs_when_any_name_of_the_relation_differs(field: str) -> None:
    other = dataclasses.replace(RELATION, **{field: "Other"})
    assert pair_key(other, "a", "b") != pair_key(RELATION, "a", "b")


def test_pair_key_differs_when_names_run_into_each_other() -> None:
    one = Relation("Aa", "B", "C", "D", "E")
    other = Relation("A", "aB", "C", "D", "E")
    assert pair_key(one, "a", "b") != pair_key(other, "a", "b")


_any_text = st.text(st.characters(exclude_categories=()), max_size=8)
_names = st.sampled_from(["A", "AA", "AAA", "B", "AB", "A_1"])
_seven = st.tuples(_names, _names, _names, _names, _names, _any_text, _any_text)


def _key(parts: tuple[str, ...]) -> str:
    key = pair_key(Relation(*parts[:5]), *parts[5:])
    assert PairKeys(Relation(*parts[:5])).of(*parts[5:]) == key
    return key


@settings(max_examples=200, deadline=None)
@given(_seven, _seven)
def test_distinct_links_have_distinct_keys(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    assume(one != other)
    assert _key(one) != _key(other)


@settings(max_examples=100, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=6), st.integers(0, 6), st.integers(0, 6))
def test_the_same_text_cut_elsewhere_has_another_key(text: str, cut: int, other_cut: int) -> None:
    one, other = (text[:cut], text[cut:]), (text[:other_cut], text[other_cut:])
    assume(one != other)
    assert pair_key(RELATION, *one) != pair_key(RELATION, *other)


@settings(max_examples=100, deadline=None)
@given(_any_text, _any_text)
def test_pair_key_is_the_hash_it_is_documented_to_be(external_id: str, related_external_id: str) -> None:
    digest = hashlib.sha256()
    for part in (*dataclasses.astuple(RELATION), external_id, related_external_id):
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(bytes([0, 0, 0, len(raw)]) + raw)
    assert pair_key(RELATION, external_id, related_external_id) == digest.hexdigest()


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_categories=()), max_size=260))
def test_an_id_without_fault_survives_utf8_and_is_no_dot_segment(value: str) -> None:
    if external_id_fault(value) is None:
        assert value.encode("utf-8").decode("utf-8") == value
        assert value.strip() == value != ""
        assert value not in {".", ".."}
        assert len(value) <= 255
        assert storable_text(value) == value


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
