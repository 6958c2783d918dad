from __future__ import annotations

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.operations import Operations
from alembic.runtime.migration import MigrationContext

from tests.plugins.zoho_crm.ledger.samples import JOB, ORIGIN, TARGET, result, rows_of
from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger import migrations, schema, tables
from zoho_crm.ledger.ledger import Ledger

RUN = "contacts_deals:1"
OTHER_WORDS = {
    "sqlite": {
        ' COLLATE "C"': "",
        "DOUBLE PRECISION": "DOUBLE",
        "TIMESTAMP WITH TIME ZONE": "DATETIME",
    },
    "mysql": {
        ' COLLATE "C"': " COLLATE utf8mb4_bin",
        " TEXT": " LONGTEXT",
        "TIMESTAMP WITH TIME ZONE": "DATETIME(6)",
        "\n);\n": "\n) ENGINE=InnoDB CHARSET=utf8mb4 COLLATE=utf8mb4_bin;\n",
    },
}
SINCE_VERSION: dict[int, dict[str, dict[str, set[Any]]]] = {
    1: {
        "zoho_delink_run": {
            "operation": {"delink"},
            **{
                key: {None}
                for key in (
                    "origin_run_key",
                    "relinked",
                    "already_linked",
                    "would_relink",
                    "known_links",
                    "source_as_of",
                    "pseudonymised_at",
                )
            },
        },
        "zoho_delink_link": {"snapshot": {None}},
        "zoho_delink_chunk": {"chain_no": {0}, "chain_hash": {None}},
        "zoho_delink_audit": {
            "operation": {"delink"},
            **{key: {None} for key in ("snapshot", "chunk_no", "chain_no", "row_hash")},
        },
    },
    2: {
        "zoho_delink_run": {key: {None} for key in ("credits", "check_credits", "environment")},
        "zoho_delink_chunk": {"credits": {0}},
    },
}
"""Columns that the version after added, and what rows of before hold in them."""
NEW_TABLES = {
    1: {tables.seals.name, tables.job_states.name, tables.credit_readings.name},
    2: {tables.credit_readings.name},
}


@pytest.fixture(params=[1, 2], ids=["version 1", "version 2"])
def version(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def old(engine: sa.Engine, version: int) -> sa.Engine:
    """A database as an earlier version left it, with rows in every table."""
    script = (Path(__file__).parent / f"schema_{version}.sql").read_text()
    for theirs, ours in OTHER_WORDS.get(engine.name, {}).items():
        script = script.replace(theirs, ours)
    with engine.begin() as connection:
        for statement in script.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)
    return engine


def rows(engine: sa.Engine, table: str) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        found = connection.exec_driver_sql(f"SELECT * FROM {table}").mappings()  # noqa: S608 - our own names
        return sorted((dict(row) for row in found), key=str)


def old_names(engine: sa.Engine) -> list[str]:
    return [name for name in sa.inspect(engine).get_table_names() if name != tables.versions.name]


def test_every_row_is_kept_and_new_columns_have_their_defaults(old: sa.Engine, version: int) -> None:
    before = {name: rows(old, name) for name in old_names(old)}
    assert len(before) == {1: 8, 2: 10}[version]
    assert all(before.values())

    Ledger(old).ensure_schema()

    after = {name: rows(old, name) for name in before}
    added: dict[str, dict[str, set[Any]]] = {}
    for name, kept in before.items():
        assert [{key: row[key] for key in kept[0]} for row in after[name]] == kept
        added[name] = {key: {row[key] for row in after[name]} for key in after[name][0] if key not in kept[0]}
    expected: dict[str, dict[str, set[Any]]] = {}
    for since in range(version, schema.SCHEMA_VERSION):
        for name, columns in SINCE_VERSION[since].items():
            expected.setdefault(name, {}).update(columns)
    assert {name: columns for name, columns in added.items() if columns} == expected
    assert [row["version"] for row in rows_of(old, tables.versions)] == [1, 2, 3]


def test_schema_brought_forward_is_the_one_that_is_made_anew(old: sa.Engine) -> None:
    Ledger(old).ensure_schema()
    migrated = _described(old)

    for name in old_names(old):
        with old.begin() as connection:
            connection.exec_driver_sql("DROP VIEW IF EXISTS zoho_delink_latest")
            connection.exec_driver_sql(f"DROP TABLE {name}")
    with old.begin() as connection:
        connection.exec_driver_sql("DROP TABLE zoho_delink_version")
    Ledger(old).ensure_schema()

    assert migrated == _described(old)


def test_view_shows_the_new_columns(old: sa.Engine) -> None:
    Ledger(old).ensure_schema()

    latest = rows(old, "zoho_delink_latest")

    assert set(latest[0]) == {column.name for column in tables.audit.c}
    assert [(row["seq"], row["outcome"], row["operation"]) for row in latest] == [
        (3, "invalid", "delink"),
        (0, "removed", "delink"),
    ]


def test_run_of_the_old_version_is_driven_on(old: sa.Engine) -> None:
    ledger = Ledger(old)
    ledger.ensure_schema()
    run = ledger.get_run(RUN)
    assert run is not None
    assert (run.operation, run.origin_run_key, run.relinked) == ("delink", None, None)
    assert run.logical_date == datetime(2026, 10, 1, 2, tzinfo=UTC)

    claim = ledger.claim_chunk(RUN, 0, "a try of the new version")
    links = ledger.take(claim, 10)
    assert [(link.seq, link.ambiguous_before, link.snapshot) for link in links] == [
        (1, True, None),
        (2, False, None),
    ]
    ledger.settle(claim, [result(link) for link in links], origin=ORIGIN, target=TARGET, job=JOB)
    ledger.finish_run(RUN, status="succeeded", detail=None, finished_at=datetime.now(UTC))

    assert ledger.counts(RUN) == {Outcome.REMOVED: 3, Outcome.INVALID: 1}
    assert ledger.pending(RUN) == 0
    # Nobody has counted what its first half has cost.
    assert rows_of(old, tables.runs)[0]["credits"] is None


def test_statements_compile_for_mysql() -> None:
    script = io.StringIO()
    context = MigrationContext.configure(dialect_name="mysql", opts={"as_sql": True, "output_buffer": script})

    migrations.change_to_version_2(Operations(context))
    migrations.change_to_version_3(Operations(context))

    text = script.getvalue()
    assert "ADD COLUMN credits BIGINT" in text
    assert "CREATE TABLE zoho_delink_credit" in text
    assert "ADD COLUMN source_as_of DATETIME(6)" in text
    assert "ADD COLUMN row_hash VARCHAR(64) COLLATE utf8mb4_bin" in text
    assert "ADD COLUMN snapshot LONGTEXT" in text
    assert "CREATE TABLE zoho_delink_seal" in text


def test_old_rows_are_there_if_a_step_fails_and_it_can_be_made_again(
    old: sa.Engine, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    versions = [row["version"] for row in rows_of(old, tables.versions)]
    before = rows(old, "zoho_delink_audit")

    def fails(connection: sa.Connection) -> None:
        migrations.to_version_3(connection)
        raise RuntimeError

    monkeypatch.setattr(schema, "MIGRATIONS", {**schema.MIGRATIONS, 3: fails})
    with pytest.raises(RuntimeError):
        Ledger(old).ensure_schema()

    assert [{key: row[key] for key in before[0]} for row in rows(old, "zoho_delink_audit")] == before
    assert [row["version"] for row in rows_of(old, tables.versions)] == versions
    if old.name != "mysql":  # which commits whatever changes a table by itself
        assert rows(old, "zoho_delink_audit") == before
        assert not NEW_TABLES[version] & set(sa.inspect(old).get_table_names())

    monkeypatch.undo()
    Ledger(old).ensure_schema()

    assert [row["version"] for row in rows_of(old, tables.versions)] == [1, 2, 3]
    assert NEW_TABLES[version] <= set(sa.inspect(old).get_table_names())


def _described(engine: sa.Engine) -> dict[str, Any]:
    inspector = sa.inspect(engine)
    described: dict[str, Any] = {}
    for name in inspector.get_table_names():
        columns = {
            column["name"]: {key: str(column.get(key)) for key in ("type", "nullable", "default")}
            for column in inspector.get_columns(name)
        }
        indexes = sorted(str(sorted(index.items(), key=str)) for index in inspector.get_indexes(name))
        described[name] = (columns, indexes, inspector.get_pk_constraint(name)["constrained_columns"])
    return described
