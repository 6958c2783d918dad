"""What a person has decided about a run, before the task that asked has stored it on the run row."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sqlalchemy.exc import SQLAlchemyError

from zoho_crm import airflow_compat
from zoho_crm.core.approval import APPROVED, ASKED, decide, format_approver, question_digest, refusal

if TYPE_CHECKING:
    from datetime import datetime

    from zoho_crm.core.job import Guards
    from zoho_crm.core.models import StoredRun

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Decision:
    """
    A decision that Airflow knows.

    :param approval: ``approved`` or ``rejected``
    """

    approval: str
    by: str
    at: datetime


def find_decision(run: StoredRun, guards: Guards) -> Decision | None:
    """
    Return the decision about a run that waits for one; None if there is none yet, or the run row has it.

    An approval that does not count is no decision.

    :param guards: those of the run's job
    """
    if run.approval != ASKED or run.question is None or run.finished_at is not None:
        return None
    try:
        responses = airflow_compat.given_responses(run.dag_id, run.dag_run_id)
    except SQLAlchemyError:
        log.warning("Airflow's responses could not be read: run_key=%s", run.run_key, exc_info=True)
        return None
    for it in responses:
        by = format_approver(it.by)
        if by and question_digest(it.subject, it.body, it.approvers, it.max_tries) == run.question:
            approval = decide(it.chosen_options)
            if approval == APPROVED and refusal(it.by, guards, run.triggered_by):
                return None
            return Decision(approval, by, it.at)
    return None
