"""Settings that must stand before Airflow is first imported: importing it creates its home folder."""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import tempfile
from pathlib import Path

from hypothesis import settings

_ROOT = Path(__file__).parent.parent
_HOME = Path(tempfile.mkdtemp(prefix="zoho-crm-tests-"))
atexit.register(shutil.rmtree, _HOME, ignore_errors=True)

os.environ.update(
    {
        "AIRFLOW_HOME": str(_HOME),
        "AIRFLOW__CORE__DAGS_FOLDER": str(_ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(_ROOT / "plugins"),
        "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME / 'airflow.db'}?timeout=60",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
    }
)

# Say that this thread has no event loop. Unsaid, Python 3.11 makes one for the first who asks (Airflow does, before
# each async operator), nothing closes it, and the test that runs when it is collected fails.
asyncio.set_event_loop(None)

# What several folders of tests share; each server is started once in a session, by the first test that needs it.
pytest_plugins = [
    "tests.support.airflow_process",
    "tests.support.databases",
    "tests.support.empty_ledgers",
    "tests.support.live_dags",
    "tests.support.local_zoho",
    "tests.support.postgres",  # before mariadb, which imports it
    "tests.support.mariadb",
    "tests.support.statsd",
    "tests.support.surroundings",
    "tests.support.tiers",
]

# The same examples in every run of CI, so that a change is judged by itself; elsewhere new ones each time.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")
