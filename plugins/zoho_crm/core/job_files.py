"""
Job files: ``include/jobs/<job>.yaml``.

Errors name the file, the line, the field and the reason.
"""

from __future__ import annotations

import os
import re
import stat
from contextlib import suppress
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from pydantic import ValidationError

from zoho_crm.core.job import AssetSchedule, Guards, Job, Notice, RelationModel, Source
from zoho_crm.errors import PlanError, ZohoConfigError

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator, Mapping, Sequence


JOBS_FOLDER_VARIABLE = "ZOHO_CRM_JOBS_FOLDER"

JOB_FILE = "job_file"
"""Names the job file among the texts of a run; SQL is named by its field."""
SOURCE_SQL = "source.sql_file"
BASELINE_SQL = "guards.baseline_sql_file"
FRESHNESS_SQL = "guards.freshness_sql_file"

MAX_FILE_BYTES = 256 * 1024
"""Of a job file, and of a SQL file."""

MAX_VALUES = 20_000
"""Of a job file, where an alias counts as the values it stands for: a short file can stand for billions."""

_YAML_SUFFIXES = (".yaml", ".yml")
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_FIELD_BEFORE_REASON = re.compile(r"(\w+): ")

_FIELDS: dict[tuple[str, ...], list[str]] = {
    (): [name for name in Job.model_fields if name != "name"],
    ("source",): list(Source.model_fields),
    ("relation",): list(RelationModel.model_fields),
    ("guards",): list(Guards.model_fields),
    ("schedule",): list(AssetSchedule.model_fields),
    ("notify",): list(Notice.model_fields),
}
"""Fields by the field they belong below."""

_YAML_REASONS = {
    "could not determine a constructor": "a tag (!) that a job file cannot have",
    "expected <block end>": "indentation that differs from that of the lines above",
    "expected alphabetic or numeric character": "a value that begins with * or &: put it in quotes",
    "found character '\\t'": "a tab: YAML is indented with spaces",
    "found unhashable key": "a mapping or a list where the name of a field belongs",
    "mapping values are not allowed here": "a colon in a place where none can be: put text with a colon in quotes, "
    "or correct the indentation",
}
"""Sentences for the errors of the YAML parser, by how they begin."""

_KINDS = {
    type(None): "null",
    bool: "true or false",
    int: "a number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping",
}

_REASONS = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be a mapping of fields, not {kind}",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number, not {kind}",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_type": "must be a whole number, not {kind}",
    "invalid_key": "not the name of a field, which is text",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "literal_error": "must be {expected}",
    "missing": "is required",
    "model_attributes_type": "must be a mapping of fields, not {kind}",
    "model_type": "must be a mapping of fields, not {kind}",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must not be empty",
    "string_type": "must be text, not {kind}",
    "tuple_type": "must be a list, not {kind}",
    "value_error": "{error}",
}
"""Sentences for the errors of pydantic, by their type."""


class JobFileError(ZohoConfigError):
    """A job file cannot be used. The message names file, line, field and reason, one line for each fault."""


class JobSql(NamedTuple):
    """
    The SQL of one field of a job file.

    :param field: name of the field, such as ``source.sql_file``
    :param file: the SQL file, as the job file names it
    :param text: content of the SQL file
    """

    field: str
    file: str
    text: str

    def fault(self, reason: str) -> PlanError:
        """Return an error that names field and file, to raise."""
        return PlanError(f"{self.field}: {self.file} {reason}")


AUDIT_CONN_IDS_VARIABLE = "ZOHO_CRM_AUDIT_CONN_IDS"
"""Environment variable that names audit databases where there are no job files, by connection ID."""


def audit_conn_ids() -> list[str]:
    """Return the connection IDs that ``ZOHO_CRM_AUDIT_CONN_IDS`` names, separated by commas."""
    named = os.environ.get(AUDIT_CONN_IDS_VARIABLE, "").split(",")
    return sorted({name.strip() for name in named if name.strip()})


def jobs_folder(project: Path) -> Path:
    """
    Return the folder of the job files: the one named by ``ZOHO_CRM_JOBS_FOLDER``, or the project's own.

    :param project: folder that contains ``include/jobs``
    """
    return Path(os.environ.get(JOBS_FOLDER_VARIABLE) or project / "include" / "jobs")


def job_files(folder: Path) -> list[Path]:
    """Return the job files of a folder, by name; hidden files are left out."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in _YAML_SUFFIXES and not path.name.startswith(".")
    )


def load_job(path: Path) -> Job:
    """
    Read and check one job file.

    :raises JobFileError: it cannot be read, is not YAML, or does not describe a job
    """
    content, node = _read_yaml(path)
    if not isinstance(content, dict):
        raise JobFileError(f"{path.name}: not a job: the file must be a mapping of fields")
    if "name" in content:
        place = _place(path.name, _line_of(node, ("name",)))
        raise JobFileError(f"{place}: name: not a field: the job is named like its file")
    try:
        job = Job.model_validate({**content, "name": path.stem})
    except ValidationError as error:
        raise JobFileError("\n".join(_fault_lines(path.name, node, error))) from None
    try:
        for field, sql_file in sql_files(job).items():
            find_sql(path.parent, sql_file, field)
    except JobFileError as error:
        raise JobFileError(_placed(str(error), path, node)) from None
    return job


def load_jobs(folder: Path) -> tuple[list[Job], list[JobFileError]]:
    """
    Read all job files of a folder.

    :return: the jobs, and an error for each invalid file, which does not affect other jobs
    """
    jobs: dict[str, Job] = {}
    errors: list[JobFileError] = []
    for path in job_files(folder):
        try:
            job = load_job(path)
        except JobFileError as error:
            errors.append(error)
            continue
        if job.name in jobs:
            errors.append(JobFileError(f"{path.name}: name: another file already describes {job.name!r}"))
            continue
        jobs[job.name] = job
    return list(jobs.values()), errors


def named_job(folder: Path, name: object) -> Job:
    """
    Return the job of a given name.

    :raises JobFileError: no job has that name, or its file is invalid; the message lists the jobs
    """
    paths = paths_by_name(folder)
    if not isinstance(name, str) or name not in paths:
        raise JobFileError(f"job: there is no job {name!r}; there are: {', '.join(sorted(paths)) or 'none'}")
    return load_job(paths[name])


def paths_by_name(folder: Path) -> dict[str, Path]:
    """Return the job files of a folder by the names of their jobs; of two with one name, the first by file name."""
    return {path.stem: path for path in reversed(job_files(folder))}


def place_faults(faults: Sequence[str], file: Path) -> list[str]:
    """
    Return faults of a job with the name of its file, and the line of the field that each begins with.

    :param faults: sentences like ``source.sql_file: contacts_deals.sql is empty``
    :param file: the job file
    """
    if not faults:
        return []
    _, node = _read_yaml(file)
    return [_placed(fault, file, node) for fault in faults]


def sql_files(job: Job) -> dict[str, str]:
    """Return the SQL files that a job names, by the field that names them."""
    named = {
        SOURCE_SQL: job.source.sql_file,
        BASELINE_SQL: job.guards.baseline_sql_file,
        FRESHNESS_SQL: job.guards.freshness_sql_file,
    }
    return {field: sql_file for field, sql_file in named.items() if sql_file is not None}


def read_sql(job: Job, jobs_folder: Path) -> dict[str, JobSql]:
    """
    Return the SQL of a job, by the field that names its file.

    :raises JobFileError: a file does not exist, is too large, or is not UTF-8 text
    """
    return {
        field: JobSql(
            field, sql_file, _read_text(find_sql(jobs_folder, sql_file, field), f"{field}: {sql_file}")
        )
        for field, sql_file in sql_files(job).items()
    }


def read_texts(job: Job, jobs_folder: Path, *, with_sql: bool = True) -> dict[str, str]:
    """
    Return the job file under :data:`JOB_FILE`, and the job's SQL by the field that names its file.

    What cannot be read is left out.
    """
    texts = {}
    for path in job_files(jobs_folder):
        if path.stem == job.name:
            with suppress(OSError, JobFileError):
                texts[JOB_FILE] = _read_text(path, path.name)
    if with_sql:
        with suppress(OSError, JobFileError):
            texts |= {field: sql.text for field, sql in read_sql(job, jobs_folder).items()}
    return texts


def find_sql(jobs_folder: Path, sql_file: str, field: str) -> Path:
    """
    Return a SQL file: below ``include/sql``, or below ``include``, where the folder of job files lies.

    :param field: what the file is called in the job file
    :raises JobFileError: there is no such file, or it lies elsewhere
    """
    # The folder may be a link: its SQL files lie beside the link, or beside what it leads to.
    includes = (jobs_folder.absolute().parent.resolve(), jobs_folder.resolve().parent)
    # Text that cannot be a path, such as one with a NUL, is not a file either.
    with suppress(OSError, ValueError):
        for include in includes:
            for base in (include / "sql", include):
                candidate = (base / sql_file).resolve()
                if candidate.is_relative_to(include) and candidate.is_file():
                    return candidate
    raise JobFileError(f"{field}: {sql_file!r} is not a file below {includes[0].name}/sql")


class _Loader(yaml.SafeLoader):
    """
    A YAML loader that is stricter in three ways.

    A duplicate key is refused: it would silently lose a value, such as a limit. An invalid date is left to the job's
    model, which names the field. The key ``on`` is a word, not a boolean as in YAML 1.1.
    """

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        written: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.tag == "tag:yaml.org,2002:bool":
                    key.tag = "tag:yaml.org,2002:str"
                if key.value in written:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value}: is there twice", key.start_mark
                    )
                written.add(key.value)
        return super().construct_mapping(node, deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def _read_yaml(path: Path) -> tuple[Any, yaml.Node | None]:
    """Return the content of a job file, and its nodes, which know their lines; both None for an empty file."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise JobFileError(f"{path.name}: not a regular file")
        text = _read_text(path, f"{path.name}: the file")
    except OSError as error:
        raise JobFileError(f"{path.name}: cannot be read: {error.strerror}") from None
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None, None
        _count_values(node, {})
        return loader.construct_document(node), node
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise JobFileError(f"{_place(path.name, line)}: {_yaml_reason(error)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise JobFileError(f"{_place(path.name, line)}: a character that YAML does not allow") from None
    except RecursionError:
        raise JobFileError(f"{path.name}: nested too deeply") from None
    except ValueError:
        raise JobFileError(f"{path.name}: a number in it cannot be read") from None


def _read_text(path: Path, name: str) -> str:
    """Return the text of a file, without a byte order mark; raise JobFileError if it is not short text."""
    with path.open("rb") as file:
        content = file.read(MAX_FILE_BYTES + 1)
    if len(content) > MAX_FILE_BYTES:
        raise JobFileError(
            f"{name} is larger than {MAX_FILE_BYTES // 1024} KB, the limit for job and SQL files"
        )
    if content.startswith(_UTF16_MARKS):
        raise JobFileError(f"{name} is UTF-16 text: save it as UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise JobFileError(f"{name} is not UTF-8 text: save it as UTF-8") from None


def _count_values(node: yaml.Node, counted: dict[int, int]) -> int:
    """
    Return how many values a node stands for.

    :param counted: counts of nodes by their identity; 0 while a node is being counted
    :raises yaml.MarkedYAMLError: too many, or without end
    """
    if id(node) in counted:
        if counted[id(node)] == 0:
            raise yaml.MarkedYAMLError(
                None, None, "an alias stands for a value that holds it", node.start_mark
            )
        return counted[id(node)]
    counted[id(node)] = 0
    count = 1 + sum(_count_values(child, counted) for child in _children(node))
    if count > MAX_VALUES:
        raise yaml.MarkedYAMLError(None, None, f"more than {MAX_VALUES} values", node.start_mark)
    counted[id(node)] = count
    return count


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    if isinstance(node, yaml.MappingNode):
        for pair in node.value:
            yield from pair


def _yaml_reason(error: yaml.MarkedYAMLError) -> str:
    problem = error.problem or ""
    for beginning, reason in _YAML_REASONS.items():
        if problem.startswith(beginning):
            return reason
    if isinstance(error, yaml.scanner.ScannerError | yaml.parser.ParserError | yaml.composer.ComposerError):
        return f"not valid YAML: {problem}"
    return problem


def _place(file_name: str, line: int | None) -> str:
    return file_name if line is None else f"{file_name}, line {line}"


def _placed(fault: str, path: Path, node: yaml.Node | None) -> str:
    """Return a fault with the job file and the line of the field that it begins with."""
    field_path = fault.partition(":")[0].split(".")
    return f"{_place(path.name, _line_of(node, field_path))}: {fault}"


def _line_of(node: yaml.Node | None, field_path: Sequence[str | int]) -> int | None:
    """Return the line of a field, or of the last field on the way that the file has; None if it has none."""
    line = None
    for part in field_path:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            found = (node.value[part], node.value[part])
        else:
            found = None
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _fault_lines(file_name: str, node: yaml.Node | None, error: ValidationError) -> Iterator[str]:
    for fault in error.errors(include_url=False):
        field_path = fault["loc"]
        if field_path[:1] == ("schedule",):
            # pydantic adds which of the two kinds of schedule it is.
            field_path = (*field_path[:1], *field_path[2:])
        reason = _reason(fault, field_path)
        named = _FIELD_BEFORE_REASON.match(reason)
        line = _line_of(node, (*field_path, named[1]) if named else field_path)
        field = ".".join(str(part) for part in field_path)
        yield (
            f"{_place(file_name, line)}: {field}: {reason}"
            if field
            else f"{_place(file_name, line)}: {reason}"
        )


def _reason(fault: Mapping[str, Any], field_path: tuple[str | int, ...]) -> str:
    if fault["type"] == "extra_forbidden":
        return _unknown_field(field_path)
    if fault["type"].startswith("date"):
        return "is not a date: write it like 2026-11-01"
    kind = _KINDS.get(type(fault["input"]), "a value of another type")
    template = _REASONS.get(fault["type"])
    if template is None:
        return str(fault["msg"].replace("Input should be", "must be"))
    reason = template.format(kind=kind, **fault.get("ctx", {}))
    if fault["type"] == "greater_than" and isinstance(fault["input"], str):
        return "must be longer than 0"  # the duration 0m
    if fault["type"] == "string_type" and kind in {"a number", "true or false"}:
        return f"{reason}: put it in quotes"
    return reason


def _unknown_field(field_path: tuple[str | int, ...]) -> str:
    """Return where an unknown field belongs, or which one may be meant."""
    name = str(field_path[-1])
    level = tuple(part for part in field_path[:-1] if isinstance(part, str))
    here = "the top level" if not level else ".".join(level)
    for home, fields in _FIELDS.items():
        if name in fields and home != level:
            place = "to the top level" if not home else f"below {'.'.join(home)}"
            return f"belongs {place}, not {'to' if not level else 'below'} {here}"
    if close := get_close_matches(name, _FIELDS[level], 1):
        return f"unknown field; did you mean {close[0]}?"
    paths = {field: ".".join((*home, field)) for home, fields in _FIELDS.items() for field in fields}
    if close := get_close_matches(name, paths, 1):
        return f"unknown field; did you mean {paths[close[0]]}?"
    return f"unknown field; the fields of {here} are {', '.join(sorted(_FIELDS[level]))}"
