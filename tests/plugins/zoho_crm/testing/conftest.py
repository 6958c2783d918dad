from __future__ import annotations

import http.client
import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

from zoho_crm.testing.local_zoho import LocalZoho

if TYPE_CHECKING:
    from collections.abc import Iterator

BOTH = "Contacts.External_Contact_ID,Deals.External_Deal_ID"


@dataclass
class Clock:
    now: float = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


@dataclass
class Client:
    """Send exactly the path it is given: no normalising, no quoting."""

    zoho: LocalZoho
    token: str = ""
    headers: dict[str, str] = field(default_factory=dict)

    def __call__(
        self,
        method: str,
        path: str,
        external: str | None = None,
        *,
        body: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        sent = {"Authorization": f"Zoho-oauthtoken {self.token}"} if self.token else {}
        sent |= {"X-EXTERNAL": external} if external else {}
        connection = http.client.HTTPConnection(self.zoho.host, self.zoho.port, timeout=10)
        try:
            connection.request(method, path, body, {**sent, **(headers or {})})
            response = connection.getresponse()
            return Answer(
                response.status, {k.lower(): v for k, v in response.getheaders()}, response.read().decode()
            )
        finally:
            connection.close()

    def crm(self, method: str, path: str, external: str | None = None, **rest: Any) -> Answer:
        return self(method, f"/crm/v7{path}", external, **rest)

    def oauth(self, **form: str) -> Answer:
        given = {
            "grant_type": "refresh_token",
            "client_id": "local-client",
            "client_secret": "local-secret",
            "refresh_token": "local-refresh-token",
        } | form
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        return self("POST", "/oauth/v2/token", body=urlencode(given), headers=headers)

    def admin(self, method: str, path: str, body: Any = None) -> Answer:
        headers = {"Content-Type": "application/json"}
        return self(
            method, f"/_local{path}", body=None if body is None else json.dumps(body), headers=headers
        )


@pytest.fixture(scope="session")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def _running(clock: Clock) -> Iterator[LocalZoho]:
    with LocalZoho(clock=clock) as zoho:
        yield zoho


@pytest.fixture
def zoho(_running: LocalZoho, clock: Clock) -> LocalZoho:
    """A contact c-1 on the deals d-1, d-2 and d-3; a contact c-2 and a deal d-9 without links."""
    clock.now = Clock.now
    _running.reset()
    for deal in ("d-1", "d-2", "d-3"):
        _running.state.link("Contacts", "c-1", "Deals", deal)
    _running.state.add_record("Contacts", {"External_Contact_ID": "c-2"})
    _running.state.add_record("Deals", {"External_Deal_ID": "d-9"})
    return _running


@pytest.fixture
def client(zoho: LocalZoho) -> Client:
    return Client(zoho, zoho.state.issue_token())


@pytest.fixture
def both() -> str:
    return BOTH
