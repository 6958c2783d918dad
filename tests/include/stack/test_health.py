from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from include.stack.health import unhealthy_components

_START = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
_BEFORE = (_START - timedelta(seconds=1)).isoformat()
_AFTER = (_START + timedelta(seconds=1)).isoformat()


def _scheduler(status: str | None, heartbeat: str | None) -> dict[str, object]:
    return {"scheduler": {"status": status, "latest_scheduler_heartbeat": heartbeat}}


@pytest.mark.parametrize(
    ("health", "expected"),
    [
        pytest.param(_scheduler("healthy", _AFTER), [], id="healthy"),
        pytest.param(_scheduler("healthy", _AFTER.replace("+00:00", "")), [], id="without an offset"),
        pytest.param(_scheduler("unhealthy", _AFTER), ["scheduler: unhealthy"], id="unhealthy"),
        pytest.param(_scheduler(None, None), ["scheduler: not started"], id="never seen"),
        pytest.param({"scheduler": None}, ["scheduler: not started"], id="null"),
        pytest.param({}, ["scheduler: not started"], id="absent"),
        pytest.param(_scheduler("healthy", None), ["scheduler: no heartbeat"], id="no heartbeat"),
        pytest.param(
            _scheduler("healthy", _BEFORE), ["scheduler: no heartbeat since its start"], id="an earlier one's"
        ),
    ],
)
def test_tells_what_is_not_healthy(health, expected):
    assert unhealthy_components(health, ["scheduler"], since=_START) == expected


def test_the_database_has_no_heartbeat():
    assert unhealthy_components({"metadatabase": {"status": "healthy"}}, ["metadatabase"], since=_START) == []
