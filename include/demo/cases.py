"""The demo's links: every kind of case, with its expected outcome."""

from __future__ import annotations

from dataclasses import dataclass

AWKWARD_IDS = (
    "with a space",
    "slash/in/it",
    "back\\slash",
    "comma, too",
    "50%",
    "%41",
    "question?mark=1&more",
    "hash#tag",
    "plus+sign",
    "semi;colon:colon@at",
    "...",
    "a//b",
    "Zoë Ångström",
    "東京-42",
    "e\u0301 is not \u00e9",
    "'; DROP TABLE Contacts; --",
    "{{ ds }}",
    "🙂",
)
"""IDs that a careless client would send to a different URL."""

UNSENDABLE_IDS = (
    "",
    "   ",
    ".",
    "..",
    "../Deals",
    "%2e%2e",
    "slash at the end/",
    " leading",
    "trailing ",
    "line\nbreak",
    "tab\there",
    "x" * 300,
)
"""Values that are never sent; ``..`` would turn the removal of a link into that of a record."""

CASES = {
    "removed": "was linked; our request removed it",
    "already_absent": "both records exist, not the link",
    "parent_not_found": "no contact has this ID",
    "related_not_found": "no deal has this ID",
    "invalid": "not a valid external ID: never sent",
}


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the warehouse and its expected outcome."""

    parent_id: str
    related_id: str
    outcome: str


def stale_links() -> list[Case]:
    """Return the rows of the warehouse for contacts and deals, duplicates left out."""
    cases = [Case(f"c-{n:04}", f"d-{n % 90:04}", "removed") for n in range(240)]
    cases += [Case(f"c-{n:04}", f"d-{n % 90:04}", "already_absent") for n in range(240, 270)]
    cases += [Case(f"no-contact-{n}", f"d-{n:04}", "parent_not_found") for n in range(15)]
    cases += [Case(f"c-{n:04}", f"no-deal-{n}", "related_not_found") for n in range(15)]
    for place, awkward in enumerate(AWKWARD_IDS):
        cases.append(Case(f"c-{awkward}", f"d-{awkward}", "removed"))
        cases.append(Case(f"c-{awkward}", f"d-{place:04}", "already_absent"))
    for unsendable in UNSENDABLE_IDS:
        cases.append(Case(unsendable, "d-0001", "invalid"))
        cases.append(Case("c-0001", unsendable, "invalid"))
    return cases


def kept_links() -> list[tuple[str, str]]:
    """Return the links of the CRM that are not in the warehouse: they must remain."""
    return [(f"c-{n:04}", f"d-{(n + 7) % 90:04}") for n in range(200)]


DUPLICATES = 12
"""Duplicate rows in the warehouse."""
