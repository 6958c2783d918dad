"""An in-memory Zoho that replaces the HTTP client of the link clients; tests script its failures."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support.links import RELATION, Pair
from tests.support.zoho_responses import gone, item, removed, response
from zoho_crm.errors import ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.zoho_response import ZohoResponse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoho_crm.core.links import Relation
    from zoho_crm.core.request import ZohoRequest

MISHAPS = ("none", "not sent", "lost before", "lost after", "lost and late", "500 before", "500 after", "429")
"""What can happen to a request: before or after Zoho has processed it, or long before it does."""

Reply = ZohoResponse | Exception | Callable[["FakeZoho", list[str]], "ZohoResponse | Exception"]
"""What a request gets: a response, an error to raise, or a function of the external IDs in the request."""


def record_id(external_id: str) -> str:
    """Return the record ID of an external ID: 17 for c-7, 27 for d-7."""
    return {"c": "1", "d": "2"}.get(external_id[0], external_id) + external_id[2:]


def external_id(module: str, record_id: str) -> str:
    return f"{module[0].lower()}-{record_id[1:]}"


@dataclass
class FakeZoho:
    """
    Links between Contacts and Deals, with the responses that Zoho documents, except for what is scripted.

    :param linked: links, by external IDs
    :param script: replies to the next requests of any kind; a scripted Zoho fails the test on a request too many
    :param delink_many: replies to the next calls that remove several links of a parent
    :param delink_one: replies to the next calls that remove one link
    :param find: reply to the reading of record IDs, by module
    :param mishaps: what happens to the next requests, see MISHAPS
    :param before_delete: called with the links of each DELETE before anything is done
    """

    linked: set[Pair] = field(default_factory=set)
    script: Iterable[Reply] | None = None
    delink_many: list[Reply] = field(default_factory=list)
    delink_one: list[Reply] = field(default_factory=list)
    find: dict[str, Reply] = field(default_factory=dict)
    mishaps: list[str] = field(default_factory=list)
    before_delete: Callable[[list[Pair]], None] = lambda _: None
    relation: Relation = RELATION
    seen: list[str] = field(default_factory=list)
    deletes: int = 0
    late: list[Pair] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._script = None if self.script is None else deque(self.script)
        self._fields = {
            self.relation.module: self.relation.external_field,
            self.relation.related_module: self.relation.related_external_field,
        }

    async def send(self, request: ZohoRequest) -> ZohoResponse:
        body = f" {request.body.decode()}" if request.body else ""
        self.seen.append(f"{request.method} {request.target}{body}")
        self._check_header(request)
        reply = self._reply(request)
        if isinstance(reply, Exception):
            raise reply
        return reply

    def check_script_used(self) -> None:
        assert not self._script, "the script was not played to its end"

    def delete_lines(self) -> list[str]:
        return [line for line in self.seen if line.startswith("DELETE")]

    def found(self, module: str, ids: list[str]) -> ZohoResponse:
        return response(200, {"data": [{"id": record_id(one), self._fields[module]: one} for one in ids]})

    def delinked(self, parent: str, ids: list[str]) -> ZohoResponse:
        """Remove links of a parent, as one call for several does."""
        items = [
            removed(record_id(one)) if self.remove((parent, one)) else gone(record_id(one)) for one in ids
        ]
        good = sum(one["code"] == "SUCCESS" for one in items)
        return response(200 if good == len(ids) else 207 if good else 400, {"data": items})

    def apply_late_requests(self) -> None:
        """Process the DELETEs that were lost and late."""
        self.linked.difference_update(self.late)
        self.late.clear()

    def remove(self, link: Pair) -> bool:
        was_linked = link in self.linked
        self.linked.discard(link)
        return was_linked

    def _check_header(self, request: ZohoRequest) -> None:
        """Every external ID in a path is declared in X-EXTERNAL; record IDs need none."""
        assert request.segments[:2] == ("crm", "v7")
        module, *rest = request.segments[2:]
        expected: str | None = f"{module}.{self._fields[module]}"
        if len(rest) >= 2:
            related = self.relation
            expected = f"{expected},{related.related_module}.{related.related_external_field}"
        if len(rest) == 2 and request.method != "PUT":
            expected = None
        assert request.x_external == expected, (request, request.x_external)

    def _reply(self, request: ZohoRequest) -> ZohoResponse | Exception:
        if self._script is not None:
            assert self._script, f"one request too many: {self.seen[-1]}"
            return self._play(self._script.popleft(), [])
        mishap = self.mishaps.pop(0) if self.mishaps else "none"
        if mishap == "not sent":
            return ZohoNotSentError("no connection")
        if request.method == "DELETE":
            self.deletes += 1
            self.before_delete(self._links_of(request))
        if mishap == "429":
            return response(429, item("TOO_MANY_REQUESTS", "Many requests"))
        if mishap == "lost and late" and request.method == "DELETE":
            self.late += self._links_of(request)
        documented = None if mishap.endswith(("before", "late")) else self._process(request)
        if mishap.startswith("lost"):
            return ZohoUnansweredError("no response")
        return response(500) if documented is None or mishap.startswith("500") else documented

    def _links_of(self, request: ZohoRequest) -> list[Pair]:
        match request.segments[2:]:
            case (_, parent, _, related):
                return [(parent, related)]
            case (module, parent, related_list):
                ids = dict(request.query)["ids"].split(",")
                return [(external_id(module, parent), external_id(related_list, one)) for one in ids]
        raise AssertionError(f"not the removal of links: {request}")

    def _process(self, request: ZohoRequest) -> ZohoResponse | Exception:
        ids = dict(request.query).get("ids", "").split(",")
        match request.method, request.segments[2:]:
            case "GET", (module,):
                assert dict(request.query)["fields"] == f"id,{self._fields[module]}"
                return self._play(self.find[module], ids) if module in self.find else self.found(module, ids)
            case "DELETE", (_, _, _):
                if self.delink_many:
                    return self._play(self.delink_many.pop(0), ids)
                links = self._links_of(request)
                return self.delinked(links[0][0], [related for _, related in links])
            case "DELETE", (_, parent, _, related):
                if self.delink_one:
                    return self._play(self.delink_one.pop(0), [related])
                return self.delinked(parent, [related])
            case "GET", (_, parent, _, related):
                is_linked = (parent, related) in self.linked
                return response(200, {"data": [{"id": record_id(related)}]}) if is_linked else response(204)
            case "GET", (module, parent, related_list):
                return self._list(module, parent, related_list, request)
            case "GET", (_, one):
                return response(200, {"data": [{"id": record_id(one)}]})
        raise AssertionError(request)

    def _list(self, module: str, parent: str, related_list: str, request: ZohoRequest) -> ZohoResponse:
        """Return a page of the record IDs linked to a parent."""
        query = dict(request.query)
        assert query["fields"] == "id"
        start, rows = (int(query["page"]) - 1) * int(query["per_page"]), int(query["per_page"])
        ids = sorted(record_id(related) for one, related in self.linked if one == external_id(module, parent))
        if not ids[start:]:
            return response(204)
        shown = [{"id": one} for one in ids[start : start + rows]]
        return response(200, {"data": shown, "info": {"more_records": len(ids) > start + rows}})

    def _play(self, reply: Reply, ids: list[str]) -> ZohoResponse | Exception:
        return reply if isinstance(reply, ZohoResponse | Exception) else reply(self, ids)
