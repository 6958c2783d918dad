from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from zoho_crm.core.job_files import JobFileError, JobSql, find_sql, load_job, load_jobs, named_job, read_sql

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

JOB: dict[str, Any] = {
    "start_date": "2026-11-01",
    "source": {"conn_id": "warehouse", "sql_file": "contacts_deals.sql"},
    "relation": {
        "module": "Contacts",
        "external_field": "External_Contact_ID",
        "related_list": "Deals",
        "related_external_field": "External_Deal_ID",
    },
    "audit_conn_id": "zoho_delink_audit",
}


@pytest.fixture
def jobs(tmp_path: Path) -> Path:
    include = tmp_path / "include"
    (include / "jobs").mkdir(parents=True)
    (include / "sql").mkdir()
    (include / "sql" / "contacts_deals.sql").write_text("SELECT 1")
    return include / "jobs"


def write(jobs: Path, file: str = "contacts_deals.yaml", **changes: Any) -> Path:
    content = {**JOB, **changes}
    path = jobs / file
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not ...}))
    return path


def test_a_short_job_file_takes_its_defaults(jobs: Path) -> None:
    job = load_job(write(jobs))
    assert job.name == "contacts_deals"
    assert job.dag_id == "zoho_delink__contacts_deals"
    assert job.relation.as_relation().related_module == "Deals"
    assert job.start == datetime(2026, 11, 1, tzinfo=UTC)
    assert (job.schedule, job.strategy, job.zoho_conn_id) == (None, "single", "zoho_crm_default")
    assert job.guards.max_links is None
    assert job.task_timeout == timedelta(hours=2)
    assert job.wait_patience == timedelta(days=1)
    assert job.retry_delay == timedelta(seconds=30)


def test_numbers_of_approvers_are_read_as_text(jobs: Path) -> None:
    guards = {"on_breach": "approve", "approvers": [1, "ada"]}
    assert load_job(write(jobs, guards=guards)).guards.approvers == ("1", "ada")


@pytest.mark.parametrize(
    ("chunk_size", "minutes", "timeout_minutes"),
    [(500, None, 120), (2400, None, 120), (100_000, None, 5000), (100_000, 30, 30)],
)
def test_a_mapped_task_has_time_for_its_chunk(
    jobs: Path, chunk_size: int, minutes: int | None, timeout_minutes: int
) -> None:
    job = load_job(write(jobs, chunk_size=chunk_size, task_timeout_minutes=minutes))
    assert job.task_timeout == timedelta(minutes=timeout_minutes)


@pytest.mark.parametrize(
    ("task_concurrency", "max_active_chunks", "active"),
    [(5, None, 2), (3, None, 4), (10, None, 2), (25, None, 2), (5, 7, 7)],
)
def test_mapped_tasks_at_work_fit_the_org(
    jobs: Path, task_concurrency: int, max_active_chunks: int | None, active: int
) -> None:
    job = load_job(write(jobs, task_concurrency=task_concurrency, max_active_chunks=max_active_chunks))
    assert job.active_chunks == active


@pytest.mark.parametrize(
    ("written", "start"),
    [
        ("2026-11-01", datetime(2026, 11, 1, tzinfo=UTC)),
        ("2026-11-01 06:30:00", datetime(2026, 11, 1, 6, 30, tzinfo=UTC)),
        ("2026-11-01T06:30:00+02:00", datetime(2026, 11, 1, 4, 30, tzinfo=UTC)),
        ("'2026-11-01'", datetime(2026, 11, 1, tzinfo=UTC)),
    ],
    ids=["date", "time", "time with a zone", "text"],
)
def test_a_start_date_may_be_written_as_yaml_allows(jobs: Path, written: str, start: datetime) -> None:
    path = write(jobs, start_date=...)
    path.write_text(f"{path.read_text()}start_date: {written}\n")
    assert load_job(path).start == start


def test_a_start_date_is_midnight_in_the_zone_of_the_job(jobs: Path) -> None:
    job = load_job(write(jobs, timezone="Europe/Amsterdam", schedule="0 2 * * *"))
    assert job.start.astimezone(UTC) == datetime(2026, 10, 31, 23, tzinfo=UTC)


FAULTS = {
    "unknown key": ({"scheduled": "0 2 * * *"}, "scheduled: unknown field; did you mean schedule?"),
    "unknown key inside": (
        {"guards": {"max_link": 1}},
        "guards.max_link: unknown field; did you mean max_links?",
    ),
    "missing": ({"audit_conn_id": ...}, "audit_conn_id: is required"),
    "name inside": ({"name": "x"}, "name: not a field: the job is named like its file"),
    "cron": (
        {"schedule": "every day"},
        "schedule: 'every day' has 2 fields; a cron expression has five: minute, hour, day of month, month, "
        "day of week",
    ),
    "cron with seconds": (
        {"schedule": "0 0 2 * * *"},
        "schedule: '0 0 2 * * *' has 6 fields; a cron expression has five: minute, hour, day of month, month, "
        "day of week",
    ),
    "cron with an hour of 25": (
        {"schedule": "0 25 * * *"},
        "schedule: '0 25 * * *' is not a valid cron expression (hour 25)",
    ),
    "cron preset without windows": (
        {"schedule": "@once"},
        "schedule: '@once' is not one of @hourly, @daily, @weekly, @monthly, @quarterly, @yearly",
    ),
    "field below another one": (
        {"relation": {**JOB["relation"], "allow_undocumented_relation": True}},
        "relation.allow_undocumented_relation: belongs to the top level, not below relation",
    ),
    "field above its level": ({"max_links": 5}, "max_links: belongs below guards, not to the top level"),
    "typo above its level": ({"max_link": 5}, "max_link: unknown field; did you mean guards.max_links?"),
    "unknown key like none": (
        {"schedule": {"asset": "a", "zzz": 1}},
        "schedule.zzz: unknown field; the fields of schedule are asset, uri",
    ),
    "number as text": ({"owner": 5}, "owner: must be text, not a number: put it in quotes"),
    "text as a mapping": ({"guards": "none"}, "guards: must be a mapping of fields, not text"),
    "fraction": ({"chunk_size": 1.5}, "chunk_size: must be a whole number"),
    "words as yes": ({"snapshot": "maybe"}, "snapshot: must be true or false"),
    "no time at all": ({"guards": {"max_plan_age": "0m"}}, "guards.max_plan_age: must be longer than 0"),
    "zone": ({"timezone": "Mars/Olympus"}, "timezone: 'Mars/Olympus' is not an IANA time zone"),
    "zone as a path": ({"timezone": "../etc/passwd"}, "timezone: '../etc/passwd' is not an IANA time zone"),
    "module": (
        {"relation": {**JOB["relation"], "module": "Con tacts"}},
        "relation: module 'Con tacts' is not an API name of Zoho CRM: a letter, then letters, digits and underscores",
    ),
    "refused list": (
        {"relation": {**JOB["relation"], "related_list": "Notes"}, "allow_undocumented_relation": True},
        "relation: related_list 'Notes' is refused: its records exist only under their parent record, "
        "so a delink would delete them",
    ),
    "undocumented relation": (
        {"relation": {**JOB["relation"], "module": "Accounts", "related_list": "Contacts"}},
        "relation: Zoho documents no delink for Accounts -> Contacts; "
        "set allow_undocumented_relation: true once you have tried it in a sandbox",
    ),
    "list of a deal's contacts": (
        {"relation": {**JOB["relation"], "module": "Deals", "related_list": "Contacts"}},
        "relation: Zoho documents no delink for Deals -> Contacts; use related_list: Contact_Roles with "
        "related_module: Contacts, or set allow_undocumented_relation: true once you have tried it in a sandbox",
    ),
    "module of a documented list": (
        {"relation": {**JOB["relation"], "module": "Deals", "related_list": "Contact_Roles"}},
        "relation: related list Contact_Roles of Deals holds records of Contacts: set related_module: Contacts",
    ),
    "approver who is yes or no": (
        {"guards": {"on_breach": "approve", "approvers": [True]}},
        "guards.approvers.0: must be text, not true or false: put it in quotes",
    ),
    "approvers without a question": (
        {"guards": {"approvers": ["ada"]}},
        "guards: approvers: only used with on_breach: approve or approvals: always; set one, or remove approvers",
    ),
    "those who may raise what an approver decides": (
        {"guards": {"on_breach": "approve", "may_raise": ["ada"]}},
        "guards: may_raise: only used with on_breach: stop; with on_breach: approve, a raised limit needs an approval",
    ),
    "approvals of no known kind": (
        {"guards": {"approvals": "never"}},
        "guards.approvals: must be 'on_breach' or 'always'",
    ),
    "strategy": ({"strategy": "bulk"}, "strategy: must be 'single' or 'by_parent'"),
    "concurrency": ({"task_concurrency": 26}, "task_concurrency: must be at most 25"),
    "tolerance": ({"failure_tolerance": 1.1}, "failure_tolerance: must be at most 1.0"),
    "connection id": (
        {"audit_conn_id": "a b"},
        "audit_conn_id: not a connection id: letters, digits, '_', '-' and '.'",
    ),
    "asset without a name": ({"schedule": {"uri": "s3://x"}}, "schedule.asset: is required"),
    "asset with a stray key": (
        {"schedule": {"asset": "a", "urn": "x"}},
        "schedule.urn: unknown field; did you mean uri?",
    ),
    "asset of a word that Airflow keeps": (
        {"schedule": {"asset": "self"}},
        "schedule.asset: 'self' is not a name that Airflow allows",
    ),
    "blank asset": (
        {"schedule": {"asset": " "}},
        "schedule.asset: ' ' is not a name that Airflow allows",
    ),
    "asset of Airflow's own scheme": (
        {"schedule": {"asset": "a", "uri": "airflow://x"}},
        "schedule.uri: is not a URI that Airflow allows",
    ),
    "asset with a password": (
        {"schedule": {"asset": "a", "uri": "postgres://me:secret@host/db/schema/table"}},
        "schedule.uri: holds a user or a password: remove them, since all users can read it",
    ),
    "schedule of another type": (
        {"schedule": 0},
        'schedule: must be a cron expression in quotes, such as "0 2 * * *", an asset, or null',
    ),
    "cron that is never due": ({"schedule": "0 0 31 2 *"}, "schedule: '0 0 31 2 *' is never due"),
    "cron at random": (
        {"schedule": "R R * * *"},
        "schedule: 'R R * * *' has H or R, which stand for a random time: write the time itself",
    ),
    "cron by hash": (
        {"schedule": "H 2 * * *"},
        "schedule: 'H 2 * * *' has H or R, which stand for a random time: write the time itself",
    ),
    "start date as a number": (
        {"start_date": 20261101},
        "start_date: is not a date: write it like 2026-11-01",
    ),
    "start date as yes": ({"start_date": True}, "start_date: is not a date: write it like 2026-11-01"),
    "start date before time": (
        {"start_date": "0001-01-01T00:00:00+05:00"},
        "start_date: the year 1 is not one a schedule can begin in",
    ),
    "tag that Airflow refuses": ({"tags": ["x" * 101]}, "tags.0: must have at most 100 characters"),
    "tags as text": ({"tags": "crm"}, "tags: must be a list, not text"),
    "pool that cannot be": ({"pool": "x" * 257}, "pool: must have at most 256 characters"),
    "sql file with a nul": (
        {"source": {"conn_id": "w", "sql_file": "a\0.sql"}},
        "source.sql_file: 'a\\x00.sql' is not a file below include/sql",
    ),
    "sql file with a long name": (
        {"source": {"conn_id": "w", "sql_file": "x" * 300}},
        f"source.sql_file: '{'x' * 300}' is not a file below include/sql",
    ),
    "sql file is a folder": (
        {"source": {"conn_id": "w", "sql_file": "."}},
        "source.sql_file: '.' is not a file below include/sql",
    ),
    "boolean where words are listed": ({"automatic": True}, "automatic: must be 'dry_run' or 'apply'"),
    "boolean where a number belongs": (
        {"chunk_size": True},
        "chunk_size: is a boolean, as yes, no, on and off are in YAML; put text in quotes",
    ),
    "sql file is not there": (
        {"source": {"conn_id": "w", "sql_file": "none.sql"}},
        "source.sql_file: 'none.sql' is not a file below include/sql",
    ),
    "sql file is elsewhere": (
        {"source": {"conn_id": "w", "sql_file": "../../secret.sql"}},
        "source.sql_file: '../../secret.sql' is not a file below include/sql",
    ),
}


@pytest.mark.parametrize(("changes", "says"), FAULTS.values(), ids=list(FAULTS))
def test_an_error_names_file_field_and_reason(jobs: Path, changes: dict[str, Any], says: str) -> None:
    (jobs.parent.parent / "secret.sql").write_text("SELECT 1")
    with pytest.raises(JobFileError) as error:
        load_job(write(jobs, **changes))
    assert re.sub(", line [0-9]+: ", ": ", str(error.value)) == f"contacts_deals.yaml: {says}"


def test_all_errors_of_a_file_are_reported_at_once(jobs: Path) -> None:
    with pytest.raises(JobFileError) as error:
        load_job(write(jobs, chunk_size=0, retries=-1, owner=["me"]))
    assert str(error.value).splitlines() == [
        "contacts_deals.yaml, line 3: owner: must be text, not a list",
        "contacts_deals.yaml, line 2: chunk_size: must be at least 1",
        "contacts_deals.yaml, line 10: retries: must be at least 0",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("a: [", "^bad.yaml, line 1: not valid YAML: expected the node content", id="no YAML"),
        pytest.param(
            "schedule: * 2 * * *",
            "^bad.yaml, line 1: a value that begins with \\* or &: put it in quotes$",
            id="cron without quotes",
        ),
        pytest.param(
            "guards:\n  max_links: 5\n on_breach: stop\n",
            "^bad.yaml, line 3: indentation that differs from that of the lines above$",
            id="indentation",
        ),
        pytest.param("- a\n- b\n", "not a job: the file must be a mapping of fields", id="a list"),
        pytest.param("", "not a job: the file must be a mapping of fields", id="empty"),
        pytest.param(
            "a: !!python/object/apply:os.system ['true']",
            "^bad.yaml, line 1: a tag \\(!\\) that a job file cannot have$",
            id="code",
        ),
        pytest.param(
            "guards: {max_links: 5}\nguards: {}\n",
            "^bad.yaml, line 2: guards: is there twice$",
            id="a key twice",
        ),
        pytest.param("guards: {max_links: 5, max_links: 6}", "max_links: is there twice", id="twice inside"),
        pytest.param(
            "start_date: 2026-13-45\n",
            "start_date: is not a date: write it like 2026-11-01",
            id="a date that is none",
        ),
        pytest.param(
            f"chunk_size: {'9' * 5000}",
            "^bad.yaml: a number in it cannot be read$",
            id="a number beyond Python",
        ),
        pytest.param("[" * 1000 + "]" * 1000, "^bad.yaml: nested too deeply$", id="too deep"),
        pytest.param(
            "1: a\n",
            "(?m)^bad.yaml, line 1: 1: not the name of a field, which is text$",
            id="a key that is no text",
        ),
    ],
)
def test_a_file_without_a_job_is_refused(jobs: Path, text: str, says: str) -> None:
    (jobs / "bad.yaml").write_text(text)
    with pytest.raises(JobFileError, match=says) as error:
        load_job(jobs / "bad.yaml")
    assert all(re.match("bad.yaml(, line [1-3])?: ", line) for line in str(error.value).splitlines())
    assert load_jobs(jobs)[0] == []


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("owner: a".encode("utf-16"), "bad.yaml: the file is UTF-16 text: save it as UTF-8"),
        (b"owner: \xff", "bad.yaml: the file is not UTF-8 text: save it as UTF-8"),
        (
            b"owner: a\nschedule: 0 2: 3",
            "bad.yaml, line 2: a colon in a place where none can be: put text with a colon "
            "in quotes, or correct the indentation",
        ),
        (b"source:\n\tconn_id: w", "bad.yaml, line 2: a tab: YAML is indented with spaces"),
        (b"owner: a\nx: \x01", "bad.yaml, line 2: a character that YAML does not allow"),
        (b"owner: &a [*a]", "bad.yaml, line 1: an alias stands for a value that holds it"),
        (b"#" * 262_145, "bad.yaml: the file is larger than 256 KB, the limit for job and SQL files"),
        (
            b"a0: &a0 {k: 1}\n"
            + b"".join(
                b"a%d: &a%d {<<: [%b]}\n" % (n, n, b",".join([b"*a%d" % (n - 1)] * 10)) for n in range(1, 9)
            ),
            "bad.yaml, line 5: more than 20000 values",
        ),
    ],
    ids=["utf-16", "latin-1", "colon", "tab", "control character", "cycle", "large", "merge keys"],
)
def test_a_file_that_cannot_be_read_is_refused_at_once(jobs: Path, content: bytes, says: str) -> None:
    (jobs / "bad.yaml").write_bytes(content)
    with pytest.raises(JobFileError) as error:
        load_job(jobs / "bad.yaml")
    assert str(error.value) == says


@pytest.mark.parametrize(
    "make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero")], ids=["pipe", "device"]
)
def test_only_regular_files_are_read(jobs: Path, make: Callable[[Path], None]) -> None:
    make(jobs / "bad.yaml")
    with pytest.raises(JobFileError, match=r"^bad\.yaml: not a regular file$"):
        load_job(jobs / "bad.yaml")


def test_large_sql_file_is_refused(jobs: Path) -> None:
    job = load_job(write(jobs))
    (jobs.parent / "sql" / "contacts_deals.sql").write_bytes(b"-" * 262_145)
    with pytest.raises(JobFileError, match=r"^source\.sql_file: contacts_deals\.sql is larger than 256 KB"):
        read_sql(job, jobs)


def test_a_byte_order_mark_and_a_suffix_in_capitals_are_accepted(jobs: Path) -> None:
    path = write(jobs, "contacts_deals.YAML")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    (jobs.parent / "sql" / "contacts_deals.sql").write_text("SELECT 1", encoding="utf-8-sig")
    (job,) = load_jobs(jobs)[0]
    assert job.name == "contacts_deals"
    assert read_sql(job, jobs) == {
        "source.sql_file": JobSql("source.sql_file", "contacts_deals.sql", "SELECT 1")
    }


def test_presets_of_cron_are_accepted(jobs: Path) -> None:
    assert load_job(write(jobs, schedule="@daily")).cron == "0 0 * * *"
    assert load_job(write(jobs, schedule="@quarterly")).cron == "0 0 1 */3 *"


@pytest.mark.parametrize("name", ["Contacts.yaml", "1st.yaml", "a-b.yaml", "x" * 81 + ".yaml"])
def test_a_file_name_that_makes_no_dag_id_is_refused(jobs: Path, name: str) -> None:
    with pytest.raises(JobFileError, match="the file's name becomes the Dag's"):
        load_job(write(jobs, name))


def test_a_broken_file_takes_no_other_job_down(jobs: Path) -> None:
    write(jobs, "first.yaml")
    write(jobs, "second.yml")
    write(jobs, "third.yaml", retries="many")
    write(jobs, "first.yml", owner="second")
    (jobs / ".hidden.yaml").write_text("a: [")
    (jobs / "notes.txt").write_text("not a job")
    found, errors = load_jobs(jobs)
    assert [job.name for job in found] == ["first", "second"]
    assert [str(error) for error in errors] == [
        "first.yml: name: another file already describes 'first'",
        "third.yaml, line 7: retries: must be a whole number",
    ]
    assert named_job(jobs, "first") == found[0]


def test_sql_files_lie_beside_a_link_to_the_jobs_folder(jobs: Path, tmp_path: Path) -> None:
    write(jobs)
    elsewhere = tmp_path / "elsewhere" / "jobs"
    elsewhere.parent.mkdir()
    jobs.rename(elsewhere)
    jobs.symlink_to(elsewhere)
    assert [job.name for job in load_jobs(jobs)[0]] == ["contacts_deals"]


def test_a_folder_that_is_not_there_holds_no_jobs(tmp_path: Path) -> None:
    assert load_jobs(tmp_path / "none") == ([], [])


def test_the_sql_file_may_be_named_from_include_as_well(jobs: Path) -> None:
    job = load_job(write(jobs, source={"conn_id": "w", "sql_file": "sql/contacts_deals.sql"}))
    assert (
        find_sql(jobs, job.source.sql_file or "", "source.sql_file")
        == jobs.parent / "sql" / "contacts_deals.sql"
    )
