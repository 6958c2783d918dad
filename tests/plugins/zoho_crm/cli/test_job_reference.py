from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from zoho_crm.cli.job_reference import example, fields, reference
from zoho_crm.core.job import Guards, Job, Notice, RelationModel, Source
from zoho_crm.core.job_files import load_job

if TYPE_CHECKING:
    from pydantic import BaseModel

    from tests.plugins.zoho_crm.cli.conftest import Cli, Jobs

PAGE = Path(__file__).parents[4] / "docs" / "job-file.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run scripts/job_reference.sh"


def test_the_command_prints_the_page(cli: Cli) -> None:
    assert cli("job-reference").stdout == reference()


def test_every_field_of_the_model_is_told_with_its_meaning(cli: Cli) -> None:
    told = {field["field"]: field for field in cli.document("job-reference")["fields"]}
    sections: dict[str, type[BaseModel]] = {
        "": Job,
        "guards.": Guards,
        "source.": Source,
        "relation.": RelationModel,
        "notify[].": Notice,
    }
    grouped = {"source", "relation", "name"}
    for prefix, model in sections.items():
        for name in set(model.model_fields) - (grouped if not prefix else set()):
            assert told[prefix + name]["meaning"], f"{prefix}{name} has no :param in its model's docstring"
    assert {"schedule.asset", "schedule.uri"} <= told.keys()
    assert "name" not in told


@pytest.mark.parametrize(
    ("field", "part", "text"),
    [
        ("chunk_size", "type", "whole number from 1 to 100000"),
        ("chunk_size", "default", "`500`"),
        ("source.conn_id", "default", "required"),
        ("guards.max_share", "type", "number above 0, at most 1"),
        ("guards.approval_timeout", "default", "`1d`"),
        ("guards.on_breach", "type", "`stop` or `approve`"),
        ("strategy", "example", "`by_parent`"),
    ],
)
def test_types_defaults_and_examples_are_those_of_the_model(field: str, part: str, text: str) -> None:
    (found,) = (one for one in fields() if one["field"] == field)
    assert found[part] == text


def test_the_example_has_every_field_and_is_a_job_that_can_be_used(jobs: Jobs) -> None:
    content: dict[str, Any] = yaml.load(example(), Loader=yaml.BaseLoader)  # noqa: S506 - it makes text of all, "on" included
    assert set(content) == set(Job.model_fields) - {"name"}
    assert set(content["guards"]) == set(Guards.model_fields)
    assert set(content["notify"][0]) == set(Notice.model_fields)
    for name in ("known_links", "last_sync"):
        jobs.write_sql("SELECT 1", name)
    jobs.file.write_text(example(), encoding="utf-8")
    job = load_job(jobs.file)
    assert job.notify[0].on == ("failed", "stopped", "breach", "recovered")
