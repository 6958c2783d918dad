"""The first task of a run: would it work at all? Nothing is planned or sent before that is known."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from zoho_crm.airflow_compat import AirflowFailException
from zoho_crm.core.job_files import read_sql
from zoho_crm.core.models import DELINK
from zoho_crm.databases import create_source_engine
from zoho_crm.errors import ZohoAuthError, ZohoConfigError, ZohoTokenThrottledError
from zoho_crm.hooks.metadata import org_id_of
from zoho_crm.hooks.zoho_crm import ZohoCRMHook
from zoho_crm.operators.job_operator import JobOperator, request_of
from zoho_crm.operators.notify import notifier_faults
from zoho_crm.operators.shared_clock import shared_clock
from zoho_crm.operators.slot_keeper import one_slot, refresh_lock
from zoho_crm.source import check_sql

if TYPE_CHECKING:
    from airflow.sdk import Context

    from zoho_crm.core.job import Job
    from zoho_crm.ledger.ledger import Ledger


class PreflightOperator(JobOperator):
    """
    Check everything a run depends on, and leave a fresh access token behind for its tasks.

    Checked are the trigger form, the job's SQL and notifiers, the audit database and its tables, the warehouse, the
    Zoho connection and its scopes, and that module, related list and external fields are what the job takes them for.

    :return: ``org_id``, ``data_center``, ``api_version`` and ``environment`` for the audit, and ``credits``: what the
        checks have cost
    :raises AirflowFailException: something has to be changed first; the message says what
    """

    operation: ClassVar[str] = DELINK

    def execute(self, context: Context) -> dict[str, Any]:
        """Check it all; what Airflow may try again is raised as it is, what it may not as a failure."""
        try:
            return self._check(context)
        except ZohoTokenThrottledError:
            raise
        except (ZohoAuthError, ZohoConfigError) as error:
            raise AirflowFailException(str(error)) from None

    def _check(self, context: Context) -> dict[str, Any]:
        self.check_form(context)
        job = self.job_of(context)
        self.check_sql(job)
        if faults := notifier_faults(job):
            raise ZohoConfigError(". ".join(faults))
        from zoho_crm.ledger.ledger import Ledger

        ledger = Ledger.from_conn_id(job.audit_conn_id)
        try:
            ledger.check_connection()
            ledger.ensure_schema()
            ledger.check_readiness()
            checked = self._check_zoho(job, ledger)
            # A run that is there already has been begun by a try before this one.
            ledger.runs.add_preflight_credits(self.run_key_of(context), checked["credits"])
        finally:
            ledger.close()
        self.check_source(job)
        self.log.info("Ready: %s", job.relation.as_relation())
        return checked

    def check_form(self, context: Context) -> None:
        """Check the trigger form."""
        request_of(context)

    def check_sql(self, job: Job) -> None:
        """Check what can be checked of the job's SQL, and of its guards', without a database."""
        for field, sql in read_sql(job, self.jobs_folder).items():
            check_sql(sql, field)

    def check_source(self, job: Job) -> None:
        """Check that the warehouse can be reached."""
        engine = create_source_engine(job.source.conn_id)
        try:
            with engine.connect():
                pass
        finally:
            engine.dispose()

    def _check_zoho(self, job: Job, ledger: Ledger) -> dict[str, Any]:
        conn_id = job.zoho_conn_id
        hook = ZohoCRMHook(
            conn_id,
            refresh_lock=partial(refresh_lock, ledger, conn_id),
            shared_clock=shared_clock(ledger),
        )
        with one_slot(ledger, conn_id, hook.connection.max_concurrency):
            org = hook.get_org()
            faults = hook.check_relation(job.relation.as_relation(), self.operation)
        if faults:
            raise ZohoConfigError(" ".join(faults))
        return {
            "org_id": org_id_of(org),
            "data_center": hook.connection.data_center,
            "api_version": hook.connection.api_version,
            "environment": hook.connection.kind,
            "credits": hook.meter.credits_used,
        }
