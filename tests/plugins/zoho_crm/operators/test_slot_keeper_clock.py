from __future__ import annotations

import logging
import socket
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from tests.support.databases import AUDIT, Audit
from tests.support.local_zoho import link_all, linked
from tests.support.operators import context, delink, outcomes, pairs
from zoho_crm.operators.slot_keeper import shared_clock

if TYPE_CHECKING:
    from zoho_crm.testing.local_zoho import LocalZoho


def set_clock(monkeypatch: pytest.MonkeyPatch, skew_s: float) -> None:
    real, real_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: real() + skew_s)
    monkeypatch.setattr(time, "time_ns", lambda: real_ns() + int(skew_s * 1e9))


@pytest.mark.parametrize(("skew_s", "word"), [(3600.0, "fast"), (-3600.0, "slow")])
def test_worker_with_a_wrong_clock_is_named(
    audit: Audit,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    skew_s: float,
    word: str,
) -> None:
    real_s = time.time()
    set_clock(monkeypatch, skew_s)
    clock = shared_clock(audit.ledger())
    assert abs(clock() - real_s) < 60
    (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warning.startswith(f"The clock of this worker is {word}: host={socket.gethostname()} seconds=3")


def test_worker_with_the_right_clock_is_not_named(audit: Audit, caplog: pytest.LogCaptureFixture) -> None:
    assert abs(shared_clock(audit.ledger())() - time.time()) < 60
    assert "clock" not in caplog.text


@pytest.mark.parametrize("skew_s", [3600.0, -3600.0])
def test_rows_of_a_worker_with_a_wrong_clock_have_the_databases_time(
    zoho: LocalZoho,
    audit: Audit,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    skew_s: float,
) -> None:
    link_all(zoho, pairs(3))
    now = datetime.now(UTC)
    set_clock(monkeypatch, skew_s)
    assert delink(links=pairs(3), audit_conn_id=AUDIT).execute(context()) == outcomes(removed=3)
    assert linked(zoho) == set()
    times = [row[name] for row in audit.events() for name in ("sent_at", "finished_at")] + [
        audit.run()[name] for name in ("started_at", "planned_at", "finished_at")
    ]
    moments = [datetime.fromisoformat(str(one)) for one in times]
    assert all(
        abs((one if one.tzinfo else one.replace(tzinfo=UTC)) - now) < timedelta(minutes=5) for one in moments
    )
    assert caplog.text.count("The clock of this worker is") == 1
