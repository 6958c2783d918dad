from __future__ import annotations

import pytest

from zoho_crm.core.outcomes import RETRYABLE_OUTCOMES, Outcome

FINAL = {
    "removed": True,
    "presumed_removed": True,
    "already_absent": True,
    "parent_not_found": True,
    "related_not_found": True,
    "invalid": True,
    "rejected": True,
    "failed": False,
    "unknown": False,
    "not_attempted": False,
    "would_remove": True,
    "relinked": True,
    "presumed_relinked": True,
    "already_linked": True,
    "would_relink": True,
}


def test_outcomes_are_the_closed_list_that_others_store() -> None:
    assert [str(outcome) for outcome in Outcome] == list(FINAL)


@pytest.mark.parametrize(("name", "final"), FINAL.items(), ids=list(FINAL))
def test_outcome_is_final_unless_a_retry_selects_it(name: str, final: bool) -> None:
    assert Outcome(name).is_final is final
    assert (Outcome(name) in RETRYABLE_OUTCOMES) is not final
