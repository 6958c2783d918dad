"""Where a try sends: the connection must still lead to the organization that the plan was made for."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from zoho_crm.core.request import get_setting
from zoho_crm.core.response import ResponseKind
from zoho_crm.core.verdict import StopReason
from zoho_crm.errors import (
    OtherOrgError,
    ZohoAuthError,
    ZohoError,
    ZohoNotSentError,
    ZohoResponseError,
    ZohoUnansweredError,
)
from zoho_crm.hooks.metadata import org_id_of, org_in
from zoho_crm.hooks.presence import LinkClient, judge_error
from zoho_crm.hooks.zoho_response import parse_reading_response, rows_of
from zoho_crm.operators.breaker import Stop

if TYPE_CHECKING:
    from zoho_crm.core.models import StoredRun
    from zoho_crm.hooks.async_client import AsyncZohoClient
    from zoho_crm.hooks.connection import ZohoConnection
    from zoho_crm.ledger.ledger import Ledger
    from zoho_crm.operators.chunk_store import ChunkStore

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

        :raises OtherOrgError: it is another organization
        :raises ZohoError: it cannot be read
        """
        if self.is_done or not await asyncio.to_thread(self.ledger.claims.has_unsettled, self.store.claim):
            return None
        found = await _read_org(LinkClient(client, self.run.relation, client.connection.api_version))
        if isinstance(found, Stop):
            return found
        planned = self.run.org_id or await asyncio.to_thread(
            self.ledger.runs.record_org, self.run.run_key, found
        )
        if found != planned:
            raise OtherOrgError(
                f"The plan is for organization {planned}; connection {client.connection.conn_id!r} now leads to "
                f"{found}. Nothing was sent in this try: correct the connection and clear the task, or start a new run"
            )
        self.store.target = replace(self.store.target, org_id=found)
        self.is_done = True
        return None


async def _read_org(client: LinkClient) -> str | Stop:
    """Return Zoho's ID of the organization, or a reason to stop."""
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
                return org_id_of(org_in(rows_of(request, parse_reading_response(request, response), "org")))
            except ZohoAuthError as error:
                return Stop(f"the organization cannot be read: {error}", StopReason.REFUSED)
            except ZohoResponseError as error:
                last, retry_after_s = error, response.classified.retry_after_s
        if tries < client.limits.verifications:
            await client.pause(tries, retry_after_s)
    raise last
