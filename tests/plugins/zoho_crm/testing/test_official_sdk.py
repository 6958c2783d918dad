from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SCRIPT = Path(__file__).with_name("sdk_client.py")
BOTH = "Contacts.External_Contact_ID,Deals.External_Deal_ID"


def test_official_sdk_delinks(zoho: Any, tmp_path: Path) -> None:
    zoho.state.link("Contacts", "c-1", "Deals", "d-4")
    zoho.state.link("Contacts", "c-1", "Deals", "d-5")
    deals = {key: zoho.state.crm.find("Deals", key) for key in ("d-1", "d-2", "d-3", "d-4")}

    ran = subprocess.run(
        [sys.executable, str(SCRIPT), zoho.url, str(tmp_path), deals["d-4"]],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip

    assert ran.returncode == 0, ran.stderr

    def removed(key: str) -> dict[str, Any]:
        details = {"id": int(deals[key])}
        return {
            "type": "SuccessResponse",
            "code": "SUCCESS",
            "message": "relation removed",
            "details": details,
        }

    gone = {
        "type": "APIException", "code": "INVALID_DATA", "message": "relation not found",
        "details": {"id": int(deals["d-1"])},
    }  # fmt: skip
    # The SDK reads only the details its model names; the external field of a wrong id is not among them.
    unknown = {"type": "APIException", "code": "INVALID_DATA", "message": "invalid data", "details": {}}
    assert json.loads(ran.stdout) == {
        "one": {"status": 200, "wrapper": "ActionWrapper", "entries": [removed("d-1")]},
        "again": {"status": 400, "wrapper": "ActionWrapper", "entries": [gone]},
        "unknown": {"status": 400, "wrapper": "APIException", "entries": [unknown]},
        "many": {
            "status": 207,
            "wrapper": "ActionWrapper",
            "entries": [removed("d-2"), removed("d-3"), gone],
        },
        "by_record_id": {"status": 200, "wrapper": "ActionWrapper", "entries": [removed("d-4")]},
    }
    assert zoho.state.links("Contacts", "Deals") == {("c-1", "d-5")}
    assert list(zoho.state.journal.harms) == []
    assert [one[1:5] for one in zoho.state.journal.requests] == [
        ("POST", "/oauth/v2/token", "", None),
        ("GET", "/crm/v7/users", "type=CurrentUser", None),
        ("GET", "/crm/v7/org", "", None),
        ("GET", "/crm/v7/settings/related_lists", "module=Contacts", None),
        ("GET", "/crm/v7/settings/fields", "module=Deals", None),
        ("DELETE", "/crm/v7/Contacts/c-1/Deals/d-1", "", BOTH),
        ("DELETE", "/crm/v7/Contacts/c-1/Deals/d-1", "", BOTH),
        ("DELETE", "/crm/v7/Contacts/c-9/Deals/d-1", "", BOTH),
        ("DELETE", "/crm/v7/Contacts/c-1/Deals", "ids=d-2%2Cd-3%2Cd-1", BOTH),
        ("DELETE", "/crm/v7/Contacts/c-1/Deals", f"ids={deals['d-4']}", "Contacts.External_Contact_ID"),
    ]
