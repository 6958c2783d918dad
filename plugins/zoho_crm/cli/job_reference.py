"""``zoho-delink job-reference``: every field of a job file, from the model that checks job files."""

from __future__ import annotations

import math
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import click
import yaml

from zoho_crm.cli.options import command, json_option

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import BaseModel

    from zoho_crm.cli.output import Output

_HEAD = """\
# The job file

Made by `zoho-delink job-reference` from the model that checks job files: change `plugins/zoho_crm/core/job.py`, then
run `scripts/job_reference.sh`. What jobs are and how they run: [jobs.md](jobs.md).

A key that is not listed here is refused. The job is named like its file, and its Dag `zoho_delink__<job>`.
`zoho-delink check-job FILE` checks a file without Airflow.

Speed: `max_concurrency` of the Zoho connection limits the requests in flight of the whole org, and `task_concurrency`
of a job, if you set it, should be half of that. `max_active_chunks`, `chunk_size` and `pool` need no value.
"""

_PARAM = re.compile(r"^:param (\w+):(.*(?:\n[ \t]+.*)*)", re.MULTILINE)
_WORDS = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}


@click.command("job-reference")
@json_option
@command
def job_reference(out: Output) -> None:
    """Print the reference of all fields of a job file, as Markdown."""
    if out.as_json:
        out.document({"fields": list(fields())})
    else:
        out.stream.write(reference())


def reference() -> str:
    """Return the whole page."""
    lines = [_HEAD]
    lines += ["| field | type | default | meaning | example |", "|---|---|---|---|---|"]
    for field in fields():
        cells = (f"`{field['field']}`", field["type"], field["default"], field["meaning"], field["example"])
        lines.append(f"| {' | '.join(_cell(cell) for cell in cells)} |")
    lines += ["", "## A file with all of them", "", "```yaml", example().rstrip(), "```", ""]
    return "\n".join(lines)


def example() -> str:
    """Return a job file that has every field."""
    return files("zoho_crm.cli").joinpath("job_example.yaml").read_text(encoding="utf-8")


def fields() -> Iterator[dict[str, str]]:
    """Yield every field with its type, default, meaning and an example, all as text; in the order of the model."""
    from zoho_crm.core.job import Job

    schema = Job.model_json_schema()
    yield from _fields_of(Job, schema, schema["$defs"], yaml.safe_load(example()), prefix="")


def _fields_of(
    model: type[BaseModel], schema: dict[str, Any], defs: dict[str, Any], sample: Any, prefix: str
) -> Iterator[dict[str, str]]:
    from zoho_crm.core.job import AssetSchedule, Guards, Notice, RelationModel, Source

    sections = {each.__name__: each for each in (AssetSchedule, Guards, Notice, RelationModel, Source)}
    meanings = _meanings(model)
    required = set(schema.get("required", ()))
    for name, part in schema["properties"].items():
        if not prefix and name == "name":
            continue
        value = sample.get(name) if isinstance(sample, dict) else None
        below = [sections[ref] for ref in _refs(part) if ref in sections]
        is_list = part.get("type") == "array"
        if not below or "default" in part or is_list:
            yield {
                "field": prefix + name,
                "type": _type(part),
                "default": "required" if name in required else _default(part),
                "meaning": meanings.get(name, ""),
                "example": _sample(value),
            }
        for section in below:
            inner = value[0] if is_list and value else value
            place = f"{prefix}{name}{'[]' if is_list else ''}."
            yield from _fields_of(section, defs[section.__name__], defs, inner, place)


def _meanings(model: type[BaseModel]) -> dict[str, str]:
    """Return what the docstring of a model says of each field, as Markdown."""
    lines = (model.__doc__ or "").splitlines()
    text = "\n".join(line[4:] if line.startswith("    ") else line for line in lines)
    return {match[1]: " ".join(match[2].split()).replace("``", "`") for match in _PARAM.finditer(text)}


def _refs(part: dict[str, Any]) -> list[str]:
    """Return the names of the models that a field may hold."""
    if "$ref" in part:
        return [str(part["$ref"]).rsplit("/", 1)[-1]]
    pieces = [*part.get("anyOf", ()), *part.get("oneOf", ()), *([part["items"]] if "items" in part else [])]
    return [name for piece in pieces for name in _refs(piece)]


def _type(part: dict[str, Any]) -> str:
    if pieces := part.get("anyOf") or part.get("oneOf"):
        return " or ".join(_type(piece) for piece in pieces if piece.get("type") != "null")
    if "$ref" in part:
        return "the fields below"
    if "enum" in part:
        return " or ".join(f"`{value}`" for value in part["enum"])
    match part.get("type"), part.get("format"):
        case "array", _:
            return f"list of {_type(part.get('items', {}))}"
        case "object", _:
            return "mapping"
        case _, "duration":
            return "duration: `90m`, `6h`, `2d`"
        case _, "date-time":
            return "date"
        case kind, _:
            return _WORDS.get(str(kind), str(kind)) + _bounds(part)


def _bounds(part: dict[str, Any]) -> str:
    low, high = part.get("minimum"), part.get("maximum")
    above = part.get("exclusiveMinimum")
    if above is not None:
        return f" above {above:g}" + ("" if high is None else f", at most {high:g}")
    if low is None:
        return ""
    return f", {low:g} or more" if high is None else f" from {low:g} to {high:g}"


def _default(part: dict[str, Any]) -> str:
    value = part.get("default")
    match value:
        case None:
            return "none"
        case [] | "":
            return "none"
        case {**_others}:
            return "see below"
        case str() if part.get("format") == "duration":
            return f"`{_duration(value)}`"
    return _sample(value)


def _sample(value: object) -> str:
    """Return a value as it would be written in a job file; nothing for a section, whose fields have their own."""
    if value is None or isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict)):
        return ""
    if isinstance(value, float):
        return f"`{value:g}`"
    text: str = yaml.safe_dump(value, default_flow_style=True, width=math.inf)
    return f"`{text.strip().removesuffix('...').strip()}`"


def _duration(iso: str) -> str:
    """Return pydantic's ISO 8601 duration as a job file would have it."""
    match = re.fullmatch(r"P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?)?", iso)
    days, hours, minutes = (int(number or 0) for number in match.groups()) if match else (0, 0, 0)
    if minutes:
        return f"{(days * 24 + hours) * 60 + minutes}m"
    return f"{days * 24 + hours}h" if hours else f"{days}d"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
