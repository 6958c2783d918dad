"""What is checked before anything is planned: would the run work at all; and before a try sends: is it the same org."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from zoho_crm.airflow_compat import AirflowFailException, auth_manager, has_retry_policies
from zoho_crm.anchors.anchor_files import AnchorFolder
from zoho_crm.core.approval import approver_faults
from zoho_crm.core.job_files import read_sql
from zoho_crm.core.models import DELINK
from zoho_crm.core.request import get_setting
from zoho_crm.core.response import ResponseKind
from zoho_crm.core.verdict import StopReason
from zoho_crm.databases import create_source_engine
from zoho_crm.errors import (
    OtherOrgError,
    ZohoAuthError,
    ZohoConfigError,
    ZohoError,
    ZohoNotSentError,
    ZohoResponseError,
    ZohoTokenThrottledError,
    ZohoUnansweredError,
)
from zoho_crm.hooks.metadata import org_id_of, org_in
from zoho_crm.hooks.presence import LinkClient, judge_error
from zoho_crm.hooks.zoho_checks import environment_fault
from zoho_crm.hooks.zoho_crm import ZohoCRMHook
from zoho_crm.hooks.zoho_response import parse_reading_response, rows_of
from zoho_crm.operators.breaker import Stop
from zoho_crm.operators.job_operator import (
    THROTTLED_PAUSE,
    JobOperator,
    first_row,
    request_of,
    wait_in_triggerer,
)
from zoho_crm.operators.notify import notifier_faults
from zoho_crm.operators.report import close_ended_runs
from zoho_crm.operators.slot_keeper import one_slot, refresh_lock, shared_clock
from zoho_crm.source import check_in_warehouse, sql_faults

if TYPE_CHECKING:
    from airflow.sdk import Context

    from zoho_crm.core.job import Job
    from zoho_crm.core.models import StoredRun
    from zoho_crm.hooks.async_client import AsyncZohoClient
    from zoho_crm.hooks.connection import ZohoConnection
    from zoho_crm.hooks.metadata import Org
    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.operators.chunk_store import ChunkStore

READ_TIMEOUT_S = 50.0
"""Seconds without a byte: a request ends within twice as long, and so within the lease of its slot."""


class PreflightOperator(JobOperator):
    """
    Check everything a run depends on, and leave a fresh access token behind for its tasks.

    Checked are the trigger form, the job's SQL and notifiers, the audit database and its tables, the warehouse, the
    Zoho connection and its scopes, and that module, related list and external fields are what the job takes them for.

    :return: ``org_id``, ``data_center``, ``api_version`` and ``environment`` for the audit, and ``credits``: what the
        checks have cost
    :raises AirflowFailException: something has to be changed first; the message says what
    :raises ZohoTokenThrottledError: Zoho grants no access token for a while; before Airflow 3.3, whose retries cannot
        wait that long, the task defers instead
    """

    operation: ClassVar[str] = DELINK

    def execute(self, context: Context, waiting_since: datetime | None = None) -> dict[str, Any]:
        """Check it all; what Airflow may try again is raised as it is, what it may not as a failure."""
        try:
            return self._check(context)
        except ZohoTokenThrottledError as error:
            if not has_retry_policies():
                now, patience = datetime.now(UTC), self.job_of(context).wait_patience
                wait_in_triggerer(
                    self,
                    THROTTLED_PAUSE,
                    now=now,
                    since=waiting_since or now,
                    patience=patience,
                    why=str(error),
                )
            raise
        except (ZohoAuthError, ZohoConfigError) as error:
            raise AirflowFailException(str(error)) from None

    def execute_after_wait(
        self, context: Context, event: Any = None, *, waiting_since: str
    ) -> dict[str, Any]:
        """Resume after a wait in the triggerer; Airflow calls it."""
        return self.execute(context, datetime.fromisoformat(waiting_since))

    def _check(self, context: Context) -> dict[str, Any]:
        job, key = self.job_of(context), self.run_key_of(context)
        from zoho_crm.ledger.ledger import Ledger

        ledger = Ledger.from_conn_id(job.audit_conn_id)
        try:
            ledger.check_connection()
            ledger.ensure_schema()
            ledger.check_readiness()
            # First, so that a run that fails in any check has a row.
            ledger.runs.open(first_row(self, context, job))
            self.check_form(context)
            self.check_sql(job)
            if faults := [*notifier_faults(job), *approver_faults(job.guards.approvers, auth_manager())]:
                raise ZohoConfigError(". ".join(faults))
            if anchors := AnchorFolder.of_job(job):
                anchors.check()
            close_ended_runs(ledger, job, key)
            checked = self._check_zoho(job, ledger)
            ledger.runs.add_preflight_credits(key, checked["credits"])
        finally:
            ledger.close()
        self.check_source(job)
        self.log.info("Ready: %s", job.relation.as_relation())
        return checked

    def check_form(self, context: Context) -> None:
        """Check the trigger form."""
        request_of(context, self.job_of(context))

    def check_sql(self, job: Job) -> None:
        """Check what can be checked of the job's SQL, and of its guards', without a database."""
        if faults := sql_faults(job, self.jobs_folder):
            raise ZohoConfigError(". ".join(faults))

    def check_source(self, job: Job) -> None:
        """Check that the warehouse can be reached and accepts the job's SQL, without reading a row."""
        engine = create_source_engine(job.source.conn_id)
        try:
            check_in_warehouse(engine, read_sql(job, self.jobs_folder).values())
        finally:
            engine.dispose()

    def _check_zoho(self, job: Job, ledger: Ledger) -> dict[str, Any]:
        conn_id = job.zoho_conn_id
        hook = ZohoCRMHook(
            conn_id,
            read_timeout_s=READ_TIMEOUT_S,
            refresh_lock=partial(refresh_lock, ledger, conn_id),
            shared_clock=shared_clock(ledger),
        )
        with one_slot(ledger, conn_id, hook.connection.max_concurrency) as renew_slot:
            hook.require(renew_slot)
            faults = hook.check_relation(
                job.relation.as_relation(), self.operation, allow_user_fields=job.allow_user_external_field
            )
            if faults:
                raise ZohoConfigError(" ".join(faults))
            org = hook.get_org()
        return {
            "org_id": org_id_of(org),
            "data_center": hook.connection.data_center,
            "api_version": hook.connection.api_version,
            "environment": hook.connection.kind,
            "credits": hook.meter.credits_used,
        }


_STOPS = {
    ResponseKind.OUT_OF_CREDITS: Stop("the org's API credits are used up", StopReason.CREDITS),
    ResponseKind.OVERLOADED: Stop(
        "Zoho is overloaded: too many requests in flight, after all retries", StopReason.OVERLOADED
    ),
}
"""What keeps the organization from being read, and every other request from being useful."""


def check_environment(run: StoredRun, connection: ZohoConnection) -> None:
    """
    Check that a connection is for the data center and the environment of a run.

    :raises OtherOrgError: it is for another one
    """
    planned = (run.data_center or connection.data_center, run.environment or connection.kind)
    if planned != (connection.data_center, connection.kind):
        raise OtherOrgError(
            f"The plan is for data center {planned[0]}, environment {planned[1]}; connection {connection.conn_id!r} "
            f"is now for data center {connection.data_center}, environment {connection.kind}. Nothing was sent in this "
            "try: correct the connection and clear the task, or start a new run"
        )


@dataclass
class OrgCheck:
    """
    Reads the organization once a try, before anything else is sent, and compares it with that of the run.

    A run that does not know its organization gets the first one that a try finds.

    :param store: writes the organization into the audit rows of the try
    """

    ledger: Ledger
    run: StoredRun
    store: ChunkStore
    is_done: bool = False

    async def __call__(self, client: AsyncZohoClient) -> Stop | None:
        """
        Return a reason to stop that concerns all requests; None if the organization is that of the run.

        Nothing is read if no link of the chunk is left to send.

        :raises OtherOrgError: it is another organization, or of another environment than the connection says
        :raises ZohoError: it cannot be read
        """
        if self.is_done or not await asyncio.to_thread(self.ledger.claims.has_unsettled, self.store.claim):
            return None
        org = await _read_org(LinkClient(client, self.run.relation, client.connection.api_version))
        if isinstance(org, Stop):
            return org
        if fault := environment_fault(client.connection, org):
            raise OtherOrgError(f"{fault} Nothing was sent in this try")
        found = org_id_of(org)
        planned = self.run.org_id or await asyncio.to_thread(self._record, found)
        if found != planned:
            raise OtherOrgError(
                f"The plan is for organization {planned}; connection {client.connection.conn_id!r} now leads to "
                f"{found}. Nothing was sent in this try: correct the connection and clear the task, or start a new run"
            )
        self.store.target = replace(self.store.target, org_id=found)
        self.is_done = True
        return None

    def _record(self, org_id: str) -> str:
        """Record the organization of the run, and what its earlier runs left in flight; return the one recorded."""
        self.ledger.reprocess.carry_over_in_flight(self.run.run_key, org_id)
        return self.ledger.runs.record_org(self.run.run_key, org_id)


async def _read_org(client: LinkClient) -> Org | Stop:
    """Return the organization, or a reason to stop."""
    request = get_setting(client.api_version, "org")
    for tries in range(1, client.limits.verifications + 1):
        retry_after_s = None
        try:
            response = await client.send(request)
        except ZohoAuthError as error:
            return Stop(f"there is no access token ({error})", judge_error(error).stop_reason)
        except (ZohoNotSentError, ZohoUnansweredError) as error:
            last: ZohoError = error
        else:
            if stop := _STOPS.get(response.classified.kind):
                return stop
            try:
                return org_in(rows_of(request, parse_reading_response(request, response), "org"))
            except ZohoAuthError as error:
                return Stop(f"the organization cannot be read: {error}", StopReason.REFUSED)
            except ZohoResponseError as error:
                last, retry_after_s = error, response.classified.retry_after_s
        if tries < client.limits.verifications:
            await client.pause(tries, retry_after_s)
    raise last
