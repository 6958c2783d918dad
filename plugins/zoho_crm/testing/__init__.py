"""
Tests of your own jobs and Dags against a Zoho CRM on this machine: see ``docs/testing.md``.

The names below are imported on first use, because ``fake_zoho`` needs pytest and :class:`FakeZoho` a web server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoho_crm.testing.fake import Call, FakeZoho
    from zoho_crm.testing.fixtures import fake_zoho

__all__ = ["Call", "FakeZoho", "fake_zoho"]

_MODULES = {
    "Call": "zoho_crm.testing.fake",
    "FakeZoho": "zoho_crm.testing.fake",
    "fake_zoho": "zoho_crm.testing.fixtures",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
