"""The trigger form: what Airflow checks of it, what its reader makes of it, and its page in docs."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from airflow.sdk.definitions.param import ParamsDict

from tests.support.releases import ParamValidationError
from zoho_crm.core.run_request import RunRequest, parse_run_request
from zoho_crm.trigger_forms import job_form

PAGE = Path(__file__).parents[3] / "docs" / "trigger-form.md"
TABLE = re.compile(r"(?<=<!-- fields -->\n).*(?=<!-- end of fields -->)", re.DOTALL)
NOW = datetime(2026, 11, 23, tzinfo=UTC)


def submit(**values: Any) -> RunRequest:
    """Fill in the form as Airflow does when a run is started, and read it as the first task does."""
    params = ParamsDict(job_form())
    params.update(values)
    return parse_run_request(
        params.validate(), run_type="manual", run_after=NOW, data_interval=None, fields=list(job_form())
    )


def test_an_untouched_form_is_a_dry_run_of_all_that_is_pending() -> None:
    request = submit()
    assert (request.mode, request.window_end, request.links, request.verify) == ("dry_run", NOW, None, False)


@pytest.mark.parametrize(
    "links",
    [
        [{"external_id": "c-1", "related_external_id": "d-1"}],
        [["c-1", "d-1"]],
        "external_id;related_external_id\nc-1;d-1",
        '[["c-1", "d-1"]]',
    ],
    ids=["objects", "pairs", "columns", "JSON"],
)
def test_links_may_be_a_list_or_text(links: Any) -> None:
    assert submit(links=links).links == [("c-1", "d-1")]


def test_all_fields_are_read() -> None:
    request = submit(
        mode="apply",
        reason="they moved on",
        max_links=5,
        verify=False,
        window_start="2026-11-01T00:00:00Z",
        window_end="2026-11-02T00:00:00Z",
        links="c-1,d-1",
    )
    assert (request.mode, request.reason, request.max_links, request.links) == (
        "apply",
        "they moved on",
        5,
        [("c-1", "d-1")],
    )
    assert (request.window_start.day, request.window_end.day) == (1, 2)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("mode", "purge"),
        ("mode", None),
        ("reason", 5),
        ("max_links", "5"),
        ("max_links", -1),
        ("verify", "yes"),
        ("window_start", 5),
        ("window_end", ["2026-11-01"]),
        ("links", {"external_id": "c-1"}),
        ("links", 5),
    ],
)
def test_airflow_refuses_a_value_of_a_wrong_type_by_its_field(field: str, value: Any) -> None:
    with pytest.raises(ParamValidationError, match=rf"^Invalid input for param {field}:"):
        submit(**{field: value})


def test_what_decides_over_harm_is_not_folded_away() -> None:
    sections = {name: field.schema.get("section") for name, field in job_form().items()}
    assert list(sections.items()) == [
        ("mode", None),
        ("reason", None),
        ("max_links", None),
        ("verify", None),
        ("window_start", "Window"),
        ("window_end", "Window"),
        ("links", "Links"),
    ]


def test_every_field_has_a_title_and_says_what_it_is() -> None:
    for name, field in job_form().items():
        assert field.schema["title"], name
        assert field.schema["description_md"], name
        # Airflow shows it as plain text, and then no other.
        assert field.description is None, name


def test_examples_of_the_form_can_be_pasted() -> None:
    *columns, as_json = re.findall("^- `(.*)`$", job_form()["links"].schema["description_md"], re.MULTILINE)
    assert submit(links="\n".join(columns)).links == [("c-1001", "d-2001"), ("c-1,002", "d-2002")]
    assert submit(links=as_json).links == [("c-1001", "d-2001"), ("c-1002", "d-2002")]


def test_the_page_in_docs_is_up_to_date() -> None:
    """UPDATE_DOCS=1 rewrites the table."""
    page = PAGE.read_text()
    expected = TABLE.sub(lambda _: _table(), page)
    if os.environ.get("UPDATE_DOCS"):
        PAGE.write_text(expected)
    assert PAGE.read_text() == expected, (
        f"run UPDATE_DOCS=1 pytest {Path(__file__).name}, and commit {PAGE.name}"
    )


def _table() -> str:
    rows = ["| field | in JSON | section | value | default | |", "|---|---|---|---|---|---|"]
    for name, field in job_form().items():
        schema = field.schema
        default = "" if field.value is None else f"`{str(field.value).lower()}`"
        meaning = " ".join(schema["description_md"].split("\n\n")[0].split())
        rows.append(
            f"| {schema['title']} | `{name}` | {schema.get('section', '')} | {_value(schema)} | {default} | {meaning} |"
        )
    return "\n".join(rows) + "\n"


def _value(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{choice}`" for choice in schema["enum"])
    if schema.get("format") == "date-time":
        return "date and time"
    kinds = [schema["type"]] if isinstance(schema["type"], str) else schema["type"]
    names = {"string": "text", "integer": "whole number", "boolean": "yes or no", "array": "list"}
    return " or ".join(names[kind] for kind in kinds if kind != "null")
