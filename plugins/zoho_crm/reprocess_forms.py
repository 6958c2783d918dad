"""
The trigger forms of the Dags on past runs.

The fields have the order of the job's form: those that decide over harm come first.
:mod:`zoho_crm.core.run_request` checks what Airflow does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import Param

from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES
from zoho_crm.core.run_request import MODES
from zoho_crm.trigger_forms import instant_field, job_form, links_field

if TYPE_CHECKING:
    from collections.abc import Sequence

FILTERS = "Filters"

_JOB = "The job whose links are meant: the name of its file. Relation, connections and limits are those of the file."

_RUN = """\
The run whose links are meant: Airflow's run id, such as `scheduled__2026-11-22T02:00:00+00:00`, or the `run_key` of \
its row in `zoho_delink_run`. A dry run is refused, one that is not finished, and one whose ids are replaced by \
hashes."""

_MODE = "**auto** and **dry_run**: count and plan only. **apply**: {does}."

_MAX_LINKS = """\
Takes the place of the job's `max_links` for this run: with more links planned, the run stops before the first is \
sent, or asks, as the job says. Needs a *Reason*."""

_OUTCOMES = """\
Links are driven again whose **last** outcome over all runs is one of these. A link that a later run has removed, or \
that was put back, is left alone."""

_REDRIVE_START = """\
In place of *Run*: take all runs of the job whose **own window lies in this one**. A run that took everything pending \
has no such window: name it in *Run*. Without a time zone it is **UTC**."""

_REDRIVE_END = "End of that window: a run whose own window ends later is not taken."

_RELINK_LINKS = """\
Relink **only these** of the links that the run removed: two columns or a JSON list, as in the form of the job."""

_PREFIX = """\
Relink only links whose {which} begins with this text, exactly as typed: case counts, and `%`, `_` and `\\` have no \
special meaning."""

_FINISHED_FROM = """\
Relink only links removed at this time or later. Without a time zone it is **UTC**."""

_FINISHED_TO = """\
Relink only links removed before this time, itself **not** included. Without a time zone it is **UTC**."""

_ZOHO_CODE = """\
Relink only links for which Zoho's response to the removal had this code, for example `SUCCESS`."""


def retry_form(jobs: Sequence[str]) -> dict[str, Param]:
    """
    Return the fields of ``zoho_delink_redrive``.

    :param jobs: names of the jobs there are; with none of them any text is taken
    """
    again = sorted(outcome.value for outcome in RETRYABLE_OUTCOMES)
    return {
        "job": _job(jobs),
        "run": Param(None, type=["null", "string"], title="Run", description_md=_RUN),
        **_harm("send the links again; Zoho cannot undo it"),
        "outcomes": Param(
            again,
            type="array",
            items={"type": "string", "enum": again},
            examples=again,
            title="Outcomes",
            description_md=_OUTCOMES,
        ),
        "window_start": instant_field("Window start", _REDRIVE_START),
        "window_end": instant_field("Window end", _REDRIVE_END),
    }


def relink_form(jobs: Sequence[str]) -> dict[str, Param]:
    """
    Return the fields of ``zoho_relink``.

    :param jobs: names of the jobs there are; with none of them any text is taken
    """
    return {
        "job": _job(jobs),
        "run": Param(type="string", minLength=1, title="Run", description_md=_RUN),
        **_harm("put the links back"),
        "links": links_field(_RELINK_LINKS),
        "external_id_prefix": _filter_field("External ID prefix", _PREFIX.format(which="external ID")),
        "related_external_id_prefix": _filter_field(
            "Related external ID prefix", _PREFIX.format(which="related external ID")
        ),
        "finished_from": instant_field("Removed from", _FINISHED_FROM, FILTERS),
        "finished_to": instant_field("Removed before", _FINISHED_TO, FILTERS),
        "zoho_code": _filter_field("Zoho code", _ZOHO_CODE),
    }


def _filter_field(title: str, description_md: str) -> Param:
    return Param(None, type=["null", "string"], title=title, description_md=description_md, section=FILTERS)


def _job(jobs: Sequence[str]) -> Param:
    known = {"enum": sorted(jobs)} if jobs else {"minLength": 1}
    return Param(type="string", title="Job", description_md=_JOB, **known)


def _harm(does: str) -> dict[str, Param]:
    """Return the fields that decide over harm, as every form has them."""
    form = job_form()
    return {
        "mode": Param(
            "auto", type="string", enum=list(MODES), title="Mode", description_md=_MODE.format(does=does)
        ),
        "reason": form["reason"],
        "max_links": Param(
            None,
            type=["null", "integer"],
            minimum=0,
            title="Most links",
            description_md=_MAX_LINKS,
        ),
        "verify": form["verify"],
    }
