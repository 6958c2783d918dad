"""Pages: links that are taken out together, and how they fall into calls of one parent each."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

from zoho_crm.core.request import MAX_IDS, MAX_IDS_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from zoho_crm.core.models import PlannedLink

PAGE_LINKS = 100
"""Links of a page: as many as one call that reads record ids takes."""


@dataclass(frozen=True, slots=True)
class Grouped:
    """
    A page, split.

    :param parents: links by parent, two or more each, that one call can take
    :param single: links that need a call of their own: the only one of their parent, or with a comma in an id
    """

    parents: list[list[PlannedLink]]
    single: list[PlannedLink]


def group_by_parent(page: Sequence[PlannedLink]) -> Grouped:
    """
    Split a page. A link that an earlier try may have sent goes alone, to be verified first.

    :param page: links in the order of the plan, those of a parent together
    """
    grouped = Grouped([], [])
    for _, links in groupby(page, key=lambda planned: planned.link.external_id):
        together: list[PlannedLink] = []
        for planned in links:
            alone = (
                planned.ambiguous_before or "," in planned.link.external_id + planned.link.related_external_id
            )
            (grouped.single if alone else together).append(planned)
        if len(together) > 1:
            grouped.parents.append(together)
        else:
            grouped.single.extend(together)
    return grouped


def id_lists(ids: Iterable[str]) -> Iterator[list[str]]:
    """Cut distinct ids into lists that one call takes: 100 ids and 2,000 characters at the most."""
    current: list[str] = []
    length = 0
    for one in dict.fromkeys(ids):
        if current and (len(current) == MAX_IDS or length + 1 + len(one) > MAX_IDS_LENGTH):
            yield current
            current, length = [], 0
        length += len(one) + (1 if current else 0)
        current.append(one)
    if current:
        yield current
