from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from zoho_crm.core.job_files import JobFileError, find_sql, load_job, load_jobs

if TYPE_CHECKING:
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
    "unknown key": ({"scheduled": "0 2 * * *"}, "scheduled: Extra inputs are not permitted"),
    "unknown key inside": ({"guards": {"max_link": 1}}, "guards.max_link: Extra inputs are not permitted"),
    "missing": ({"audit_conn_id": ...}, "audit_conn_id: Field required"),
    "name inside": ({"name": "x"}, "name: not a field: the job is named like its file"),
    "cron": ({"schedule": "every day"}, "schedule: 'every day' is not a cron expression of five fields"),
    "cron with seconds": (
        {"schedule": "0 0 2 * * *"},
        "schedule: '0 0 2 * * *' is not a cron expression of five fields",
    ),
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
        "guards.approvers.0: Input should be a valid string",
    ),
    "strategy": ({"strategy": "bulk"}, "strategy: Input should be 'single' or 'by_parent'"),
    "concurrency": ({"task_concurrency": 26}, "task_concurrency: Input should be less than or equal to 25"),
    "tolerance": ({"failure_tolerance": 1.1}, "failure_tolerance: Input should be less than or equal to 1"),
    "connection id": (
        {"audit_conn_id": "a b"},
        "audit_conn_id: not a connection id: letters, digits, '_', '-' and '.'",
    ),
    "asset without a name": ({"schedule": {"uri": "s3://x"}}, "schedule.asset.asset: Field required"),
    "asset with a stray key": (
        {"schedule": {"asset": "a", "urn": "x"}},
        "schedule.asset.urn: Extra inputs are not permitted",
    ),
    "asset of a word that Airflow keeps": (
        {"schedule": {"asset": "self"}},
        "schedule.asset.asset: 'self' is not a name that Airflow allows",
    ),
    "blank asset": (
        {"schedule": {"asset": " "}},
        "schedule.asset.asset: ' ' is not a name that Airflow allows",
    ),
    "asset of Airflow's own scheme": (
        {"schedule": {"asset": "a", "uri": "airflow://x"}},
        "schedule.asset.uri: is not a URI that Airflow allows",
    ),
    "asset with a password": (
        {"schedule": {"asset": "a", "uri": "postgres://me:secret@host/db/schema/table"}},
        "schedule.asset.uri: holds a user or a password: remove them, since all users can read it",
    ),
    "schedule of another type": ({"schedule": 5}, "schedule.cron: Input should be a valid string"),
    "cron that is never due": ({"schedule": "0 0 31 2 *"}, "schedule: '0 0 31 2 *' is never due"),
    "cron at random": (
        {"schedule": "R R * * *"},
        "schedule: 'R R * * *' is not a cron expression of five fields",
    ),
    "cron by hash": (
        {"schedule": "H 2 * * *"},
        "schedule: 'H 2 * * *' is not a cron expression of five fields",
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
    "tag that Airflow refuses": ({"tags": ["x" * 101]}, "tags.0: String should have at most 100 characters"),
    "tags as text": ({"tags": "crm"}, "tags: Input should be a valid tuple"),
    "pool that cannot be": ({"pool": "x" * 257}, "pool: String should have at most 256 characters"),
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
    assert str(error.value) == f"contacts_deals.yaml: {says}"


def test_all_errors_of_a_file_are_reported_at_once(jobs: Path) -> None:
    with pytest.raises(JobFileError) as error:
        load_job(write(jobs, chunk_size=0, retries=-1, owner=["me"]))
    assert str(error.value).splitlines() == [
        "contacts_deals.yaml: owner: Input should be a valid string",
        "contacts_deals.yaml: chunk_size: Input should be greater than or equal to 1",
        "contacts_deals.yaml: retries: Input should be greater than or equal to 0",
    ]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("a: [", "while parsing a flow", id="no YAML"),
        pytest.param("- a\n- b\n", "not a job: the file must be a mapping of fields", id="a list"),
        pytest.param("", "not a job: the file must be a mapping of fields", id="empty"),
        pytest.param(
            "a: !!python/object/apply:os.system ['true']", "could not determine a constructor", id="code"
        ),
        pytest.param(
            "guards: {max_links: 5}\nguards: {}\n", "guards: is there twice.*line 2", id="a key twice"
        ),
        pytest.param("guards: {max_links: 5, max_links: 6}", "max_links: is there twice", id="twice inside"),
        pytest.param(
            "start_date: 2026-13-45\n", "start_date: Input should be a valid date", id="a date that is none"
        ),
        pytest.param(f"chunk_size: {'9' * 5000}", "limit", id="a number beyond Python"),
        pytest.param("[" * 1000 + "]" * 1000, "recursion", id="too deep"),
        pytest.param("1: a\n", "1: Keys should be strings", id="a key that is no text"),
    ],
)
def test_a_file_without_a_job_is_refused(jobs: Path, text: str, says: str) -> None:
    (jobs / "bad.yaml").write_text(text)
    with pytest.raises(JobFileError, match=says) as error:
        load_job(jobs / "bad.yaml")
    assert all(line.startswith("bad.yaml: ") for line in str(error.value).splitlines())
    assert load_jobs(jobs)[0] == []


@pytest.mark.parametrize("name", ["Contacts.yaml", "1st.yaml", "a-b.yaml", "x" * 81 + ".yaml"])
def test_a_file_name_that_makes_no_dag_id_is_refused(jobs: Path, name: str) -> None:
    with pytest.raises(JobFileError, match="the file's name becomes the Dag's"):
        load_job(write(jobs, name))


def test_a_broken_file_takes_no_other_job_down(jobs: Path) -> None:
    write(jobs, "first.yaml")
    write(jobs, "second.yml")
    write(jobs, "third.yaml", retries="many")
    write(jobs, "first.yml")
    (jobs / ".hidden.yaml").write_text("a: [")
    (jobs / "notes.txt").write_text("not a job")
    found, errors = load_jobs(jobs)
    assert [job.name for job in found] == ["first", "second"]
    assert [str(error) for error in errors] == [
        "first.yml: name: another file already describes 'first'",
        "third.yaml: retries: Input should be a valid integer, unable to parse string as an integer",
    ]


def test_a_folder_that_is_not_there_holds_no_jobs(tmp_path: Path) -> None:
    assert load_jobs(tmp_path / "none") == ([], [])


def test_the_sql_file_may_be_named_from_include_as_well(jobs: Path) -> None:
    job = load_job(write(jobs, source={"conn_id": "w", "sql_file": "sql/contacts_deals.sql"}))
    assert (
        find_sql(jobs, job.source.sql_file or "", "source.sql_file")
        == jobs.parent / "sql" / "contacts_deals.sql"
    )
