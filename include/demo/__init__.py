"""The demo: a small CRM, a warehouse that says which of its links are stale, and one run of the sample job."""
