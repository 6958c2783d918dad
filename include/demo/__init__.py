"""The demo: a small CRM, a warehouse of stale links, and one run of the sample job."""
