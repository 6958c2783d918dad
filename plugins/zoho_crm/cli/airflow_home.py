"""
A temporary home folder for Airflow where none is configured.

Importing Airflow creates its home folder, with logs and a configuration. Commands that only use parts of Airflow,
such as its timetables, must not leave one behind.
"""

from __future__ import annotations

import atexit
import os
import shutil
import sys
import tempfile
from pathlib import Path

_HOME = "AIRFLOW_HOME"
_PREFIX = "zoho-delink-airflow-"


def provide_airflow_home() -> None:
    """
    Set ``AIRFLOW_HOME`` to a folder that is removed at exit, unless Airflow is configured on this machine.

    It counts as configured if ``AIRFLOW_HOME`` or ``AIRFLOW_CONFIG`` is set, or ``~/airflow`` exists. Call this before
    Airflow is imported.
    """
    default = Path(os.path.expanduser("~/airflow"))  # noqa: PTH111 - Path.expanduser fails for users without a home
    configured = os.environ.get(_HOME) or os.environ.get("AIRFLOW_CONFIG")
    if configured or "airflow" in sys.modules or default.exists():
        return
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    # Registered before Airflow's own functions, so that it runs after them.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[_HOME] = folder


def is_temporary(file: str) -> bool:
    """Return whether a file is in a temporary home folder."""
    return Path(file).parent.name.startswith(_PREFIX)
