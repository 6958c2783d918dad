"""
Who may see what. Airflow's auth manager decides; nothing here does.

Airflow does not check the requests of a plugin: each route carries one of the dependencies below.
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
from zoho_crm.core.run_request import REDRIVE_DAG_ID, RELINK_DAG_ID

if TYPE_CHECKING:
    from collections.abc import Iterable

    from zoho_crm.airflow_compat import ResourceMethod
    from zoho_crm.ledger.run_queries import DagAndJob

SIGNED_IN = requires_authenticated()
"""For routes that no single Dag owns: what they show is then chosen by :class:`Reader`."""

READ_RUN = requires_access_dag("GET", DagAccessEntity.RUN)
"""For routes about a run: the user may read runs of the Dag in the path."""

_DAGS_ON_PAST_RUNS = (REDRIVE_DAG_ID, RELINK_DAG_ID)


class Reader:
    """
    A signed-in user, and what of the ledger they may see.

    :param user: Airflow's user
    """

    def __init__(self, user: Any) -> None:
        self._user = user
        self._answers: dict[tuple[str, str], bool] = {}

    def may_read(self, dag_id: str, job: str) -> bool:
        """
        Return whether the user may read runs of a Dag for a job.

        A Dag on past runs works for many jobs: there the user must be allowed to read the job's own Dag as well.
        """
        dag_ids = [dag_id]
        if dag_id in _DAGS_ON_PAST_RUNS:
            dag_ids.append(DAG_ID_PREFIX + job)
        return all(self._may("GET", each) for each in dag_ids)

    def may_trigger(self, dag_id: str) -> bool:
        """Return whether the user may start runs of a Dag."""
        return self._may("POST", dag_id)

    def visible(self, pairs: Iterable[DagAndJob]) -> set[DagAndJob]:
        """Return the Dags and jobs whose runs the user may read."""
        return {(dag_id, job) for dag_id, job in pairs if self.may_read(dag_id, job)}

    def _may(self, method: ResourceMethod, dag_id: str) -> bool:
        if (method, dag_id) not in self._answers:
            self._answers[method, dag_id] = get_auth_manager().is_authorized_dag(
                method=method,
                access_entity=DagAccessEntity.RUN,
                details=DagDetails(id=dag_id, team_name=DagModel.get_team_name(dag_id)),
                user=self._user,
            )
        return self._answers[method, dag_id]


def reader_of(user: GetUserDep) -> Reader:
    """Return the reader of a request; the request is refused where nobody is signed in."""
    return Reader(user)


ReaderDep = Annotated[Reader, Depends(reader_of)]
