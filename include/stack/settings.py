"""Settings, users and secrets of the local Airflow, as environment variables of its processes."""

from __future__ import annotations

import base64
import json
import os
import secrets
from typing import TYPE_CHECKING

from include.stack.postgres import load_secret
from include.stack.processes import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

USERS = {"admin": "admin", "approver": "user", "viewer": "viewer"}
"""Users of the local Airflow, with the role of each. A run of one of them is approved by another."""

_NOT_INHERITED = ("AIRFLOW", "PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "PYTEST", "COVERAGE", "COV_CORE")


def load_passwords(home: Path) -> dict[str, str]:
    """Return the password of each user, from the file that Airflow's simple auth manager reads."""
    text = load_secret(
        _passwords_file(home), lambda: json.dumps({user: secrets.token_urlsafe(12) for user in USERS})
    )
    passwords: dict[str, str] = json.loads(text)
    return passwords


def clean_environment(home: Path, project: Path, inherited: Mapping[str, str]) -> dict[str, str]:
    """
    Return an environment without the caller's settings of Airflow, Python and pytest.

    :param project: folder that the Dags may import from, as in Astro's images
    """
    environment = {name: value for name, value in inherited.items() if not name.startswith(_NOT_INHERITED)}
    excluded = [inherited.get("no_proxy"), inherited.get("NO_PROXY"), LOOPBACK, "localhost"]
    no_proxy = ",".join(filter(None, excluded))
    return environment | {
        "AIRFLOW_HOME": str(home),
        "PYTHONPATH": str(project),
        "TMPDIR": str(home / "tmp"),
        "NO_PROXY": no_proxy,
        "no_proxy": no_proxy,
    }


def airflow_settings(home: Path, *, port: int, dags_folder: Path, plugins_folder: Path) -> dict[str, str]:
    """Return Airflow's settings by the name of their environment variable, without executor and database."""
    url = f"http://{LOOPBACK}:{port}"
    settings: dict[str, dict[str, object]] = {
        "api": {
            "base_url": url,
            "host": LOOPBACK,
            "port": port,
            "secret_key": load_secret(home / "api_secret_key"),
        },
        "api_auth": {"jwt_secret": load_secret(home / "jwt_secret", lambda: secrets.token_urlsafe(48))},
        "core": {
            "dags_are_paused_at_creation": True,
            "dags_folder": dags_folder,
            "execution_api_server_url": f"{url}/execution/",
            "fernet_key": load_secret(
                home / "fernet_key", lambda: base64.urlsafe_b64encode(os.urandom(32)).decode()
            ),
            # The default queries the name server.
            "hostname_callable": "socket.gethostname",
            "load_examples": False,
            "min_serialized_dag_update_interval": 2,
            "plugins_folder": plugins_folder,
            "simple_auth_manager_passwords_file": _passwords_file(home),
            "simple_auth_manager_users": ",".join(f"{user}:{role}" for user, role in USERS.items()),
            "test_connection": "Enabled",
        },
        "dag_processor": {
            "bundle_refresh_check_interval": 2,
            "min_file_process_interval": 10,
            "refresh_interval": 5,
        },
        # With the default of 16, a wide mapped task starts in waves.
        "scheduler": {"max_tis_per_query": 64},
    }
    return {
        f"AIRFLOW__{section}__{option}".upper(): str(value)
        for section, options in settings.items()
        for option, value in options.items()
    }


def _passwords_file(home: Path) -> Path:
    return home / "passwords.json"
