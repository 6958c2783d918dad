"""What the processes of the local Airflow are told, and the secrets among it."""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from include.stack.network import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

USERS = {"admin": "admin", "viewer": "viewer"}
"""The users of the local Airflow, and the role of each."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """What must stay the same for as long as the metadata database lives."""

    fernet_key: str
    jwt_secret: str
    api_secret_key: str
    passwords: dict[str, str]

    @classmethod
    def generate(cls) -> Secrets:
        """Return new secrets."""
        return cls(
            fernet_key=base64.urlsafe_b64encode(os.urandom(32)).decode(),
            jwt_secret=secrets.token_urlsafe(48),
            api_secret_key=secrets.token_urlsafe(48),
            passwords={user: secrets.token_urlsafe(12) for user in USERS},
        )

    @classmethod
    def keep(cls, home: Path) -> Secrets:
        """Return the secrets kept in a folder, made at the first call; only their owner can read the files."""
        file = home / "secrets.json"
        if file.exists():
            kept = cls(**json.loads(file.read_text()))
        else:
            kept = cls.generate()
            _write_private(file, json.dumps(asdict(kept)))
        _write_private(passwords_file(home), json.dumps(kept.passwords))
        return kept


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the local Airflow finds and keeps its things."""

    home: Path
    dags_folder: Path
    plugins_folder: Path
    project: Path
    port: int
    database_url: str
    async_database_url: str

    @property
    def url(self) -> str:
        """Return where the UI and the API are."""
        return f"http://{LOOPBACK}:{self.port}"


def keep_password(file: Path) -> str:
    """Return the password kept in a file, made at the first call; only its owner can read the file."""
    if not file.exists():
        _write_private(file, secrets.token_urlsafe(24))
    return file.read_text()


def passwords_file(home: Path) -> Path:
    """Return where Airflow's simple auth manager reads the users' passwords."""
    return home / "passwords.json"


def airflow_environment(
    layout: Layout,
    kept: Secrets,
    *,
    parallelism: int,
    inherited: Mapping[str, str],
    extra: Mapping[str, str],
) -> dict[str, str]:
    """
    Return the environment of the local Airflow's processes.

    :param parallelism: how many tasks run at a time.
    :param inherited: the environment to start from. What it says to Airflow or to Python itself is left out: the local
        Airflow is the same wherever it is started.
    :param extra: what is added last, connections above all (``AIRFLOW_CONN_…``); it may replace any setting.
    """
    left_out = ("AIRFLOW", "PYTHONPATH", "PYTHONHOME", "PYTHONWARNINGS", "PYTEST", "COVERAGE", "COV_CORE")
    environment = {name: value for name, value in inherited.items() if not name.startswith(left_out)}
    direct = ",".join(
        filter(None, [inherited.get("no_proxy"), inherited.get("NO_PROXY"), LOOPBACK, "localhost"])
    )
    environment |= {
        "AIRFLOW_HOME": str(layout.home),
        # As in Astro's images: a Dag may import what lies in include/.
        "PYTHONPATH": str(layout.project),
        "TMPDIR": str(layout.home / "tmp"),
        "NO_PROXY": direct,
        "no_proxy": direct,
    }
    for section, options in _settings(layout, kept, parallelism).items():
        for option, value in options.items():
            environment[f"AIRFLOW__{section}__{option}".upper()] = str(value)
    return environment | dict(extra)


def _settings(layout: Layout, kept: Secrets, parallelism: int) -> dict[str, dict[str, object]]:
    return {
        "api": {
            "base_url": layout.url,
            "host": LOOPBACK,
            "port": layout.port,
            "secret_key": kept.api_secret_key,
        },
        "api_auth": {"jwt_secret": kept.jwt_secret},
        "core": {
            "dags_are_paused_at_creation": True,
            "dags_folder": layout.dags_folder,
            "execution_api_server_url": f"{layout.url}/execution/",
            "executor": "LocalExecutor",
            "fernet_key": kept.fernet_key,
            # The default asks the name server.
            "hostname_callable": "socket.gethostname",
            "load_examples": False,
            "min_serialized_dag_update_interval": 2,
            "parallelism": parallelism,
            "plugins_folder": layout.plugins_folder,
            "simple_auth_manager_passwords_file": passwords_file(layout.home),
            "simple_auth_manager_users": ",".join(f"{user}:{role}" for user, role in USERS.items()),
            "test_connection": "Enabled",
        },
        "dag_processor": {
            "bundle_refresh_check_interval": 2,
            "min_file_process_interval": 10,
            "refresh_interval": 5,
        },
        "database": {
            "sql_alchemy_conn": layout.database_url,
            "sql_alchemy_conn_async": layout.async_database_url,
        },
        # With the default of 16 a wide mapped task starts in waves.
        "scheduler": {"max_tis_per_query": 64},
    }


def _write_private(file: Path, text: str) -> None:
    file.touch(mode=0o600)
    file.chmod(0o600)
    file.write_text(text)
