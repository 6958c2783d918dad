"""Reports invalid job files as an import error. It has no Airflow Dag: a file that raises loses all of its Dags."""

from __future__ import annotations

from pathlib import Path

from zoho_crm.core.job_files import jobs_folder
from zoho_crm.dags import report_invalid_jobs

report_invalid_jobs(jobs_folder(Path(__file__).parents[1]))
