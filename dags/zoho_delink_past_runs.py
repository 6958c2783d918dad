"""The Airflow Dags that work on earlier runs of all jobs: retry unfinished links, relink removed ones, retention."""

from __future__ import annotations

from pathlib import Path

from zoho_crm.core.job_files import jobs_folder
from zoho_crm.dags import relink_dag, retention_dag, retry_dag

JOBS = jobs_folder(Path(__file__).parents[1])

retry = retry_dag(JOBS)
relink = relink_dag(JOBS)
retention = retention_dag(JOBS)
