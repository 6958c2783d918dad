"""
Show job files that cannot be used as an import error, without taking a Dag of another job down.

Airflow stops scheduling every Dag of a file that raises, so the error is raised here, apart from zoho_delink.py.
"""

from __future__ import annotations

import os
from pathlib import Path

from airflow.sdk import get_parsing_context

from zoho_crm.core.job_files import JobFileError, load_jobs
from zoho_crm.operators.schedule import schedule_of

JOBS = Path(os.environ.get("ZOHO_CRM_JOBS_FOLDER") or Path(__file__).parents[1] / "include" / "jobs")

if get_parsing_context().dag_id is None:
    jobs, errors = load_jobs(JOBS)
    for job in jobs:
        try:
            schedule_of(job)
        except JobFileError as error:
            errors.append(error)
    if errors:
        raise JobFileError("\n".join(str(error) for error in errors))
