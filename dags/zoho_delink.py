"""All Airflow Dags for the job files in include/jobs; zoho_delink_broken_jobs.py reports invalid files."""

from __future__ import annotations

from pathlib import Path

from zoho_crm.core.job_files import jobs_folder
from zoho_crm.dags import delink_dags

globals().update(delink_dags(jobs_folder(Path(__file__).parents[1]), invalid_jobs=False))
