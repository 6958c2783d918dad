"""
Response times of the UI pages with an audit of a million rows: ``python -m benchmarks.pages``.

Requests each page like a browser, without Airflow's authorization, with SQLite and PostgreSQL. The first response is
shown separately, since it reads from disk.
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import sqlalchemy as sa

from benchmarks.pages_data import DAG_ID, LARGE_KEY, LARGE_RUN, RELATION, fill
from zoho_crm.core.links import pair_key
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.ledger.tables import chunks, links, runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fastapi.testclient import TestClient

ALLOWED_MS = 300
_JOBS = Path(__file__).parents[1] / "include" / "jobs"
_TIMES = 6
_RUN = f"/dags/{DAG_ID}/runs/{quote(LARGE_RUN, safe='')}"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print a line for each page, and return 1 if one takes longer than allowed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description=__doc__)
    parser.add_argument("--links", type=int, default=1_000_000)
    parser.add_argument("--url", action="append", help="URL of a filled database; may be repeated")
    options = parser.parse_args(argv)
    slowest = 0.0
    with ExitStack() as stack:
        urls = [sa.make_url(url) for url in options.url or ()] or _databases(stack, options.links)
        for url in urls:
            slowest = max(slowest, _measure(url))
    return int(slowest > ALLOWED_MS)


def _databases(stack: ExitStack, link_count: int) -> list[sa.URL]:
    """Create and fill both databases."""
    from tests.support.postgres import running_postgres

    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="zoho-pages-"))
    server = stack.enter_context(running_postgres())
    urls = [sa.URL.create("sqlite", database=f"{folder}/audit.db"), server.url("postgres")]
    for url in urls:
        began = time.perf_counter()
        ledger = Ledger(sa.create_engine(url))
        fill(ledger, link_count)
        ledger.close()
        _say(
            f"{url.get_backend_name()}: filled with {link_count:,} links in {time.perf_counter() - began:.0f} s"
        )
    return urls


def _measure(url: sa.URL) -> float:
    """Request every page, and return the slowest median in milliseconds."""
    from fastapi.testclient import TestClient

    from zoho_crm.ui import auth
    from zoho_crm.ui.app import create_app
    from zoho_crm.ui.audit_databases import AuditDatabases

    app = create_app(AuditDatabases(_JOBS, lambda _: Ledger(sa.create_engine(url))))
    for dependency in (auth.SIGNED_IN, auth.READ_RUN):
        app.dependency_overrides[dependency] = lambda: None
    app.dependency_overrides[auth.reader_of] = _AdminReader
    client = TestClient(app, headers={"accept": "text/html"})
    client.get("/")
    # Airflow is loaded; a garbage collection of all its objects takes longer than any page.
    gc.collect()
    gc.freeze()
    slowest = 0.0
    for name, ask in _pages(client).items():
        slowest = max(slowest, _timed(f"{url.get_backend_name()}: {name}", ask))
    with _HalfDone(url):
        slowest = max(slowest, _timed("… while the run is in progress, half done", lambda: client.get(_RUN)))
        slowest = max(slowest, _timed("… its progress", lambda: client.get(f"{_RUN}/progress")))
    began = time.perf_counter()
    size = len(client.get(f"{_RUN}/links.csv?outcome=already_absent").content)
    _say(f"    CSV of 25,000 links, {size / 1e6:.1f} MB: {time.perf_counter() - began:.1f} s")
    return slowest


def _pages(client: TestClient) -> dict[str, Callable[[], object]]:
    def search(**form: str) -> Callable[[], object]:
        return lambda: client.post(_RUN, data=form)

    link = pair_key(RELATION, "contact-0123456", "deal-00370370")
    return {
        "overview": lambda: client.get("/"),
        "overview, one job, 90 days": lambda: client.get("/?job=campaigns_leads&days=90"),
        "run": lambda: client.get(_RUN),
        "run, failed links": lambda: client.get(f"{_RUN}?outcome=failed"),
        "run, links after the 900,000th": search(after="900000"),
        "run, ID starts with contact-01": search(external_id="contact-01"),
        "run, ID is contact-0123456": search(external_id="contact-0123456"),
        "run, ID starts with contact-01 and unknown": search(external_id="contact-01", outcome="unknown"),
        "run, related ID": search(related_external_id="deal-00777777"),
        "run, related ID starts with deal-0077": search(related_external_id="deal-0077"),
        "run, related ID starts with deal-00 (all)": search(related_external_id="deal-00"),
        "… the 50 after the 1,000th": search(related_external_id="deal-00", after="1000"),
        "… and unknown": search(related_external_id="deal-00", outcome="unknown"),
        "… and already absent": search(related_external_id="deal-00", outcome="already_absent"),
        "… and removed": search(related_external_id="deal-00", outcome="removed"),
        "… and ID starts with contact-01": search(related_external_id="deal-00", external_id="contact-01"),
        "… and ID starts with contact-0123": search(
            related_external_id="deal-00", external_id="contact-0123"
        ),
        "run, ID without links": search(external_id="zzz"),
        "link": lambda: client.get(f"/links/{link}"),
    }


def _timed(name: str, ask: Callable[[], object]) -> float:
    """Return the median of the later responses in milliseconds."""
    took = []
    for _ in range(_TIMES):
        began = time.perf_counter()
        ask()
        took.append(1000 * (time.perf_counter() - began))
    later = sorted(took[1:])
    _say(
        f"{name:55s} first {took[0]:6.0f} ms, median {later[len(later) // 2]:6.0f}, slowest {later[-1]:6.0f}"
    )
    return later[len(later) // 2]


class _HalfDone:
    """Context in which the large run looks half done."""

    def __init__(self, url: sa.URL) -> None:
        self._engine = sa.create_engine(url)

    def __enter__(self) -> None:
        with self._engine.begin() as connection:
            self._finished_at = connection.scalar(
                sa.select(runs.c.finished_at).where(runs.c.run_key == LARGE_KEY)
            )
            planned = connection.scalar(sa.select(runs.c.planned).where(runs.c.run_key == LARGE_KEY)) or 0
            self._set(connection, None)
            second_half = sa.and_(links.c.run_key == LARGE_KEY, links.c.seq >= planned // 2)
            connection.execute(
                sa.update(links).where(second_half).values(invalid_reason=links.c.outcome, outcome=None)
            )
            later = sa.and_(chunks.c.run_key == LARGE_KEY, chunks.c.first_seq >= planned // 2)
            connection.execute(sa.update(chunks).where(later).values(claim_no=0))

    def __exit__(self, *_: object) -> None:
        with self._engine.begin() as connection:
            self._set(connection, self._finished_at)
            connection.execute(
                sa.update(links)
                .where(links.c.invalid_reason.is_not(None))
                .values(outcome=links.c.invalid_reason, invalid_reason=None)
            )
            connection.execute(sa.update(chunks).values(claim_no=1))
        self._engine.dispose()

    @staticmethod
    def _set(connection: sa.Connection, finished_at: object) -> None:
        connection.execute(sa.update(runs).where(runs.c.run_key == LARGE_KEY).values(finished_at=finished_at))


class _AdminReader:
    """A reader with all permissions."""

    def may_read(self, _dag_id: str, _job: str) -> bool:
        return True

    def may_trigger(self, _dag_id: str) -> bool:
        return True

    def visible(self, pairs: set[tuple[str, str]]) -> set[tuple[str, str]]:
        return pairs


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    os.environ.setdefault("AIRFLOW__CORE__LOAD_EXAMPLES", "False")
    sys.exit(main())
