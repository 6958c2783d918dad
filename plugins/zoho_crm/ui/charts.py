"""The chart on the first page: links by outcome per day."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING

from zoho_crm.core.outcomes import Outcome

if TYPE_CHECKING:
    from zoho_crm.ledger.run_queries import RunFilter
    from zoho_crm.ui.audit_databases import AuditDatabases
    from zoho_crm.ui.auth import Reader

CHART_DAYS = (7, 30, 90)


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


def links_chart(sources: AuditDatabases, reader: Reader, wanted: RunFilter, days: int) -> LinksChart:
    """Return the links of the last days, those of runs that the user may see."""
    shown = _days(days)
    by_day: dict[date, Counter[Outcome]] = {day: Counter() for day in shown}
    for source in sources.readable():
        visible = reader.visible(source.runs.dags_and_jobs())
        for day, counted in source.runs.outcomes_by_day(wanted, visible=visible).items():
            if day in by_day:
                by_day[day] += counted
    seen = [outcome for outcome in Outcome if any(by_day[day][outcome] for day in shown)]
    return LinksChart(shown, seen, [[by_day[day][outcome] for day in shown] for outcome in seen])


def first_moment(days: int) -> datetime:
    """Return when the first of the last days began, in UTC."""
    first = _days(days)[0]
    return datetime(first.year, first.month, first.day, tzinfo=UTC)


def _days(days: int) -> list[date]:
    today = datetime.now(UTC).date()
    return [today - timedelta(days=days - 1 - number) for number in range(days)]
