"""
The trigger form of a job's Dag.

What decides over harm (mode, reason, limit) stands open at the top; each section below is a fold that Airflow shows
closed. Airflow checks types and choices when a run is started; the rest is checked in the run's first task, by
:mod:`zoho_crm.core.run_request`.
"""

from __future__ import annotations

from airflow.sdk import Param

from zoho_crm.core.link_input import MAX_PASTED_LINKS
from zoho_crm.core.run_request import MAX_REASON_LENGTH, MODES

WINDOW = "Window"
LINKS = "Links"

_MODE = """\
**auto**: a scheduled, asset-triggered or backfill run removes links, a manual run is a **dry run**. **dry_run**: plan \
only. **apply**: remove links; Zoho cannot undo it."""

_VERIFY = """\
Verify each link in Zoho (1 API call per link) and record what a run would find: linked, already absent, or a record \
not found. **Dry run only.**"""

_MAX_LINKS = """\
Overrides the job's `max_links` for this run: with more links planned, the run stops before the first is sent, or \
waits for an approval. Requires a *Reason*."""

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


def job_form() -> dict[str, Param]:
    """Return the form's fields, created for each Dag: Airflow keeps values in them."""
    return {
        "mode": Param("auto", type="string", enum=list(MODES), title="Mode", description_md=_MODE),
        "reason": Param(None, type=["null", "string"], title="Reason", description_md=_REASON),
        "max_links": Param(
            None, type=["null", "integer"], minimum=0, title="Maximum links", description_md=_MAX_LINKS
        ),
        "verify": Param(False, type="boolean", title="Verify each link", description_md=_VERIFY),
        "window_start": instant_field("Window start", _WINDOW_START),
        "window_end": instant_field("Window end", _WINDOW_END),
        "links": links_field(_LINKS),
    }


def links_field(description_md: str) -> Param:
    """Return a field of many lines; a list is taken as well, as it comes through the REST API."""
    return Param(
        None,
        type=["null", "array", "string"],
        title="Links",
        description_md=description_md,
        section=LINKS,
    )


def instant_field(title: str, description_md: str, section: str = WINDOW) -> Param:
    """Return a field for one end of a range of time."""
    return Param(
        None,
        type=["null", "string"],
        format="date-time",
        title=title,
        description_md=description_md,
        section=section,
    )
