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
**auto**: a run by schedule, asset or backfill removes links, a run by hand is a **dry run**. \
**dry_run**: only plan. **apply**: remove links; Zoho cannot undo it."""

_VERIFY = """\
Ask Zoho about each link (one call a link) and say what would happen to it: still linked, gone already, no such \
record. **Dry run only.**"""

_MAX_LINKS = """\
Takes the place of the job's `max_links` for this run: with more links planned, the run stops before the first is \
sent. Needs a *Reason*."""

_REASON = f"Why this run is started, or its limit changed. Kept with the run; at most {MAX_REASON_LENGTH} characters."

_WINDOW_START = """\
Take the links marked from this instant on, itself included. Without a time zone it is **UTC**. Give both ends or \
neither; with neither, a scheduled or backfill run takes its data interval, and **a run by hand everything that is \
pending**, whatever data interval is chosen above."""

_WINDOW_END = (
    "Take the links marked before this instant, itself **not** included. Without a time zone it is **UTC**."
)

# A block of code would stand on one line: Airflow shows it like code within a sentence.
_LINKS = f"""\
Take these links **in place of the job's SQL**: two columns with commas, semicolons or tabs between them (as copied \
from a spreadsheet), with or without a header, or a JSON list. At most {MAX_PASTED_LINKS:,}; the window then plays no \
part.

- `external_id,related_external_id`
- `c-1001,d-2001`
- `"c-1,002",d-2002`

or

- `[{{"external_id": "c-1001", "related_external_id": "d-2001"}}, ["c-1002", "d-2002"]]`
"""


def job_form() -> dict[str, Param]:
    """Return the form's fields, made anew for each Dag: Airflow keeps values in them."""
    return {
        "mode": Param("auto", type="string", enum=list(MODES), title="Mode", description_md=_MODE),
        "reason": Param(None, type=["null", "string"], title="Reason", description_md=_REASON),
        "max_links": Param(
            None, type=["null", "integer"], minimum=0, title="Most links", description_md=_MAX_LINKS
        ),
        "verify": Param(False, type="boolean", title="Ask Zoho about each link", description_md=_VERIFY),
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
