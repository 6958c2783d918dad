"""
Trigger forms: of a job's Dag, and of the Dags that retry unfinished links and relink removed links.

The fields that can do harm (mode, reason, limit) come first; each section below is collapsed in Airflow. Airflow checks
types and choices when a run is triggered; the first task of the run checks the rest, in
:mod:`zoho_crm.core.run_request`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.sdk import Param

from zoho_crm.core.link_input import MAX_PASTED_LINKS
from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES
from zoho_crm.core.run_request import MAX_REASON_LENGTH, MODES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoho_crm.core.job import Job

WINDOW = "Window"
LINKS = "Links"
FILTERS = "Filters"

_MODE = """\
**auto**: a manual run is a **dry run**; {automatic}. **dry_run**: plan only. **apply**: remove links; Zoho cannot \
undo it.{unpause}"""

# No code spans in a description of several lines: Airflow shows them over the line above.
_AUTOMATIC = {
    None: "a scheduled, asset-triggered or backfill run does what **automatic** in the job file says",
    "dry_run": "so is a scheduled, asset-triggered or backfill run, until the job file says **automatic: apply**",
    "apply": "a scheduled, asset-triggered or backfill run **removes links** (**automatic: apply** in the job file)",
}

_UNPAUSE = """\
 If the Dag is paused, *Unpause … on trigger* is ticked, and the scheduled run of the last interval starts as \
well. {effect}"""

_UNPAUSE_EFFECT = {
    "dry_run": "That run is a **dry run** too.",
    "apply": "That run **removes links**: untick it to start only your run.",
}

_VERIFY = """\
Verify each link in Zoho (1 API call per link) and record what a run would find: linked, already absent, or a record \
not found. **Dry run only.**"""

_MAX_LINKS = """\
Lowers the job's `max_links` for this run: with more links planned, the run stops before the first is sent, or waits \
for an approval. A **higher** limit than the job's counts only for users whom the job lists in `may_raise`, or after \
an approval. Requires a *Reason*."""

_REASON = f"Why you start this run or change its limit. Stored with the run; at most {MAX_REASON_LENGTH} characters."

_WINDOW_START = """\
Process links marked at this time or later. Without a time zone it is **UTC**. Set both ends or neither; with neither, \
a scheduled or backfill run uses its data interval, and **a manual run processes everything pending**, whatever data \
interval is selected above."""

_WINDOW_END = (
    "Process links marked before this time, itself **not** included. Without a time zone it is **UTC**."
)

# Not a code block: Airflow shows it on one line, like inline code.
_LINKS = f"""\
Process these links **instead of the job's SQL**: two columns separated by commas, semicolons or tabs (as copied from \
a spreadsheet), with or without a header, or a JSON list. At most {MAX_PASTED_LINKS:,}; the window is then ignored.

- `external_id,related_external_id`
- `c-1001,d-2001`
- `"c-1,002",d-2002`

or

- `[{{"external_id": "c-1001", "related_external_id": "d-2001"}}, ["c-1002", "d-2002"]]`
"""


_JOB = "Name of the job, which is that of its file. Relation, connections and limits are those of the file."

_RUN = """\
Origin run: Airflow's run ID, such as `scheduled__2026-11-22T02:00:00+00:00`, or the `run_key` of its row in \
`zoho_delink_run`. It must be a finished apply run whose IDs were not replaced by hashes."""

_REPROCESS_MODE = "**auto** and **dry_run**: plan and count only. **apply**: {action}."

_OUTCOMES = """\
Retry links whose **last** outcome over all runs is one of these. Links that a later run removed or relinked are \
skipped."""

_RETRY_START = """\
Instead of *Run*: retry all runs of the job whose **own window lies in this one**. A run for everything pending lies \
in no window: give it in *Run*. Without a time zone it is **UTC**."""

_RETRY_END = (
    "End of that window: runs whose own window ends later are skipped. Without a time zone it is **UTC**."
)

_RELINK_LINKS = """\
Relink **only these** of the links that the run removed: two columns or a JSON list, as in the form of a job."""

_PREFIX = """\
Relink only links whose {which} begins with this text, exactly as typed: case counts, and `%`, `_` and `\\` have no \
special meaning."""

_FINISHED_FROM = """\
Relink only links removed at this time or later. Without a time zone it is **UTC**."""

_FINISHED_TO = """\
Relink only links removed before this time, itself **not** included. Without a time zone it is **UTC**."""

_ZOHO_CODE = """\
Relink only links for which Zoho's response to the removal had this code, for example `SUCCESS`."""


_INCLUDE_PRESUMED = """\
Relink links with the outcome `presumed_removed` as well. They are gone after a request that may not have reached \
Zoho, so they may have been gone before the run. Without this field, they are only counted."""


def job_form(job: Job | None = None) -> dict[str, Param]:
    """
    Return the form's fields, created for each Dag: Airflow keeps values in them.

    :param job: says what its automatic runs do; None for the form of a Dag of your own
    """
    return {
        "mode": Param(
            "auto", type="string", enum=list(MODES), title="Mode", description_md=_mode_description(job)
        ),
        "reason": Param(None, type=["null", "string"], title="Reason", description_md=_REASON),
        "max_links": Param(
            None, type=["null", "integer"], minimum=0, title="Maximum links", description_md=_MAX_LINKS
        ),
        "verify": Param(False, type="boolean", title="Verify each link", description_md=_VERIFY),
        "window_start": instant_field("Window start", _WINDOW_START),
        "window_end": instant_field("Window end", _WINDOW_END),
        "links": links_field(_LINKS),
    }


def retry_form(jobs: Sequence[str]) -> dict[str, Param]:
    """
    Return the fields of ``zoho_delink_retry``.

    :param jobs: names of the jobs to choose from; if there are none, the field is free text
    """
    retryable = sorted(outcome.value for outcome in RETRYABLE_OUTCOMES)
    return {
        "job": _job(jobs),
        "run": Param(None, type=["null", "string"], title="Run", description_md=_RUN),
        **_run_fields("retry the links; Zoho cannot undo it"),
        "outcomes": Param(
            retryable,
            type="array",
            items={"type": "string", "enum": retryable},
            examples=retryable,
            title="Outcomes",
            description_md=_OUTCOMES,
        ),
        "window_start": instant_field("Window start", _RETRY_START),
        "window_end": instant_field("Window end", _RETRY_END),
    }


def relink_form(jobs: Sequence[str]) -> dict[str, Param]:
    """
    Return the fields of ``zoho_delink_relink``.

    :param jobs: names of the jobs to choose from; if there are none, the field is free text
    """
    return {
        "job": _job(jobs),
        "run": Param(type="string", minLength=1, title="Run", description_md=_RUN),
        **_run_fields("relink the links"),
        "include_presumed": Param(
            False, type="boolean", title="Include presumed removals", description_md=_INCLUDE_PRESUMED
        ),
        "links": links_field(_RELINK_LINKS),
        "external_id_prefix": _filter_field("External ID prefix", _PREFIX.format(which="external ID")),
        "related_external_id_prefix": _filter_field(
            "Related external ID prefix", _PREFIX.format(which="related external ID")
        ),
        "finished_from": instant_field("Removed from", _FINISHED_FROM, FILTERS),
        "finished_to": instant_field("Removed before", _FINISHED_TO, FILTERS),
        "zoho_code": _filter_field("Zoho code", _ZOHO_CODE),
    }


def links_field(description_md: str) -> Param:
    """Return a multi-line field, which also accepts a list, as the REST API sends it."""
    return Param(
        None,
        type=["null", "array", "string"],
        title="Links",
        description_md=description_md,
        section=LINKS,
    )


def instant_field(title: str, description_md: str, section: str = WINDOW) -> Param:
    """Return a field for one end of a time range."""
    return Param(
        None,
        type=["null", "string"],
        format="date-time",
        title=title,
        description_md=description_md,
        section=section,
    )


def _mode_description(job: Job | None) -> str:
    automatic = job.automatic if job else None
    has_interval = job is not None and job.cron is not None
    return _MODE.format(
        automatic=_AUTOMATIC[automatic],
        unpause=_UNPAUSE.format(effect=_UNPAUSE_EFFECT[str(automatic)]) if has_interval else "",
    )


def _filter_field(title: str, description_md: str) -> Param:
    return Param(None, type=["null", "string"], title=title, description_md=description_md, section=FILTERS)


def _job(jobs: Sequence[str]) -> Param:
    known = {"enum": sorted(jobs)} if jobs else {"minLength": 1}
    return Param(type="string", title="Job", description_md=_JOB, **known)


def _run_fields(action: str) -> dict[str, Param]:
    """Return the fields that every form has: those that can do harm."""
    form = job_form()
    return {
        "mode": Param(
            "auto",
            type="string",
            enum=list(MODES),
            title="Mode",
            description_md=_REPROCESS_MODE.format(action=action),
        ),
        "reason": form["reason"],
        "max_links": Param(
            None,
            type=["null", "integer"],
            minimum=0,
            title="Maximum links",
            description_md=_MAX_LINKS,
        ),
        "verify": form["verify"],
    }
