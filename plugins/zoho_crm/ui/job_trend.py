"""The trend of a job: what its last finished runs in mode apply did, as bars that need no script."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from zoho_crm.core.outcomes import Outcome
from zoho_crm.ui.rendering import OUTCOME_COLUMNS, format_number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from zoho_crm.core.models import StoredRun

TREND_RUNS = 30
BAR_HEIGHT = 20
_LOWEST_BAR = 1.5

_ROWS = {
    "Removed": (Outcome.REMOVED, ("Removed",)),
    "Not found": (Outcome.PARENT_NOT_FOUND, ("Not found",)),
    "Failed or unknown": (Outcome.FAILED, ("Failed", "Unknown")),
}
"""For each row, the outcome with its color, and the columns of the runs page that it sums."""


@dataclass(frozen=True, slots=True)
class TrendRow:
    """
    Links of one kind in each run.

    :param outcome: outcome whose color the bars have
    :param counts: one number per run, oldest first
    """

    name: str
    outcome: Outcome
    counts: list[int]

    @property
    def most(self) -> int:
        """Number of links that a bar of full height stands for."""
        return max(self.counts, default=0)

    @property
    def heights(self) -> list[float]:
        """Height of the bar of each run; even one link can be seen."""
        return [
            max(_LOWEST_BAR, round(BAR_HEIGHT * count / self.most, 2)) if count else 0
            for count in self.counts
        ]

    @property
    def text(self) -> str:
        """The row for people who do not see it."""
        last, most = format_number(self.counts[-1]), format_number(self.most)
        return f"{self.name}: {last} in the last run, at most {most}"


@dataclass(frozen=True, slots=True)
class JobTrend:
    """
    Links removed, not found and failed in the last runs of a job.

    :param runs: finished runs, oldest first
    """

    runs: list[StoredRun]
    rows: list[TrendRow]


def job_trend(runs: Sequence[StoredRun]) -> JobTrend:
    """
    Return the trend of a job.

    :param runs: its last runs in mode apply, newest first; unfinished ones are left out
    """
    finished = [run for run in reversed(runs) if run.finished_at is not None]
    rows = [
        TrendRow(name, outcome, [_links(run, columns) for run in finished])
        for name, (outcome, columns) in _ROWS.items()
    ]
    return JobTrend(finished, rows)


def _links(run: StoredRun, columns: Sequence[str]) -> int:
    outcomes = [outcome for column in columns for outcome in OUTCOME_COLUMNS[column]]
    return sum(getattr(run, outcome.value) or 0 for outcome in outcomes)
