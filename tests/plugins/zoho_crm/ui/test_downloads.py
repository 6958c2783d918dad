"""Downloads of the links of a run."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import sqlalchemy as sa

from tests.plugins.zoho_crm.ui.conftest import JOBS
from tests.support.ledger import MOMENT
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger import tables
from zoho_crm.ledger.link_queries import LINK_FIELDS, LinkQueries
from zoho_crm.ledger.runs import RunStore

if TYPE_CHECKING:
    from tests.plugins.zoho_crm.ui.conftest import Pages
    from zoho_crm.core.models import StoredRun

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
