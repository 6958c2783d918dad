# mypy: disable-error-code="import-untyped"
"""Remove links one by one with Zoho's SDK: ``python -m benchmarks.sdk_loop URL FOLDER LINKS``."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from zohocrmsdk.src.com.zoho.api.authenticator.oauth_token import OAuthToken
from zohocrmsdk.src.com.zoho.api.authenticator.store.file_store import FileStore
from zohocrmsdk.src.com.zoho.api.logger import Logger
from zohocrmsdk.src.com.zoho.crm.api import HeaderMap, Initializer
from zohocrmsdk.src.com.zoho.crm.api.dc import DataCenter
from zohocrmsdk.src.com.zoho.crm.api.related_records import (
    DeleteRelatedRecordUsingExternalIDHeader,
    RelatedRecordsOperations,
)
from zohocrmsdk.src.com.zoho.crm.api.sdk_config import SDKConfig

from benchmarks.world import X_EXTERNAL, links_of


def main(url: str, folder: Path, links: int) -> None:
    """Remove the links, and print the elapsed seconds."""
    Initializer.initialize(
        environment=DataCenter.Environment(url, f"{url}/oauth/v2/token", url),
        token=OAuthToken("local-client", "local-secret", refresh_token="local-refresh-token"),  # noqa: S106 - made up
        store=FileStore(str(folder / "tokens.csv")),
        sdk_config=SDKConfig(auto_refresh_fields=False, pick_list_validation=False),
        resource_path=str(folder),
        logger=Logger.get_instance(Logger.Levels.ERROR, str(folder / "sdk.log")),
    )
    headers = HeaderMap()
    headers.add(DeleteRelatedRecordUsingExternalIDHeader.x_external, X_EXTERNAL)
    calls = RelatedRecordsOperations("Deals", "Contacts")
    started = time.perf_counter()
    for parent, related in links_of(links):
        calls.delete_related_record_using_external_id(related, parent, headers)
    sys.stdout.write(json.dumps({"wall_s": time.perf_counter() - started}))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
