"""Plans, claims, slots and the audit trail in the audit database. Nothing here knows HTTP."""
