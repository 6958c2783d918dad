"""The audit database becomes unreachable during a run: no outcome is lost, and no unmarked link is sent."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from tests.proofs.harness import Try, check_truth, latest, pairs, plan, rows
from tests.support.local_zoho import link_all, linked
from zoho_crm.core.verdict import GONE_AND_NOT_SEEN_LINKED
from zoho_crm.errors import ClaimLostError
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.operators import chunk_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.links import Pair
    from zoho_crm.core.models import ChunkRef
    from zoho_crm.testing.local_zoho import LocalZoho

SOCKET = ".s.PGSQL.5432"
LINKS = 200
AHEAD = 10
"""Maximum number of links that a try with five concurrent requests has marked in flight."""


class CuttableSocket:
    """
    A socket between the ledger and PostgreSQL that a test can cut.

    :param folder: where it listens
    :param server: the folder of PostgreSQL's own socket
    """

    def __init__(self, folder: Path, server: str) -> None:
        self._address = str(folder / SOCKET)
        self._server = f"{server}/{SOCKET}"
        self._ends: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.drops_response_to_commit = False
        self.cut_done = threading.Event()
        self.restore()

    def restore(self) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(self._address)
        listener.listen(64)
        self._listener = listener
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def cut(self) -> None:
        """Close all connections and refuse new ones."""
        with suppress(FileNotFoundError):
            Path(self._address).unlink()
        listener, self._listener = self._listener, None
        ends, self._ends = self._ends, []
        for end in [*([listener] if listener else []), *ends]:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self.cut_done.set()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            server.connect(self._server)
            self._ends += [client, server]
            threading.Thread(target=self._carry, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._carry, args=(server, client, False), daemon=True).start()

    def _carry(self, source: socket.socket, sink: socket.socket, to_server: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if to_server and self.drops_response_to_commit and b"COMMIT" in data:
                    self.drops_response_to_commit = False
                    # PostgreSQL commits, but the client gets no response.
                    with suppress(OSError):
                        source.shutdown(socket.SHUT_RDWR)
                sink.sendall(data)
        for end in (source, sink):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def wire(
    request: pytest.FixtureRequest, postgres_url: sa.URL, tmp_path_factory: Any
) -> Iterator[CuttableSocket]:
    folder: Path = tmp_path_factory.mktemp("w")
    server = str(postgres_url.query["host"])
    wire = CuttableSocket(folder, server)
    yield wire
    wire.cut()


@pytest.fixture
def away_ledger(wire: CuttableSocket, postgres_url: sa.URL) -> Iterator[Ledger]:
    url = postgres_url.update_query_dict({"host": str(Path(wire._address).parent)})
    ledger = Ledger(sa.create_engine(url))
    ledger.ensure_schema()
    yield ledger
    ledger.close()


@pytest.fixture
def chunk(zoho: LocalZoho, away_ledger: Ledger) -> ChunkRef:
    zoho.state.configure(latency_s=0.01)
    link_all(zoho, pairs(20, 10))
    (chunk,) = plan(away_ledger, pairs(20, 10)).chunks
    return chunk


def at_write(ledger: Ledger, number: int, do: Callable[[], None]) -> None:
    """Call ``do`` when the given write of outcomes begins."""
    seen = Counter[str]()

    def count_writes(*event: Any) -> None:
        if str(event[2]).startswith("UPDATE zoho_delink_chunk") and "write_no" in event[2]:
            seen["writes"] += 1
            if seen["writes"] == number:
                do()

    sa.event.listen(ledger.engine, "before_cursor_execute", count_writes)


def confirmed(zoho: LocalZoho) -> Counter[str]:
    """Count how often Zoho has removed each link."""
    return Counter(
        one.path for one in zoho.state.journal.requests if (one.method, one.status) == ("DELETE", 200)
    )


async def test_outcomes_stay_in_memory_until_the_database_is_back(
    zoho: LocalZoho, away_ledger: Ledger, wire: CuttableSocket, chunk: ChunkRef
) -> None:
    before = linked(zoho)
    gone_when_cut: list[int] = []

    def cut() -> None:
        gone_when_cut.append(LINKS - len(linked(zoho)))
        wire.cut()

    at_write(away_ledger, 4, cut)
    running = asyncio.create_task(Try(away_ledger, chunk, renew_every_s=0.2)())
    await asyncio.to_thread(wire.cut_done.wait, 60)
    await asyncio.sleep(1.0)
    # Only links marked before the cut are sent.
    sent = LINKS - len(linked(zoho))
    assert gone_when_cut[0] <= sent <= gone_when_cut[0] + AHEAD < LINKS
    await asyncio.sleep(0.2)
    assert LINKS - len(linked(zoho)) == sent
    wire.restore()
    report = await running

    assert (report.stopped, report.counts.total()) == (None, LINKS)
    assert check_truth(zoho, away_ledger, before, pairs(20, 10)) == {"removed": LINKS}
    # Nothing is verified or sent again.
    assert set(confirmed(zoho).values()) == {1}
    assert {row["detail"] for row in latest(away_ledger).values()} == {None}
    assert len(rows(away_ledger, "zoho_delink_audit", "event_id")) == LINKS


async def test_retry_settles_links_in_flight_when_the_database_stays_away(
    zoho: LocalZoho,
    away_ledger: Ledger,
    wire: CuttableSocket,
    chunk: ChunkRef,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(chunk_store, "DATABASE_PATIENCE_S", 1.0)
    before = linked(zoho)
    at_write(away_ledger, 4, wire.cut)

    with pytest.raises(sa.exc.OperationalError):
        await Try(away_ledger, chunk, renew_every_s=0.2, lease_s=3.0)()

    gone = before - linked(zoho)
    wire.restore()
    written = set(latest(away_ledger))
    assert 0 < len(written) < len(gone) < LINKS
    assert written <= gone
    report = await Try(away_ledger, chunk, limit=100, try_number=2)()
    assert report.counts.total() == LINKS - len(written)
    doubtful = gone - written
    assert check_truth(zoho, away_ledger, before, pairs(20, 10)) == {
        "removed": LINKS - len(doubtful),
        "presumed_removed": len(doubtful),
    }
    check_found_gone(away_ledger, doubtful)
    assert set(confirmed(zoho).values()) == {1}
    assert len(rows(away_ledger, "zoho_delink_audit", "event_id")) == LINKS


async def test_write_with_a_lost_response_is_not_repeated(
    zoho: LocalZoho, away_ledger: Ledger, wire: CuttableSocket, chunk: ChunkRef
) -> None:
    before = linked(zoho)
    at_write(away_ledger, 4, lambda: setattr(wire, "drops_response_to_commit", True))

    # The try cannot know that its write was committed; assuming a newer claim is the safe choice.
    with pytest.raises(ClaimLostError):
        await Try(away_ledger, chunk, renew_every_s=60.0)()

    doubtful = before - linked(zoho) - set(latest(away_ledger))
    report = await Try(away_ledger, chunk, limit=100, try_number=2)()
    assert report.stopped is None
    counts = check_truth(zoho, away_ledger, before, pairs(20, 10))
    assert counts["removed"] + counts["presumed_removed"] == LINKS
    assert counts["presumed_removed"] == len(doubtful)
    assert set(confirmed(zoho).values()) == {1}
    assert len(rows(away_ledger, "zoho_delink_audit", "event_id")) == LINKS


def check_found_gone(ledger: Ledger, links: set[Pair]) -> None:
    """Check that links whose responses were lost with the task are found gone by the next try."""
    said = latest(ledger)
    assert links
    for link in links:
        assert said[link]["outcome"] == "presumed_removed"
        assert GONE_AND_NOT_SEEN_LINKED in said[link]["detail"]
