"""
Access control. Airflow's auth manager makes every decision.

Airflow does not authenticate requests to a plugin's app: each route has one of the dependencies below.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends

from zoho_crm.airflow_compat import (
    DagAccessEntity,
    DagDetails,
    DagModel,
    GetUserDep,
    get_auth_manager,
    requires_access_dag,
    requires_authenticated,
)
from zoho_crm.core.job import DAG_ID_PREFIX
from zoho_crm.core.run_request import RELINK_DAG_ID, RETRY_DAG_ID

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoho_crm.airflow_compat import ResourceMethod
    from zoho_crm.ledger.run_queries import DagAndJob

SIGNED_IN = requires_authenticated()
"""For routes over several Dags, which select by :class:`Reader` what they show."""

READ_RUN = requires_access_dag("GET", DagAccessEntity.RUN)
"""For routes of one run: the user may read runs of the Dag in the path."""

_DAGS_FOR_ALL_JOBS = (RETRY_DAG_ID, RELINK_DAG_ID)


class Reader:
    """
    A signed-in user and their permissions.

    :param user: Airflow's user
    """

    def __init__(self, user: Any) -> None:
        self._user = user
        self._decisions: dict[tuple[str, str], bool] = {}

    @property
    def user_id(self) -> str:
        """The user's ID in Airflow."""
        return str(self._user.get_id())

    def may_read(self, dag_id: str, job: str) -> bool:
        """
        Return whether the user may read runs of a Dag for a job.

        Retry and relink work for all jobs: for their runs, the user also needs access to the job's own Dag.
        """
        dag_ids = [dag_id]
        if dag_id in _DAGS_FOR_ALL_JOBS:
            dag_ids.append(DAG_ID_PREFIX + job)
        return all(self._may("GET", each) for each in dag_ids)

    def may_reprocess(self, dag_id: str, origin_dag_id: str, job: str) -> bool:
        """
        Return whether the user may start a retry or a relink from a run.

        Retry and relink work for all jobs: the user also needs the right to trigger the Dag whose links they are.

        :param dag_id: ID of the Dag to start
        :param origin_dag_id: ID of the run's Dag
        :param job: name of the run's job, whose Dag counts if the run is a retry or a relink itself
        """
        owner = DAG_ID_PREFIX + job if origin_dag_id in _DAGS_FOR_ALL_JOBS else origin_dag_id
        return self._may("POST", dag_id) and self._may("POST", owner)

    def visible(self, pairs: Iterable[DagAndJob]) -> set[DagAndJob]:
        """Return the Dags and jobs whose runs the user may read."""
        return {(dag_id, job) for dag_id, job in pairs if self.may_read(dag_id, job)}

    def _may(self, method: ResourceMethod, dag_id: str) -> bool:
        if (method, dag_id) not in self._decisions:
            self._decisions[method, dag_id] = get_auth_manager().is_authorized_dag(
                method=method,
                access_entity=DagAccessEntity.RUN,
                details=DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id)),
                user=self._user,
            )
        return self._decisions[method, dag_id]


def reader_of(user: GetUserDep) -> Reader:
    """Return the reader of a request; without a session the request is refused."""
    return Reader(user)


ReaderDep = Annotated[Reader, Depends(reader_of)]
