"""Tasks on the audit of finished runs: replace the external IDs of old runs by hashes, export runs to a warehouse."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from zoho_crm.airflow_compat import AirflowFailException
from zoho_crm.core.job_files import named_job
from zoho_crm.errors import PlanError, ZohoConfigError
from zoho_crm.operators.job_operator import final_errors
from zoho_crm.operators.report import anchor_seals

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from airflow.sdk import Context

    from zoho_crm.audit_export import AuditExport
    from zoho_crm.ledger.ledger import Ledger


class RetentionOperator(BaseOperator):
    """
    Replace the external IDs of a job's runs by hashes once they are older than its ``retention_days``.

    The audit still verifies, and the new seals are anchored. The links of such a run cannot be sent, retried or
    relinked. The form's ``dry_run`` only counts.

    :param job_name: name of the job; only ``retention_days`` and the audit connections of its file are used
    :param jobs_folder: folder of the job files
    :return: job, runs found, audit rows changed, and runs that keep their IDs because they never finished
    :raises JobFileError: there is no such job, or its file is invalid
    :raises AirflowFailException: the role of the connection may not change what retention changes
    """

    def __init__(self, *, job_name: str, jobs_folder: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job_name = job_name
        self.jobs_folder = jobs_folder

    @final_errors
    def execute(self, context: Context) -> dict[str, Any]:
        """Replace ids, or count, and return what was found."""
        from zoho_crm.ledger.ledger import Ledger

        job = named_job(self.jobs_folder, self.job_name)
        only_count = bool(context["params"].get("dry_run"))
        summary: dict[str, Any] = {
            "job": job.name,
            "dry_run": only_count,
            "runs": 0,
            "rows": 0,
            "left_open": 0,
        }
        if job.retention_days is None:
            self.log.info("%s keeps the external ids of its runs: it sets no retention_days", job.name)
            return summary
        ledger = Ledger.from_conn_id(job.retention_conn_id or job.audit_conn_id)
        try:
            ledger.ensure_schema()
            before = ledger.runs.now() - timedelta(days=job.retention_days)
            run_keys = ledger.retention.due_runs(job.name, before)
            left_open = ledger.retention.unfinished_runs(job.name, before)
            if not only_count:
                summary["rows"] = sum(self._replace(ledger, run_key) for run_key in run_keys)
                anchor_seals(ledger, job)
        finally:
            ledger.close()
        summary |= {"runs": len(run_keys), "left_open": len(left_open)}
        self.log.info(
            "%s: %s runs finished more than %s days ago, %s audit rows changed%s",
            job.name,
            len(run_keys),
            job.retention_days,
            summary["rows"],
            " (dry run)" if only_count else "",
        )
        if left_open:
            self.log.warning(
                "%s: %s older runs never ended and keep their external ids; clear their report: %s",
                job.name,
                len(left_open),
                ", ".join(left_open),
            )
        return summary

    def _replace(self, ledger: Ledger, run_key: str) -> int:
        try:
            return ledger.retention.pseudonymize(run_key)
        except PlanError as error:
            # Someone has just cleared a task of the run; the next day's run finds it again.
            self.log.warning("Left for later: %s", error)
            return 0
        except ZohoConfigError as error:
            raise AirflowFailException(f"Retention of job {self.job_name}: {error}") from None


class ExportAuditOperator(BaseOperator):
    """
    Copy the finished runs of an audit database, with their audit rows, to a warehouse.

    A run that has changed since, such as by another end or the replacement of its external IDs by hashes, replaces its
    copy. See :class:`zoho_crm.audit_export.AuditExport` for the tables and views.

    :param audit_conn_id: connection to the audit database; its role only reads
    :param warehouse_conn_id: connection to the warehouse; its role creates tables and views
    :param schema: schema of the tables; None for the default of the connection
    :return: runs and audit rows that were copied
    :raises ZohoConfigError: a connection is not for a SQL database
    """

    def __init__(
        self, *, audit_conn_id: str, warehouse_conn_id: str, schema: str | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.audit_conn_id = audit_conn_id
        self.warehouse_conn_id = warehouse_conn_id
        self.schema = schema

    @final_errors
    def execute(self, context: Context) -> dict[str, int]:
        """Copy what is new, the oldest change first, and return how much it was."""
        from zoho_crm.audit_export import AuditExport
        from zoho_crm.databases import create_source_engine
        from zoho_crm.ledger.ledger import Ledger

        ledger = Ledger.from_conn_id(self.audit_conn_id)
        engine = create_source_engine(self.warehouse_conn_id)
        try:
            ledger.check_connection()
            export = AuditExport(engine, self.audit_conn_id, schema=self.schema)
            export.create()
            counts = []
            for run, rows in _new_runs(ledger, export):
                with closing(rows):
                    counts.append(export.replace_run(run, rows))
        finally:
            engine.dispose()
            ledger.close()
        self.log.info("Audit exported: runs=%s rows=%s", len(counts), sum(counts))
        return {"runs": len(counts), "rows": sum(counts)}


def _new_runs(
    ledger: Ledger, export: AuditExport
) -> Iterator[tuple[dict[str, Any], Generator[dict[str, Any]]]]:
    """Yield the finished runs that the warehouse lacks or has as they were before, each with its audit rows."""
    from zoho_crm.ledger.link_queries import LinkQueries
    from zoho_crm.ledger.run_queries import RunQueries

    exported = export.versions()
    queries, links = RunQueries(ledger.engine), LinkQueries(ledger.engine)
    for run_key, event_no in queries.finished_versions().items():
        if exported.get(run_key) != event_no and (run := queries.finished_row(run_key)):
            yield run, links.audit_rows(run_key, only_latest=False)
