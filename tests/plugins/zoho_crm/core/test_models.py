"""What is derived from the row of a run."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from zoho_crm.core.models import StoredRun


def run(**values: Any) -> StoredRun:
    return StoredRun(**{**dict.fromkeys((field.name for field in fields(StoredRun)), None), **values})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("values", "attention"),
    [
        ({"removed": 10}, None),
        ({"already_absent": 10}, None),
        ({"removed": 5, "parent_not_found": 3, "related_not_found": 2}, None),
        (
            {"removed": 4, "parent_not_found": 4, "related_not_found": 2},
            "6 of 10 links without a record in Zoho",
        ),
        ({"removed": 9, "rejected": 1}, "1 of 10 links rejected by Zoho"),
        ({"relinked": 9, "invalid": 1}, "1 of 10 links not sent, since an external ID is invalid"),
        (
            {"removed": 9, "presumed_removed": 1},
            "1 of 10 links presumed: a request may not have reached Zoho",
        ),
        ({"removed": 10, "detail": "look here"}, "look here"),
    ],
)
def test_succeeded_run_needs_attention(values: dict[str, Any], attention: str | None):
    found = run(status="succeeded", planned=10, **values)
    assert found.attention == attention
    assert found.ending == ("succeeded, needs attention" if attention else "succeeded")


@pytest.mark.parametrize("status", ["planned", "running", "partial", "failed", "stopped", "rejected"])
def test_other_states_say_themselves(status: str):
    found = run(status=status, planned=10, rejected=10)
    assert (found.attention, found.ending) == (None, status)


def test_run_without_links_needs_no_attention():
    assert run(status="succeeded", planned=0).attention is None
