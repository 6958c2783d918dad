"""The relation of the tests, and links of it."""

from __future__ import annotations

from zoho_crm.core.links import Relation

Pair = tuple[str, str]

RELATION = Relation("Contacts", "External_Contact_ID", "Deals", "Deals", "External_Deal_ID")
X_EXTERNAL = "Contacts.External_Contact_ID,Deals.External_Deal_ID"
