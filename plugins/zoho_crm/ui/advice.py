"""What somebody can do about links that were not dealt with."""

from __future__ import annotations

from zoho_crm.core.outcomes import Outcome

_OF_CODE = {
    "RECORD_LOCKED": "Somebody or a process has locked the record in Zoho: unlock it, then start a new run.",
    "NOT_APPROVED": "The record waits for an approval in Zoho: decide it there, then start a new run.",
    "NOT_ALLOWED": "Zoho does not allow this change, by a layout rule or a running approval: mend that there.",
    "CANNOT_BE_UPDATED": "Zoho does not let this record be changed: its message says why.",
    "MANDATORY_NOT_FOUND": "Zoho needs a field that the record lacks: fill it in there, then start a new run.",
    "LIMIT_REACHED": "Zoho refuses more calls for now: wait until credits are back, then redrive.",
    "TOO_MANY_REQUESTS": "Zoho refuses more calls for now: lower max_concurrency of the connection, then redrive.",
    "INTERNAL_ERROR": "Zoho had a fault of its own, more than once: redrive later.",
    "INTERNAL_SERVER_ERROR": "Zoho had a fault of its own, more than once: redrive later.",
}
_OF_OUTCOME = {
    Outcome.PARENT_NOT_FOUND: "No record has that external id: the warehouse is ahead of the CRM, or the id is wrong.",
    Outcome.RELATED_NOT_FOUND: "No related record has that external id: it was deleted in the CRM, or the id is wrong.",
    Outcome.INVALID: "The id cannot be one in Zoho, so nothing was sent: mend it in the warehouse.",
    Outcome.REJECTED: "Zoho refuses this link: its message says why; mend that in the CRM, then start a new run.",
    Outcome.FAILED: "Nothing was changed and the tries are used up: redrive.",
    Outcome.UNKNOWN: "Nobody can tell whether it was changed: redrive, which asks Zoho first.",
    Outcome.NOT_ATTEMPTED: "The run ended before it was sent: see why the run stopped, then redrive.",
}


def advice(outcome: Outcome, zoho_code: str | None) -> str:
    """Return a sentence that says what to do about links with this outcome and Zoho's code."""
    if outcome in {Outcome.REJECTED, Outcome.FAILED} and zoho_code in _OF_CODE:
        return _OF_CODE[zoho_code]
    return _OF_OUTCOME.get(outcome, "")
