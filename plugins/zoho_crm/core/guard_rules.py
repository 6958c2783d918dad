"""
Guards: the limits that a plan is checked against before the first link is sent.

Pure: the facts come from the plan, from the job's SQL and from earlier runs, the limits from the job file.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from statistics import median
from typing import TYPE_CHECKING

from zoho_crm.core.approval import BREACHED
from zoho_crm.core.formatting import format_count, format_duration, format_percent
from zoho_crm.core.job_files import BASELINE_SQL, FRESHNESS_SQL
from zoho_crm.core.outcomes import NOT_FOUND_OUTCOMES, Outcome
from zoho_crm.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from zoho_crm.core.job import Guards
    from zoho_crm.core.links import Relation

RUNS_TO_COMPARE = 10
"""Earlier runs whose median a plan is compared with."""
FEWEST_RUNS_TO_COMPARE = 3
"""Minimum number of earlier runs for that comparison."""

NOT_FOUND_AFTER = 50
"""Settled links of a run from which on the share of links without a record counts while it sends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """
    The facts that a plan is checked by. Times are aware.

    :param planned: distinct links of the plan
    :param now: when it is checked
    :param baseline_links: number of all links, counted by the job's baseline; None without a baseline
    :param source_as_of: when the source was last updated; None if that is not known
    :param recent_planned: planned links of the job's last runs that removed links, at most ``RUNS_TO_COMPARE``
    """

    planned: int
    now: datetime
    baseline_links: int | None = None
    source_as_of: datetime | None = None
    recent_planned: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Override:
    """
    A limit of one run, set in the trigger form.

    :param max_links: maximum links that this run may plan
    :param reason: why; part of the decision's text
    :param requester: user who started the run; None if Airflow names none
    """

    max_links: int
    reason: str
    requester: str | None = None


@dataclass(frozen=True, slots=True)
class Check:
    """
    The check of one limit.

    :param limit: its field below ``guards``
    :param says: the figures and the limit, for people
    """

    limit: str
    says: str
    breached: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """The checks of all limits of a job."""

    checks: list[Check] = field(default_factory=list)

    @property
    def breaches(self) -> list[str]:
        """The limits that are exceeded, a sentence each."""
        return [check.says for check in self.checks if check.breached]

    @property
    def text(self) -> str:
        """The decision as stored on the run row: breaches first."""
        ordered = sorted(self.checks, key=lambda check: not check.breached)
        return f"{BREACHED if self.breaches else 'passed'}: {'; '.join(check.says for check in ordered)}"

    def way_on(self, guards: Guards) -> str:
        """Return what a person can do about the breaches of a stopped run."""
        breached = {check.limit for check in self.checks if check.breached}
        ways = []
        if "max_links" in breached:
            way = "To let it pass, raise guards.max_links in the job file, or set guards.on_breach: approve"
            if guards.may_raise:
                way += (
                    f"; or one of guards.may_raise ({', '.join(guards.may_raise)}) starts a run with a larger "
                    "max_links and a reason"
                )
            ways.append(way)
        if others := sorted(breached - {"max_links"}):
            ways.append(f"For {', '.join(others)}, correct the source or the limit, then start a new run")
        return ". ".join(ways)


def judge(
    facts: Facts, guards: Guards, override: Override | None = None, *, count_only: bool = False
) -> Decision:
    """
    Check the facts against a job's limits. A value equal to its limit is allowed.

    An override may lower ``max_links``. If it raises the limit, more links than the job allows are a breach all the
    same, unless the requester is one of the job's ``may_raise``.

    :param count_only: the links are not from the job's source, so only their number is checked
    """
    checks = [_check_count(facts, guards, override)]
    if not count_only:
        if guards.max_share is not None:
            checks.append(_check_share(facts, guards.max_share))
        if guards.max_source_age is not None:
            checks.append(_check_age(facts, guards.max_source_age))
        if guards.max_jump is not None:
            checks.append(_check_jump(facts, guards.max_jump))
    return Decision(checks)


def not_found_breach(
    counts: Mapping[Outcome, int], relation: Relation, limit: float, *, fewest: int = NOT_FOUND_AFTER
) -> str | None:
    """
    Return why too many links of a run have no record in Zoho, as a sentence; None if they are not too many.

    Invalid links and those that are to be retried do not count.

    :param counts: number of links by outcome
    :param limit: share (0 to 1) of the settled links that may have no record
    :param fewest: settled links from which on the share counts
    """
    settled = sum(
        count for outcome, count in counts.items() if outcome.is_final and outcome is not Outcome.INVALID
    )
    missing = sum(counts.get(outcome, 0) for outcome in NOT_FOUND_OUTCOMES)
    if settled < fewest or missing <= limit * settled:
        return None
    fields = {
        Outcome.PARENT_NOT_FOUND: f"{relation.module}.{relation.external_field}",
        Outcome.RELATED_NOT_FOUND: f"{relation.related_module}.{relation.related_external_field}",
    }
    concerned = " and ".join(name for outcome, name in fields.items() if counts.get(outcome))
    return (
        f"{missing} of {settled} links have no record in Zoho: are the external fields filled in Zoho? Check "
        f"{concerned} (guards.max_not_found_share allows {format_percent(limit)})"
    )


def read_count(value: object) -> int:
    """
    Return the result of the baseline SQL as a number of links.

    :raises PlanError: it is not a whole number, or below 0
    """
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        # Infinity and NaN have no integer part.
        with suppress(OverflowError, ValueError):
            whole = int(value)
            if whole == value and whole >= 0:
                return whole
    raise PlanError(f"{BASELINE_SQL}: must yield a whole number, 0 or more; it yields {_kind(value)}")


def read_time(value: object) -> datetime | None:
    """
    Return the result of the freshness SQL as a time in UTC; None for NULL.

    A time without a zone is in UTC, a date is its midnight. Text is read as ISO 8601, since SQLite has no times.

    :raises PlanError: it is not a time
    """
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise PlanError(f"{FRESHNESS_SQL}: must yield a time; it yields other text") from None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if not isinstance(value, datetime):
        raise PlanError(f"{FRESHNESS_SQL}: must yield a time; it yields {_kind(value)}")
    if value.tzinfo is None:
        return value.replace(tzinfo=UTC)
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise PlanError(f"{FRESHNESS_SQL}: must yield a time; it yields one out of range") from None


def _check_count(facts: Facts, guards: Guards, override: Override | None) -> Check:
    limit, note, links = guards.link_limit, "", format_count(facts.planned, "link")
    if override is None:
        if limit is None:
            return Check("max_links", f"{links} planned, no limit set")
        if guards.has_default_limit:
            note = " by default (the job file does not set guards.max_links)"
    elif limit is None or override.max_links <= limit:
        limit, note = override.max_links, f" (limit set for this run: {override.reason})"
    else:
        by = override.requester or "an unknown user"
        note = f" (raised from {limit} to {override.max_links} by {by}: {override.reason})"
        if override.requester in guards.may_raise:
            limit = override.max_links
    return Check("max_links", f"{links} planned, {limit} allowed{note}", facts.planned > limit)


def _check_share(facts: Facts, limit: float) -> Check:
    if facts.baseline_links is None:
        raise ValueError("max_share is judged by baseline_links, and there is none")
    if not facts.baseline_links:
        says = (
            f"{format_count(facts.planned, 'link')} planned of the 0 that the baseline knows, "
            f"{format_percent(limit)} allowed"
        )
        return Check("max_share", says, facts.planned > 0)
    share = facts.planned / facts.baseline_links
    says = (
        f"{format_percent(share)} of the {facts.baseline_links} baseline links planned, "
        f"{format_percent(limit)} allowed"
    )
    return Check("max_share", says, share > limit)


def _check_age(facts: Facts, limit: timedelta) -> Check:
    allowed = f"{format_duration(limit)} allowed"
    if facts.source_as_of is None:
        return Check("max_source_age", f"the age of the source is not known, {allowed}", breached=True)
    age = facts.now - facts.source_as_of
    of = f"the source is of {facts.source_as_of.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
    if age < timedelta(0):
        return Check("max_source_age", f"{of}, which lies in the future", breached=True)
    return Check("max_source_age", f"{of}, {format_duration(age)} old, {allowed}", age > limit)


def _check_jump(facts: Facts, limit: float) -> Check:
    recent = list(facts.recent_planned)[:RUNS_TO_COMPARE]
    if len(recent) < FEWEST_RUNS_TO_COMPARE:
        says = f"{len(recent)} earlier runs are too few to detect a jump"
        return Check("max_jump", says)
    usual = max(median(recent), 1)
    says = (
        f"{format_count(facts.planned, 'link')} planned, {limit:g} times the median of the last {len(recent)} runs "
        f"({usual:g}) allowed"
    )
    return Check("max_jump", says, facts.planned > limit * usual)


def _kind(value: object) -> str:
    """Return the type of a value without showing it, as it may be sensitive."""
    if value is None:
        return "NULL"
    return "another number" if isinstance(value, int | float | Decimal) else type(value).__name__
