"""The audit databases that the job files name."""

from __future__ import annotations

import logging
import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import sqlalchemy as sa
from fastapi import Depends, Request

from zoho_crm.airflow_compat import dags_folder
from zoho_crm.core.job_files import JOBS_FOLDER_VARIABLE, audit_conn_ids, load_jobs
from zoho_crm.errors import ZohoError
from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.ledger.link_queries import LinkQueries
from zoho_crm.ledger.run_queries import RunQueries
from zoho_crm.ledger.schema import SCHEMA_VERSION, stored_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoho_crm.core.job import Job
    from zoho_crm.ui.auth import Reader

log = logging.getLogger(__name__)

_ANY_FOLDER = "*"
_JOBS_CACHE_S = 10.0
_LEDGER_CACHE_S = 300.0
_PROBLEM_CACHE_S = 5.0


@dataclass(frozen=True, slots=True)
class AuditDatabase:
    """
    One audit database.

    :param conn_id: connection id in the job files
    :param ledger: None if the database is unavailable, or has no tables yet
    :param problem: why it is unavailable
    """

    conn_id: str
    ledger: Ledger | None
    problem: str | None = None

    @property
    def engine(self) -> sa.Engine:
        """The engine of a readable database."""
        if self.ledger is None:
            raise ZohoError(self.problem or f"the audit database of {self.conn_id} has no tables yet")
        return self.ledger.engine

    @property
    def runs(self) -> RunQueries:
        """Queries about runs."""
        return RunQueries(self.engine)

    @property
    def links(self) -> LinkQueries:
        """Queries about links."""
        return LinkQueries(self.engine)


class AuditDatabases:
    """
    The audit databases of all job files, and those that ``ZOHO_CRM_AUDIT_CONN_IDS`` names. Thread-safe.

    :param jobs_folder: folder of the job files; None: those of :func:`default_jobs_folders`
    :param open_ledger: opens a ledger by connection id
    """

    def __init__(
        self, jobs_folder: Path | None = None, open_ledger: Callable[[str], Ledger] = Ledger.from_conn_id
    ) -> None:
        self._jobs_folder = jobs_folder
        self._open_ledger = open_ledger
        self._lock = threading.Lock()
        self._jobs: tuple[float, list[Job]] = (float("-inf"), [])
        self._kept: dict[str, tuple[float, AuditDatabase]] = {}

    def jobs(self) -> list[Job]:
        """Return the jobs with valid files, sorted by name."""
        with self._lock:
            read_at, jobs = self._jobs
            if time.monotonic() - read_at > _JOBS_CACHE_S:
                jobs = self._read_jobs()
                self._jobs = (time.monotonic(), jobs)
            return jobs

    def _read_jobs(self) -> list[Job]:
        folders = [self._jobs_folder] if self._jobs_folder else default_jobs_folders()
        by_name: dict[str, Job] = {}
        for folder in folders:
            for job in load_jobs(folder)[0]:
                by_name.setdefault(job.name, job)
        return sorted(by_name.values(), key=lambda job: job.name)

    def jobs_of(self, reader: Reader) -> list[Job]:
        """Return the jobs whose runs a user may read."""
        return [job for job in self.jobs() if reader.may_read(job.dag_id, job.name)]

    @property
    def looked_in(self) -> list[str]:
        """Where job files are looked for: folders, in which * stands for any name."""
        return [str(self._jobs_folder)] if self._jobs_folder else default_jobs_places()

    def all(self) -> list[AuditDatabase]:
        """Return each audit database once, including unavailable ones."""
        named = {job.audit_conn_id for job in self.jobs()} | set(audit_conn_ids())
        return [self._database(conn_id) for conn_id in sorted(named)]

    def readable(self) -> Iterator[AuditDatabase]:
        """Yield the available audit databases."""
        return (database for database in self.all() if database.ledger is not None)

    def problems(self) -> list[tuple[str, str]]:
        """Return the connection id of each unavailable audit database, with the reason."""
        return [(database.conn_id, database.problem) for database in self.all() if database.problem]

    def _database(self, conn_id: str) -> AuditDatabase:
        with self._lock:
            good_until, database = self._kept.get(conn_id, (float("-inf"), None))
            if database is None or time.monotonic() > good_until:
                if database is not None and database.ledger is not None:
                    # A request that still reads through it opens a new connection.
                    database.ledger.close()
                database = self._open(conn_id)
                kept_s = _LEDGER_CACHE_S if database.ledger is not None else _PROBLEM_CACHE_S
                self._kept[conn_id] = (time.monotonic() + kept_s, database)
            return database

    def _open(self, conn_id: str) -> AuditDatabase:
        ledger = version = None
        try:
            ledger = self._open_ledger(conn_id)
            ledger.check_connection()
            with reading(ledger.engine).begin() as connection:
                version = stored_version(connection)
            problem = _version_problem(version)
        except Exception as error:
            # A connection can fail in any way. The page does not show hosts and users.
            log.warning("Audit database unavailable: conn_id=%s error=%s", conn_id, error)
            problem = "it cannot be opened. The log of the API server has the reason"
        if version == SCHEMA_VERSION:
            return AuditDatabase(conn_id, ledger)
        if ledger is not None:
            ledger.close()
        return AuditDatabase(conn_id, None, problem)


def _version_problem(version: int | None) -> str | None:
    if version is None:
        return None
    if version < SCHEMA_VERSION:
        return (
            f"it is at schema version {version}, and version {SCHEMA_VERSION} is needed: the next run of a job "
            "upgrades it"
        )
    if version > SCHEMA_VERSION:
        return (
            f"it is at schema version {version}, and this package supports versions up to {SCHEMA_VERSION}: "
            "install the newer package on the API server"
        )
    return None


def default_jobs_folders() -> list[Path]:
    """Return the folders with the job files that the Dags read; for two jobs of one name, the first counts."""
    return [folder for place in default_jobs_places() for folder in _folders_at(Path(place))]


def default_jobs_places() -> list[str]:
    """Return where the folders of job files may be; none without the setting of a Dags folder."""
    if named := os.environ.get(JOBS_FOLDER_VARIABLE):
        return [named]
    if not dags_folder():
        return []
    dags = Path(dags_folder())
    bases = (dags, dags / _ANY_FOLDER, dags.parent)
    return [str(base / "include" / "jobs") for base in bases]


def _folders_at(place: Path) -> list[Path]:
    before, any_folder, below = str(place).partition(f"/{_ANY_FOLDER}/")
    return sorted(Path(before).glob(f"*/{below}")) if any_folder else [place]


def audit_databases_of(request: Request) -> AuditDatabases:
    """Return the audit databases of the app."""
    databases: AuditDatabases = request.app.state.databases
    return databases


DatabasesDep = Annotated[AuditDatabases, Depends(audit_databases_of)]
