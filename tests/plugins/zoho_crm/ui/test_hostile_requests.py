"""
Hostile values in every parameter of every page.

No request fails, and every response has the security headers. The routes and parameters are those of the app's OpenAPI.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.plugins.zoho_crm.ui.conftest import DAG_ID, RUN_ID
from tests.support.ledger import JOB
from zoho_crm.core.outcomes import Outcome

if TYPE_CHECKING:
    from pathlib import Path

    from tests.plugins.zoho_crm.ui.conftest import Pages

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore:Using `httpx`", "ignore:Duplicate Operation ID"
)

SECURITY_HEADERS = {
    "cache-control",
    "content-security-policy",
    "cross-origin-resource-policy",
    "referrer-policy",
    "x-content-type-options",
    "x-frame-options",
}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
FORM_FIELDS = ("job", "external_id", "related_external_id", "outcome", "after")
VALID = {
    "dag_id": DAG_ID,
    "dag_run_id": RUN_ID,
    "job": JOB,
    "kind": "csv",
    "action": "relink",
    "outcome": "removed",
    "external_id": "c-1",
    "related_external_id": "d-1",
    "since": "2026-07-01",
}
HOSTILE = [
    b"",
    b"\0",
    b"a\0b",
    b"\xed\xa0\x80",  # a lone surrogate in UTF-8
    b"\xff\xfe",
    "\U0010ffff\u202e\uff0e".encode(),
    b"%00",
    b"..",
    b"../../etc/passwd",
    b"'; DROP TABLE zoho_delink_run; --",
    b"%_\\%",
    b"{{ 7 * 7 }}",
    b"<script>alert(1)</script>",
    b"\r\nSet-Cookie: a=b",
    b"-1",
    b"9" * 18,
    b"9" * 400,
    b"1e999",
    b"NaN",
    b"0000-00-00",
    b"0001-01-01",
    b"9999-12-31",
    b"10000-01-01",
    b"0001-01-01T00:00:00+14:00~x",
    b"9999-12-31T23:59:59.999999-14:00~x",
    b"2026-11-28T00:00:00+00:00~",
    b"0" * 64,
    b"x" * 9_000,
    b"[" * 5_000,
]
ANY_BYTES = st.one_of(st.sampled_from(HOSTILE), st.binary(max_size=40))


@pytest.fixture(params=["sqlite", "postgres"])
def audit_url(request: pytest.FixtureRequest, tmp_path: Path) -> sa.URL:
    if request.param == "postgres":
        url: sa.URL = request.getfixturevalue("postgres_ledger_url")
        return url
    path = shutil.copy(request.getfixturevalue("empty_sqlite_ledger"), tmp_path / "audit.db")
    return sa.URL.create("sqlite", database=str(path))


def value_of(name: str) -> st.SearchStrategy[bytes]:
    """Return a strategy for a parameter: often a valid value, so that the others of the request are read as well."""
    if name not in VALID:
        return ANY_BYTES
    return st.booleans().flatmap(lambda valid: st.just(VALID[name].encode()) if valid else ANY_BYTES)


@st.composite
def requests(draw: st.DrawFn, paths: dict[str, Any]) -> dict[str, Any]:
    path = draw(st.sampled_from(sorted(paths)))
    operations = {method.upper(): operation for method, operation in paths[path].items()}
    method = draw(st.sampled_from(sorted(operations) * 9 + list(METHODS)))
    operation = operations.get(method, next(iter(operations.values())))
    query = []
    for parameter in operation.get("parameters", ()):
        name = parameter["name"]
        if parameter["in"] == "path":
            path = path.replace(
                f"{{{name}}}", quote(draw(value_of(name)), safe="/" if name == "path" else "")
            )
        elif draw(st.booleans()):
            query.append((name, draw(value_of(name))))
    names = draw(st.lists(st.sampled_from(FORM_FIELDS)))
    form = urlencode([(name, draw(value_of(name))) for name in names]).encode()
    return {
        "method": method,
        "url": f"{path}?{urlencode(query)}",
        "content": draw(st.one_of(st.just(form), ANY_BYTES)) if method != "TRACE" else None,
        "headers": {"accept": draw(st.sampled_from(["text/html", "*/*", "\xff"])).encode("latin-1")},
    }


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_no_request_fails_and_every_response_has_the_security_headers(
    pages: Pages, data: st.DataObject
) -> None:
    if pages.ledger.runs.get("a-run") is None:
        links: list[tuple[object, object]] = [("c-1", "d-1"), ("=1+1", "<b>")]
        pages.store(links, {("c-1", "d-1"): Outcome.REMOVED}, finished="succeeded")
    request = data.draw(requests(pages.app.openapi()["paths"]))

    response = pages.client.request(**request, follow_redirects=False)

    assert response.status_code < 500, response.text
    assert set(response.headers) >= SECURITY_HEADERS
    if response.status_code >= 400 and request["method"] != "HEAD":
        assert response.text
