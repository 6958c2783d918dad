"""The closed list of outcomes of a link."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """
    The outcome of one planned link. Every planned link ends with exactly one latest outcome.

    The last four are of relink runs.
    """

    REMOVED = "removed"
    """Zoho confirmed it, or this run saw the link before its request and found it gone after it."""
    PRESUMED_REMOVED = "presumed_removed"
    """Gone, or gone with its record, after a request that may not have reached Zoho: it may have been gone before."""
    ALREADY_ABSENT = "already_absent"
    """Both records exist, the link does not."""
    PARENT_NOT_FOUND = "parent_not_found"
    """No record of the parent module has that external id, and no request can have removed the link before."""
    RELATED_NOT_FOUND = "related_not_found"
    """No record of the related module has that external id, and no request can have removed the link before."""
    INVALID = "invalid"
    """Never sent: one of the ids cannot be an external id."""
    REJECTED = "rejected"
    """Zoho refuses this link (locked record, not allowed, ...)."""
    FAILED = "failed"
    """Retries are used up; known not to have been applied."""
    UNKNOWN = "unknown"
    """May have been applied, and could not be verified."""
    NOT_ATTEMPTED = "not_attempted"
    """The run stopped before this link was sent."""
    WOULD_REMOVE = "would_remove"
    """A dry run: nothing was sent."""
    RELINKED = "relinked"
    """Zoho confirmed it, or this run saw the link missing before its request and found it linked after it."""
    PRESUMED_RELINKED = "presumed_relinked"
    """Linked after a request that may or may not have reached Zoho: it may have been linked before."""
    ALREADY_LINKED = "already_linked"
    """The link exists already; nothing was sent."""
    WOULD_RELINK = "would_relink"
    """A dry run of a relink: nothing was sent."""

    @property
    def is_final(self) -> bool:
        """Whether a retry leaves the link out."""
        return self not in RETRYABLE_OUTCOMES


RETRYABLE_OUTCOMES = frozenset({Outcome.FAILED, Outcome.UNKNOWN, Outcome.NOT_ATTEMPTED})
"""Outcomes after which a retry, a clear or a new run sends the link again."""

REMOVAL_OUTCOMES = (Outcome.REMOVED, Outcome.PRESUMED_REMOVED)
"""Outcomes of a link that is gone, and that a request of the run removed or may have removed."""

PRESUMED_OUTCOMES = (Outcome.PRESUMED_REMOVED, Outcome.PRESUMED_RELINKED)
"""Outcomes of a link that a request of the run may or may not have changed."""

NOT_FOUND_OUTCOMES = (Outcome.PARENT_NOT_FOUND, Outcome.RELATED_NOT_FOUND)
"""Outcomes of a link whose external IDs no record has."""

_RELINK_ONLY = (
    Outcome.RELINKED,
    Outcome.PRESUMED_RELINKED,
    Outcome.ALREADY_LINKED,
    Outcome.WOULD_RELINK,
)
_DELINK_ONLY = (*REMOVAL_OUTCOMES, Outcome.ALREADY_ABSENT, Outcome.WOULD_REMOVE)

DELINK_OUTCOMES = tuple(outcome for outcome in Outcome if outcome not in _RELINK_ONLY)
"""Outcomes of a delink."""

RELINK_OUTCOMES = tuple(outcome for outcome in Outcome if outcome not in _DELINK_ONLY)
"""Outcomes of a relink."""


class RunStatus(StrEnum):
    """The status of a run."""

    PLANNED = "planned"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    STOPPED = "stopped"
    REJECTED = "rejected"


class RunEventKind(StrEnum):
    """What an event of a run says."""

    OPENED = "opened"
    """The run was opened: by whom, why, for which window, from which job file and SQL."""
    PREPARED = "prepared"
    """Organization, environment, window or job file became known, or differ in a later try."""
    PLANNED = "planned"
    MEASURED = "measured"
    """The source was measured for the guards."""
    GUARD_DECIDED = "guard_decided"
    APPROVAL_REQUESTED = "approval_requested"
    APPROVAL_DECIDED = "approval_decided"
    APPROVAL_REFUSED = "approval_refused"
    """An approval does not count, such as that of the requester."""
    STARTED = "started"
    """The first task began to work on links, or the first one after an end."""
    STOPPED = "stopped"
    """A task stopped the run."""
    FAILED = "failed"
    """A task failed."""
    FINISHED = "finished"
    PSEUDONYMIZED = "pseudonymized"


class LinkState(StrEnum):
    """The state of a planned link."""

    PLANNED = "planned"
    """No request for it is in flight, or was applied without an outcome."""
    IN_FLIGHT = "in_flight"
    """A request may have been sent; without an outcome it is unknown whether it was applied."""
    SETTLED = "settled"
    """Its outcome is final."""
