"""
Remove links with Zoho's own SDK, in a separate process: it is a global singleton and writes files.

Usage: ``python sdk_client.py BASE_URL WORK_DIRECTORY``; prints what each call answered, as one JSON object.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.file_store import FileStore
from zohocrmsdk.src.com.zoho.api.logger import Logger
from zohocrmsdk.src.com.zoho.crm.api import HeaderMap, Initializer, ParameterMap
from zohocrmsdk.src.com.zoho.crm.api.dc import DataCenter
from zohocrmsdk.src.com.zoho.crm.api.related_records import (
    ActionWrapper,
    APIException,
    DeleteRelatedRecordsUsingExternalIDHeader,
    DeleteRelatedRecordsUsingExternalIDParam,
    DeleteRelatedRecordUsingExternalIDHeader,
    RelatedRecordsOperations,
)
from zohocrmsdk.src.com.zoho.crm.api.sdk_config import SDKConfig

EXTERNAL = "Contacts.External_Contact_ID,Deals.External_Deal_ID"


def start(url: str, work: Path) -> None:
    Initializer.initialize(
        environment=DataCenter.Environment(url, f"{url}/oauth/v2/token", url),
        token=OAuthToken("local-client", "local-secret", refresh_token="local-refresh-token"),
        store=FileStore(str(work / "tokens.csv")),
        sdk_config=SDKConfig(auto_refresh_fields=False, pick_list_validation=False),
        resource_path=str(work),
        logger=Logger.get_instance(Logger.Levels.INFO, str(work / "sdk.log")),
    )


def reported(response: Any) -> dict[str, Any]:
    """Say what the SDK made of an response."""
    body = response.get_object()
    entries = body.get_data() if isinstance(body, ActionWrapper) else [body]
    return {
        "status": response.get_status_code(),
        "wrapper": type(body).__name__,
        "entries": [
            {
                "type": type(entry).__name__,
                "code": entry.get_code().get_value(),
                "message": entry.get_message().get_value(),
                "details": entry.get_details(),
            }
            for entry in entries
            if isinstance(entry, APIException) or hasattr(entry, "get_code")
        ],
    }


def delete_one(parent: str, related: str) -> dict[str, Any]:
    headers = HeaderMap()
    headers.add(DeleteRelatedRecordUsingExternalIDHeader.x_external, EXTERNAL)
    calls = RelatedRecordsOperations("Deals", "Contacts")
    return reported(calls.delete_related_record_using_external_id(related, parent, headers))


def delete_many(parent: str, ids: str, external: str) -> dict[str, Any]:
    headers = HeaderMap()
    headers.add(DeleteRelatedRecordsUsingExternalIDHeader.x_external, external)
    params = ParameterMap()
    params.add(DeleteRelatedRecordsUsingExternalIDParam.ids, ids)
    calls = RelatedRecordsOperations("Deals", "Contacts")
    return reported(calls.delete_related_records_using_external_id(parent, params, headers))


def main(url: str, work: Path, record_id: str) -> None:
    start(url, work)
    responses = {
        "one": delete_one("c-1", "d-1"),
        "again": delete_one("c-1", "d-1"),
        "unknown": delete_one("c-9", "d-1"),
        "many": delete_many("c-1", "d-2,d-3,d-1", EXTERNAL),
        "by_record_id": delete_many("c-1", record_id, "Contacts.External_Contact_ID"),
    }
    sys.stdout.write(json.dumps(responses))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
