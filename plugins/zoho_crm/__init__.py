"""
Remove stale links from Zoho CRM by external IDs, with an audit trail that proves what happened to each of them.

The names below are imported on first use: ``from zoho_crm import Link`` loads neither Airflow nor an HTTP client.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from zoho_crm.core.links import Link, Relation
    from zoho_crm.hooks.zoho_crm import ZohoCRMHook
    from zoho_crm.operators.delete_related import DeleteRelatedByExternalIdOperator
    from zoho_crm.operators.relink import RelinkByExternalIdOperator

__version__ = "0.1.0"

__all__ = [
    "DeleteRelatedByExternalIdOperator",
    "Link",
    "Relation",
    "RelinkByExternalIdOperator",
    "ZohoCRMHook",
]

_MODULES = {
    "DeleteRelatedByExternalIdOperator": "zoho_crm.operators.delete_related",
    "Link": "zoho_crm.core.links",
    "Relation": "zoho_crm.core.links",
    "RelinkByExternalIdOperator": "zoho_crm.operators.relink",
    "ZohoCRMHook": "zoho_crm.hooks.zoho_crm",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
