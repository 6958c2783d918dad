"""Pages in the Airflow UI: runs, their links, and the story of a link. They read through the ledger, and only read."""
