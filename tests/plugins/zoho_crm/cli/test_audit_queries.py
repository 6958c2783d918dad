"""The queries of docs/audit-queries.md give what the page says, on each kind of database."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.databases import Audit

PAGE = Path(__file__).parents[4] / "docs" / "audit-queries.md"
EXAMPLE = re.compile(r"```sql\n(?P<sql>.*?)```\n\n(?P<table>(?:\|[^\n]*\|\n)+)", re.DOTALL)


def examples() -> list[tuple[str, list[list[str]]]]:
    found = []
    for match in EXAMPLE.finditer(PAGE.read_text(encoding="utf-8") + "\n"):
        lines = [line[2:-2].split(" | ") for line in match["table"].splitlines() if set(line) - set("|-")]
        found.append((match["sql"], [[cell.strip() for cell in line] for line in lines]))
    return found


def as_cell(value: object) -> str:
    return "" if value is None else str(value).strip()


def test_every_query_of_the_page_shows_its_result() -> None:
    assert len(examples()) == PAGE.read_text(encoding="utf-8").count("```sql") >= 10
    assert all(len(table) > 1 for _, table in examples()), "a query that gives nothing shows nothing"


def test_queries_return_what_the_page_shows(any_story: Audit) -> None:
    with any_story.engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET TIME ZONE 'UTC'")
        for sql, table in examples():
            result = connection.exec_driver_sql(sql)
            got = [list(result.keys()), *([as_cell(value) for value in row] for row in result)]
            assert got == table, sql


def test_page_covers_the_common_questions() -> None:
    titles = set(re.findall(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    asked = {"Failures by reason", "History of one link", "Who removed it", "Daily volume"}
    assert asked | {"A dry run compared with the later apply run", "Unfinished links"} <= titles


@pytest.mark.parametrize("word", ["INSERT", "UPDATE", "DELETE", "DROP"])
def test_no_query_writes(word: str) -> None:
    assert not any(re.search(rf"\b{word}\b", sql) for sql, _ in examples())
