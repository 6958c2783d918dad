from __future__ import annotations

import dataclasses
import json
import posixpath
from urllib.parse import quote, unquote, urljoin, urlsplit

import pytest
import requests
from hypothesis import example, given, settings
from hypothesis import strategies as st
from urllib3.util import parse_url
from yarl import URL

from zoho_crm.core.links import Link, Relation
from zoho_crm.core.request import (
    MAX_IDS,
    MAX_IDS_LENGTH,
    ZohoRequest,
    delete_related,
    get_record,
    get_related,
    get_setting,
    id_lists,
    list_related,
    put_related,
)
from zoho_crm.core.request_guard import check_prepared_request
from zoho_crm.errors import UnsafeRequestError, ZohoConfigError

BASE = "https://www.zohoapis.eu"
RELATION = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
HEADERS = {"X-EXTERNAL": "Contacts.External_Contact_ID,Deals.External_Deal_ID"}

QUOTED = {
    "plain": ("extcontact3", "extcontact3"),
    "unreserved": ("Az09-_.~", "Az09-_.~"),
    "dot before": (".a", ".a"),
    "dots before": ("..a", "..a"),
    "dots after": ("a..", "a.."),
    "three dots": ("...", "..."),
    "slash": ("a/b", "a%2Fb"),
    "two slashes": ("a//b", "a%2F%2Fb"),
    "address": ("https://x.example:1/y", "https%3A%2F%2Fx.example%3A1%2Fy"),
    "encoded letter": ("%41", "%2541"),
    "percent alone": ("%", "%25"),
    "percent at the end": ("100%", "100%25"),
    "half an escape": ("%2", "%252"),
    "no escape": ("%zz", "%25zz"),
    "encoded nul": ("%00", "%2500"),
    "question mark": ("a?b=c", "a%3Fb%3Dc"),
    "hash": ("a#b", "a%23b"),
    "semicolon": ("a;b", "a%3Bb"),
    "backslash": ("C:\\x", "C%3A%5Cx"),
    "comma": ("a,b", "a%2Cb"),
    "plus": ("a+b", "a%2Bb"),
    "blank": ("a b", "a%20b"),
    "ampersand": ("a&b", "a%26b"),
    "equals": ("a=b", "a%3Db"),
    "colon": ("a:b", "a%3Ab"),
    "at": ("user:pw@x", "user%3Apw%40x"),
    "star": ("*", "%2A"),
    "dollar": ("$a", "%24a"),
    "exclamation": ("a!", "a%21"),
    "brackets": ("[a](b){c}<d>", "%5Ba%5D%28b%29%7Bc%7D%3Cd%3E"),
    "quotes": ("'a'\"b\"`c`", "%27a%27%22b%22%60c%60"),
    "pipe and caret": ("a|b^c", "a%7Cb%5Ec"),
    "braces of a template": ("{{x}}${y}", "%7B%7Bx%7D%7D%24%7By%7D"),
    "composed": ("\u00e9", "%C3%A9"),
    "decomposed": ("e\u0301", "e%CC%81"),
    "emoji": ("\U0001f600", "%F0%9F%98%80"),
    "full-width slash": ("a\uff0fb", "a%EF%BC%8Fb"),
    "no-break space": ("a\u00a0b", "a%C2%A0b"),
    "line separator": ("a\u2028b", "a%E2%80%A8b"),
    "non-character": ("\uffff", "%EF%BF%BF"),
    "255 characters": ("x" * 255, "x" * 255),
    "255 emoji": ("\U0001f600" * 255, "%F0%9F%98%80" * 255),
}

UNSENDABLE = {
    "zero-width space": "a\u200bb",
    "right to left": "\u202ea",
    "byte order mark": "\ufeffa",
    "empty": "",
    "blank": " ",
    "dot": ".",
    "dots": "..",
    "only a slash": "/",
    "slash first": "/a",
    "slash last": "a/",
    "network path": "//x.example",
    "way up": "../x",
    "way up at the end": "x/..",
    "way up in the middle": "x/../y",
    "way up with a backslash": "..\\x",
    "encoded dots": "%2e%2e",
    "encoded dots and slash": "%2E%2E%2Fx",
    "encoded twice": "%252e%252e",
    "path parameter after dots": "..;x",
    "full-width dots": "\uff0e\uff0e",
    "one-dot leaders": "\u2024\u2024",
    "dots and a blank": ".. ",
    "CRLF": "a\r\nX-Evil: 1",
    "line feed": "..\n",
    "tab": "a\tb",
    "nul": "a\x00",
    "escape": "\x1b[0m",
    "next line": "a\x85b",
    "surrogate": "a\ud800",
    "blank before": " a",
    "blank after": "a ",
    "256 characters": "x" * 256,
}


def _prepared(request: ZohoRequest) -> requests.PreparedRequest:
    return requests.Request(request.method, BASE + request.target, headers=request.headers).prepare()


@pytest.mark.parametrize(("value", "quoted"), QUOTED.values(), ids=list(QUOTED))
def test_delete_quotes_a_hostile_id_wherever_it_stands(value: str, quoted: str) -> None:
    as_parent = delete_related("v7", RELATION, Link(value, "b"))
    assert as_parent.method == "DELETE"
    assert as_parent.target == as_parent.path == f"/crm/v7/Contacts/{quoted}/Deals/b"
    assert as_parent.headers == HEADERS

    as_related = delete_related("v8", RELATION, Link("a", value))
    assert as_related.method == "DELETE"
    assert as_related.target == as_related.path == f"/crm/v8/Contacts/a/Deals/{quoted}"
    assert as_related.headers == HEADERS


@pytest.mark.parametrize(("value", "quoted"), QUOTED.values(), ids=list(QUOTED))
def test_libraries_leave_a_hostile_id_as_it_was_quoted(value: str, quoted: str) -> None:
    request = delete_related("v7", RELATION, Link(value, value))
    path = f"/crm/v7/Contacts/{quoted}/Deals/{quoted}"
    prepared = _prepared(request)
    assert (prepared.url, prepared.path_url) == (BASE + path, path)
    assert URL(BASE + request.target, encoded=True).raw_path_qs == path
    check_prepared_request(request, BASE, method="DELETE", url=str(prepared.url), headers=prepared.headers)


@pytest.mark.parametrize("value", UNSENDABLE.values(), ids=list(UNSENDABLE))
def test_no_request_is_built_when_an_id_cannot_be_sent(value: str) -> None:
    for link in (Link(value, "b"), Link("a", value)):
        with pytest.raises(
            UnsafeRequestError,
            match=r"^This id cannot be sent: (related_)?external_id .*\. Nothing was sent\.$",
        ):
            delete_related("v7", RELATION, link)
        with pytest.raises(UnsafeRequestError):
            get_related("v7", RELATION, link)
    with pytest.raises(UnsafeRequestError):
        list_related("v7", RELATION, value, ["id"])
    with pytest.raises(UnsafeRequestError):
        get_record("v7", "Contacts", "External_Contact_ID", value)


@pytest.mark.parametrize("part", ["", ".", ".."])
def test_no_request_is_built_when_another_part_of_the_path_would_change_it(part: str) -> None:
    message = (
        "^A part of this request's path is empty or a dot segment, which would change the address. "
        "Nothing was sent.$"
    )
    with pytest.raises(UnsafeRequestError, match=message):
        delete_related(part, RELATION, Link("a", "b"))
    with pytest.raises(UnsafeRequestError, match=message):
        get_setting("v7", "settings", part)


def test_a_request_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        delete_related("v7", RELATION, Link("a", "b")).method = "PUT"  # type: ignore[misc]


def test_composed_and_decomposed_ids_stay_two_ids() -> None:
    one = delete_related("v7", RELATION, Link("\u00e9", "b"))
    other = delete_related("v7", RELATION, Link("e\u0301", "b"))
    assert one.path != other.path


def test_path_holds_the_list_and_header_the_module() -> None:
    relation = Relation("Leads", "Ext_L", "Entity_Cadences_leads", "Entity_Cadences__s", "Ext_C")
    request = delete_related("v7", relation, Link("l", "c"))
    assert request.path == "/crm/v7/Leads/l/Entity_Cadences_leads/c"
    assert request.headers == {"X-EXTERNAL": "Leads.Ext_L,Entity_Cadences__s.Ext_C"}


def test_get_related_reads_the_link_that_delete_removes() -> None:
    request = get_related("v7", RELATION, Link("a/b", "c"))
    assert request.method == "GET"
    assert request.path == delete_related("v7", RELATION, Link("a/b", "c")).path
    assert request.target == "/crm/v7/Contacts/a%2Fb/Deals/c?fields=id"
    assert request.headers == HEADERS


@pytest.mark.parametrize(
    ("arguments", "query"),
    [
        pytest.param({}, "fields=id%2CExternal_Deal_ID&page=1&per_page=200", id="first page"),
        pytest.param({"page": 3}, "fields=id%2CExternal_Deal_ID&page=3&per_page=200", id="third page"),
        pytest.param({"per_page": 5}, "fields=id%2CExternal_Deal_ID&page=1&per_page=5", id="small page"),
        pytest.param(
            {"page": 3, "page_token": "a+b/c=&d"},
            "fields=id%2CExternal_Deal_ID&page_token=a%2Bb%2Fc%3D%26d&per_page=200",
            id="token takes the place of the page",
        ),
        pytest.param(
            {"page_token": ""}, "fields=id%2CExternal_Deal_ID&page_token=&per_page=200", id="empty token"
        ),
    ],
)
def test_list_related_asks_for_one_page(arguments: dict[str, object], query: str) -> None:
    request = list_related("v7", RELATION, "a?b", ["id", "External_Deal_ID"], **arguments)  # type: ignore[arg-type]
    assert request.method == "GET"
    assert request.target == f"/crm/v7/Contacts/a%3Fb/Deals?{query}"
    assert request.headers == HEADERS


def test_get_record_asks_by_external_id() -> None:
    request = get_record("v8", "Deals", "External_Deal_ID", "a/b")
    assert request.method == "GET"
    assert request.target == "/crm/v8/Deals/a%2Fb?fields=id"
    assert request.headers == {"X-EXTERNAL": "Deals.External_Deal_ID"}


@pytest.mark.parametrize(
    ("module", "field", "named"),
    [
        pytest.param("Deals/1", "F", "module", id="module"),
        pytest.param("Deals", "F,Contacts.G", "external_field", id="field"),
        pytest.param("Deals", "F\r\nX: 1", "external_field", id="header in the field"),
    ],
)
def test_get_record_refuses_what_is_no_api_name(module: str, field: str, named: str) -> None:
    with pytest.raises(ZohoConfigError, match=f"^{named} "):
        get_record("v7", module, field, "a")


def test_get_setting_names_no_external_id() -> None:
    request = get_setting("v7", "settings", "fields", query=(("module", "Con tacts&x"), ("type", "all")))
    assert request.method == "GET"
    assert request.target == "/crm/v7/settings/fields?module=Con%20tacts%26x&type=all"
    assert request.headers == {}
    assert get_setting("v7", "org").target == "/crm/v7/org"


any_text = st.text(st.characters(exclude_categories=()), max_size=12)
pieces = [
    *(
        ".",
        "..",
        "/",
        "//",
        "\\",
        "%",
        "%2e",
        "%2F",
        "%00",
        "2",
        "e",
        "E",
        "F",
        "?",
        "#",
        ";",
        ":",
        "@",
        "+",
        " ",
    ),
    *("a", "\r\n", "\u00e9", "\u0301", "\ud800", "\udc00", "\uff0e", "\u2024", "\u200b"),
]
hostile_text = st.one_of(
    any_text,
    st.lists(st.sampled_from(pieces), max_size=8).map("".join),
    st.integers(250, 260).map(lambda length: "x" * length),
)


@settings(max_examples=250, deadline=None)
@given(hostile_text, hostile_text, st.sampled_from(["v7", "v8"]))
@example("..", "b", "v7")
@example("a", "..", "v7")
@example(".", ".", "v7")
@example("%2e%2e", "%2e%2e", "v7")
@example("a\ud800", "b", "v7")
def test_no_id_makes_another_request(external_id: str, related_external_id: str, version: str) -> None:
    try:
        request = delete_related(version, RELATION, Link(external_id, related_external_id))
    except UnsafeRequestError:
        return
    segments = ("crm", version, "Contacts", external_id, "Deals", related_external_id)
    path = "".join("/" + quote(segment, safe="") for segment in segments)
    prepared = _prepared(request)
    yarl_url = URL(BASE + request.target, encoded=True)
    sent = {
        "asked for": request.target,
        "requests": prepared.path_url,
        "urllib3": parse_url(str(prepared.url)).request_uri,
        "aiohttp": yarl_url.raw_path_qs,
        "any client that resolves dots": urlsplit(urljoin(BASE, request.target)).path,
        "any server that resolves dots": posixpath.normpath(request.target),
    }
    assert sent == dict.fromkeys(sent, path)
    assert tuple(unquote(part, errors="strict") for part in path.split("/")[1:]) == segments
    assert path.count("/") == 6
    assert (prepared.method, prepared.headers["X-EXTERNAL"]) == ("DELETE", HEADERS["X-EXTERNAL"])
    for url in (str(prepared.url), str(yarl_url)):
        check_prepared_request(request, BASE, method="DELETE", url=url, headers=prepared.headers)


# -- putting a link back

PUT = put_related("v7", RELATION, Link("c/1", "d 1"), {"Contact_Role": "7"})
PUT_PATH = "/crm/v7/Contacts/c%2F1/Deals"


def test_a_relink_is_this_call() -> None:
    assert (PUT.method, PUT.target) == ("PUT", PUT_PATH)
    assert PUT.body == b'{"data":[{"External_Deal_ID":"d 1","Contact_Role":"7"}]}'
    assert PUT.headers == {
        "X-EXTERNAL": "Contacts.External_Contact_ID,Deals.External_Deal_ID",
        "Content-Type": "application/json",
    }


def test_the_body_of_a_relink_is_ascii_and_holds_any_id() -> None:
    request = put_related("v7", RELATION, Link("ä", '"},{"x🦄\\y'))
    assert request.body is not None
    assert request.body.isascii()
    assert json.loads(request.body) == {"data": [{"External_Deal_ID": '"},{"x🦄\\y'}]}


@pytest.mark.parametrize("name", ["id", "External_Deal_ID", "External_Contact_ID"])
def test_an_attribute_cannot_take_the_place_of_an_id(name: str) -> None:
    with pytest.raises(UnsafeRequestError, match="name of an id"):
        put_related("v7", RELATION, Link("c-1", "d-1"), {name: "other"})


@pytest.mark.parametrize(
    ("parent", "related"), [("..", "d"), ("c", ".."), ("", "d"), ("c", ""), ("c", "d/.."), ("c\n", "d")]
)
def test_a_relink_with_an_id_that_cannot_be_sent_is_not_built(parent: str, related: str) -> None:
    with pytest.raises(UnsafeRequestError, match="Nothing was sent"):
        put_related("v7", RELATION, Link(parent, related))


def test_a_read_can_ask_for_attributes() -> None:
    request = get_related("v7", RELATION, Link("c-1", "d-1"), ("id", "Contact_Role"))
    assert request.target == "/crm/v7/Contacts/c-1/Deals/d-1?fields=id%2CContact_Role"
    with pytest.raises(ZohoConfigError, match="not an API name"):
        get_related("v7", RELATION, Link("c-1", "d-1"), ("id", "a,b"))


@pytest.mark.parametrize(
    ("ids", "sizes"),
    [
        pytest.param([], [], id="none"),
        pytest.param(["a"], [1], id="one"),
        pytest.param(["a", "b", "a", "b"], [2], id="repeats"),
        pytest.param([str(n) for n in range(100)], [100], id="as-many-as-fit"),
        pytest.param([str(n) for n in range(101)], [100, 1], id="one-too-many"),
        pytest.param([f"{n:019}" for n in range(100)], [100], id="record-ids-of-19-digits"),
        pytest.param([f"{n:020}" for n in range(100)], [95, 5], id="record-ids-of-20-digits"),
        pytest.param(["x" * 1000, "y" * 999], [2], id="just-long-enough"),
        pytest.param(["x" * 1000, "y" * 1000], [1, 1], id="a-character-too-long"),
        pytest.param(["x" * 255, *"abc"], [4], id="long-and-short"),
    ],
)
def test_cuts_ids_at_what_a_call_takes(ids: list[str], sizes: list[int]) -> None:
    assert [len(one) for one in id_lists(ids)] == sizes


@given(st.lists(st.text("ab1", min_size=1, max_size=255), max_size=250))
def test_no_list_is_longer_than_zoho_takes_and_none_is_lost(ids: list[str]) -> None:
    lists = list(id_lists(ids))
    assert [one for part in lists for one in part] == list(dict.fromkeys(ids))
    assert all(0 < len(part) <= MAX_IDS and len(",".join(part)) <= MAX_IDS_LENGTH for part in lists)
