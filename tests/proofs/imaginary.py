"""An imaginary Zoho in memory for the state machine: it answers at once, and loses what it is told to lose."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zoho_crm.errors import ZohoNotSentError, ZohoUnansweredError
from zoho_crm.hooks.zoho_response import ZohoResponse

if TYPE_CHECKING:
    from collections.abc import Callable

    from zoho_crm.core.request import ZohoRequest

Pair = tuple[str, str]

MISHAPS = ("none", "not sent", "lost before", "lost after", "500 before", "500 after", "429")


def answer(status: int, content: Any = None) -> ZohoResponse:
    return ZohoResponse(status, {}, b"" if content is None else json.dumps(content).encode(), 0.0)


def entry(code: str, message: str, record_id: str) -> dict[str, Any]:
    status = "success" if code == "SUCCESS" else "error"
    return {"code": code, "details": {"id": record_id}, "message": message, "status": status}


@dataclass
class ImaginaryZoho:
    """
    Links between records whose record id is the number in their external id.

    :param mishaps: what happens to the next requests, in their order
    :param before_delete: called with the links of each DELETE before anything is done
    """

    linked: set[Pair]
    before_delete: Callable[[list[Pair]], None]
    mishaps: list[str] = field(default_factory=list)
    deletes: int = 0

    async def send(self, request: ZohoRequest) -> ZohoResponse:
        mishap = self.mishaps.pop(0) if self.mishaps else "none"
        if mishap == "not sent":
            raise ZohoNotSentError("no connection")
        if request.method == "DELETE":
            self.deletes += 1
            self.before_delete(self._links_of(request))
        if mishap == "429":
            return answer(429, {"code": "TOO_MANY_REQUESTS", "message": "Many requests", "status": "error"})
        reply = None if mishap.endswith("before") else self._reply(request)
        if mishap.startswith("lost"):
            raise ZohoUnansweredError("no answer")
        return answer(500) if reply is None or mishap.startswith("500") else reply

    def _links_of(self, request: ZohoRequest) -> list[Pair]:
        match request.segments[2:]:
            case ("Contacts", parent, "Deals", related):
                return [(parent, related)]
            case ("Contacts", parent, "Deals"):
                return [(f"c-{parent}", f"d-{one}") for one in dict(request.query)["ids"].split(",")]
        raise AssertionError(f"not the removal of links: {request}")

    def _reply(self, request: ZohoRequest) -> ZohoResponse:
        if request.method == "DELETE":
            entries = [self._remove(link) for link in self._links_of(request)]
            good = sum(one["status"] == "success" for one in entries)
            return answer(200 if good == len(entries) else 207 if good else 400, {"data": entries})
        match request.segments[2:]:
            case ("Contacts", parent, "Deals", related):
                is_there = (parent, related) in self.linked
                return answer(200, {"data": [{"id": related[2:]}]}) if is_there else answer(204)
            case (_, external_id):
                return answer(200, {"data": [{"id": external_id[2:]}]})
            case (module,):
                name = {"Contacts": "External_Contact_ID", "Deals": "External_Deal_ID"}[module]
                ids = dict(request.query)["ids"].split(",")
                return answer(200, {"data": [{"id": one[2:], name: one} for one in ids]})
        raise AssertionError(request)

    def _remove(self, link: Pair) -> dict[str, Any]:
        if link in self.linked:
            self.linked.remove(link)
            return entry("SUCCESS", "relation removed", link[1][2:])
        return entry("INVALID_DATA", "relation not found", link[1][2:])
