"""
A local imitation of Zoho CRM's API, for the demo and for tests.

It is written from Zoho's documentation alone and imports nothing of the product, so that the two can disagree.
It listens on 127.0.0.1 only, and serves the OAuth and the API calls from one port.
"""

from __future__ import annotations

from zoho_crm.testing.local_zoho.faults import FaultRule
from zoho_crm.testing.local_zoho.seed import default_connection, default_seed
from zoho_crm.testing.local_zoho.server import LocalZoho
from zoho_crm.testing.local_zoho.settings import Settings
from zoho_crm.testing.local_zoho.state import LocalState

__all__ = ["FaultRule", "LocalState", "LocalZoho", "Settings", "default_connection", "default_seed"]
