"""Databases that would fail a run halfway: without rights, read-only, in another schema, or not durable."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import uuid
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import psycopg
import pytest
import sqlalchemy as sa

from include.stack import LocalPostgres
from tests.support.ledger import JOB, MOMENT, RUN, drive, pairs, planned, rows_of
from zoho_crm.errors import ZohoConfigError
from zoho_crm.ledger import tables
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.ledger.schema import RETENTION_RIGHTS, RUN_RIGHTS, check_rights

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.support.mariadb import MariaDbServer
    from tests.support.postgres import PostgresServer

ROOT = Path(__file__).parents[4]


class Role:
    """A role without rights on the tables of a ledger, and the engine that connects as it."""

    def __init__(self, owner: Ledger, url: sa.URL, name: str) -> None:
        self.owner = owner
        self.name = name
        self.engine = sa.create_engine(url)
        self.ledger = Ledger(self.engine)

    def grant(self, rights: str, table: str) -> None:
        self._run(f"GRANT {rights} ON {table} TO {self.name}")

    def revoke(self, rights: str, table: str) -> None:
        self._run(f"REVOKE {rights} ON {table} FROM {self.name}")

    def become(self, documented: str) -> None:
        """Get the rights of a role in docs/audit-roles, whose statements the owner runs, twice."""
        postgres = self.engine.dialect.name == "postgresql"
        script = (ROOT / "docs" / "audit-roles" / f"{self.engine.dialect.name}.sql").read_text()
        for statement in [script] if postgres else re.split(r";\n", script.strip()):
            self._run(statement)
            self._run(statement)
        self._run(f"GRANT {documented} TO {self.name}")
        if not postgres:
            self._run(f"SET DEFAULT ROLE {documented} FOR {self.name}")

    def grant_what_a_run_needs(self) -> None:
        for table, rights in RUN_RIGHTS.items():
            self.grant(", ".join(rights), table.name)

    def may(self, right: str, table: sa.TableClause) -> bool:
        try:
            check_rights(self.engine, {table: (right,)})
        except ZohoConfigError:
            return False
        return True

    def _run(self, statement: str) -> None:
        with self.owner.engine.begin() as connection:
            connection.exec_driver_sql(statement)


@pytest.fixture(
    params=[
        pytest.param("postgres", marks=pytest.mark.integration),
        pytest.param("mariadb", marks=[pytest.mark.integration, pytest.mark.systems]),
    ]
)
def role(request: pytest.FixtureRequest) -> Iterator[Role]:
    make = _postgres_role if request.param == "postgres" else _mariadb_role
    with make(request.getfixturevalue(f"{request.param}_server")) as role:
        yield role
        role.engine.dispose()
        role.owner.close()


@contextmanager
def _postgres_role(server: PostgresServer) -> Iterator[Role]:
    name = f"role_{uuid.uuid4().hex}"
    server.run(f"CREATE ROLE {name} LOGIN")
    with server.database() as database:
        owner = _ledger_in(server.url(database))
        yield Role(owner, server.url(database, "psycopg").set(username=name), name)
    server.run(f"DROP ROLE {name}")


@contextmanager
def _mariadb_role(server: MariaDbServer) -> Iterator[Role]:
    name, host = f"role_{uuid.uuid4().hex}", "127.0.0.1"
    server.run(f"CREATE USER {name}@'{host}' IDENTIFIED BY 'p'")
    with server.database() as url:
        yield Role(_ledger_in(url), url.set(username=name, password="p"), f"{name}@'{host}'")
    server.run(f"DROP USER {name}@'{host}'")


def _ledger_in(url: sa.URL) -> Ledger:
    ledger = Ledger(sa.create_engine(url))
    ledger.ensure_schema()
    return ledger


def _fault_of(ledger: Ledger) -> str:
    try:
        ledger.ensure_schema()
        ledger.check_readiness()
    except ZohoConfigError as error:
        return str(error)
    return "none"


def test_every_table_has_its_rights() -> None:
    assert RUN_RIGHTS.keys() == {*tables.metadata.tables.values(), tables.latest}


def test_role_that_passes_can_carry_a_run_to_its_end(role: Role) -> None:
    role.grant_what_a_run_needs()
    role.ledger.ensure_schema()
    role.ledger.check_readiness()

    planned(role.ledger, pairs(4), chunk_size=4)
    drive(role.ledger)
    role.ledger.slots.lease("zoho", "me", wanted=1, limit=2, lease_s=60)
    role.ledger.slots.release("zoho", "me")
    role.ledger.runs.finish(RUN, status="succeeded", detail=None, finished_at=MOMENT)
    role.ledger.finalizer.seal(RUN)
    assert list(role.ledger.chain.verify()) == []


@pytest.mark.parametrize(
    ("right", "table"),
    [
        ("INSERT", "zoho_delink_audit"),
        ("UPDATE", "zoho_delink_link"),
        ("SELECT", "zoho_delink_latest"),
        ("DELETE", "zoho_delink_staging"),
    ],
)
def test_missing_right_is_named_with_its_table_and_role(role: Role, right: str, table: str) -> None:
    role.grant_what_a_run_needs()
    role.revoke(right, table)

    fault = _fault_of(role.ledger)

    assert f"lacks {right} on {table}: grant it" in fault
    assert role.name.split("@")[0] in fault


def test_role_that_may_not_read_the_version_is_refused_in_one_sentence(role: Role) -> None:
    assert "refuses its role a right" in _fault_of(role.ledger)


def test_check_of_rights_changes_nothing(role: Role) -> None:
    planned(role.owner, pairs(4))
    drive(role.owner)
    everything = [rows_of(role.owner.engine, table) for table in tables.metadata.sorted_tables]

    check_rights(role.owner.engine)
    check_rights(role.owner.engine, RETENTION_RIGHTS)

    assert [rows_of(role.owner.engine, table) for table in tables.metadata.sorted_tables] == everything


def test_retention_without_rights_changes_nothing_and_succeeds_once_they_are_granted(role: Role) -> None:
    role.grant_what_a_run_needs()
    planned(role.owner, pairs(4))
    drive(role.owner)
    role.owner.runs.finish(RUN, status="succeeded", detail=None, finished_at=MOMENT)

    for _night in range(2):
        with pytest.raises(
            ZohoConfigError,
            match=r"lacks UPDATE on zoho_delink_audit, DELETE on zoho_delink_link: grant it",
        ):
            role.ledger.retention.pseudonymize(RUN)
        (run,) = rows_of(role.owner.engine, tables.runs)
        assert run["pseudonymized_at"] is None

    role.grant("UPDATE", "zoho_delink_audit")
    role.grant("DELETE", "zoho_delink_link")
    assert role.ledger.retention.due_runs(JOB, MOMENT + timedelta(days=1)) == [RUN]
    assert role.ledger.retention.pseudonymize(RUN) == 4


@pytest.mark.parametrize(
    ("documented", "rights"),
    [
        ("zoho_audit_writer", RUN_RIGHTS),
        ("zoho_audit_retention", RETENTION_RIGHTS),
        ("zoho_audit_reader", {}),
    ],
)
def test_documented_roles_have_the_rights_that_are_needed_and_no_others(
    role: Role, documented: str, rights: Mapping[sa.TableClause, tuple[str, ...]]
) -> None:
    role.become(documented)
    assert role.may("SELECT", tables.latest)
    every = set(tables.metadata.tables.values())
    for right in ("SELECT", "INSERT", "UPDATE", "DELETE"):
        needed = {table for table in every if right == "SELECT" or right in rights.get(table, ())}
        assert {table for table in every if role.may(right, table)} == needed, right


def test_documented_writer_cannot_change_what_it_wrote_and_retention_can(role: Role) -> None:
    role.become("zoho_audit_writer")
    role.ledger.ensure_schema()
    role.ledger.check_readiness()
    planned(role.ledger, pairs(4))
    drive(role.ledger)
    role.ledger.runs.finish(RUN, status="succeeded", detail=None, finished_at=MOMENT)
    role.ledger.finalizer.seal(RUN)

    for change in (sa.update(tables.audit).values(outcome="failed"), sa.delete(tables.seals)):
        with pytest.raises(sa.exc.DBAPIError, match="denied"), role.engine.begin() as connection:
            connection.execute(change)
    with pytest.raises(ZohoConfigError, match="lacks UPDATE on zoho_delink_audit"):
        role.ledger.retention.pseudonymize(RUN)

    role.become("zoho_audit_retention")
    role.engine.dispose()
    assert role.ledger.retention.pseudonymize(RUN) == 4
    assert list(role.ledger.chain.verify()) == []


def test_tables_in_a_schema_that_is_not_searched_are_named(postgres_server: PostgresServer) -> None:
    with _postgres_role(postgres_server) as role:
        role._run("CREATE SCHEMA records")
        _ledger_in(role.owner.engine.url.update_query_dict({"options": "-csearch_path=records"})).close()
        role.owner.engine.dispose()
        with role.owner.engine.begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        role._run("GRANT USAGE ON SCHEMA public TO PUBLIC")

        fault = _fault_of(role.ledger)

        assert 'search_path: "$user", public; schemas with audit tables: records' in fault
        role.engine.dispose()
        role.owner.close()


@pytest.mark.integration
def test_postgres_that_does_not_write_to_its_disk_is_refused(tmp_path: Path) -> None:
    with LocalPostgres(tmp_path / "postgres") as server:
        server.create_database("audit")
        ledger = _ledger_in(sa.make_url(server.url("audit", "psycopg")))
        ledger.check_readiness()
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            connection.execute("ALTER SYSTEM SET fsync = off")
            connection.execute("SELECT pg_reload_conf()")
            while connection.execute("SHOW fsync").fetchone() == ("on",):
                pass
        ledger.close()
        assert "has fsync=off, so that outcomes may be lost in a crash" in _fault_of(ledger)
        ledger.close()


@pytest.mark.systems
def test_mariadb_that_commits_without_its_disk_is_refused(mariadb_server: MariaDbServer) -> None:
    with mariadb_server.database() as url:
        ledger = _ledger_in(url)
        ledger.check_readiness()
        mariadb_server.run("SET GLOBAL innodb_flush_log_at_trx_commit = 2")
        try:
            assert "has innodb_flush_log_at_trx_commit=2" in _fault_of(ledger)
        finally:
            mariadb_server.run("SET GLOBAL innodb_flush_log_at_trx_commit = 1")
            ledger.close()


def test_file_that_is_read_only_is_refused(empty_sqlite_ledger: Path) -> None:
    engine = sa.create_engine(f"sqlite:///file:{empty_sqlite_ledger}?mode=ro&uri=true")

    assert "is read-only (attempt to write a readonly database)" in _fault_of(Ledger(engine))
    engine.dispose()


CHECK = """
import os, sys
import sqlalchemy as sa
from zoho_crm.errors import ZohoError
from zoho_crm.ledger.ledger import Ledger

ledger = Ledger(sa.create_engine(f"sqlite:///{sys.argv[1]}"))
if os.getuid() == 0:
    # Permissions do not bind root.
    os.setgid(65534)
    os.setuid(65534)
try:
    ledger.check_connection()
    ledger.ensure_schema()
    ledger.check_readiness()
except ZohoError as error:
    print(error)
"""


@pytest.mark.integration
@pytest.mark.parametrize("has_tables", [True, False], ids=["tables", "empty"])
@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_file_in_a_folder_that_is_read_only_is_refused(has_tables: bool, journal: str) -> None:
    # Not in tmp_path or TMPDIR, which only their owner may enter: the check runs as another user.
    with TemporaryDirectory(prefix="zoho-audit-", dir="/tmp") as name:
        folder, file = Path(name), Path(name) / "audit.db"
        if has_tables:
            _ledger_in(sa.make_url(f"sqlite:///{file}")).close()
        with closing(sqlite3.connect(file)) as connection:
            connection.execute(f"PRAGMA journal_mode = {journal}")
        file.chmod(0o666)
        folder.chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", CHECK, str(file)],
            check=False,
            capture_output=True,
            text=True,
            env={"PYTHONPATH": str(ROOT / "plugins"), "PATH": "/usr/bin:/bin"},
            cwd="/",
        )
        folder.chmod(0o755)

    assert done.returncode == 0, done.stderr
    assert f"{file}) is read-only (" in done.stdout


def test_documented_rights_are_those_that_are_checked() -> None:
    page = (ROOT / "docs" / "audit-database.md").read_text(encoding="utf-8")
    documented = {
        cells[0].strip("`"): (set(cells[1].split(", ")), set(filter(None, cells[2].split(", "))))
        for cells in ([cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines())
        if len(cells) == 3 and cells[0].startswith("`zoho_delink_")
    }
    assert documented == {
        table.name: (set(rights), set(RETENTION_RIGHTS.get(table, ())) - set(rights))
        for table, rights in RUN_RIGHTS.items()
    }
