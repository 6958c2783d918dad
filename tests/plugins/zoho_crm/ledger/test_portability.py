"""Nothing the ledger says keeps another database out: every statement it runs compiles for the others."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from tests.support.ledger import (
    JOB,
    MOMENT,
    ORIGIN,
    RUN,
    drive,
    pairs,
    planned,
    settle,
    take,
)
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger import plan, tables
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.ledger.link_queries import PENDING, LinkFilter, LinkQueries
from zoho_crm.ledger.run_queries import RunFilter, RunPosition, RunQueries
from zoho_crm.ledger.schema import CreateView

if TYPE_CHECKING:
    from pathlib import Path

DIALECTS = {
    "mysql": "sqlalchemy.dialects.mysql:dialect",
    "mssql": "sqlalchemy.dialects.mssql:dialect",
    "oracle": "sqlalchemy.dialects.oracle:dialect",
    "postgresql": "sqlalchemy.dialects.postgresql:dialect",
    "snowflake": "snowflake.sqlalchemy:dialect",
    "bigquery": "sqlalchemy_bigquery:dialect",
    "redshift": "sqlalchemy_redshift.dialect:RedshiftDialect_psycopg2",
}

NOT_PORTABLE = re.compile(
    r"\b(RETURNING|ON CONFLICT|ON DUPLICATE|MERGE|FOR UPDATE|SKIP LOCKED|ARRAY|ILIKE|DISTINCT ON)\b",
    re.IGNORECASE,
)


@pytest.fixture(scope="module")
def statements(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """All that the ledger asks of a database, gathered while it does everything it can."""
    folder: Path = tmp_path_factory.mktemp("portability")
    engine = sa.create_engine(f"sqlite:///{folder / 'ledger.db'}")
    gathered: list[Any] = []
    sa.event.listen(engine, "before_execute", lambda _, element, *__: gathered.append(element))
    _do_everything(Ledger(engine))
    engine.dispose()
    return [element for element in gathered if isinstance(element, sa.sql.expression.Executable)]


@pytest.fixture(
    params=[
        pytest.param(name, marks=[] if path.startswith("sqlalchemy.") else pytest.mark.systems)
        for name, path in DIALECTS.items()
    ]
)
def dialect(request: pytest.FixtureRequest) -> sa.Dialect:
    module, _, name = DIALECTS[request.param].partition(":")
    made: sa.Dialect = getattr(import_module(module), name)()
    return made


@pytest.mark.filterwarnings(
    "ignore:force_div_is_floordiv:PendingDeprecationWarning"
)  # says Snowflake's own default
def test_every_statement_compiles(statements: list[Any], dialect: sa.Dialect) -> None:
    assert len(statements) > 40

    for statement in statements:
        text = str(statement.compile(dialect=dialect))
        assert not NOT_PORTABLE.search(text), text


def test_every_table_and_the_view_compile(dialect: sa.Dialect) -> None:
    for table in tables.metadata.sorted_tables:
        assert table.name in str(CreateTable(table).compile(dialect=dialect))
        for index in table.indexes:
            assert index.name in str(CreateIndex(index).compile(dialect=dialect))
    view = str(CreateView(tables.latest, tables.LATEST_SELECT).compile(dialect=dialect)).replace("`", "")
    assert view.startswith("CREATE VIEW zoho_delink_latest AS SELECT")
    assert "newest = 1" in view


def test_only_postgresql_takes_batches_as_documents(dialect: sa.Dialect) -> None:
    text = str(plan._insert_statement(dialect).compile(dialect=dialect))

    assert ("json_to_recordset" in text) == (dialect.name == "postgresql")


def test_keys_fit_into_an_index_of_mysql() -> None:
    def key_bytes(columns: Any) -> int:
        return sum(4 * (getattr(column.type, "length", None) or 2) for column in columns)

    for table in tables.metadata.sorted_tables:
        for index in [table.primary_key, *table.indexes]:
            columns = [column for column in index.columns if isinstance(column, sa.Column)]
            assert key_bytes(columns) <= 3072, (table.name, index.name)


def _do_everything(ledger: Ledger) -> None:
    ledger.ensure_schema()
    ledger.ensure_schema()
    ledger.check_connection()
    planned(ledger, [*pairs(6), (None, "x")], chunk_size=3)
    planned(ledger)
    ledger.runs.mark_running(RUN)
    ledger.runs.record_guard(RUN, "goes on")
    ledger.runs.record_approval(RUN, approval="approved", approved_by="jo", approved_at=MOMENT)
    claim = ledger.claims.claim(RUN, 0, "a try")
    ledger.claims.store_snapshots(
        claim, {link.seq: "{}" for link in ledger.claims.without_snapshot(claim, 1)}
    )
    settle(ledger, claim, take(ledger, claim, 1), Outcome.FAILED, take=2)
    drive(ledger, 1)
    _look_at_everything(ledger)
    ledger.slots.lease("zoho", "a", wanted=2, limit=3, lease_s=30)
    ledger.slots.lease("zoho", "a", wanted=1, limit=3, lease_s=30)
    ledger.slots.renew("zoho", "a", 30)
    ledger.slots.release("zoho", "a")
    ledger.claims.lease(claim, 30)
    ledger.claims.release(claim)
    ledger.runs.count_unsettled(RUN)
    ledger.runs.stop(RUN, "enough")
    ledger.runs.stop_reason(RUN)
    ledger.finalizer.close_unfinished_links(RUN, origin=ORIGIN)
    ledger.runs.finish(RUN, status="partial", detail=None, finished_at=MOMENT)
    ledger.finalizer.seal(RUN)
    list(ledger.chain.verify())
    ledger.retention.due_runs(JOB, MOMENT)
    ledger.retention.unfinished_runs(JOB, MOMENT)
    ledger.retention.pseudonymize(RUN)


def _look_at_everything(ledger: Ledger) -> None:
    engine, run = ledger.engine, ledger.runs.get(RUN)
    assert run is not None
    run_queries, link_queries = RunQueries(engine), LinkQueries(engine)
    visible = run_queries.dags_and_jobs()
    wanted = RunFilter(job=JOB, ending="running", mode="apply", since=MOMENT, until=MOMENT)
    run_queries.page(wanted, visible=visible, after=RunPosition.of(run))
    run_queries.outcomes_by_day(wanted, visible=visible)
    run_queries.of_dag_run(run.dag_id, run.dag_run_id)
    run_queries.started_from(run)
    assert run_queries.find(run.dag_run_id, JOB) == run
    assert run_queries.reasons(run, run_queries.progress(run))
    every = LinkFilter(outcome="failed", external_id="c", related_external_id="d-000000")
    for links_wanted in (every, LinkFilter(outcome=PENDING)):
        link_queries.page(run, links_wanted)
    (first, *_) = link_queries.stream(run)
    keys = link_queries.pair_keys(first.external_id, first.related_external_id)
    assert keys == [first.pair_key]
    assert link_queries.history(keys, visible=visible) == link_queries.history(keys, visible=None)
    assert len(list(link_queries.audit_rows(RUN, only_latest=True))) == len(
        {row["seq"] for row in link_queries.audit_rows(RUN, only_latest=False)}
    )
    assert link_queries.invalid_reasons(RUN) == {"external_id is missing": 1}
