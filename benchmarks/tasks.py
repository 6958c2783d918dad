"""A task context for measuring operators without a scheduler."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any


def context(task_id: str, **params: object) -> Any:
    """
    Return the context of a task in a new run.

    :param params: values of the trigger form
    """
    return {
        "dag_run": SimpleNamespace(
            run_type="manual", run_after=datetime.now(UTC), logical_date=None, triggering_user_name="bench"
        ),
        "ti": SimpleNamespace(
            dag_id="bench",
            run_id=f"manual__{uuid.uuid4().hex}",
            task_id=task_id,
            map_index=0,
            try_number=1,
            xcom_pull=lambda **_: None,
        ),
        "params": params,
    }
