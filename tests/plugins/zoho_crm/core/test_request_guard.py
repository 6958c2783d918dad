from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict
from requests.structures import CaseInsensitiveDict

from zoho_crm.core.links import Link, Relation
from zoho_crm.core.request import (
    ZohoRequest,
    delete_related,
    get_record,
    get_related,
    get_setting,
    put_related,
)
from zoho_crm.core.request_guard import check_prepared_request
from zoho_crm.errors import UnsafeRequestError

BASE = "https://www.zohoapis.eu"
RELATION = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
HEADERS = {"X-EXTERNAL": "Contacts.External_Contact_ID,Deals.External_Deal_ID"}


LINK = Link("a/b", "c")
DELETE = delete_related("v7", RELATION, LINK)
GET = get_related("v7", RELATION, LINK)
PATH = "/crm/v7/Contacts/a%2Fb/Deals/c"


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param(HEADERS, id="dict"),
        pytest.param({"x-external": HEADERS["X-EXTERNAL"], "Accept": "*/*"}, id="dict in lower case"),
        pytest.param(CaseInsensitiveDict({"x-External": HEADERS["X-EXTERNAL"]}), id="requests"),
        pytest.param(CIMultiDict({"x-external": HEADERS["X-EXTERNAL"], "Accept": "*/*"}), id="aiohttp"),
    ],
)
def test_an_unchanged_request_passes_with_any_kind_of_headers(headers: dict[str, str]) -> None:
    check_prepared_request(DELETE, BASE, method="DELETE", url=BASE + PATH, headers=headers)
    check_prepared_request(GET, BASE, method="GET", url=f"{BASE}{PATH}?fields=id", headers=headers)


def test_an_unchanged_request_passes_with_a_port_and_without_a_header() -> None:
    base = "http://127.0.0.1:8080"
    check_prepared_request(
        get_setting("v7", "org"), base, method="GET", url=f"{base}/crm/v7/org", headers={"Accept": "*/*"}
    )


CHANGED_ADDRESSES = {
    "empty": "",
    "no path": BASE,
    "path alone": PATH,
    "scheme": "http://www.zohoapis.eu" + PATH,
    "scheme in capitals": "HTTPS://www.zohoapis.eu" + PATH,
    "host": "https://www.zohoapis.com" + PATH,
    "longer host": f"{BASE}.evil.example{PATH}",
    "host as user": f"{BASE}@evil.example{PATH}",
    "user": "https://me@www.zohoapis.eu" + PATH,
    "port": f"{BASE}:443{PATH}",
    "path before": f"{BASE}/proxy{PATH}",
    "slash before": f"{BASE}/{PATH}",
    "slash after": f"{BASE}{PATH}/",
    "slash doubled": BASE + PATH.replace("/Deals", "//Deals"),
    "slash decoded": BASE + PATH.replace("%2F", "/"),
    "slash in small letters": BASE + PATH.replace("%2F", "%2f"),
    "slash encoded twice": BASE + PATH.replace("%2F", "%252F"),
    "letter encoded": BASE + PATH.replace("Deals", "%44eals"),
    "bytes that are no text": BASE + PATH.replace("%2F", "%FF"),
    "half an escape": BASE + PATH.replace("%2F", "%"),
    "version": BASE + PATH.replace("v7", "v8"),
    "module": BASE + PATH.replace("Contacts", "Leads"),
    "module in small letters": BASE + PATH.replace("Contacts", "contacts"),
    "parent": BASE + PATH.replace("a%2Fb", "a%2Fc"),
    "list": BASE + PATH.replace("Deals", "Notes"),
    "related": f"{BASE}{PATH}d",
    "related missing": f"{BASE}/crm/v7/Contacts/a%2Fb/Deals",
    "related empty": f"{BASE}/crm/v7/Contacts/a%2Fb/Deals/",
    "record delete": f"{BASE}/crm/v7/Contacts/a%2Fb",
    "dot segment": f"{BASE}/crm/v7/Contacts/./a%2Fb/Deals/c",
    "way up": f"{BASE}{PATH}/..",
    "query": f"{BASE}{PATH}?ids=1",
    "empty query": f"{BASE}{PATH}?",
    "parameter": f"{BASE}{PATH};x=1",
    "fragment": f"{BASE}{PATH}#x",
    "empty fragment": f"{BASE}{PATH}#",
    "line feed after": f"{BASE}{PATH}\n",
    "blank before": f" {BASE}{PATH}",
    "broken host": "https://[::1" + PATH,
}


@pytest.mark.parametrize("url", CHANGED_ADDRESSES.values(), ids=list(CHANGED_ADDRESSES))
def test_a_request_with_a_changed_address_is_refused(url: str) -> None:
    with pytest.raises(UnsafeRequestError, match=r"differs .* in: address"):
        check_prepared_request(DELETE, BASE, method="DELETE", url=url, headers=HEADERS)


@pytest.mark.parametrize(
    "url",
    [
        pytest.param(BASE + PATH, id="query lost"),
        pytest.param(f"{BASE}{PATH}?fields=id&fields=x", id="query longer"),
        pytest.param(f"{BASE}{PATH}?fields=ID", id="query in capitals"),
        pytest.param(f"{BASE}{PATH}?fields=id#x", id="fragment"),
    ],
)
def test_a_request_with_a_changed_query_is_refused(url: str) -> None:
    with pytest.raises(UnsafeRequestError, match=r"in: address"):
        check_prepared_request(GET, BASE, method="GET", url=url, headers=HEADERS)


@pytest.mark.parametrize("method", ["GET", "delete", "POST", "", "DELETE "])
def test_a_request_with_a_changed_method_is_refused(method: str) -> None:
    with pytest.raises(UnsafeRequestError, match=r"in: method\."):
        check_prepared_request(DELETE, BASE, method=method, url=BASE + PATH, headers=HEADERS)


def test_a_read_that_became_a_delete_is_refused() -> None:
    with pytest.raises(UnsafeRequestError, match=r"in: method, number of path segments\."):
        check_prepared_request(
            get_record("v7", "Deals", "Ext", "a"),
            BASE,
            method="DELETE",
            url=f"{BASE}/crm/v7/Deals/a?fields=id",
            headers={"X-EXTERNAL": "Deals.Ext"},
        )


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({}, id="missing"),
        pytest.param({"X-EXTERNAL": ""}, id="empty"),
        pytest.param({"X-EXTERNAL": "Contacts.External_Contact_ID"}, id="parent alone"),
        pytest.param({"X-EXTERNAL": "Deals.External_Deal_ID,Contacts.External_Contact_ID"}, id="swapped"),
        pytest.param({"X-EXTERNAL": HEADERS["X-EXTERNAL"] + " "}, id="blank after"),
        pytest.param({"X-EXTERNAL": HEADERS["X-EXTERNAL"].lower()}, id="small letters"),
        pytest.param({"X-EXTERNAL": HEADERS["X-EXTERNAL"].encode()}, id="bytes"),
        pytest.param({"XEXTERNAL": HEADERS["X-EXTERNAL"]}, id="other name"),
        pytest.param(CIMultiDict([*HEADERS.items(), ("x-external", "Contacts.id")]), id="a second one"),
        pytest.param(CIMultiDict([*HEADERS.items(), *HEADERS.items()]), id="twice the same"),
    ],
)
def test_a_request_with_a_changed_header_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(UnsafeRequestError, match=r"in: X-EXTERNAL header\."):
        check_prepared_request(DELETE, BASE, method="DELETE", url=BASE + PATH, headers=headers)


def test_an_additional_header_is_refused() -> None:
    with pytest.raises(UnsafeRequestError, match=r"in: X-EXTERNAL header\."):
        check_prepared_request(
            get_setting("v7", "org"),
            BASE,
            method="GET",
            url=f"{BASE}/crm/v7/org",
            headers={"x-external": "A.b"},
        )


@pytest.mark.parametrize(
    "segments",
    [
        pytest.param(("crm", "v7", "Contacts"), id="module"),
        pytest.param(("crm", "v7", "Contacts", "a"), id="record"),
        pytest.param(("crm", "v7", "Contacts", "a", "Deals"), id="related list"),
        pytest.param(("crm", "v7", "Contacts", "a", "Deals", "b", "c"), id="seven"),
    ],
)
def test_a_delete_that_is_no_delink_is_refused_even_when_unchanged(segments: tuple[str, ...]) -> None:
    request = ZohoRequest("DELETE", segments, "Contacts.F,Deals.G")
    with pytest.raises(UnsafeRequestError, match=r"in: number of path segments\."):
        check_prepared_request(
            request, BASE, method="DELETE", url=BASE + request.target, headers=request.headers
        )


def test_refusal_names_every_fault_and_the_path_that_was_meant() -> None:
    with pytest.raises(UnsafeRequestError) as caught:
        check_prepared_request(DELETE, BASE, method="PUT", url=f"{BASE}/crm/v7/Contacts#x", headers={})
    assert str(caught.value) == (
        "The prepared request differs from the one asked for in: method, address, path segments, "
        "number of path segments, fragment, X-EXTERNAL header. Nothing was sent."
    )
    assert caught.value.path == PATH


def test_path_segments_are_compared_by_what_they_mean_as_well() -> None:
    # A base address that eats a segment would make the addresses equal.
    request = ZohoRequest("DELETE", ("v7", "Contacts", "a", "Deals", "b", "c"))
    with pytest.raises(UnsafeRequestError, match=r"in: path segments\."):
        check_prepared_request(
            request, f"{BASE}/crm", method="DELETE", url=f"{BASE}/crm{request.target}", headers={}
        )


def prepared(request: ZohoRequest, **changes: Any) -> None:
    given = {
        "method": request.method,
        "url": BASE + request.target,
        "headers": request.headers,
        "body": request.body,
        **changes,
    }
    check_prepared_request(request, BASE, **given)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(BASE + PATH)), st.integers(0, 3), st.sampled_from("/.%?#2Fa\n ;@:\\\u00e9"))
def test_no_edit_of_the_address_passes(start: int, dropped: int, added: str) -> None:
    url = BASE + PATH
    edited = url[:start] + added + url[start + dropped :]
    if edited != url:
        with pytest.raises(UnsafeRequestError):
            check_prepared_request(DELETE, BASE, method="DELETE", url=edited, headers=HEADERS)


PUT = put_related("v7", RELATION, Link("c/1", "d 1"), {"Contact_Role": "7"})
PUT_PATH = "/crm/v7/Contacts/c%2F1/Deals"


def test_an_unchanged_relink_passes() -> None:
    prepared(PUT)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        pytest.param({"method": "POST"}, "in: method", id="method"),
        pytest.param({"url": f"{BASE}{PUT_PATH}/d"}, "address, path segments", id="longer-path"),
        pytest.param({"url": f"{BASE}/crm/v7/Contacts/c%2F1"}, "address, path segments", id="a-record"),
        pytest.param({"url": f"https://www.zohoapis.invalid{PUT_PATH}"}, "in: address", id="host"),
        pytest.param({"headers": {}}, "X-EXTERNAL header", id="no-header"),
        pytest.param(
            {"headers": {"X-EXTERNAL": "Contacts.External_Contact_ID"}},
            "X-EXTERNAL header",
            id="half-a-header",
        ),
        pytest.param({"body": b""}, "in: body", id="no-body"),
        pytest.param({"body": None}, "in: body", id="body-none"),
        pytest.param({"body": (PUT.body or b"") + b" "}, "in: body", id="longer-body"),
        pytest.param({"body": "text"}, "in: body", id="body-as-text"),
    ],
)
def test_a_relink_that_was_changed_is_refused(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UnsafeRequestError, match=says):
        prepared(PUT, **changes)


@pytest.mark.parametrize(
    "segments",
    [
        ("crm", "v7", "Contacts"),
        ("crm", "v7", "Contacts", "c-1"),
        ("crm", "v7", "Contacts", "c-1", "Deals", "d-1"),
    ],
    ids=["records", "a-record", "a-related-record"],
)
def test_a_put_that_is_none_of_a_list_of_links_is_refused(segments: tuple[str, ...]) -> None:
    with pytest.raises(UnsafeRequestError, match="number of path segments"):
        prepared(ZohoRequest("PUT", segments, RELATION.x_external, body=b"{}"))


def test_a_put_without_a_body_or_with_a_query_is_refused() -> None:
    path = ("crm", "v7", "Contacts", "c-1", "Deals")
    for request in (ZohoRequest("PUT", path), ZohoRequest("PUT", path, query=(("ids", "1"),), body=b"{}")):
        with pytest.raises(UnsafeRequestError, match="number of path segments"):
            prepared(request)


@pytest.mark.parametrize("method", ["POST", "PATCH", "HEAD", "put", ""])
def test_no_other_kind_of_request_leaves(method: str) -> None:
    with pytest.raises(UnsafeRequestError, match="kind of request"):
        prepared(ZohoRequest(method, ("crm", "v7", "Contacts", "c-1", "Deals"), body=b"{}"))
