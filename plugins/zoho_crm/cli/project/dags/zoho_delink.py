"""All Airflow Dags of the job files in include/jobs, and those that retry, relink and replace old IDs by hashes."""

from __future__ import annotations

from zoho_crm.dags import delink_dags

globals().update(delink_dags("include/jobs"))
