"""What the tasks around the mapped one have in common: they work for one job."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseOperator

from zoho_crm.core.job_files import named_job
from zoho_crm.core.run_request import run_key
from zoho_crm.operators.context import origin_of

if TYPE_CHECKING:
    from pathlib import Path

    from airflow.sdk import Context

    from zoho_crm.core.job import Job


class JobOperator(BaseOperator):
    """
    A task that works for one job: the Dag's own, or the one that the trigger form names.

    :param job: the job; None if the form's field ``job`` names it
    :param jobs_folder: folder of the job files, beside which the SQL files lie
    """

    _job: Job | None = None
    """The job that this try works for, once it is known."""

    def __init__(self, *, job: Job | None, jobs_folder: Path, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.job = job
        self.jobs_folder = jobs_folder

    def job_of(self, context: Context) -> Job:
        """
        Return the job.

        :raises JobFileError: the form names none that can be used; the message says which there are
        """
        self._job = self.job or named_job(self.jobs_folder, context["params"].get("job"))
        return self._job

    def run_key_of(self, context: Context) -> str:
        """Return the key of the run: the same in all of its tasks, tries and clears."""
        origin = origin_of(context)
        return run_key(self.job_of(context).name, origin.dag_id, origin.dag_run_id)

    def lineage(self, job: Job) -> tuple[list[Any], list[Any]]:
        """Return the datasets that the task reads and those that it writes, as OpenLineage knows them."""
        return [], []

    def get_openlineage_facets_on_start(self) -> Any:
        """Return what is known before the task begins; Airflow's OpenLineage provider calls it."""
        return self._told(self.job)

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> Any:
        """Return what is known when the task has ended, well or not; Airflow's OpenLineage provider calls it."""
        return self._told(self.job or self._job)

    def _told(self, job: Job | None) -> Any:
        from zoho_crm.lineage import build_lineage

        return build_lineage(*self.lineage(job)) if job else None
