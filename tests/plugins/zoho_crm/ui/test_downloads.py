"""Downloads of the links of a run."""

from __future__ import annotations

import csv
import io
import itertools
import json
import socket
import threading
import time
import tracemalloc
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa
import uvicorn

from tests.plugins.zoho_crm.ui.conftest import JOBS, User
from tests.support.ledger import MOMENT
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger import tables
from zoho_crm.ledger.link_queries import LINK_FIELDS, LinkQueries
from zoho_crm.ledger.runs import RunStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.plugins.zoho_crm.ui.conftest import Pages
    from zoho_crm.core.models import StoredRun
    from zoho_crm.ledger.link_queries import LinkRow

# Airflow's API server imports deprecated names.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Using `httpx`")


def stored_run(pages: Pages) -> StoredRun:
    run = RunStore(pages.ledger.engine).get("a-run")
    assert run is not None
    return run


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_file_has_every_link_once_with_its_last_audit_row(pages: Pages, kind: str):
    rows: list[tuple[object, object]] = [(f"c-{number:04}", "=1+1") for number in range(4_321)]
    outcomes = {
        (f"c-{n:04}", "=1+1"): Outcome.FAILED if n % 9 == 0 else Outcome.REMOVED for n in range(4_321)
    }
    pages.store(rows, outcomes, chunk_size=1_000, finished="failed", response={"zoho_message": "@import"})

    file = pages.client.get(f"{pages.run()}/links.{kind}")
    failed = pages.client.get(f"{pages.run()}/links.{kind}?outcome=failed")

    assert file.headers["content-disposition"].endswith(f'.{kind}"')
    if kind == "csv":
        lines = list(csv.DictReader(io.StringIO(file.text)))
        assert {line["related_external_id"] for line in lines} == {"'=1+1"}
        assert {line["zoho_message"] for line in lines} == {"'@import"}
        assert len(list(csv.DictReader(io.StringIO(failed.text)))) == 481
    else:
        lines = [json.loads(line) for line in file.text.splitlines()]
        assert {line["related_external_id"] for line in lines} == {"=1+1"}
        assert len(failed.text.splitlines()) == 481
    assert [line["external_id"] for line in lines] == [each for each, _ in rows]


def test_csv_has_the_plan_of_an_unfinished_run_and_no_formula(pages: Pages):
    pages.store([("c-1", "d-1"), ("=1+1", "@x"), ('a"b', "c,d"), ("", "d-9"), ("-5", "+6")])

    file = pages.client.get(f"{pages.run()}/links.csv")

    names = ("seq", "external_id", "related_external_id", "state", "outcome", "invalid_reason")
    lines = list(csv.DictReader(io.StringIO(file.text)))
    assert tuple(lines[0]) == LINK_FIELDS
    assert [[line[name] for name in names] for line in lines] == [
        ["0", "'-5", "'+6", "planned", "", ""],
        ["1", "'=1+1", "'@x", "planned", "", ""],
        ["2", 'a"b', "c,d", "planned", "", ""],
        ["3", "c-1", "d-1", "planned", "", ""],
        ["4", "", "d-9", "settled", "invalid", "external_id is blank"],
    ]
    assert file.headers["content-type"] == "text/csv; charset=utf-8"


@pytest.mark.integration  # ten thousands of links
def test_large_file_needs_little_memory_and_no_open_connection(pages: Pages):
    from zoho_crm.ui.downloads import csv_pieces

    pages.store([])
    with pages.ledger.engine.begin() as connection:
        numbers = sa.text(
            "INSERT INTO zoho_delink_link (run_key, seq, pair_key, external_id, related_external_id, state) "
            "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 19999) "
            "SELECT 'a-run', i, i, 'c-' || i, 'd-' || i, 'planned' FROM n"
        )
        connection.execute(numbers)
    engine = pages.ledger.engine
    pieces = csv_pieces(LinkQueries(engine).stream(replace(stored_run(pages), planned=20_000)))
    first = next(pieces)
    pool = engine.pool
    assert isinstance(pool, sa.QueuePool)
    assert pool.checkedout() == 0
    tracemalloc.start()
    try:
        count = first.count("\r\n") + sum(piece.count("\r\n") for piece in pieces)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert count == 20_001
    assert peak < 4_000_000


def test_run_without_a_plan_returns_404(pages: Pages):
    pages.store([])
    with pages.ledger.engine.begin() as connection:
        connection.execute(sa.update(tables.runs).values(planned_at=None))

    response = pages.client.get(f"{pages.run()}/links.csv", headers={"accept": "*/*"})

    assert (response.status_code, response.json()) == (
        404,
        {"detail": "This run has no plan yet. Download its links once its task plan is done."},
    )


def test_pseudonymized_run_returns_404(pages: Pages):
    pages.store([("c-1", "d-1")])
    with pages.ledger.engine.begin() as connection:
        connection.execute(sa.update(tables.runs).values(pseudonymized_at=MOMENT))

    response = pages.client.get(f"{pages.run()}/links.csv", headers={"accept": "*/*"})

    assert response.status_code == 404
    assert "replaced by hashes" in response.json()["detail"]


def test_unavailable_audit_database_returns_503(pages: Pages):
    from zoho_crm.ui.audit_databases import AuditDatabases

    def refuse(conn_id: str) -> None:
        raise ConnectionError(conn_id)

    pages.app.state.databases = AuditDatabases(JOBS, refuse)  # type: ignore[arg-type]

    response = pages.client.get(f"{pages.run()}/links.csv", headers={"accept": "*/*"})

    assert response.status_code == 503
    assert "zoho_delink_audit" in response.json()["detail"]


def test_downloads_share_one_engine(pages: Pages):
    pages.store([("c-1", "d-1")])
    opened = pages.app.state.databases
    engines = set()
    for _ in range(20):
        assert pages.client.get(f"{pages.run()}/links.csv").status_code == 200
        engines |= {id(database.engine) for database in opened.readable()}
    assert len(engines) == 1


@contextmanager
def served(pages: Pages) -> Iterator[int]:
    """Serve the pages, and yield the port."""
    server = uvicorn.Server(
        uvicorn.Config(pages.app, port=0, log_level="critical", lifespan="off", ws="none")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        until(lambda: server.started)
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = server.force_exit = True
        thread.join(30)


def until(is_true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start_download(pages: Pages, port: int, user: str) -> tuple[socket.socket, int]:
    """Ask for a download, read no more than the status of the response, and return it with the connection."""
    from zoho_crm.ui import auth

    pages.app.dependency_overrides[auth.reader_of] = lambda: auth.Reader(User(user))
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(30)
    client.connect(("127.0.0.1", port))
    client.sendall(f"GET {pages.run()}/links.csv HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    return client, int(client.recv(12).split()[1])


@pytest.fixture
def endless_file(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the file larger than any buffer of the network."""
    pages.store([("c-1", "d-1")])
    (row,) = pages.app.state.databases._database("zoho_delink_audit").links.stream(stored_run(pages))
    monkeypatch.setattr(LinkQueries, "stream", lambda *_: itertools.repeat(row))


@pytest.mark.integration
@pytest.mark.usefixtures("endless_file")
def test_clients_that_never_read_hold_no_connection_and_few_downloads(pages: Pages):
    from zoho_crm.ui import downloads

    with served(pages) as port, ExitStack() as opened:
        statuses = []
        for number in range(30):
            client, status = start_download(pages, port, f"user-{number % 5}")
            opened.enter_context(client)
            statuses.append(status)

        assert statuses.count(200) == downloads.MAX_DOWNLOADS
        assert statuses.count(429) == 22
        for database in pages.app.state.databases.readable():
            assert database.engine.pool.checkedout() == 0
        page = pages.client.get(pages.run())
        assert page.status_code == 200
        refused = pages.client.get(f"{pages.run()}/links.csv", headers={"accept": "*/*"})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")
        assert refused.json() == {"detail": "8 downloads are running: try again in a minute."}
        assert refused.headers["x-content-type-options"] == "nosniff"


@pytest.mark.integration
@pytest.mark.usefixtures("endless_file")
def test_one_user_has_few_downloads_at_once_and_new_ones_after_they_end(pages: Pages):
    with served(pages) as port:
        started = [start_download(pages, port, "viewer") for _ in range(3)]
        assert [status for _, status in started] == [200] * 3

        refused = pages.client.get(f"{pages.run()}/links.csv", headers={"accept": "text/html"})

        assert refused.status_code == 429
        assert "3 of your downloads are running: wait until one has ended." in refused.text
        for client, _ in started:
            client.close()
        until(lambda: pages.app.state.downloads.total() == 0)
        another, status = start_download(pages, port, "viewer")
        with another:
            assert status == 200


@pytest.mark.integration
@pytest.mark.usefixtures("endless_file")
def test_download_ends_when_its_client_stops_reading(pages: Pages, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("zoho_crm.ui.downloads.PIECE_TIMEOUT_S", 0.5)
    with served(pages) as port:
        client, status = start_download(pages, port, "viewer")
        assert status == 200

        until(lambda: pages.app.state.downloads.total() == 0)

        received = b""
        with client:
            while part := client.recv(1_000_000):
                received = received[-10:] + part
        assert not received.endswith(b"\r\n0\r\n\r\n")


def test_failed_download_is_not_counted_as_running(pages: Pages, monkeypatch: pytest.MonkeyPatch):
    def failing(*_: object) -> Iterator[LinkRow]:
        raise RuntimeError("database")
        yield

    pages.store([("c-1", "d-1")])
    monkeypatch.setattr(LinkQueries, "stream", failing)
    for _ in range(10):
        with pytest.raises(RuntimeError):
            pages.client.get(f"{pages.run()}/links.csv")

    assert pages.app.state.downloads.total() == 0
