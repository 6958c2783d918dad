"""Past runs that somebody names by an id or by a window, and whether a new run may take up their links."""

from __future__ import annotations

from typing import TYPE_CHECKING

from zoho_crm.core.models import DELINK

if TYPE_CHECKING:
    from zoho_crm.core.models import StoredRun, Target


def ineligibility_reason(run: StoredRun, job: str, target: Target) -> str | None:
    """
    Say why a new run may not take up the links of a past one, or return None if it may.

    :param job: the job of the new run
    :param target: the relation and the organisation of the new run
    :return: the rest of a sentence that begins with the run
    """
    if run.job != job:
        return f"is one of {run.job}, not of {job}"
    if run.operation != DELINK:
        return (
            f"has put links back itself; what it left is taken up by putting back "
            f"{run.origin_run_key!r} once more"
        )
    if run.relation != target.relation:
        return f"was for {run.relation}, and the job is for {target.relation} by now"
    if run.dry_run:
        return "was a dry run: it sent nothing"
    if run.planned_at is None or run.finished_at is None:
        return "is not finished; let it end, or clear its tasks"
    if run.pseudonymised_at is not None:
        return (
            f"was pseudonymised at {run.pseudonymised_at:%Y-%m-%d %H:%M} UTC: the ids of its links are gone"
        )
    here = (target.org_id, target.data_center)
    if run.org_id and target.org_id and (run.org_id, run.data_center) != here:
        return (
            f"was for the organisation {run.org_id} ({run.data_center}), and the connection leads to "
            f"{target.org_id} ({target.data_center}) by now"
        )
    return None
