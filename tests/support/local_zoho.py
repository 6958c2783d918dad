"""The local Zoho, one server for each test process: fixtures and helpers. A pytest plugin."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import pytest

from tests.support.links import X_EXTERNAL, Pair
from zoho_crm.testing.local_zoho import LocalZoho, default_connection

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

ZOHO = "zoho_crm_default"


def zoho_connection(zoho: LocalZoho, **extra: Any) -> dict[str, Any]:
    """Return the Airflow connection to a local Zoho."""
    return default_connection(zoho.host, zoho.port, **extra)


@pytest.fixture(scope="session")
def zoho_server() -> Iterator[LocalZoho]:
    with LocalZoho() as server:
        yield server


@pytest.fixture
def zoho(zoho_server: LocalZoho, monkeypatch: pytest.MonkeyPatch) -> LocalZoho:
    """A local Zoho without records, and the connection to it."""
    zoho_server.reset()
    monkeypatch.setenv(f"AIRFLOW_CONN_{ZOHO.upper()}", json.dumps(zoho_connection(zoho_server)))
    return zoho_server


def link_all(zoho: LocalZoho, links: Iterable[Pair]) -> None:
    for parent, related in links:
        zoho.state.link("Contacts", parent, "Deals", related)


def linked(zoho: LocalZoho) -> set[Pair]:
    return zoho.state.links("Contacts", "Deals")


def sent(zoho: LocalZoho, method: str = "DELETE") -> list[Pair]:
    """Return the links whose calls reached Zoho, in their order; check each path and header on the way."""
    found = []
    for one in zoho.state.journal.requests:
        if one.method != method or not one.path.startswith("/crm/"):
            continue
        if method == "DELETE":
            raw = one.path.split("/")[1:]
            assert len(raw) == 6, one.path
            assert [raw[0], raw[1], raw[2], raw[4]] == ["crm", "v7", "Contacts", "Deals"], one.path
            assert one.query == ""
            assert one.external == X_EXTERNAL
            found.append((unquote(raw[3], errors="strict"), unquote(raw[5], errors="strict")))
        else:
            found.append((one.path, one.query))
    return found


def harms(zoho: LocalZoho) -> list[Any]:
    return list(zoho.state.journal.harms)
