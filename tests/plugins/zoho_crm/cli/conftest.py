"""The command line's surroundings: those of the operators, a folder of job files, and ways to run a command."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
import yaml
from click.testing import CliRunner

from tests.plugins.zoho_crm.cli.story import write_story
from tests.support.databases import AUDIT, SQL, WAREHOUSE, Audit, set_connection
from zoho_crm.cli.main import main

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.testing import Result


TERMINAL = {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "100", "TERM": "xterm-256color"}
"""Makes the output what a terminal without colours would show."""


@pytest.fixture(autouse=True)
def _surroundings(variables: dict[str, str]) -> None:
    """Keep Airflow's Variables in memory for every command."""


@dataclass
class Jobs:
    """A folder of job files with one job, and the SQL files beside it."""

    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / "contacts_deals.yaml"

    def write(self, **changes: Any) -> Path:
        content = {
            "start_date": "2026-11-01",
            "owner": "data-team",
            "source": {"conn_id": WAREHOUSE, "sql_file": "contacts_deals.sql"},
            "relation": {
                "module": "Contacts",
                "external_field": "External_Contact_ID",
                "related_list": "Deals",
                "related_external_field": "External_Deal_ID",
            },
            "audit_conn_id": AUDIT,
            **changes,
        }
        self.file.write_text(yaml.safe_dump(content), encoding="utf-8")
        return self.file

    def write_sql(self, sql: str, name: str = "contacts_deals") -> None:
        (self.folder.parent / "sql" / f"{name}.sql").write_text(sql, encoding="utf-8")


@pytest.fixture
def jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    folder = tmp_path / "include" / "jobs"
    folder.mkdir(parents=True)
    (folder.parent / "sql").mkdir(exist_ok=True)
    jobs = Jobs(folder)
    jobs.write()
    jobs.write_sql(SQL)
    monkeypatch.setenv("ZOHO_CRM_JOBS_FOLDER", str(folder))
    return jobs


@dataclass(frozen=True)
class Cli:
    """Runs commands in this process."""

    def __call__(self, *args: object, terminal: bool = False, **options: Any) -> Result:
        options["env"] = {**(TERMINAL if terminal else {}), **options.get("env", {})}
        result = CliRunner().invoke(main, [str(arg) for arg in args], **options)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    def document(self, *args: object, code: int = 0) -> Any:
        result = self(*args, "--json")
        assert result.exit_code == code, result.output
        return json.loads(result.stdout)


@pytest.fixture
def cli() -> Cli:
    return Cli()


@pytest.fixture(scope="session")
def story_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("story") / "audit.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    write_story(engine).close()
    return path


@pytest.fixture
def story(story_file: Path, jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Audit]:
    """The runs of story.py in SQLite, for tests that do not depend on the kind of database."""
    path = shutil.copy(story_file, tmp_path / "audit.db")
    set_connection(monkeypatch, AUDIT, conn_type="sqlite", host=str(path))
    audit = Audit(sa.URL.create("sqlite", database=str(path)))
    yield audit
    audit.engine.dispose()


@pytest.fixture
def any_story(audit: Audit, jobs: Jobs, story_file: Path) -> Audit:
    """The runs of story.py in each kind of database."""
    if audit.engine.name == "sqlite":
        assert audit.url.database
        shutil.copy(story_file, audit.url.database)
    else:
        write_story(audit.engine).close()
    return audit


def check_golden(name: str, shown: str) -> None:
    """Compare with a file of golden/; UPDATE_GOLDEN=1 rewrites it."""
    path = Path(__file__).parent / "golden" / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.write_text(shown, encoding="utf-8")
    assert shown == path.read_text(encoding="utf-8")
