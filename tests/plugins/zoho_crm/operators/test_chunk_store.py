from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
import tenacity

from tests.support.links import RELATION
from tests.support.operators import context
from zoho_crm.core.models import LinkResult, PlannedLink, RunStart, Target
from zoho_crm.core.outcomes import Outcome
from zoho_crm.errors import ClaimLostError
from zoho_crm.hooks.http_transport import Meter
from zoho_crm.operators import chunk_store
from zoho_crm.operators.chunk_store import ChunkStore, CreditUsage
from zoho_crm.operators.job_operator import origin_of

if TYPE_CHECKING:
    from tests.support.databases import Audit
    from zoho_crm.ledger.ledger import Ledger

TARGET = Target(RELATION, "us", "v7")
KEY = "contacts_deals:1"


def planned(ledger: Ledger, count: int, **changes: Any) -> None:
    origin = origin_of(context("plan"))
    ledger.runs.start(RunStart(KEY, "contacts_deals", origin, TARGET, mode="apply", guard_decision="passed"))
    rows = [(f"c-{n}", f"d-{n}") for n in range(count)]
    ledger.plans.create(KEY, RELATION, rows, chunk_size=100, max_chunks=1, origin=origin, target=TARGET)


def claimed(ledger: Ledger, **changes: Any) -> ChunkStore:
    claim = ledger.claims.claim(KEY, 0, "a try")
    usage = CreditUsage(Meter("zoho_crm_default"))
    return ChunkStore(ledger, claim, origin_of(context("delink")), TARGET, "contacts_deals", usage, **changes)


def removed(link: PlannedLink) -> LinkResult:
    from tests.support.operators import RUN_AFTER

    return LinkResult(link, Outcome.REMOVED, RUN_AFTER)


class Flaky:
    """A ledger whose writes fail for a while."""

    def __init__(self, ledger: Ledger, failures: list[Exception]) -> None:
        self._ledger = ledger
        self.failures = deque(failures)
        self.calls = 0

    @property
    def claims(self) -> Flaky:
        return self

    def settle(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.failures:
            raise self.failures.popleft()
        return self._ledger.claims.settle(*args, **kwargs)


def away() -> Exception:
    return sa.exc.OperationalError("UPDATE", {}, Exception("server closed the connection"))


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(tenacity.nap.time, "sleep", slept.append)
    return slept


# -- a claimed chunk


def test_hands_out_links_in_flight_and_takes_their_outcomes(audit: Audit) -> None:
    ledger = audit.ledger()
    planned(ledger, 3)
    store = claimed(ledger)
    first, second = store.settle([], 2)
    assert [row["state"] for row in audit.links()] == ["in_flight", "in_flight", "planned"]
    (third,) = store.settle([removed(first), removed(second)], 2)
    assert [row["state"] for row in audit.links()] == ["settled", "settled", "in_flight"]
    assert store.settle([removed(third)], 2) == []
    assert [(row["seq"], row["outcome"], row["task_id"]) for row in audit.events()] == [
        (seq, "removed", "delink") for seq in range(3)
    ]


def test_a_dry_run_marks_nothing(audit: Audit) -> None:
    ledger = audit.ledger()
    planned(ledger, 2)
    assert len(claimed(ledger, in_flight=False).settle([], 5)) == 2
    assert {row["state"] for row in audit.links()} == {"planned"}


def test_tasks_of_a_run_hear_from_each_other(audit: Audit) -> None:
    ledger = audit.ledger()
    planned(ledger, 1)
    one, other = claimed(ledger), claimed(ledger)
    assert other.stop_reason() is None
    one.stop_run("Zoho refuses every link")
    one.stop_run("a later reason")
    assert other.stop_reason() == "Zoho refuses every link"


@pytest.mark.parametrize(
    "failure",
    [away(), sa.exc.InterfaceError("SELECT", {}, Exception("gone"))],
    ids=["operational", "interface"],
)
def test_waits_for_a_database_that_is_away(audit: Audit, waits: list[float], failure: Exception) -> None:
    ledger = audit.ledger()
    planned(ledger, 1)
    store = claimed(ledger)
    flaky = Flaky(ledger, [failure] * 3)
    store.ledger = flaky  # type: ignore[assignment]
    assert len(store.settle([], 1)) == 1
    assert flaky.calls == 4
    assert len(waits) == 3
    assert all(0 <= seconds <= 10 for seconds in waits)


def test_waits_no_longer_than_its_patience(
    audit: Audit, waits: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = audit.ledger()
    planned(ledger, 1)
    store = claimed(ledger)
    store.ledger = flaky = Flaky(ledger, [away() for _ in range(50)])  # type: ignore[assignment]
    monkeypatch.setattr(chunk_store, "DATABASE_PATIENCE_S", 0.0)
    with pytest.raises(sa.exc.OperationalError):
        store.settle([], 1)
    assert flaky.calls == 1
    assert waits == []


@pytest.mark.parametrize(
    "failure",
    [
        ClaimLostError("a newer try"),
        sa.exc.IntegrityError("INSERT", {}, Exception("twice")),
        ValueError("else"),
    ],
    ids=["claim-lost", "integrity", "else"],
)
def test_any_other_error_is_raised_at_once(audit: Audit, waits: list[float], failure: Exception) -> None:
    ledger = audit.ledger()
    planned(ledger, 1)
    store = claimed(ledger)
    store.ledger = Flaky(ledger, [failure])  # type: ignore[assignment]
    with pytest.raises(type(failure)):
        store.settle([], 1)
    assert waits == []
