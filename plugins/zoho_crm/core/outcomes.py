"""The closed list of what can have happened to a link."""

from __future__ import annotations

from enum import StrEnum


class Outcome(StrEnum):
    """
    What happened to one planned link. Every planned link ends with exactly one latest outcome.

    The last three are of runs that put links back.
    """

    REMOVED = "removed"
    """Zoho confirmed it, or the link was found gone after an unanswered request (``detail`` says so)."""
    ALREADY_ABSENT = "already_absent"
    """Both records exist, the link does not."""
    PARENT_NOT_FOUND = "parent_not_found"
    """No record of the parent module has that external id."""
    RELATED_NOT_FOUND = "related_not_found"
    """No record of the related module has that external id."""
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
    """The link was put back, or found back after an unanswered request (``detail`` says so)."""
    ALREADY_LINKED = "already_linked"
    """The link to be put back was there, and was left as it is."""
    WOULD_RELINK = "would_relink"
    """A dry run of putting back: nothing was sent."""

    @property
    def is_final(self) -> bool:
        """Whether the link is done with: driving it again would tell nothing new."""
        return self not in RETRYABLE_OUTCOMES


RETRYABLE_OUTCOMES = frozenset({Outcome.FAILED, Outcome.UNKNOWN, Outcome.NOT_ATTEMPTED})
"""Outcomes after which a retry, a clear or a new run takes the link up again."""

_OF_RELINK = (Outcome.RELINKED, Outcome.ALREADY_LINKED, Outcome.WOULD_RELINK)
_OF_DELINK_ALONE = (Outcome.REMOVED, Outcome.ALREADY_ABSENT, Outcome.WOULD_REMOVE)

DELINK_OUTCOMES = tuple(outcome for outcome in Outcome if outcome not in _OF_RELINK)
"""What can come of a link that is to be taken out."""

RELINK_OUTCOMES = tuple(outcome for outcome in Outcome if outcome not in _OF_DELINK_ALONE)
"""What can come of a link that is to be put back."""


class RunStatus(StrEnum):
    """Where a run stands."""

    PLANNED = "planned"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    PARTIAL = "partial"
    FAILED = "failed"
    STOPPED = "stopped"
    REJECTED = "rejected"


class LinkState(StrEnum):
    """Where a link of a plan stands."""

    PLANNED = "planned"
    """No request for it can be on its way, or have been applied without an outcome."""
    IN_FLIGHT = "in_flight"
    """A request may have been sent; without an outcome it is unknown whether it was applied."""
    SETTLED = "settled"
    """Its outcome is final."""
