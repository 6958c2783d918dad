"""What the first page draws: links by outcome per day, and API credits left over time."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from zoho_crm.core.outcomes import Outcome
from zoho_crm.ledger.reading_credits import credits_left
from zoho_crm.ledger.run_queries import dags_and_jobs, outcomes_by_day

if TYPE_CHECKING:
    from collections.abc import Iterator

    from zoho_crm.ledger.run_queries import RunFilter
    from zoho_crm.ui.audit_databases import AuditDatabases
    from zoho_crm.ui.auth import Reader

CHART_DAYS = (7, 30, 90)
_STRETCH_HOURS = {7: 1, 30: 6, 90: 24}
"""Hours that are one point of the line, by the days that are shown."""


@dataclass(frozen=True, slots=True)
class LinksChart:
    """
    Links by outcome per day, without a gap between the days.

    :param outcomes: those that any day has
    """

    days: list[date]
    outcomes: list[Outcome]
    counts: list[list[int]]
    """For each outcome, one number for each day."""

    def as_json(self) -> str:
        """Return what the script draws."""
        series = [
            {"outcome": outcome.value, "counts": counts}
            for outcome, counts in zip(self.outcomes, self.counts, strict=True)
        ]
        return json.dumps({"days": [day.isoformat() for day in self.days], "series": series})


@dataclass(frozen=True, slots=True)
class CreditsChart:
    """
    API credits left, by organisation.

    :param moments: when each stretch of hours began, in UTC, without a gap between them
    :param organisations: the connections that lead to each, and Zoho's id of it
    """

    moments: list[datetime]
    organisations: list[str]
    left: list[list[int | None]]
    """For each organisation, the fewest of each stretch; None where nobody was told."""

    @property
    def told(self) -> list[tuple[datetime, tuple[int | None, ...]]]:
        """The stretches in which anybody was told something, each with a number for each organisation."""
        rows = zip(self.moments, zip(*self.left, strict=True), strict=True) if self.left else ()
        return [(moment, left) for moment, left in rows if any(one is not None for one in left)]

    def as_json(self) -> str:
        """Return what the script draws."""
        series = [
            {"label": label, "left": left} for label, left in zip(self.organisations, self.left, strict=True)
        ]
        return json.dumps({"moments": [f"{each:%Y-%m-%d %H:%M}" for each in self.moments], "series": series})


def links_chart(sources: AuditDatabases, reader: Reader, wanted: RunFilter, days: int) -> LinksChart:
    """Return the links of the last days, those of runs that the user may see."""
    shown = _days(days)
    by_day: dict[date, Counter[Outcome]] = {day: Counter() for day in shown}
    for source in sources.readable():
        visible = reader.visible(dags_and_jobs(source.engine))
        for day, counted in outcomes_by_day(source.engine, wanted, visible=visible).items():
            if day in by_day:
                by_day[day] += counted
    seen = [outcome for outcome in Outcome if any(by_day[day][outcome] for day in shown)]
    return LinksChart(shown, seen, [[by_day[day][outcome] for day in shown] for outcome in seen])


def credits_chart(sources: AuditDatabases, reader: Reader, days: int) -> CreditsChart:
    """Return the credits left in the last days, as runs were told that the user may see."""
    left: dict[str, dict[datetime, int]] = {}
    connections: dict[str, set[str]] = {}
    for source in sources.readable():
        visible = reader.visible(dags_and_jobs(source.engine))
        found = credits_left(source.engine, first_moment(days), visible=visible, hours=_STRETCH_HOURS[days])
        for one in found:
            # Two connections may lead to one organisation, whose credits they share.
            key = one.org_id or one.connection
            connections.setdefault(key, set()).add(one.connection)
            fewest = left.setdefault(key, {})
            fewest[one.since] = min(one.fewest, fewest.get(one.since, one.fewest))
    moments = list(_stretches(first_moment(days), timedelta(hours=_STRETCH_HOURS[days])))
    labels = {key: ", ".join(sorted(names - {key})) for key, names in connections.items()}
    return CreditsChart(
        moments,
        [f"{labels[key]} ({key})" if labels[key] else key for key in sorted(left)],
        [[left[key].get(moment) for moment in moments] for key in sorted(left)],
    )


def _stretches(start: datetime, length: timedelta) -> Iterator[datetime]:
    # A day of UTC is a whole number of them, and so is the time since 1970.
    while start <= datetime.now(UTC):
        yield start
        start += length


def first_moment(days: int) -> datetime:
    """Return when the first of the last days began, in UTC."""
    first = _days(days)[0]
    return datetime(first.year, first.month, first.day, tzinfo=UTC)


def _days(days: int) -> list[date]:
    today = datetime.now(UTC).date()
    return [today - timedelta(days=days - 1 - number) for number in range(days)]
