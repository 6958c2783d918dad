"""Provider metadata for Airflow: what the package contains, the connection type and its form."""

from __future__ import annotations

from typing import Any

from zoho_crm import __version__

_INTEGRATION = "Zoho CRM"
_DATA_CENTERS = ["us", "eu", "in", "au", "cn", "jp", "ca", "sa", "uk"]


def get_provider_info() -> dict[str, Any]:
    """
    Return the provider's metadata, in the form of Airflow's ``provider_info.schema.json``.

    Airflow builds the connection form from ``connection-types`` alone, without importing the hook. The fields
    are those that :class:`zoho_crm.hooks.connection.ZohoConnection` accepts; a test holds the two together.
    """
    return {
        "package-name": "zoho-crm-delink",
        "name": "Zoho CRM",
        "description": "Remove stale links from Zoho CRM by external IDs, with an audit trail.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://www.zoho.com/crm/developer/docs/api/v7/",
                "tags": ["service"],
            }
        ],
        "operators": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": ["zoho_crm.operators.delete_related", "zoho_crm.operators.relink"],
            }
        ],
        "hooks": [{"integration-name": _INTEGRATION, "python-modules": ["zoho_crm.hooks.zoho_crm"]}],
        # Assets of relations, such as zoho://zoho_crm_default/Contacts/Deals, need no normalization.
        "asset-uris": [{"schemes": ["zoho"], "handler": None}],
        "extra-links": ["zoho_crm.ui.plugin.DelinkRunLink"],
        "connection-types": [
            {
                "connection-type": "zoho_crm",
                "hook-class-name": "zoho_crm.hooks.zoho_crm.ZohoCRMHook",
                "hook-name": "Zoho CRM",
                "ui-field-behaviour": {
                    "hidden-fields": [],
                    "relabeling": {
                        "login": "Client ID",
                        "password": "Client secret",
                        "schema": "Local Zoho: scheme",
                        "host": "Local Zoho: host",
                        "port": "Local Zoho: port",
                    },
                    "placeholders": {
                        "login": "1000.ABCDEFGHIJKLMNOPQRSTUVWXYZ",
                        "password": "client secret of the same API console entry",
                        "schema": "empty for Zoho itself",
                        "host": "empty for Zoho itself; 127.0.0.1 for a local Zoho",
                        "port": "empty for Zoho itself",
                    },
                },
                "conn-fields": {
                    "refresh_token": {
                        "label": "Refresh token",
                        "description": "Made once in Zoho's API console, with the scopes that zoho-delink check-job "
                        "prints; bound to one data center and environment.",
                        "schema": {"type": ["string", "null"], "format": "password"},
                    },
                    "data_center": {
                        "label": "Data center",
                        "description": "Where the Zoho account lives: the ending of the address you log in at.",
                        "schema": {"type": "string", "enum": _DATA_CENTERS, "default": "us"},
                    },
                    "environment": {
                        "label": "Environment",
                        "description": "A refresh token works in the environment it was made for, and in no other.",
                        "schema": {
                            "type": "string",
                            "enum": ["production", "sandbox", "developer"],
                            "default": "production",
                        },
                    },
                    "api_version": {
                        "label": "API version",
                        "schema": {"type": "string", "enum": ["v7", "v8"], "default": "v7"},
                    },
                    "max_concurrency": {
                        "label": "Requests in flight",
                        "description": "For the whole org. Zoho allows 5 (Free), 10 (Standard), 15 (Professional), "
                        "20 (Enterprise, Zoho One) or 25 (Ultimate, CRM Plus).",
                        "schema": {"type": "integer", "minimum": 1, "maximum": 25, "default": 10},
                    },
                },
            }
        ],
    }
