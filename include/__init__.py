"""What the project ships beside its package: job files, SQL, demo data and the local Zoho."""
