"""The audit databases that the job files name, each with its jobs."""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import sqlalchemy as sa
from fastapi import Depends, Request

from zoho_crm.airflow_compat import dags_folder
from zoho_crm.core.job_files import jobs_folder, load_jobs
from zoho_crm.errors import ZohoError
from zoho_crm.ledger.engine import reading
from zoho_crm.ledger.ledger import Ledger
from zoho_crm.ledger.link_queries import LinkQueries
from zoho_crm.ledger.run_queries import RunQueries
from zoho_crm.ledger.schema import SCHEMA_VERSION, stored_version

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from zoho_crm.core.job import Job

log = logging.getLogger(__name__)

_JOBS_KEPT_S = 10.0
_LEDGER_KEPT_S = 300.0
_FAULT_KEPT_S = 5.0


@dataclass(frozen=True, slots=True)
class AuditDatabase:
    """
    One audit database.

    :param conn_id: the connection that job files name it by
    :param ledger: None if it cannot be read
    :param fault: why it cannot be read; None too while no run has made its tables
    """

    conn_id: str
    ledger: Ledger | None
    fault: str | None = None

    @property
    def engine(self) -> sa.Engine:
        """The engine of a readable database."""
        if self.ledger is None:
            raise ZohoError(self.fault or "the audit database cannot be read")
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
    The audit databases of all job files. Threads may share one.

    :param jobs_folder: folder of the job files
    :param open_ledger: makes a ledger from the id of a connection
    """

    def __init__(self, jobs_folder: Path, open_ledger: Callable[[str], Ledger] = Ledger.from_conn_id) -> None:
        self._jobs_folder = jobs_folder
        self._open_ledger = open_ledger
        self._lock = threading.Lock()
        self._jobs: tuple[float, list[Job]] = (float("-inf"), [])
        self._kept: dict[str, tuple[float, AuditDatabase]] = {}

    def jobs(self) -> list[Job]:
        """Return the jobs whose files can be used, by name."""
        with self._lock:
            read_at, jobs = self._jobs
            if time.monotonic() - read_at > _JOBS_KEPT_S:
                jobs = sorted(load_jobs(self._jobs_folder)[0], key=lambda job: job.name)
                self._jobs = (time.monotonic(), jobs)
            return jobs

    def job(self, name: str) -> Job | None:
        """Return the job of that name, None if there is none."""
        return next((job for job in self.jobs() if job.name == name), None)

    def all(self) -> list[AuditDatabase]:
        """Return each audit database once, the ones that cannot be read as well."""
        return [self._source(conn_id) for conn_id in sorted({job.audit_conn_id for job in self.jobs()})]

    def readable(self) -> Iterator[AuditDatabase]:
        """Yield the audit databases that can be read."""
        return (source for source in self.all() if source.ledger is not None)

    def _source(self, conn_id: str) -> AuditDatabase:
        with self._lock:
            good_until, source = self._kept.get(conn_id, (float("-inf"), None))
            if source is None or time.monotonic() > good_until:
                if source is not None and source.ledger is not None:
                    # Requests that still read through it open a connection of their own once more.
                    source.ledger.close()
                source = self._open(conn_id)
                kept_s = _LEDGER_KEPT_S if source.ledger is not None else _FAULT_KEPT_S
                self._kept[conn_id] = (time.monotonic() + kept_s, source)
            return source

    def _open(self, conn_id: str) -> AuditDatabase:
        ledger = version = None
        try:
            ledger = self._open_ledger(conn_id)
            ledger.check_connection()
            with reading(ledger.engine).begin() as connection:
                version = stored_version(connection)
            fault = _fault_of_version(version)
        except Exception as error:
            # Whoever looks at a page need not know hosts and users; and anything may be wrong with a connection.
            log.warning("The audit database of connection %s cannot be opened: %s", conn_id, error)
            fault = "it cannot be opened: the log of the API server says why"
        if version == SCHEMA_VERSION:
            return AuditDatabase(conn_id, ledger)
        if ledger is not None:
            ledger.close()
        return AuditDatabase(conn_id, None, fault)


def _fault_of_version(version: int | None) -> str | None:
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


def default_jobs_folder() -> Path:
    """Return the folder that the Dags read their jobs from."""
    return jobs_folder(Path(dags_folder()).parent)


def audit_databases_of(request: Request) -> AuditDatabases:
    """Return the audit databases of the application."""
    sources: AuditDatabases = request.app.state.sources
    return sources


SourcesDep = Annotated[AuditDatabases, Depends(audit_databases_of)]
