"""Which records are linked to a parent, as read page by page; what contradicts itself is unclear."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.fake_zoho import FakeZoho
from tests.support.links import RELATION
from tests.support.zoho_responses import item, response
from zoho_crm.errors import ZohoAuthError, ZohoUnansweredError
from zoho_crm.hooks.link_operation import DelinkClient
from zoho_crm.hooks.record_ids import LinkedRecords, fetch_linked_records

if TYPE_CHECKING:
    from tests.support.fake_zoho import Reply
    from zoho_crm.hooks.zoho_response import ZohoResponse

WANTED = [str(number) for number in range(20, 40)]


def page_of(ids: list[Any], more: Any = False) -> ZohoResponse:
    return response(200, {"data": [{"id": one} for one in ids], "info": {"more_records": more}})


def rows(start: int, count: int = 200) -> list[str]:
    return [str(number) for number in range(start, start + count)]


async def fetch(*replies: Reply, wanted: list[str] | None = None) -> tuple[LinkedRecords, list[str]]:
    zoho = FakeZoho(script=replies)
    found = await fetch_linked_records(DelinkClient(zoho, RELATION, "v7"), "11", wanted or WANTED)
    zoho.check_script_used()
    return found, zoho.seen


async def test_reads_the_ids_of_one_page_by_the_record_id_of_the_parent() -> None:
    found, seen = await fetch(page_of(["21", "99"]))
    assert found == LinkedRecords(frozenset({"21", "99"}), is_whole=True)
    assert seen == ["GET /crm/v7/Contacts/11/Deals?fields=id&page=1&per_page=200"]


async def test_a_parent_without_linked_records_has_an_empty_list() -> None:
    found, _ = await fetch(response(204))
    assert found == LinkedRecords(frozenset(), is_whole=True)


async def test_a_list_of_several_pages_proves_what_is_linked_and_not_what_is_gone() -> None:
    found, seen = await fetch(page_of(rows(1000), more=True), page_of(["21"]))
    assert found.ids == {*rows(1000), "21"}
    assert not found.is_whole
    assert seen[1] == "GET /crm/v7/Contacts/11/Deals?fields=id&page=2&per_page=200"


async def test_reads_no_further_once_all_wanted_records_are_found() -> None:
    found, _ = await fetch(page_of(rows(20), more=True))
    assert found.ids == set(rows(20))


async def test_reads_no_more_pages_than_there_are_wanted_records() -> None:
    found, seen = await fetch(
        page_of(rows(1000), more=True), page_of(rows(2000), more=True), wanted=["1", "2"]
    )
    assert not found.is_whole
    assert len(seen) == 2


async def test_reads_no_page_that_needs_a_token() -> None:
    found, seen = await fetch(*(page_of(rows(1000 * page), more=True) for page in range(1, 11)))
    assert not found.is_whole
    assert seen[-1].endswith("page=10&per_page=200")


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(response(500), id="500"),
        pytest.param(response(400, item("INVALID_DATA")), id="400"),
        pytest.param(response(401, item("OAUTH_SCOPE_MISMATCH")), id="scope"),
        pytest.param(response(200, b"<html>"), id="html"),
        pytest.param(response(200), id="empty-body"),
        pytest.param(response(200, {"data": [item("NO_PERMISSION")], "info": {"more_records": False}}), id="an-error"),
        pytest.param(response(200, {"data": [{"id": "21"}]}), id="without-info"),
        pytest.param(response(200, {"data": {"id": "21"}, "info": {"more_records": False}}), id="no-list"),
        pytest.param(page_of([]), id="no-rows"),
        pytest.param(page_of(["21"], more=True), id="more-after-a-short-page"),
        pytest.param(page_of(["21"], more="no"), id="more-is-text"),
        pytest.param(page_of(["21", 22]), id="id-is-a-number"),
        pytest.param(page_of(["21", "d-2"]), id="id-is-no-record-id"),
        pytest.param(page_of(["21", None]), id="no-id"),
        pytest.param(ZohoUnansweredError("time-out"), id="no-response"),
        pytest.param(ZohoAuthError("revoked"), id="no-token"),
    ],
)  # fmt: skip
async def test_a_list_that_is_unclear_proves_nothing_gone(reply: Reply) -> None:
    found, _ = await fetch(reply)
    assert not found.is_whole
    assert found.ids <= {"21"}


async def test_an_empty_page_after_a_full_one_proves_nothing_gone() -> None:
    found, _ = await fetch(page_of(rows(1000), more=True), response(204))
    assert found == LinkedRecords(frozenset(rows(1000)), is_whole=False)
