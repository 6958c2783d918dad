"""Which conditions on the audit pass, and which are refused before a database sees them."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoho_crm.core.audit_condition import MAX_DEPTH, MAX_LENGTH, check_condition
from zoho_crm.errors import ZohoConfigError

COLUMNS = ("seq", "external_id", "zoho_code", "finished_at", "dry_run")


@pytest.mark.parametrize(
    "text",
    [
        "zoho_code = 'SUCCESS'",
        "external_id LIKE 'c-1%' AND NOT (seq >= 10 OR seq < 5)",
        "finished_at >= '2026-11-22 10:30:00'",
        "Zoho_Code IN ('A', 'B') and external_id is not null",
        "seq BETWEEN 1 AND 2.5",
        "lower(external_id) = 'o''brien' -- '".removesuffix(" -- '"),
        "length(trim(external_id)) % 2 = 0",
        "external_id = '; DROP TABLE x; -- /*'",
        "CASE WHEN dry_run THEN 1 ELSE 0 END = 1",
        "external_id = 'ünï'",
        "\n seq = 1\n",
    ],
)
def test_conditions_on_columns_pass(text: str) -> None:
    assert check_condition(text, COLUMNS) == f"({text.strip()})"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("", "is empty", id="empty"),
        pytest.param("seq = 1; DELETE", "';'", id="second statement"),
        pytest.param("seq = 1 -- x", "'--'", id="comment"),
        pytest.param("seq = 1 --", "'--'", id="comment at the end"),
        pytest.param("seq /* x */ = 1", r"'/\*'", id="block comment"),
        pytest.param("seq = 1 # x", "'#'", id="MySQL's comment"),
        pytest.param(
            "seq IN (SELECT seq FROM zoho_delink_run)",
            "SELECT is no|select is no column",
            id="sub-select",
        ),
        pytest.param("1 = 1) UNION SELECT 1 WHERE (1 = 1", "do not match", id="way out of the parentheses"),
        pytest.param("(seq = 1", "is not closed", id="open parenthesis"),
        pytest.param("(" * (MAX_DEPTH + 1), "nested too deeply", id="depth"),
        pytest.param("pg_sleep(10) is null", "pg_sleep is no function", id="function"),
        pytest.param("load_extension('x') = 1", "load_extension is no function", id="SQLite's function"),
        pytest.param("seq(1) = 1", "seq is no function", id="column as a function"),
        pytest.param("password = 'x'", "password is no column", id="another column"),
        pytest.param("zoho_delink_run.reason = 'x'", r"'\.'", id="another table"),
        pytest.param("seq = :seq", "':'", id="parameter"),
        pytest.param("seq = $1", r"'\$'", id="numbered parameter"),
        pytest.param("seq = ?", r"'\?'", id="positional parameter"),
        pytest.param("seq::text = '1'", "':'", id="cast"),
        pytest.param('"seq" = 1', "'\"'", id="quoted name"),
        pytest.param("`seq` = 1", "'`'", id="MySQL's quoted name"),
        pytest.param("external_id = 'a\\' OR 1=1'", '"\'"', id="backslash in a value"),
        pytest.param("external_id = 'open", '"\'"', id="open value"),
        pytest.param("external_id = $$x$$", r"'\$'", id="dollar quotes"),
        pytest.param("external_id = E'x'", "e is no column", id="escape string"),
        pytest.param("external_id = 'a\x00'", '"\'"', id="NUL"),
        pytest.param("seq = 1e5", "'1'", id="odd number"),
        pytest.param("x" * (MAX_LENGTH + 1), "longer than", id="length"),
    ],
)
def test_everything_else_is_refused_by_name(text: str, says: str) -> None:
    with pytest.raises(ZohoConfigError, match=rf"^where: .*({says})"):
        check_condition(text, COLUMNS)


@given(
    st.lists(
        st.sampled_from(
            r"seq = 1 ' '' 'x' ( ) , OR IN LIKE -- /* */ ; \ UNION SELECT secret FROM hidden".split(" ")  # noqa: SIM905 - as a list it takes 22 lines
        ),
        max_size=14,
    ).map(" ".join)
)
def test_no_condition_that_passes_reads_another_table(text: str) -> None:
    with suppress(ZohoConfigError), closing(sqlite3.connect(":memory:")) as connection:
        condition = check_condition(text, COLUMNS)
        connection.execute("CREATE TABLE rows (seq, external_id, zoho_code, finished_at, dry_run)")
        connection.execute("CREATE TABLE hidden (secret)")
        read = set()

        def note(action: int, table: str | None, *_: object) -> int:
            read.add((action, table))
            return sqlite3.SQLITE_OK

        connection.set_authorizer(note)
        with suppress(sqlite3.OperationalError):
            connection.execute(f"SELECT seq FROM rows WHERE {condition}")  # noqa: S608 - what is under test
        assert {table for action, table in read if action == sqlite3.SQLITE_READ} <= {"rows"}
        assert {action for action, _ in read} <= {
            sqlite3.SQLITE_READ,
            sqlite3.SQLITE_SELECT,
            sqlite3.SQLITE_FUNCTION,
        }
