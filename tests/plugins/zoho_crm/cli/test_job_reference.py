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


def test_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run scripts/job_reference.sh"


def test_command_prints_the_page(cli: Cli) -> None:
    assert cli("job-reference").stdout == reference()


def test_every_field_of_the_model_has_a_meaning(cli: Cli) -> None:
    documented = {field["field"]: field for field in cli.document("job-reference")["fields"]}
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
            assert documented[prefix + name]["meaning"], (
                f"{prefix}{name} has no :param in its model's docstring"
            )
    assert {"schedule.asset", "schedule.uri"} <= documented.keys()
    assert "name" not in documented


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


def test_example_is_valid_and_has_every_field(jobs: Jobs) -> None:
    content: dict[str, Any] = yaml.load(example(), Loader=yaml.BaseLoader)  # noqa: S506 - it makes text of all, "on" included
    assert set(content) == set(Job.model_fields) - {"name"}
    assert set(content["guards"]) == set(Guards.model_fields)
    assert set(content["notify"][0]) == set(Notice.model_fields)
    for name in ("baseline_links", "last_sync"):
        jobs.write_sql("SELECT 1", name)
    jobs.file.write_text(example(), encoding="utf-8")
    job = load_job(jobs.file)
    assert job.notify[0].on == ("failed", "stopped", "breach", "recovered")
